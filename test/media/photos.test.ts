import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createHash } from 'node:crypto'
import fc from 'fast-check'
import sharp from 'sharp'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { readImageExtent } from '../../src/media/formats/image-format.ts'
import { toStoredImage } from '../../src/media/formats/image-metadata.ts'
import { createImages, ImageRefused, type Images, type InspectOptions } from '../../src/media/images/images.ts'
import {
  credentialSegment,
  digitalSource,
  gradient,
  phonePhotos,
  place,
  polyglots,
  segment,
  takenFile,
  takenFiles,
  withScanParameters,
  withSegments,
  xmpSegment,
  xmpWith,
} from '../harness/photos.ts'
import { chunk, plain, png, rowsOf } from '../harness/pictures.ts'

const startDeadline = createDeadlines(systemClock)
const longDeadline = () => startDeadline(50_000)
let images: Images
beforeAll(() => {
  images = createImages({ workers: 1, maxQueued: 20 })
})
afterAll(() => images.close())

/** The bytes that are stored for an image. */
const storedOf = async (given: Uint8Array, options: InspectOptions = {}): Promise<Buffer> => {
  const { bytes = given, sha256 } = await images.inspect(given, longDeadline(), options)
  expect(createHash('sha256').update(bytes).digest('hex')).toBe(sha256)
  return Buffer.from(bytes)
}
const refusalOf = (bytes: Uint8Array) =>
  images.inspect(bytes, longDeadline()).then(
    () => undefined,
    (error: unknown) => (error instanceof ImageRefused ? error.reason : error),
  )
const thumbnailOf = async (bytes: Uint8Array, options: InspectOptions = {}) =>
  Buffer.from((await images.thumbnail(bytes, 256, longDeadline(), options)).bytes)
const pixelsOf = (bytes: Uint8Array) => sharp(bytes, { failOn: 'none' }).raw().toBuffer()
const sourceTypeOf = async (bytes: Buffer) =>
  /digitalsourcetype\/(\w+)/.exec((await sharp(bytes).metadata()).xmpAsString ?? '')?.[1]

describe('a photo as phones and programs write it', () => {
  test('is accepted, and its stored bytes are the same picture and nothing else', async () => {
    const all = [...(await takenFiles('images')), ...(await phonePhotos())]
    expect(all.length).toBeGreaterThanOrEqual(30)
    const outcomes: unknown[] = []
    for (const { name, bytes } of all) {
      const stored = await storedOf(bytes).catch((error) => error)
      if (!Buffer.isBuffer(stored)) {
        outcomes.push([name, String(stored)])
        continue
      }
      const isSame = (await pixelsOf(stored)).equals(await pixelsOf(bytes))
      const { format } = await sharp(stored).metadata()
      outcomes.push([name, isSame, format])
      expect([name, await refusalOf(stored)]).toEqual([name, undefined])
      expect([name, (await storedOf(stored)).equals(stored)]).toEqual([name, true])
    }
    const formats = all.map(({ bytes }) => (bytes[0] === 0xff ? 'jpeg' : bytes[0] === 0x89 ? 'png' : 'webp'))
    expect(outcomes).toEqual(all.map(({ name }, index) => [name, true, formats[index]]))
  }, 30_000)

  test('is stored up to the end of the picture, byte by byte where it has no metadata', async () => {
    for (const name of ['samsung-trailer.jpg', 'zero-padded.jpg', 'motion-photo.jpg']) {
      const bytes = await takenFile(name)
      const end = bytes.indexOf(Buffer.from([0xff, 0xd9])) + 2
      expect([name, (await storedOf(bytes)).equals(bytes.subarray(0, end))]).toEqual([name, true])
    }
  })

  test('with scan parameters that mean nothing is stored with those of the standard', async () => {
    const photo = await gradient().jpeg().toBuffer()
    const odd = withScanParameters(photo, 0, 0, 0x21)
    expect(odd.equals(photo)).toBe(false)
    expect((await storedOf(odd)).equals(photo)).toBe(true)
    // In a progressive JPEG they mean something, and stay.
    const progressive = await gradient().jpeg({ progressive: true }).toBuffer()
    expect((await storedOf(progressive)).equals(progressive)).toBe(true)
  })

  test('with another document behind it is refused as a polyglot', async () => {
    const all = await polyglots()
    const refusals: unknown[] = []
    for (const { name, bytes } of all) refusals.push([name, await refusalOf(bytes)])
    expect(refusals).toEqual(all.map(({ name }) => [name, 'trailing_data']))
  })
})

test('a photo of 50 megapixels, as phones count them, is within the limit', () => {
  const sized = (width: number, height: number) => readImageExtent(png(width, height, rowsOf(1, 1)))
  expect(sized(8_160, 6_144)).toMatchObject({ width: 8_160, height: 6_144 })
  expect(sized(8_192, 6_145)).toEqual({ refused: 'too_many_pixels' })
})

