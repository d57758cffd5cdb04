import { beforeAll, describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { readVideoHeader, type VideoRefusal, videoLimits } from '../../src/media/formats/video-format.ts'
import { type Box, boxesAt, readBoxes, readFilm, stretch, writeBoxes } from '../harness/film.ts'

let film: Buffer
beforeAll(async () => {
  film = await readFilm()
})

const inOrder = { type: 'mp4', width: 64, height: 48, durationMs: 1_000 } as const
const refusalOf = (bytes: Uint8Array) => {
  const verdict = readVideoHeader(bytes)
  return 'refused' in verdict ? verdict.refused : verdict
}

/** The video with a change to the boxes at a path; its first track is the video track. */
const changed = (path: string, change: (box: Box, all: Box[]) => void, which = 0): Buffer => {
  const boxes = readBoxes(film)
  const all = boxesAt(boxes, path)
  const box = all[which]
  if (box === undefined) throw new Error(`The film has no ${path}`)
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
    expect(readVideoHeader(film)).toEqual(inOrder)
    expect(writeBoxes(readBoxes(film)).equals(film)).toBeTrue()
    expect(readVideoHeader(stretch(film, 1_000_000))).toEqual(inOrder)
  })

  test('may have no audio, another box order, unknown boxes and 64-bit sizes', () => {
    const [pictures] = boxesAt(readBoxes(film), trak)
    const silent = changed('moov', (moov) => {
      moov.boxes = moov.boxes?.filter(({ type }) => type !== 'trak').concat(pictures as Box)
    })
    expect(readVideoHeader(silent)).toEqual(inOrder)
    expect(readVideoHeader(inside(trak, box('abcd', zip)))).toEqual(inOrder)
    expect(readVideoHeader(Buffer.concat([film, writeBoxes([box('uuid', Buffer.alloc(40))])]))).toEqual(inOrder)

    const [ftyp, free, mdat, moov] = readBoxes(film) as [Box, Box, Box, Box]
    expect([ftyp, free, mdat, moov].map(({ type }) => type)).toEqual(['ftyp', 'free', 'mdat', 'moov'])
    // A 16-byte header replaces an empty box and an 8-byte header.
    const large = Buffer.concat([u32(1), Buffer.from('mdat'), u32(0, 16 + mdat.data.length), mdat.data])
    expect(readVideoHeader(Buffer.concat([writeBoxes([ftyp]), large, writeBoxes([moov])]))).toEqual(inOrder)

    const moved = writeBoxes([moov]).length
    const ahead = readBoxes(writeBoxes([ftyp, moov, free, mdat]))
    for (const { data } of boxesAt(ahead, `${stbl}/stco`)) {
      for (let at = 8; at < data.length; at += 4) data.writeUInt32BE(data.readUInt32BE(at) + moved, at)
    }
    expect(readVideoHeader(writeBoxes(ahead))).toEqual(inOrder)
  })

  test('with a rotated track reports its display size', () => {
    const turned = changed(`${trak}/tkhd`, ({ data }) => {
      for (const [index, value] of [0, 0x10000, 0, -0x10000, 0, 0].entries()) data.writeInt32BE(value, 40 + 4 * index)
    })
    expect(readVideoHeader(turned)).toEqual({ ...inOrder, width: 48, height: 64 })
  })

  test('has the longest of its declared durations', () => {
    expect(readVideoHeader(put('moov/mvhd', 16, 2_500))).toEqual({ ...inOrder, durationMs: 2_500 })
    expect(readVideoHeader(put(`${trak}/edts/elst`, 8, 3_000))).toEqual({ ...inOrder, durationMs: 3_000 })
  })
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
      'a HEIC picture',
      () => changed('ftyp', (ftyp) => (ftyp.data = Buffer.from('heic\0\0\0\0mif1heic', 'latin1'))),
      'type_not_accepted',
    ],

    ['a film cut off in its samples', () => film.subarray(0, 1_000), 'truncated'],
    ['a film cut off in its tables', () => film.subarray(0, film.length - 300), 'truncated'],
    ['a film that ends with its samples', () => writeBoxes(readBoxes(film).slice(0, 3)), 'truncated'],
    ['a film without samples', () => writeBoxes(readBoxes(film).filter(({ type }) => type !== 'mdat')), 'truncated'],
    ['a box larger than the file', () => Buffer.concat([u32(0xffffffff), film.subarray(4)]), 'truncated'],
    [
      'a box of 2^64 bytes',
      () => Buffer.concat([u32(1), Buffer.from('ftyp'), u32(0xffffffff, 0xffffffff), film.subarray(16)]),
      'truncated',
    ],
    [
      'a box of 64 bits without them',
      () => Buffer.concat([film.subarray(0, 32), u32(1), Buffer.from('moov')]),
      'truncated',
    ],
    ['a box that goes on to the end', () => Buffer.concat([film, u32(0), Buffer.from('free'), zip]), 'damaged'],
    ['a box that is smaller than its header', () => Buffer.concat([film, u32(7), Buffer.from('free')]), 'damaged'],
    ['a box of 64 bits that is none', () => Buffer.concat([film, u32(1), Buffer.from('free'), u32(0, 8)]), 'damaged'],
    ['a zip behind it', () => Buffer.concat([film, zip]), 'trailing_data'],
    ['a script behind it', () => Buffer.concat([film, Buffer.from('<script>alert(1)</script>')]), 'trailing_data'],
    ['zeros behind it', () => Buffer.concat([film, Buffer.alloc(20)]), 'trailing_data'],
    ['three bytes behind it', () => Buffer.concat([film, Buffer.alloc(3)]), 'trailing_data'],
    ['a page in a box behind it', () => Buffer.concat([film, writeBoxes([box('html', zip)])]), 'trailing_data'],
    ['itself behind it', () => Buffer.concat([film, film]), 'trailing_data'],
    [
      'a box that nobody knows in front',
      () => writeBoxes([...readBoxes(film).slice(0, 1), box('html'), ...readBoxes(film).slice(1)]),
      'damaged',
    ],
    ['two of what there is one', () => Buffer.concat([film, writeBoxes([box('mdat')])]), 'damaged'],
    ['fragments', () => Buffer.concat([film, writeBoxes([box('moof')])]), 'fragmented'],
    ['fragments to come', () => inside('moov', box('mvex')), 'fragmented'],

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
      'two tracks of pictures',
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
      'sound alone',
      () =>
        changed(
          'moov',
          (moov) => (moov.boxes = (moov.boxes ?? []).filter((inner) => inner !== boxesAt([moov], 'moov/trak')[0])),
        ),
      'tracks_not_accepted',
    ],
    [
      'a track of text',
      () => changed(`${trak}/mdia/hdlr`, ({ data }) => data.write('text', 8), 1),
      'tracks_not_accepted',
    ],
    [
      'pictures of a codec of its own',
      () => changed(`${stbl}/stsd/avc1`, (entry) => (entry.type = 'vp09')),
      'codec_not_accepted',
    ],
    [
      'pictures that are encrypted',
      () => changed(`${stbl}/stsd/avc1`, (entry) => (entry.type = 'encv')),
      'codec_not_accepted',
    ],
    [
      'sound of a codec of its own',
      () => changed(`${stbl}/stsd/mp4a`, (entry) => (entry.type = 'evil')),
      'codec_not_accepted',
    ],
    ['a codec that is not set up', () => without(`${stbl}/stsd/avc1`, 'avcC'), 'damaged'],
    ['two ways of coding', () => twice(`${stbl}/stsd`, 'avc1'), 'damaged'],

    [
      'a URL',
      () =>
        changed(`${dref}/url `, (url) => (url.data = Buffer.concat([u32(0), Buffer.from('https://evil.example/\0')]))),
      'external_data',
    ],
    [
      'a URL beside what says it is here',
      () =>
        changed(`${dref}/url `, (url) => (url.data = Buffer.concat([url.data, Buffer.from('file:///etc/passwd\0')]))),
      'external_data',
    ],
    ['a URL for its sound', () => changed(`${dref}/url `, (url) => url.data.writeUInt32BE(0), 1), 'external_data'],
    ['a URN', () => changed(`${dref}/url `, (url) => (url.type = 'urn ')), 'external_data'],
    ['an alias', () => changed(`${dref}/url `, (url) => (url.type = 'alis')), 'external_data'],
    ['nowhere', () => changed(dref, (list) => Object.assign(list, { data: u32(0, 0), boxes: [] })), 'damaged'],
    [
      'another place than any there is',
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
    ['shown 32,768 pixels wide', () => put(`${trak}/tkhd`, 76, 0x80000000), 'side_too_long'],
    ['no width', () => changed(`${stbl}/stsd/avc1`, ({ data }) => data.writeUInt16BE(0, 24)), 'damaged'],

    ['61 seconds by what it says', () => put('moov/mvhd', 16, 61_000), 'too_long'],
    ['no time it knows of', () => put('moov/mvhd', 16, 0xffffffff), 'too_long'],
    ['units of no time', () => put('moov/mvhd', 12, 0), 'damaged'],
    ['61 seconds by its track', () => put(`${trak}/tkhd`, 20, 61_000), 'too_long'],
    [
      'an hour by its media',
      () => changed(`${trak}/mdia/mdhd`, ({ data }) => data.writeUInt32BE(3_600 * data.readUInt32BE(12), 16)),
      'too_long',
    ],
    ['days by its samples', () => put(`${stbl}/stts`, 12, 0x7fffffff), 'too_long'],
    ['an hour of its last picture', () => put(`${trak}/edts/elst`, 8, 3_600_000), 'too_long'],
    ['no time at all', () => put(`${stbl}/stts`, 12, 0), 'damaged'],
    ['no time of it shown', () => put(`${trak}/edts/elst`, 8, 0), 'damaged'],

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
    ['more samples of one size than there is room for', () => put(`${stbl}/stsz`, 4, 100_000), 'damaged'],
    [
      'a run of chunks that never comes',
      () =>
        changed(`${stbl}/stsc`, (stsc) => {
          stsc.data = Buffer.concat([stsc.data, u32(1_000, 1, 1)])
          stsc.data.writeUInt32BE(stsc.data.readUInt32BE(4) + 1, 4)
        }),
      'damaged',
    ],
    ['no samples', () => put(`${stbl}/stsz`, 8, 0), 'damaged'],
    [
      '4 thousand million samples of one size',
      () =>
        changed(`${stbl}`, ({ boxes = [] }) => {
          boxesAt(boxes, 'stsz')[0]?.data.writeUInt32BE(1, 4)
          boxesAt(boxes, 'stsz')[0]?.data.writeUInt32BE(0xffffffff, 8)
          for (const stts of boxesAt(boxes, 'stts')) stts.data = u32(0, 2, 0xfffffffe, 0, 1, 1)
        }),
      'too_many_samples',
    ],
    ['a sample of 4 GiB', () => put(`${stbl}/stsz`, 12, 0xffffffff), 'damaged'],
    ['samples before any', () => put(`${stbl}/stco`, 8, 8), 'damaged'],
    ['samples beyond the end', () => put(`${stbl}/stco`, 8, 0x7fffffff), 'damaged'],
    ['chunks it does not have', () => put(`${stbl}/stco`, 4, 0x7fffffff), 'damaged'],
    ['times it does not have', () => put(`${stbl}/stts`, 4, 0xffffffff), 'damaged'],
    [
      'sizes it does not have',
      () => changed(`${stbl}/stsz`, (stsz) => (stsz.data = stsz.data.subarray(0, 40))),
      'damaged',
    ],
    ['edits it does not have', () => put(`${trak}/edts/elst`, 4, 1_000), 'damaged'],
    ['chunks of 4 thousand million samples', () => put(`${stbl}/stsc`, 12, 0xffffffff), 'damaged'],
    ['chunks of no samples', () => put(`${stbl}/stsc`, 12, 0), 'damaged'],
    ['chunks from the middle on', () => put(`${stbl}/stsc`, 8, 2), 'damaged'],
    ['two tables of chunks', () => twice(stbl, 'stco'), 'damaged'],
    ['both tables of chunks', () => inside(stbl, box('co64', u32(0, 0))), 'damaged'],

    [
      '2,000 boxes',
      () => Buffer.concat([film, writeBoxes(Array.from({ length: 2_000 }, () => box('free')))]),
      'too_many_boxes',
    ],
    [
      '2,000 boxes within one',
      () => inside('moov', ...Array.from({ length: 2_000 }, () => box('free'))),
      'too_many_boxes',
    ],
    [
      'a box that reaches beyond the one it is in',
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
    expect(readVideoHeader(inside(trak, { type: 'meta', data: deep, boxes: undefined }))).toEqual(inOrder)
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
