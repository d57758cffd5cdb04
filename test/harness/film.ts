import { Buffer } from 'node:buffer'
import { readFile } from 'node:fs/promises'

/**
 * A second of H.264 in 64 × 48 with a tone, its `moov` behind its `mdat`, as ffmpeg makes it:
 *
 *     ffmpeg -f lavfi -i testsrc2=size=64x48:rate=8:duration=1 -f lavfi -i sine=frequency=440:sample_rate=8000:duration=1 \
 *       -c:v libx264 -preset veryslow -crf 40 -pix_fmt yuv420p -c:a aac -b:a 8k -ac 1 \
 *       -map_metadata -1 -fflags +bitexact -flags:v +bitexact -flags:a +bitexact film.mp4
 */
export const readFilm = (): Promise<Buffer> => readFile(new URL('../media/fixtures/film.mp4', import.meta.url))

/** A box of ISO/IEC 14496-12: its bytes, then its content or its inner boxes. */
export type Box = { type: string; data: Buffer; boxes: Box[] | undefined }

const containers: Readonly<Record<string, number>> = {
  moov: 0,
  trak: 0,
  edts: 0,
  mdia: 0,
  minf: 0,
  dinf: 0,
  dref: 8,
  stbl: 0,
  stsd: 8,
  avc1: 78,
}

export const readBoxes = (bytes: Buffer): Box[] => {
  const boxes: Box[] = []
  for (let at = 0; at < bytes.length; ) {
    const size = bytes.readUInt32BE(at)
    const type = bytes.toString('latin1', at + 4, at + 8)
    const data = bytes.subarray(at + 8, at + size)
    const own = containers[type]
    boxes.push(
      own === undefined
        ? { type, data: Buffer.from(data), boxes: undefined }
        : { type, data: Buffer.from(data.subarray(0, own)), boxes: readBoxes(data.subarray(own)) },
    )
    at += size
  }
  return boxes
}

export const writeBoxes = (boxes: readonly Box[]): Buffer =>
  Buffer.concat(
    boxes.map(({ type, data, boxes: inner = [] }) => {
      const held = Buffer.concat([data, writeBoxes(inner)])
      const header = Buffer.alloc(8)
      header.writeUInt32BE(8 + held.length)
      header.write(type, 4, 'latin1')
      return Buffer.concat([header, held])
    }),
  )

/** The boxes that a path such as `moov/trak/tkhd` leads to, in their order. */
export const boxesAt = (boxes: readonly Box[], path: string): Box[] =>
  path
    .split('/')
    .reduce<Box[]>(
      (found, type) => found.flatMap((box) => box.boxes ?? []).filter((box) => box.type === type),
      [{ type: '', data: Buffer.alloc(0), boxes: [...boxes] }],
    )

/** The same film padded to a size: its `mdat` has room behind the last sample. */
export const stretch = (film: Buffer, bytes: number): Buffer => {
  const boxes = readBoxes(film)
  for (const mdat of boxesAt(boxes, 'mdat')) {
    // Bytes that tell where they are, so that one part is not taken for another.
    const room = Buffer.alloc(bytes - film.length)
    for (let at = 0; at + 4 <= room.length; at += 4) room.writeUInt32LE(Math.imul(at, 2_654_435_761) >>> 0, at)
    mdat.data = Buffer.concat([mdat.data, room])
  }
  return writeBoxes(boxes)
}