test('an image of a million empty parts is refused before they are copied', async () => {
  const photo = await gradient().jpeg().toBuffer()
  const comments = Buffer.alloc(4_000_000, Buffer.from([0xff, 0xfe, 0x00, 0x02]))
  const chunks = Buffer.alloc(1_200_000, chunk('teSt', Buffer.alloc(0)))
  const webp = await gradient().webp().toBuffer()
  const padded = Buffer.concat([webp, Buffer.alloc(1_600_000, Buffer.from('abcd\0\0\0\0', 'latin1'))])
  padded.writeUInt32LE(padded.length - 8, 4)
  for (const bytes of [withSegments(photo, comments), png(4, 4, rowsOf(4, 4), chunks), padded]) {
    expect(await refusalOf(bytes)).toBe('damaged')
  }
})

describe('the metadata of an upload', () => {
  const secrets = ['GPS', 'Phone', 'Ada', 'lighthouse', 'Photoshop', 'thumbnail']
  const expectNoSecrets = (bytes: Buffer) => {
    for (const secret of secrets) expect([secret, bytes.includes(secret)]).toEqual([secret, false])
  }

  test('is removed from the stored picture, and its orientation and colour profile stay', async () => {
    for (const type of ['jpeg', 'png', 'webp'] as const) {
      const given = await gradient()
        .withIccProfile('p3')
        .withExif(place)
        .withMetadata({ orientation: 6, icc: 'p3' })
        .withXmp(xmpWith('xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="51,30N"'))
        [type]()
        .toBuffer()
      expect(given.includes('Ada')).toBe(true)
      const stored = await storedOf(given)
      expectNoSecrets(stored)
      const { orientation, xmp, icc, width } = await sharp(stored).metadata()
      const before = await sharp(given).metadata()
      expect([type, orientation, xmp, width]).toEqual([type, 6, undefined, 64])
      expect([type, before.icc !== undefined, icc?.equals(before.icc as Buffer)]).toEqual([type, true, true])
      expect((await pixelsOf(stored)).equals(await pixelsOf(given))).toBe(true)
    }
  })

  test('of every kind is removed from a JPEG and a PNG', async () => {
    const photo = await gradient().jpeg().toBuffer()
    const jpeg = withSegments(
      photo,
      segment(0xe0, 'JFXX\0thumbnail'),
      segment(0xe1, 'http://ns.adobe.com/xmp/extension/\0Ada'),
      segment(0xe2, 'FPXR\0Ada'),
      segment(0xe4, 'Phone'),
      segment(0xed, 'Photoshop 3.0\x008BIM'),
      segment(0xfe, 'a lighthouse'),
    )
    expect((await storedOf(jpeg)).equals(photo)).toBe(true)
    const text = Buffer.from('Title\0a lighthouse', 'latin1')
    const picture = png(4, 4, rowsOf(4, 4), chunk('tEXt', text), chunk('tIME', Buffer.alloc(7)))
    expect((await storedOf(picture)).equals(png(4, 4, rowsOf(4, 4)))).toBe(true)
  })

  test('that is malformed does not hinder: an orientation that cannot be read is upright', async () => {
    const photo = await gradient().jpeg().toBuffer()
    const exif = (...data: (string | Uint8Array)[]) => withSegments(photo, segment(0xe1, 'Exif\0\0', ...data))
    for (const broken of [
      exif(),
      exif('MM\0*'),
      exif('MM\0*\xff\xff\xff\xff'),
      exif('II*\0\x08\0\0\0\xff\xff'),
      exif('MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0'),
    ]) {
      expect((await storedOf(broken)).equals(photo)).toBe(true)
    }
  })
})

test('any bytes that are accepted are stored as an image of the same size, and storing it again changes nothing', async () => {
  const marked = xmpWith(digitalSource('trainedAlgorithmicMedia'))
  const seeds: Buffer[] = [
    await gradient(16, 16).webp().toBuffer(),
    await gradient(16, 16).webp({ lossless: true }).toBuffer(),
    ...(await Promise.all(
      (['jpeg', 'png', 'webp'] as const).map((type) =>
        gradient(16, 16).withExif(place).withMetadata({ orientation: 6 }).withXmp(marked)[type]().toBuffer(),
      ),
    )),
  ]
  seeds.push(withSegments(seeds[2] ?? Buffer.alloc(0), credentialSegment('c2pa'), segment(0xe0, 'JFIF\0\x02\0\0')))
  for (const seed of seeds) {
    const value = fc.oneof(fc.nat(255), fc.constantFrom(0x00, 0x1b, 0xff))
    const edits = fc.array(fc.tuple(fc.nat(seed.length - 1), value), { maxLength: 4 })
    fc.assert(
      fc.property(edits, fc.constantFrom(undefined, 'trainedAlgorithmicMedia'), (changes, madeBy) => {
        const bytes = Buffer.from(seed)
        for (const [at, byte] of changes) bytes[at] = byte
        const given = readImageExtent(bytes)
        if ('refused' in given) return
        const stored = toStoredImage(bytes, given.type, madeBy)
        expect(readImageExtent(stored)).toEqual({ ...given, end: stored.length })
        expect(toStoredImage(stored, given.type, madeBy).equals(stored)).toBe(true)
      }),
      { numRuns: 300 },
    )
  }
})

