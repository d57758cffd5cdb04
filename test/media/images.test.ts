import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { getPriority } from 'node:os'
import { deflateSync } from 'node:zlib'
import sharp from 'sharp'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import {
  createImages,
  ImageRefused,
  type Images,
  type RenderRequest,
  VideoRefused,
} from '../../src/media/images/images.ts'
import { until } from '../faults/support.ts'
import { readFilm, stretch } from '../harness/film.ts'
import { chunk, gif, plain, png, rowsOf, zip } from '../harness/pictures.ts'

const startDeadline = createDeadlines(systemClock)

let images: Images

beforeAll(() => {
  images = createImages({ workers: 1, maxQueued: 20 })
})
afterAll(() => images.close())

const longDeadline = () => startDeadline(50_000)
const reasonOf = (promise: Promise<unknown>) =>
  promise.then(
    () => undefined,
    (error: unknown) => (error instanceof ImageRefused ? error.reason : error),
  )
const inspect = (bytes: Uint8Array) => images.inspect(bytes, longDeadline())
const refusalOf = (bytes: Uint8Array) => reasonOf(inspect(bytes))
const bytesOf = (text: string) => new TextEncoder().encode(text)

describe('a valid image', () => {
  test('is inspected to its type, size and SHA-256', async () => {
    for (const type of ['png', 'jpeg', 'webp'] as const) {
      const bytes = await plain(300, 200)[type]().toBuffer()
      const sha256 = createHash('sha256').update(bytes).digest('hex')
      expect(await inspect(bytes)).toEqual({ type, width: 300, height: 200, sha256 })
    }
    const progressive = await plain(64, 64).jpeg({ progressive: true }).toBuffer()
    const lossless = await plain(64, 64).webp({ lossless: true }).toBuffer()
    const interlaced = await plain(64, 64).png({ progressive: true, palette: true }).toBuffer()
    for (const bytes of [progressive, lossless, interlaced]) expect(await inspect(bytes)).toMatchObject({ width: 64 })
  })

  test('with an EXIF orientation reports its display size, and its thumbnail is upright and without metadata', async () => {
    const exif = { IFD0: { Copyright: 'Ada' }, IFD3: { GPSLatitude: '51/1 30/1 3230/100' } }
    const bytes = await plain(600, 300).withExif(exif).withMetadata({ orientation: 6 }).jpeg().toBuffer()
    expect(await inspect(bytes)).toMatchObject({ width: 300, height: 600 })
    const { bytes: small, ...size } = await images.thumbnail(bytes, 256, longDeadline())
    expect(size).toEqual({ width: 128, height: 256 })
    const metadata = await sharp(small).metadata()
    expect(metadata).toMatchObject({ format: 'webp', width: 128, height: 256 })
    expect([metadata.exif, metadata.xmp, metadata.orientation]).toEqual([undefined, undefined, undefined])
  })

  test('may be followed by a second JPEG that it declares, and by nothing else', async () => {
    const main = await plain(64, 64).jpeg().toBuffer()
    const second = await plain(16, 16).jpeg().toBuffer()
    const declared = Buffer.concat([
      main.subarray(0, 2),
      Buffer.from([0xff, 0xe2, 0, 6]),
      Buffer.from('MPF\0'),
      main.subarray(2),
    ])
    expect(await inspect(Buffer.concat([declared, second]))).toMatchObject({ type: 'jpeg', width: 64 })
    expect(await refusalOf(Buffer.concat([declared, second, zip]))).toBe('trailing_data')
    expect(await refusalOf(Buffer.concat([main, second]))).toBe('trailing_data')
  })

  test('gets thumbnails that fit each edge and are never larger than the original', async () => {
    const bytes = await plain(900, 450).png().toBuffer()
    const sizes: number[][] = []
    for (const edge of [256, 512, 1024] as const) {
      const { bytes: small, width, height } = await images.thumbnail(bytes, edge, longDeadline())
      expect(await sharp(small).metadata()).toMatchObject({ format: 'webp', width, height })
      sizes.push([width, height])
    }
    expect(sizes).toEqual([
      [256, 128],
      [512, 256],
      [900, 450],
    ])
  })
})

test.if(process.platform === 'linux')(
  'the image workers and the threads of their codecs run at a lower CPU priority',
  async () => {
    await images.thumbnail(await plain(2_000, 1_500).jpeg().toBuffer(), 512, longDeadline())
    const niceValues = readdirSync('/proc/self/task').flatMap((task) => {
      const stat = readFileSync(`/proc/self/task/${task}/stat`, 'utf8')
      const nice = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16])
      return stat.includes('(libvips') ? [nice] : []
    })
    expect(niceValues.length).toBeGreaterThan(0)
    expect(new Set(niceValues)).toEqual(new Set([getPriority() + 10]))
  },
)

