import { Buffer } from 'node:buffer'
import { type DigitalSource, digitalSourceIn, withDigitalSource, xmpOf } from './digital-source.ts'
import type { Box } from './mp4-boxes.ts'
import type { VideoLayout } from './video-format.ts'

/** The extended types of the boxes that hold XMP (ISO 16684-1, part 3) and a C2PA manifest. */
const xmpType = 'be7acfcb97a942e89c71999491e3afac'
const c2paType = 'd8fec3d61b0e483c92975828877ec481'
const extendedTypeBytes = 16
/** Boxes that may hold a mark. Media data is not searched. */
const marked = ['uuid', 'moov', 'meta', 'udta']

/** A copy: text is not decoded from shared memory. */
const copyOf = (bytes: Uint8Array, start: number, end: number) =>
  Buffer.from(new Uint8Array(bytes.subarray(start, end)))
const extendedType = (bytes: Uint8Array, { type, start }: Box): string =>
  type === 'uuid' ? copyOf(bytes, start - extendedTypeBytes, start).toString('hex') : ''

const xmpBox = (packet: string): Buffer => {
  const data = Buffer.concat([Buffer.from('\0\0\0\0uuid', 'latin1'), Buffer.from(xmpType, 'hex'), Buffer.from(packet)])
  data.writeUInt32BE(data.length, 0)
  return data
}

/**
 * The bytes of a video as they are stored. A video of a provider that says nowhere how it was made gets a box at its end
 * with XMP that names the digital source type `madeBy`. A video with a mark of its provider, XMP or C2PA, is left as it is.
 *
 * A last media box that extends to the end of the file is given its size, and ends where its samples end: bytes that
 * were appended to the file are cut off. Returns the same bytes where nothing changes. The bytes may be shared memory.
 */
export const toStoredVideo = (
  bytes: Uint8Array,
  { boxes, open }: VideoLayout,
  madeBy: DigitalSource | undefined,
): Uint8Array => {
  const isMarked = boxes.some(
    (box) =>
      extendedType(bytes, box) === c2paType ||
      (marked.includes(box.type) &&
        digitalSourceIn(copyOf(bytes, box.start, box.end).toString('latin1')) !== undefined),
  )
  const xmp = boxes.find((box) => extendedType(bytes, box) === xmpType)
  const packet = xmp && copyOf(bytes, xmp.start, xmp.end).toString('utf8')
  const mark =
    madeBy === undefined || isMarked
      ? Buffer.alloc(0)
      : xmpBox(packet === undefined ? xmpOf(madeBy) : withDigitalSource(packet, madeBy))
  if (open === undefined && mark.length === 0) return bytes

  const length = open?.usedEnd ?? bytes.length
  const stored = Buffer.from(new ArrayBuffer(length + mark.length))
  stored.set(bytes.subarray(0, length))
  stored.set(mark, length)
  if (open !== undefined) stored.writeUInt32BE(length - open.at, open.at)
  // The new box replaces the packet: a file has one.
  if (mark.length > 0 && xmp !== undefined) stored.write('free', xmp.at + 4, 'latin1')
  return stored
}