describe('the colours of a thumbnail', () => {
  const firstPixel = async (bytes: Buffer) => [...(await sharp(bytes).raw().toBuffer()).subarray(0, 3)]
  const near = (colour: number[], expected: number[], within: number) =>
    expect(colour.every((value, at) => Math.abs(value - (expected[at] as number)) <= within)).toBe(true)

  test('of a Display P3 photo are those in sRGB, in 8 and in 16 bits', async () => {
    const orange = { create: { width: 40, height: 40, channels: 3 as const, background: '#e08040' } }
    const wide = await sharp(orange).withIccProfile('p3').png().toBuffer()
    const deep = await sharp(orange).toColourspace('rgb16').withIccProfile('p3').png().toBuffer()
    for (const bytes of [wide, deep]) {
      const small = await thumbnailOf(await storedOf(bytes))
      near(await firstPixel(small), [0xe0, 0x80, 0x40], 6)
      expect((await sharp(small).metadata()).icc).toBeUndefined()
    }
  })

  test('of a CMYK photo are those that its viewers show', async () => {
    const cmyk = await takenFile('cmyk.jpg')
    expect((await sharp(cmyk).metadata()).space).toBe('cmyk')
    const small = await thumbnailOf(await storedOf(cmyk))
    expect((await sharp(small).metadata()).space).toBe('srgb')
    const [red = 0, , blue = 0] = await firstPixel(small)
    expect(red - blue).toBeGreaterThan(60)
  })
})