describe('a video', () => {
  const film = (bytes: Uint8Array) => images.inspectVideo(bytes, longDeadline())
  const refusal = (bytes: Uint8Array) =>
    film(bytes).catch((error: unknown) => (error instanceof VideoRefused ? error.reason : error))

  test('is inspected to its type, size, duration and SHA-256, small or large', async () => {
    const small = await readFilm()
    for (const bytes of [small, stretch(small, 3_500_000), stretch(small, 64 * 1_048_576)]) {
      const sha256 = createHash('sha256').update(bytes).digest('hex')
      expect(await film(bytes)).toEqual({ type: 'mp4', width: 64, height: 48, durationMs: 1_000, sha256 })
    }
  })

  test('that is invalid is refused with a reason; an image is no video and a video no image', async () => {
    const small = await readFilm()
    expect(await refusal(new Uint8Array())).toBe('empty')
    expect(await refusal(stretch(small, 64 * 1_048_576 + 1))).toBe('too_many_bytes')
    expect(await refusal(small.subarray(0, 3_000))).toBe('truncated')
    expect(await refusal(Buffer.concat([small, zip]))).toBe('trailing_data')
    expect(await refusal(await plain(64, 64).webp().toBuffer())).toBe('type_not_accepted')
    expect(await refusalOf(small)).toBe('type_not_accepted')
  })
})

describe('hostile image bytes', () => {
  test('are refused, each with its reason, and the worker continues', async () => {
    const good = await plain(200, 200).png().toBuffer()
    const jpeg = await plain(200, 200).jpeg().toBuffer()
    const webp = await plain(200, 200).webp().toBuffer()
    const script = '<script>alert(1)</script>'
    const cases: [name: string, bytes: Uint8Array, reason: string][] = [
      ['nothing', new Uint8Array(), 'empty'],
      ['26 MiB', new Uint8Array(26 * 1_048_576), 'too_many_bytes'],
      ['one byte', new Uint8Array([0x89]), 'type_not_accepted'],
      ['an SVG with a script', bytesOf(`<svg xmlns="http://www.w3.org/2000/svg">${script}</svg>`), 'type_not_accepted'],
      ['an SVG that begins with a comment', bytesOf(`<!-- ${' '.repeat(5_000)} --><svg/>`), 'type_not_accepted'],
      ['HTML', bytesOf(`<!doctype html>${script}`), 'type_not_accepted'],
      ['a PDF', bytesOf('%PDF-1.7\n'), 'type_not_accepted'],
      ['a zip', zip, 'type_not_accepted'],
      ['a GIF', gif, 'type_not_accepted'],
      ['a GIF with a PNG behind it', Buffer.concat([gif, good]), 'type_not_accepted'],
      ['a PNG with a GIF behind it', Buffer.concat([good, gif]), 'trailing_data'],
      ['a PNG with a script behind it', Buffer.concat([good, bytesOf(script)]), 'trailing_data'],
      ['a JPEG with a zip behind it', Buffer.concat([jpeg, zip]), 'trailing_data'],
      ['a WebP with a zip behind it', Buffer.concat([webp, zip]), 'trailing_data'],
      ['1 x 10^9', png(1, 1_000_000_000, deflateSync(Buffer.alloc(5))), 'side_too_long'],
      ['10^9 x 1', png(1_000_000_000, 1, deflateSync(Buffer.alloc(5))), 'side_too_long'],
      ['2^31 x 2^31', png(0x7fffffff, 0x7fffffff, deflateSync(Buffer.alloc(5))), 'side_too_long'],
      ['no width', png(0, 10, deflateSync(Buffer.alloc(5))), 'damaged'],
      ['a bomb beyond the limit', png(10_000, 10_000, rowsOf(10_000, 1)), 'too_many_pixels'],
      ['a small size with a bomb of data', png(16, 16, deflateSync(Buffer.alloc(200_000_000))), 'trailing_data'],
      ['data of fewer rows than declared', png(4_000, 4_000, rowsOf(4_000, 10)), 'truncated'],
      ['a zip behind the last row', png(4, 4, Buffer.concat([rowsOf(4, 4), zip])), 'trailing_data'],
      ['a PNG of noise', png(64, 64, Buffer.alloc(400, 7)), 'damaged'],
      ['an animated PNG', png(1, 1, rowsOf(1, 1), chunk('acTL', Buffer.alloc(8))), 'animated'],
      ['a PNG cut off', good.subarray(0, good.length - 20), 'truncated'],
      ['a JPEG cut off', jpeg.subarray(0, jpeg.length >> 1), 'truncated'],
      [
        'a JPEG cut off and closed',
        Buffer.concat([jpeg.subarray(0, jpeg.length >> 1), Buffer.from([0xff, 0xd9])]),
        'truncated',
      ],
      ['a WebP cut off', webp.subarray(0, webp.length >> 1), 'truncated'],
    ]
    const animation = await sharp(
      [1, 2].map((shade) => ({
        create: { width: 8, height: 8, channels: 3 as const, background: { r: shade * 99, g: 0, b: 0 } },
      })) as never,
      { join: { animated: true } } as never,
    )
      .webp()
      .toBuffer()
    cases.push(['an animated WebP', animation, 'animated'])
    const refusals: [string, unknown][] = []
    for (const [name, bytes] of cases) refusals.push([name, await refusalOf(bytes)])
    expect(refusals).toEqual(cases.map(([name, , reason]) => [name, reason]))
    for (const [name, bytes, reason] of cases) {
      const refusal = await reasonOf(images.thumbnail(bytes, 256, longDeadline()))
      expect([name, refusal]).toEqual([name, reason])
    }
    expect(await inspect(good)).toMatchObject({ type: 'png', width: 200 })
  })

  test('within the limits take bounded memory, even 49 megapixels from a few kilobytes', async () => {
    const bomb = png(7_000, 7_000, rowsOf(7_000, 7_000))
    expect(bomb.length).toBeLessThan(250_000)
    const beforeBytes = process.memoryUsage.rss()
    let most = 0
    const watch = setInterval(() => {
      most = Math.max(most, process.memoryUsage.rss() - beforeBytes)
    }, 5)
    for (let round = 0; round < 3; round += 1) {
      expect(await inspect(bomb)).toMatchObject({ width: 7_000, height: 7_000 })
      expect(await images.thumbnail(bomb, 1024, longDeadline())).toMatchObject({ width: 1_024, height: 1_024 })
    }
    clearInterval(watch)
    expect(most).toBeLessThan(400_000_000)
  })

  test('that are truncated anywhere or have any byte inverted never crash the worker', async () => {
    for (const type of ['png', 'jpeg', 'webp'] as const) {
      const bytes = await plain(40, 40)[type]().toBuffer()
      for (let at = 1; at < bytes.length; at += Math.ceil(bytes.length / 25)) {
        expect(typeof (await refusalOf(bytes.subarray(0, at)))).toBe('string')
        const turned = Buffer.from(bytes)
        turned[at] = (turned[at] as number) ^ 0xff
        expect(await refusalOf(turned)).not.toBeInstanceOf(Error)
      }
    }
  })
})

