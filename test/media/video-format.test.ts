import { beforeAll, describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { failureDetails } from '../../src/generations/model.ts'
import { imageRefusals } from '../../src/media/formats/image-format.ts'
import {
  readVideo,
  readVideoHeader,
  type VideoRefusal,
  videoLimits,
  videoRefusals,
} from '../../src/media/formats/video-format.ts'
import { toStoredVideo } from '../../src/media/formats/video-mark.ts'
import { type Box, boxesAt, readBoxes, readFilm, stretch, writeBoxes } from '../harness/film.ts'
import { takenFile, takenFiles, xmpWith } from '../harness/photos.ts'

let film: Buffer
beforeAll(async () => {
  film = await readFilm()
})

const header = { type: 'mp4', width: 64, height: 48, durationMs: 1_000 } as const
const refusalOf = (bytes: Uint8Array) => {
  const verdict = readVideoHeader(bytes)
  return 'refused' in verdict ? verdict.refused : verdict
}

/** The video with a change to the boxes at a path; its first track is the video track. */
const changed = (path: string, change: (box: Box, all: Box[]) => void, which = 0): Buffer => {
  const boxes = readBoxes(film)
  const all = boxesAt(boxes, path)
  const box = all[which]
  if (box === undefined) throw new Error(`The video has no ${path}`)
  change(box, boxes)
  return writeBoxes(boxes)
}
const put = (path: string, at: number, value: number, which = 0) =>
  changed(path, ({ data }) => data.writeUInt32BE(value, at), which)
const without = (parent: string, type: string, which = 0) =>
  changed(parent, (box) => (box.boxes = box.boxes?.filter((inner) => inner.type !== type)), which)
const twice = (parent: string, type: string) =>
  changed(parent, (box) => box.boxes?.push(...(box.boxes?.filter((inner) => inner.type === type) ?? [])))
const box = (type: string, data: Buffer = Buffer.alloc(0), boxes?: Box[]): Box => ({ type, data, boxes })
const u32 = (...values: number[]) =>
  Buffer.concat(values.map((value) => Buffer.from(Uint32Array.of(value).buffer).reverse()))
const inside = (parent: string, ...more: Box[]) => changed(parent, ({ boxes }) => boxes?.push(...more))

const trak = 'moov/trak'
const stbl = `${trak}/mdia/minf/stbl`
const dref = `${trak}/mdia/minf/dinf/dref`
const zip = Buffer.concat([Buffer.from('PK\x05\x06', 'latin1'), Buffer.alloc(18)])

describe('a valid video', () => {
  test('is read to its type, size and duration', () => {
    expect(readVideoHeader(film)).toEqual(header)
    expect(writeBoxes(readBoxes(film)).equals(film)).toBeTrue()
    expect(readVideoHeader(stretch(film, 1_000_000))).toEqual(header)
  })

  test('may have no audio, another box order, unknown boxes and 64-bit sizes', () => {
    const [videoTrack] = boxesAt(readBoxes(film), trak)
    const withoutAudio = changed('moov', (moov) => {
      moov.boxes = moov.boxes?.filter(({ type }) => type !== 'trak').concat(videoTrack as Box)
    })
    expect(readVideoHeader(withoutAudio)).toEqual(header)
    expect(readVideoHeader(inside(trak, box('abcd', zip)))).toEqual(header)
    expect(readVideoHeader(Buffer.concat([film, writeBoxes([box('uuid', Buffer.alloc(40))])]))).toEqual(header)

    const [ftyp, free, mdat, moov] = readBoxes(film) as [Box, Box, Box, Box]
    expect([ftyp, free, mdat, moov].map(({ type }) => type)).toEqual(['ftyp', 'free', 'mdat', 'moov'])
    // A 16-byte header replaces an empty box and an 8-byte header.
    const large = Buffer.concat([u32(1), Buffer.from('mdat'), u32(0, 16 + mdat.data.length), mdat.data])
    expect(readVideoHeader(Buffer.concat([writeBoxes([ftyp]), large, writeBoxes([moov])]))).toEqual(header)

    const moved = writeBoxes([moov]).length
    const ahead = readBoxes(writeBoxes([ftyp, moov, free, mdat]))
    for (const { data } of boxesAt(ahead, `${stbl}/stco`)) {
      for (let at = 8; at < data.length; at += 4) data.writeUInt32BE(data.readUInt32BE(at) + moved, at)
    }
    expect(readVideoHeader(writeBoxes(ahead))).toEqual(header)
  })

  test('with a rotated track reports its display size', () => {
    const turned = changed(`${trak}/tkhd`, ({ data }) => {
      for (const [index, value] of [0, 0x10000, 0, -0x10000, 0, 0].entries()) data.writeInt32BE(value, 40 + 4 * index)
    })
    expect(readVideoHeader(turned)).toEqual({ ...header, width: 48, height: 64 })
  })

  test('has the longest of its declared durations', () => {
    expect(readVideoHeader(put('moov/mvhd', 16, 2_500))).toEqual({ ...header, durationMs: 2_500 })
    expect(readVideoHeader(put(`${trak}/edts/elst`, 8, 3_000))).toEqual({ ...header, durationMs: 3_000 })
  })
})

/** The video with its samples in the last box, which has the size `size`; `behind` is appended. */
const openEnded = (bytes: Buffer, { size = 0, behind = Buffer.alloc(0) }: { size?: number; behind?: Buffer } = {}) => {
  const boxes = readBoxes(bytes)
  const [mdat, ...rest] = ['mdat', 'ftyp', 'moov'].map((type) => boxes.find((each) => each.type === type) as Box)
  const ahead = writeBoxes(rest)
  const moved = ahead.length - (bytes.indexOf('mdat') - 4)
  for (const { data } of boxesAt(rest, `${stbl}/stco`)) {
    for (let at = 8; at < data.length; at += 4) data.writeUInt32BE(data.readUInt32BE(at) + moved, at)
  }
  const last = writeBoxes([mdat as Box])
  if (size === 0) last.writeUInt32BE(0, 0)
  return Buffer.concat([writeBoxes(rest), last, behind])
}
/** The video with its audio in a second media box; `gap` moves the offsets of the audio away from it. */
const splitMedia = (bytes: Buffer, { gap = 0 } = {}) => {
  const boxes = readBoxes(bytes)
  const mdat = boxes.find(({ type }) => type === 'mdat') as Box
  const copy = { ...mdat, data: Buffer.from(mdat.data) }
  const moved = bytes.length - (bytes.indexOf('mdat') - 4) + gap
  const [, sound] = boxesAt(boxes, `${stbl}/stco`)
  const { data } = sound as Box
  for (let at = 8; at < data.length; at += 4) data.writeUInt32BE(data.readUInt32BE(at) + moved, at)
  return writeBoxes([...boxes, copy])
}
const ones = Buffer.alloc(8, 0xff)
/** Units of the video track in a second. */
const timescale = () => boxesAt(readBoxes(film), `${trak}/mdia/mdhd`)[0]?.data.readUInt32BE(12) ?? 0

describe('a video that browsers play', () => {
  test('is accepted, whichever program wrote it', async () => {
    const files = await takenFiles('films')
    expect(files.length).toBeGreaterThanOrEqual(20)
    const refused = files.flatMap(({ name, bytes }) => {
      const verdict = readVideoHeader(bytes)
      return 'refused' in verdict ? [[name, verdict.refused]] : []
    })
    expect(refused).toEqual([])
  })

  test('may have more tracks: those that players do not show are ignored', async () => {
    expect(readVideoHeader(await takenFile('timecode.mp4'))).toEqual({ ...header, durationMs: 1_000 })
    expect(readVideoHeader(await takenFile('chapters.mp4'))).toMatchObject({ width: 64, height: 48 })
    const text = changed(`${trak}/mdia/hdlr`, ({ data }) => data.write('text', 8), 1)
    expect(readVideoHeader(text)).toEqual(header)
    const withPictures = changed('moov', (moov) => {
      const [video] = boxesAt(readBoxes(film), trak)
      const disabled = boxesAt([video as Box], 'trak/tkhd')[0]
      disabled?.data.writeUInt32BE(0)
      moov.boxes?.push(video as Box)
    })
    expect(readVideoHeader(withPictures)).toEqual(header)
    const silent = changed(
      stbl,
      ({ boxes = [] }) => {
        for (const { data } of boxesAt(boxes, 'stsz')) data.writeUInt32BE(0, 8)
        for (const stts of boxesAt(boxes, 'stts')) stts.data = u32(0, 0)
      },
      1,
    )
    expect(readVideoHeader(silent)).toEqual(header)
  })

  test('may have several media boxes, and a last one that extends to the end of the file', async () => {
    for (const name of ['two-mdat.mp4', 'mdat-size0.mp4']) {
      expect(readVideoHeader(await takenFile(name))).toMatchObject({ width: 64, height: 48 })
    }
    expect(readVideoHeader(Buffer.concat([film, writeBoxes([box('mdat')])]))).toEqual(header)
    for (const bytes of [splitMedia(film), openEnded(film), openEnded(film, { size: 1 })]) {
      expect(readVideoHeader(bytes)).toEqual(header)
    }
  })

  test('lasts as long as its edit list says, not its samples', async () => {
    expect(readVideoHeader(await takenFile('sixty-seconds.mp4'))).toMatchObject({ durationMs: 60_000 })
    const scale = timescale()
    const longer = changed(`${stbl}/stts`, (stts) => (stts.data = u32(0, 2, 7, scale / 8, 1, 70 * scale)))
    expect(readVideoHeader(longer)).toEqual(header)
    const whole = changed(trak, (track) => (track.boxes = track.boxes?.filter(({ type }) => type !== 'edts')))
    expect(readVideoHeader(whole)).toMatchObject({ durationMs: 1_000 })
  })

  test('may leave its durations unknown in every header', () => {
    const unknown = changed('moov', (moov) => {
      const all = [moov]
      boxesAt(all, 'moov/mvhd')[0]?.data.set(ones.subarray(4), 16)
      for (const { data } of boxesAt(all, `${trak}/tkhd`)) data.set(ones.subarray(4), 20)
      for (const { data } of boxesAt(all, `${trak}/mdia/mdhd`)) data.set(ones.subarray(4), 16)
    })
    expect(readVideoHeader(unknown)).toEqual(header)
    const long = changed('moov/mvhd', (mvhd) => {
      const { data } = mvhd
      mvhd.data = Buffer.concat([u32(0x01000000, 0, 0, 0, 0, data.readUInt32BE(12)), ones, data.subarray(20)])
    })
    expect(readVideoHeader(long)).toEqual(header)
  })
})

describe('the stored bytes of a video', () => {
  const byModel = 'trainedAlgorithmicMedia'
  const storedOf = (bytes: Uint8Array, madeBy?: string) => {
    const video = readVideo(bytes)
    if ('refused' in video) throw new Error(video.refused)
    return Buffer.from(toStoredVideo(bytes, video.layout, madeBy))
  }
  const uuid = (type: string, content: string) =>
    box('uuid', Buffer.concat([Buffer.from(type, 'hex'), Buffer.from(content)]))
  const xmpType = 'be7acfcb97a942e89c71999491e3afac'

  test('are those delivered, followed by XMP that says a model made them', () => {
    const stored = storedOf(film, byModel)
    expect(stored.subarray(0, film.length).equals(film)).toBe(true)
    const added = readBoxes(stored.subarray(film.length))
    expect(added.map(({ type, data }) => [type, data.toString('hex', 0, 16)])).toEqual([['uuid', xmpType]])
    expect(added[0]?.data.includes(`digitalsourcetype/${byModel}`)).toBe(true)
    expect(readVideoHeader(stored)).toEqual(header)
    expect(storedOf(stored, byModel).equals(stored)).toBe(true)
    expect(storedOf(film).equals(film)).toBe(true)
  })

  test('keep the mark of the provider: C2PA byte by byte, other XMP completed', () => {
    const signed = Buffer.concat([film, writeBoxes([uuid('d8fec3d61b0e483c92975828877ec481', 'manifest')])])
    expect(storedOf(signed, byModel).equals(signed)).toBe(true)
    const own = Buffer.concat([film, writeBoxes([uuid(xmpType, xmpWith('xmlns:a="b" a:c="Dream 3"'))])])
    const stored = storedOf(own, byModel)
    const last = readBoxes(stored).at(-1) as Box
    expect(readBoxes(stored).map(({ type }) => type)).toEqual(['ftyp', 'free', 'mdat', 'moov', 'free', 'uuid'])
    for (const mark of ['Dream 3', byModel]) expect(last.data.includes(mark)).toBe(true)
  })

  test('end where the samples end, when the last media box extends to the end of the file', () => {
    const closed = openEnded(film, { size: 1 })
    for (const behind of [Buffer.alloc(0), zip, Buffer.from('<script>alert(1)</script>')]) {
      expect(storedOf(openEnded(film, { behind })).equals(closed)).toBe(true)
    }
    const stored = storedOf(openEnded(film), byModel)
    expect(stored.subarray(0, closed.length).equals(closed)).toBe(true)
    expect(readVideoHeader(stored)).toEqual(header)
  })
})

test('any bytes that are accepted are stored as a video of the same header, and storing it again changes nothing', () => {
  for (const seed of [film, openEnded(film), splitMedia(film)]) {
    const edit = fc.tuple(fc.nat(seed.length - 4), fc.constantFrom(0, 1, 8, 0xff, 0xffff, 0xffffffff))
    fc.assert(
      fc.property(fc.array(edit, { maxLength: 2 }), fc.constantFrom(undefined, 'algorithmicMedia'), (edits, madeBy) => {
        const bytes = Buffer.from(seed)
        for (const [at, value] of edits) bytes.writeUInt32BE(value, at)
        const given = readVideo(bytes)
        if ('refused' in given) return
        const stored = toStoredVideo(bytes, given.layout, madeBy)
        const again = readVideo(stored)
        if ('refused' in again) throw new Error(again.refused)
        expect(again.header).toEqual(given.header)
        expect(toStoredVideo(stored, again.layout, madeBy)).toEqual(stored)
      }),
      { numRuns: 300 },
    )
  }
})

describe('hostile video bytes', () => {
  const cases: [name: string, bytes: () => Uint8Array, reason: VideoRefusal][] = [
    ['nothing', () => new Uint8Array(), 'empty'],
    ['65 MiB', () => new Uint8Array(65 * 1_048_576), 'too_many_bytes'],
    ['four bytes', () => film.subarray(0, 4), 'type_not_accepted'],
    [
      'a WebM',
      () => Buffer.from('1a45dfa3a34286810142f7810142f2810442f381084282847765626d', 'hex'),
      'type_not_accepted',
    ],
    ['HTML', () => Buffer.from('<!doctype html><script>alert(1)</script>'), 'type_not_accepted'],
    ['a QuickTime movie', () => changed('ftyp', ({ data }) => data.write('qt  ', 0)), 'type_not_accepted'],
    [
      'a HEIC image',
      () => changed('ftyp', (ftyp) => (ftyp.data = Buffer.from('heic\0\0\0\0mif1heic', 'latin1'))),
      'type_not_accepted',
    ],

    ['a video truncated in its samples', () => film.subarray(0, 1_000), 'truncated'],
    ['a video truncated in its tables', () => film.subarray(0, film.length - 300), 'truncated'],
    ['a video that ends after its samples', () => writeBoxes(readBoxes(film).slice(0, 3)), 'truncated'],
    ['a video without samples', () => writeBoxes(readBoxes(film).filter(({ type }) => type !== 'mdat')), 'truncated'],
    ['a box larger than the file', () => Buffer.concat([u32(0xffffffff), film.subarray(4)]), 'truncated'],
    [
      'a box of 2^64 bytes',
      () => Buffer.concat([u32(1), Buffer.from('ftyp'), u32(0xffffffff, 0xffffffff), film.subarray(16)]),
      'truncated',
    ],
    [
      'a 64-bit box with a truncated header',
      () => Buffer.concat([film.subarray(0, 32), u32(1), Buffer.from('moov')]),
      'truncated',
    ],
    [
      'a box of size 0, which extends to the end',
      () => Buffer.concat([film, u32(0), Buffer.from('free'), zip]),
      'damaged',
    ],
    ['a box smaller than its header', () => Buffer.concat([film, u32(7), Buffer.from('free')]), 'damaged'],
    [
      'a 64-bit box smaller than its header',
      () => Buffer.concat([film, u32(1), Buffer.from('free'), u32(0, 8)]),
      'damaged',
    ],
    ['a trailing zip', () => Buffer.concat([film, zip]), 'trailing_data'],
    ['a trailing script', () => Buffer.concat([film, Buffer.from('<script>alert(1)</script>')]), 'trailing_data'],
    ['trailing zeros', () => Buffer.concat([film, Buffer.alloc(20)]), 'trailing_data'],
    ['three trailing bytes', () => Buffer.concat([film, Buffer.alloc(3)]), 'trailing_data'],
    ['a trailing unknown box', () => Buffer.concat([film, writeBoxes([box('html', zip)])]), 'trailing_data'],
    ['a second copy of the file', () => Buffer.concat([film, film]), 'trailing_data'],
    [
      'a leading unknown box',
      () => writeBoxes([...readBoxes(film).slice(0, 1), box('html'), ...readBoxes(film).slice(1)]),
      'damaged',
    ],
    ['fragments', () => Buffer.concat([film, writeBoxes([box('moof')])]), 'fragmented'],
    ['announced fragments', () => inside('moov', box('mvex')), 'fragmented'],

    ['no tracks', () => without('moov', 'trak'), 'tracks_not_accepted'],
    [
      'the same track three times',
      () =>
        changed('moov', ({ boxes }) =>
          boxes?.push(...(boxes?.filter(({ type }) => type === 'trak').slice(0, 1) ?? [])),
        ),
      'tracks_not_accepted',
    ],
    [
      'two video tracks',
      () =>
        changed(
          'moov',
          (moov) =>
            (moov.boxes = [
              ...(moov.boxes ?? []).filter(({ type }) => type !== 'trak'),
              ...[0, 0].map((which) => boxesAt(readBoxes(film), trak)[which] as Box),
            ]),
        ),
      'tracks_not_accepted',
    ],
    [
      'audio only',
      () =>
        changed(
          'moov',
          (moov) => (moov.boxes = (moov.boxes ?? []).filter((inner) => inner !== boxesAt([moov], 'moov/trak')[0])),
        ),
      'tracks_not_accepted',
    ],
    [
      'an ignored track with an external URL',
      () =>
        changed(
          trak,
          ({ boxes = [] }) => {
            for (const hdlr of boxesAt(boxes, 'mdia/hdlr')) hdlr.data.write('text', 8)
            for (const url of boxesAt(boxes, 'mdia/minf/dinf/dref/url ')) url.data.writeUInt32BE(0)
          },
          1,
        ),
      'external_data',
    ],
    ['samples between two media boxes', () => splitMedia(film, { gap: 100 }), 'damaged'],
    ['a truncated media box that extends to the end', () => openEnded(film).subarray(0, -300), 'truncated'],
    [
      'a media box that extends to the end and holds the tables',
      () => {
        const bytes = Buffer.from(film)
        bytes.writeUInt32BE(0, bytes.indexOf('mdat') - 4)
        return bytes
      },
      'truncated',
    ],
    ['two minutes and a half by the sample times', () => put(`${stbl}/stts`, 12, 20 * timescale()), 'too_long'],
    [
      'an unknown video codec',
      () => changed(`${stbl}/stsd/avc1`, (entry) => (entry.type = 'vp09')),
      'codec_not_accepted',
    ],
    ['encrypted video', () => changed(`${stbl}/stsd/avc1`, (entry) => (entry.type = 'encv')), 'codec_not_accepted'],
    [
      'an unknown audio codec',
      () => changed(`${stbl}/stsd/mp4a`, (entry) => (entry.type = 'evil')),
      'codec_not_accepted',
    ],
    ['a codec without its configuration box', () => without(`${stbl}/stsd/avc1`, 'avcC'), 'damaged'],
    ['two sample descriptions', () => twice(`${stbl}/stsd`, 'avc1'), 'damaged'],

    [
      'an external URL',
      () =>
        changed(`${dref}/url `, (url) => (url.data = Buffer.concat([u32(0), Buffer.from('https://evil.example/\0')]))),
      'external_data',
    ],
    [
      'an external URL beside a self-reference',
      () =>
        changed(`${dref}/url `, (url) => (url.data = Buffer.concat([url.data, Buffer.from('file:///etc/passwd\0')]))),
      'external_data',
    ],
    [
      'an external URL for the audio',
      () => changed(`${dref}/url `, (url) => url.data.writeUInt32BE(0), 1),
      'external_data',
    ],
    ['a URN', () => changed(`${dref}/url `, (url) => (url.type = 'urn ')), 'external_data'],
    ['an alias', () => changed(`${dref}/url `, (url) => (url.type = 'alis')), 'external_data'],
    [
      'no data reference',
      () => changed(dref, (list) => Object.assign(list, { data: u32(0, 0), boxes: [] })),
      'damaged',
    ],
    [
      'an undefined data reference',
      () => changed(`${stbl}/stsd/avc1`, ({ data }) => data.writeUInt16BE(2, 6)),
      'damaged',
    ],

    [
      '5,000 pixels wide',
      () => changed(`${stbl}/stsd/avc1`, ({ data }) => data.writeUInt16BE(5_000, 24)),
      'side_too_long',
    ],
    [
      '65,535 pixels high',
      () => changed(`${stbl}/stsd/avc1`, ({ data }) => data.writeUInt16BE(65_535, 26)),
      'side_too_long',
    ],
    ['a display width of 32,768 pixels', () => put(`${trak}/tkhd`, 76, 0x80000000), 'side_too_long'],
    ['no width', () => changed(`${stbl}/stsd/avc1`, ({ data }) => data.writeUInt16BE(0, 24)), 'damaged'],

    ['61 seconds by the movie header', () => put('moov/mvhd', 16, 61_000), 'too_long'],
    ['a time scale of 0', () => put('moov/mvhd', 12, 0), 'damaged'],
    ['61 seconds by the track header', () => put(`${trak}/tkhd`, 20, 61_000), 'too_long'],
    [
      'an hour by the media header',
      () => changed(`${trak}/mdia/mdhd`, ({ data }) => data.writeUInt32BE(3_600 * data.readUInt32BE(12), 16)),
      'too_long',
    ],
    ['days by the sample times', () => put(`${stbl}/stts`, 12, 0x7fffffff), 'too_long'],
    ['an hour by the edit list', () => put(`${trak}/edts/elst`, 8, 3_600_000), 'too_long'],
    ['samples of no duration', () => put(`${stbl}/stts`, 12, 0), 'damaged'],
    ['an empty edit list duration', () => put(`${trak}/edts/elst`, 8, 0), 'damaged'],

    ['more samples than times', () => put(`${stbl}/stts`, 8, 7), 'damaged'],
    [
      'more samples than sizes',
      () =>
        changed(stbl, ({ boxes = [] }) => {
          for (const stsz of boxesAt(boxes, 'stsz')) stsz.data.writeUInt32BE(9, 8)
          for (const stts of boxesAt(boxes, 'stts')) stts.data.writeUInt32BE(9, 8)
        }),
      'damaged',
    ],
    ['samples of one size beyond the end', () => put(`${stbl}/stsz`, 4, 100_000), 'damaged'],
    [
      'a chunk run that is never reached',
      () =>
        changed(`${stbl}/stsc`, (stsc) => {
          stsc.data = Buffer.concat([stsc.data, u32(1_000, 1, 1)])
          stsc.data.writeUInt32BE(stsc.data.readUInt32BE(4) + 1, 4)
        }),
      'damaged',
    ],
    ['no samples', () => put(`${stbl}/stsz`, 8, 0), 'damaged'],
    [
      '4 billion samples of one size',
      () =>
        changed(`${stbl}`, ({ boxes = [] }) => {
          boxesAt(boxes, 'stsz')[0]?.data.writeUInt32BE(1, 4)
          boxesAt(boxes, 'stsz')[0]?.data.writeUInt32BE(0xffffffff, 8)
          for (const stts of boxesAt(boxes, 'stts')) stts.data = u32(0, 2, 0xfffffffe, 0, 1, 1)
        }),
      'too_many_samples',
    ],
    ['a sample of 4 GiB', () => put(`${stbl}/stsz`, 12, 0xffffffff), 'damaged'],
    ['samples before mdat', () => put(`${stbl}/stco`, 8, 8), 'damaged'],
    ['samples beyond the end', () => put(`${stbl}/stco`, 8, 0x7fffffff), 'damaged'],
    ['more chunk offsets than the table holds', () => put(`${stbl}/stco`, 4, 0x7fffffff), 'damaged'],
    ['more sample times than the table holds', () => put(`${stbl}/stts`, 4, 0xffffffff), 'damaged'],
    [
      'more sample sizes than the table holds',
      () => changed(`${stbl}/stsz`, (stsz) => (stsz.data = stsz.data.subarray(0, 40))),
      'damaged',
    ],
    ['more edits than the table holds', () => put(`${trak}/edts/elst`, 4, 1_000), 'damaged'],
    ['chunks of 4 billion samples', () => put(`${stbl}/stsc`, 12, 0xffffffff), 'damaged'],
    ['chunks without samples', () => put(`${stbl}/stsc`, 12, 0), 'damaged'],
    ['chunk runs that start at the second chunk', () => put(`${stbl}/stsc`, 8, 2), 'damaged'],
    ['two chunk offset tables', () => twice(stbl, 'stco'), 'damaged'],
    ['both a 32-bit and a 64-bit chunk offset table', () => inside(stbl, box('co64', u32(0, 0))), 'damaged'],

    [
      '2,000 boxes',
      () => Buffer.concat([film, writeBoxes(Array.from({ length: 2_000 }, () => box('free')))]),
      'too_many_boxes',
    ],
    [
      '2,000 boxes inside one',
      () => inside('moov', ...Array.from({ length: 2_000 }, () => box('free'))),
      'too_many_boxes',
    ],
    [
      'a box that extends beyond its parent',
      () => {
        const bytes = Buffer.from(film)
        bytes.writeUInt32BE(0xffff, bytes.indexOf('trak') - 4)
        return bytes
      },
      'damaged',
    ],
  ]
  for (const [name, bytes, reason] of cases) {
    test(`are refused: ${name}`, () => {
      expect(refusalOf(bytes())).toBe(reason)
    })
  }

  test('are refused when a required box is missing or duplicated', () => {
    for (const path of [
      'moov/mvhd',
      ...['tkhd', 'mdia', 'mdia/hdlr', 'mdia/mdhd', 'mdia/minf', 'mdia/minf/dinf'].map((part) => `${trak}/${part}`),
      dref,
      stbl,
      ...['stsd', 'stts', 'stsc', 'stsz', 'stco'].map((part) => `${stbl}/${part}`),
    ]) {
      const parent = path.slice(0, path.lastIndexOf('/'))
      const type = path.slice(parent.length + 1)
      expect([path, refusalOf(without(parent, type))]).toEqual([path, 'damaged'])
      expect([path, refusalOf(twice(parent, type))]).toEqual([path, 'damaged'])
    }
  })

  test('may nest boxes to any depth, since unknown boxes are not parsed', () => {
    let deep: Buffer = Buffer.alloc(0)
    for (let depth = 0; depth < 3_000; depth += 1) deep = writeBoxes([box('moov', deep)])
    expect(refusalOf(Buffer.concat([film.subarray(0, 32), deep, writeBoxes([box('mdat')])]))).toBe('damaged')
    expect(readVideoHeader(inside(trak, { type: 'meta', data: deep, boxes: undefined }))).toEqual(header)
  })

  test('are refused when truncated anywhere and when followed by trailing data', () => {
    for (let length = 0; length < film.length; length += 1) {
      expect(['empty', 'type_not_accepted', 'truncated']).toContain(refusalOf(film.subarray(0, length)) as string)
    }
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 40 }), (more) => {
        const verdict = refusalOf(Buffer.concat([film, more]))
        expect(typeof verdict === 'string' || /free|skip|wide/.test(Buffer.from(more).toString('latin1'))).toBeTrue()
      }),
    )
  })

  test('of any kind get a verdict without a throw, and a video that passes is within the limits', () => {
    // The video is a view into a larger buffer: a read beyond its end would return other bytes.
    const around = Buffer.concat([Buffer.alloc(1_000, 0xff), film, Buffer.alloc(1_000, 0xff)])
    const hold = (bytes: Uint8Array) => {
      const verdict = readVideoHeader(bytes)
      if ('refused' in verdict) return
      const { width, height, durationMs } = verdict
      for (const side of [width, height]) expect(side > 0 && side <= videoLimits.side).toBeTrue()
      expect(durationMs > 0 && durationMs <= videoLimits.durationMs).toBeTrue()
    }
    const value = fc.oneof(
      fc.integer({ min: 0, max: 40 }),
      fc.nat(0xffff),
      fc.constantFrom(0xff, 0x7fffffff, 0x80000000, 0xffffffff),
    )
    const edit = fc.tuple(fc.nat(film.length - 4), value)
    fc.assert(
      fc.property(fc.array(edit, { minLength: 1, maxLength: 4 }), (edits) => {
        const bytes = Buffer.from(around)
        for (const [at, number] of edits) bytes.writeUInt32BE(number, 1_000 + at)
        hold(bytes.subarray(1_000, 1_000 + film.length))
      }),
      { numRuns: 5_000 },
    )
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (rest) => hold(Buffer.concat([film.subarray(0, 32), rest]))),
      {
        numRuns: 2_000,
      },
    )
  })

  test('with a table of 16 MiB take linear time', () => {
    const room = 16 * 1_048_576
    const many = Math.floor(room / 8)
    const tables: [string, Buffer][] = [
      [`${stbl}/stts`, Buffer.concat([u32(0, many), Buffer.alloc(8 * many)])],
      [`${trak}/edts/elst`, Buffer.concat([u32(0, Math.floor(room / 12)), Buffer.alloc(room)])],
      [`${stbl}/stco`, Buffer.concat([u32(0, Math.floor(room / 4)), Buffer.alloc(room)])],
      [`${stbl}/stsz`, Buffer.concat([u32(0, 0, Math.floor(room / 4)), Buffer.alloc(room)])],
      [`${stbl}/stsc`, Buffer.concat([u32(0, Math.floor(room / 12)), Buffer.alloc(room)])],
    ]
    for (const [path, data] of tables) {
      const large = changed(path, (table) => (table.data = data))
      expect(large.length).toBeLessThanOrEqual(videoLimits.bytes)
      expect([path, typeof refusalOf(large)]).toEqual([path, 'string'])
    }
  })
})

test('every reason for which an output can be refused is one that the API names', () => {
  expect(new Set<string>(failureDetails)).toEqual(new Set<string>([...imageRefusals, ...videoRefusals]))
})