describe('the mark of what a model made', () => {
  const byModel = 'trainedAlgorithmicMedia'
  const marked = xmpWith(`${digitalSource(byModel)} xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="Ada"`)

  test('stays in an upload and in its thumbnails, without the rest of its metadata', async () => {
    for (const type of ['jpeg', 'png', 'webp'] as const) {
      const stored = await storedOf(await gradient().withXmp(marked).withExif(place)[type]().toBuffer())
      expect([type, await sourceTypeOf(stored)]).toEqual([type, byModel])
      for (const secret of ['Ada', 'GPS']) expect(stored.includes(secret)).toBe(false)
      expect(await sourceTypeOf(await thumbnailOf(stored))).toBe(byModel)
    }
  })

  test('is taken over from a C2PA manifest, which stays unless it names a place', async () => {
    const photo = await gradient().jpeg().toBuffer()
    const says = `"digitalSourceType":"http://cv.iptc.org/newscodes/digitalsourcetype/${byModel}"`
    const signed = withSegments(photo, credentialSegment(says))
    expect((await storedOf(signed)).equals(signed)).toBe(true)
    expect(await sourceTypeOf(await thumbnailOf(signed))).toBe(byModel)

    // A manifest over 64 KiB is split anywhere.
    const [start, rest] = [says.slice(0, 60), says.slice(60)]
    const split = withSegments(photo, credentialSegment(start), segment(0xeb, 'JP\0\x01\0\0\0\x02\0\0\0\x09jumb', rest))
    expect(await sourceTypeOf(await thumbnailOf(split))).toBe(byModel)

    const withPlace = await storedOf(withSegments(photo, credentialSegment(`${says}"exif:GPSLatitude":"51,30N"`)))
    expect([withPlace.includes('c2pa'), withPlace.includes('GPS')]).toEqual([false, false])
    expect(await sourceTypeOf(withPlace)).toBe(byModel)

    const exif = segment(0xe1, 'Exif\0\0', 'MM\0*GPSAda')
    const both = await storedOf(withSegments(photo, exif, credentialSegment(says)))
    expect([both.includes('c2pa'), both.includes('GPS')]).toEqual([true, false])
    // A manifest of a camera is void once the file has changed, and marks nothing.
    const camera = await storedOf(withSegments(photo, exif, credentialSegment('digitalCapture')))
    expect(camera.equals(photo)).toBe(true)
  })

  test('is taken over from a C2PA manifest in a PNG and a WebP too', async () => {
    const says = Buffer.from(`jumb c2pa http://cv.iptc.org/newscodes/digitalsourcetype/${byModel}`)
    const inPng = png(4, 4, rowsOf(4, 4), chunk('caBX', says))
    const simple = await gradient().ensureAlpha(0.5).webp().toBuffer()
    const size = Buffer.alloc(4)
    size.writeUInt32LE(says.length)
    const inWebp = Buffer.concat([simple, Buffer.from('C2PA'), size, says, Buffer.alloc(says.length % 2)])
    inWebp.writeUInt32LE(inWebp.length - 8, 4)
    for (const signed of [inPng, inWebp]) {
      expect((await storedOf(signed)).equals(signed)).toBe(true)
      expect((await storedOf(signed, { madeBy: 'algorithmicMedia' })).equals(signed)).toBe(true)
      expect(await sourceTypeOf(await thumbnailOf(signed))).toBe(byModel)
    }
  })

  test('is understood as an element, and without the address of the vocabulary', async () => {
    const photo = await gradient().jpeg().toBuffer()
    for (const packet of [
      xmpWith(`Iptc4xmpExt:DigitalSourceType="${byModel}"`),
      `<rdf:RDF><rdf:Description><Iptc4xmpExt:DigitalSourceType>${byModel}</Iptc4xmpExt:DigitalSourceType>`,
    ]) {
      expect(await sourceTypeOf(await storedOf(withSegments(photo, xmpSegment(packet))))).toBe(byModel)
    }
  })

  test('is added to an output of a provider that has none, in every type and in its thumbnails', async () => {
    const outputs = [
      ...(await Promise.all((['jpeg', 'png', 'webp'] as const).map((type) => gradient()[type]().toBuffer()))),
      await gradient().ensureAlpha(0.5).webp().toBuffer(),
      await gradient().webp({ lossless: true }).toBuffer(),
      await gradient().ensureAlpha(0.5).webp({ lossless: true }).toBuffer(),
    ]
    for (const given of outputs) {
      const stored = await storedOf(given, { madeBy: byModel })
      expect(await sourceTypeOf(stored)).toBe(byModel)
      expect((await pixelsOf(stored)).equals(await pixelsOf(given))).toBe(true)
      expect(await refusalOf(stored)).toBeUndefined()
      const { hasAlpha, width, height } = await sharp(stored, { failOn: 'warning' }).metadata()
      expect([hasAlpha, width, height]).toEqual([(await sharp(given).metadata()).hasAlpha, 64, 48])
      expect(await sourceTypeOf(await thumbnailOf(stored))).toBe(byModel)
    }
  })

  test('of a provider is kept: its XMP whole, and a file signed by C2PA byte by byte', async () => {
    const photo = await gradient().jpeg().toBuffer()
    const own = withSegments(photo, xmpSegment(marked))
    expect((await storedOf(own, { madeBy: 'algorithmicMedia' })).equals(own)).toBe(true)

    const other = xmpWith('xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="Dream 3"')
    const completed = await storedOf(withSegments(photo, xmpSegment(other)), { madeBy: byModel })
    expect(completed.includes('Dream 3')).toBe(true)
    expect(await sourceTypeOf(completed)).toBe(byModel)
    expect((await sharp(await thumbnailOf(completed)).metadata()).xmpAsString).toContain('Dream 3')

    const signed = withSegments(photo, segment(0xe1, 'Exif\0\0MM\0*'), credentialSegment('c2pa.actions'))
    const trailing = Buffer.concat([signed, Buffer.alloc(40)])
    for (const given of [signed, trailing]) {
      expect((await storedOf(given, { madeBy: byModel })).equals(signed)).toBe(true)
    }
    expect(await sourceTypeOf(await thumbnailOf(signed, { madeBy: byModel }))).toBe(byModel)

    // A place is removed all the same, and the signature with it, because it would be void.
    const withPlace = await gradient().withExif(place).jpeg().toBuffer()
    const stored = await storedOf(withSegments(withPlace, credentialSegment('c2pa.actions')), { madeBy: byModel })
    for (const secret of ['c2pa', 'Ada', 'GPS']) expect(stored.includes(secret)).toBe(false)
    expect(await sourceTypeOf(stored)).toBe(byModel)
  })

  test('of the local renderer says that no model made it, in the picture and in its thumbnails', async () => {
    for (const format of ['png', 'webp'] as const) {
      const request = { prompt: 'a lighthouse', seed: 7, width: 64, height: 64, format }
      const made = Buffer.from(await images.render(request, longDeadline()))
      expect((await storedOf(made, { madeBy: 'algorithmicMedia' })).equals(made)).toBe(true)
      for (const bytes of [made, await thumbnailOf(made)]) expect(await sourceTypeOf(bytes)).toBe('algorithmicMedia')
    }
  })

  test('is absent from a photo without a mark', async () => {
    const small = await thumbnailOf(await storedOf(await plain(64, 64).jpeg().toBuffer()))
    expect((await sharp(small).metadata()).xmp).toBeUndefined()
  })
})