describe('a rendered image', () => {
  const request: RenderRequest = { prompt: 'a lighthouse at dusk', seed: 7, width: 160, height: 96, format: 'png' }
  const render = (changes: Partial<RenderRequest> = {}) => images.render({ ...request, ...changes }, longDeadline())
  const hashOf = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

  test('has the requested size and type, and metadata that says how it was made', async () => {
    const made = await render()
    expect(await inspect(made)).toMatchObject({ type: 'png', width: 160, height: 96 })
    expect(Buffer.from(made).toString('latin1')).toContain('tEXtComment\0Velro local/procedural: made procedurally')
    const webp = await render({ format: 'webp' })
    expect(await inspect(webp)).toMatchObject({ type: 'webp', width: 160, height: 96 })
    for (const bytes of [made, webp]) {
      expect((await sharp(bytes).metadata()).xmpAsString).toContain('made procedurally from the prompt and the seed')
    }
  })

  test('is byte-identical for an equal request on any worker, and differs for any other request', async () => {
    const other = createImages({ workers: 1, maxQueued: 1 })
    const again = await other.render(request, longDeadline())
    await other.close()
    expect(again).toEqual(await render())
    const all = [
      await render(),
      await render({ seed: 8 }),
      await render({ prompt: 'a lighthouse at dawn' }),
      await render({ negative_prompt: 'people' }),
      await render({ width: 161 }),
      await render({ format: 'webp' }),
    ]
    expect(new Set(all.map(hashOf)).size).toBe(all.length)
  })

  test('with a reference image takes its colours, is deterministic, and refuses an invalid reference', async () => {
    const of = (background: string) =>
      sharp({ create: { width: 90, height: 60, channels: 3, background } })
        .webp()
        .toBuffer()
    const [red, blue] = [await of('#d03018'), await of('#1840d0')]
    const means = async (bytes: Uint8Array) => (await sharp(bytes).stats()).channels.map(({ mean }) => mean)
    const byRed = await render({ reference: red })
    const [warm, cold] = [await means(byRed), await means(await render({ reference: blue }))]
    expect((warm[0] ?? 0) - (warm[2] ?? 0)).toBeGreaterThan(40)
    expect((cold[2] ?? 0) - (cold[0] ?? 0)).toBeGreaterThan(40)
    // The reference has one colour, and the image still has contrast.
    const { channels } = await sharp(byRed).stats()
    expect(Math.max(...channels.map(({ stdev }) => stdev))).toBeGreaterThan(4)
    expect(hashOf(await render({ reference: red }))).toBe(hashOf(byRed))
    expect(hashOf(await render())).not.toBe(hashOf(byRed))
    const transparent = await sharp({
      create: { width: 9, height: 9, channels: 4, background: { r: 9, g: 9, b: 9, alpha: 0 } },
    })
      .webp()
      .toBuffer()
    const grey = await sharp(await plain(64, 64).png().toBuffer())
      .greyscale()
      .webp()
      .toBuffer()
    for (const reference of [transparent, grey]) expect((await render({ reference })).length).toBeGreaterThan(100)
    expect(await reasonOf(render({ reference: red.subarray(0, 20) }))).toBe('truncated')
  })

  test('has contrast for any prompt', async () => {
    for (const prompt of ['', ' ', '灯台', '\u0000', 'planet', 'silk', 'paper', 'x'.repeat(20_000)]) {
      const { channels } = await sharp(await render({ prompt })).stats()
      expect(Math.max(...channels.map(({ stdev }) => stdev))).toBeGreaterThan(4)
    }
  })

  test('is refused with an invalid size or seed', async () => {
    for (const wrong of [{ width: 63 }, { height: 2_049 }, { width: 64.5 }, { seed: 0.5 }, { seed: Number.NaN }]) {
      expect(await reasonOf(render(wrong))).toBeInstanceOf(RangeError)
    }
  })

  test('reports progress until it is aborted, and an abort removes waiting work at once', async () => {
    const large = { ...request, width: 2_048, height: 2_048 }
    const reported: number[] = []
    const stop = new AbortController()
    const half = Promise.withResolvers<void>()
    const onProgress = (fraction: number) => {
      reported.push(fraction)
      if (fraction >= 0.2) half.resolve()
    }
    const running = reasonOf(images.render(large, longDeadline(), { signal: stop.signal, onProgress }))
    const later = new AbortController()
    const waiting = reasonOf(images.render(large, longDeadline(), { signal: later.signal }))
    await half.promise
    later.abort(new Error('aborted while waiting'))
    expect(await waiting).toEqual(new Error('aborted while waiting'))
    expect(images.queued).toBe(0)
    stop.abort(new Error('aborted while running'))
    expect(await running).toEqual(new Error('aborted while running'))
    expect(reported).toEqual(reported.toSorted((a, b) => a - b))
    // The worker stopped between two bands of rows: it is free long before it could have drawn the whole image.
    await render()
    expect(reported.at(-1)).toBeLessThan(0.9)
    expect(await reasonOf(images.render(request, longDeadline(), { signal: stop.signal }))).toEqual(
      new Error('aborted while running'),
    )
  })

  test('delays other work only until that is aborted: waiting inspections and thumbnails are removed at once', async () => {
    const bytes = await plain(64, 64).png().toBuffer()
    const film = await readFilm()
    const [busy, unwanted] = [new AbortController(), new AbortController()]
    const large = { ...request, width: 2_048, height: 2_048 }
    const running = reasonOf(images.render(large, longDeadline(), { signal: busy.signal }))
    const { signal } = unwanted
    const waiting = [
      images.inspect(bytes, longDeadline(), { signal }),
      images.thumbnail(bytes, 256, longDeadline(), { signal }),
      images.inspectVideo(film, longDeadline(), { signal }),
    ].map(reasonOf)
    await until(() => images.queued === 3, 'three tasks wait')
    unwanted.abort(new Error('aborted while waiting'))
    expect(images.queued).toBe(0)
    expect(await Promise.all(waiting)).toEqual(Array(3).fill(new Error('aborted while waiting')))
    busy.abort(new Error('aborted while running'))
    expect(await running).toEqual(new Error('aborted while running'))
  })

  test('is not drawn to the end after its deadline', async () => {
    const large = { ...request, width: 2_048, height: 2_048 }
    let reported = 0
    const onProgress = (fraction: number) => {
      reported = fraction
    }
    const late = reasonOf(images.render(large, startDeadline(150), { onProgress }))
    expect(await late).toMatchObject({ name: 'DeadlinePassed' })
    await render()
    expect(reported).toBeLessThan(0.9)
  })
})
