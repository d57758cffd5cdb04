export type ImageType = 'png' | 'jpeg' | 'webp'

/** Why bytes are refused as an image. */
export const imageRefusals = [
  'empty',
  'too_many_bytes',
  'type_not_accepted',
  'side_too_long',
  'too_many_pixels',
  'animated',
  'truncated',
  'trailing_data',
  'damaged',
] as const
export type ImageRefusal = (typeof imageRefusals)[number]

/** Ends the walk through an image early. Only `readImage` catches it. */
export class StructureRefused extends Error {
  override readonly name = 'StructureRefused'
  readonly refused: ImageRefusal
  constructor(refused: ImageRefusal) {
    super(refused)
    this.refused = refused
  }
}
export const refuse = (refused: ImageRefusal): never => {
  throw new StructureRefused(refused)
}

/**
 * One part of an image with its header: `start` is its first byte, `end` is exclusive.
 * `type` is the marker of a JPEG segment as two hex digits, or the name of a PNG or WebP chunk.
 */
export type ImagePart = { readonly type: string; readonly start: number; readonly end: number }

export const hasText = (bytes: Uint8Array, offset: number, text: string): boolean => {
  for (let index = 0; index < text.length; index += 1) {
    if (bytes[offset + index] !== text.charCodeAt(index)) return false
  }
  return true
}
const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
const nameAt = (bytes: Uint8Array, offset: number) => String.fromCharCode(...bytes.subarray(offset, offset + 4))

/** The chunks of a PNG, from the signature to IEND (PNG third edition, §5). */
function* pngParts(bytes: Uint8Array): Generator<ImagePart> {
  const view = viewOf(bytes)
  if (bytes.length < 33) refuse('truncated')
  if (view.getUint32(8) !== 13 || !hasText(bytes, 12, 'IHDR')) refuse('damaged')
  yield { type: 'signature', start: 0, end: 8 }
  for (let start = 8; ; ) {
    if (start + 12 > bytes.length) refuse('truncated')
    const end = start + 12 + view.getUint32(start)
    if (end > bytes.length) refuse('truncated')
    const type = nameAt(bytes, start + 4)
    yield { type, start, end }
    if (type === 'IEND') return
    start = end
  }
}

/** SOF0 to SOF15. DHT, JPG and DAC lie in the same range of markers and are no frame headers. */
export const isFrameHeader = (marker: number): boolean =>
  marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)
/** TEM and RST0 to RST7: markers without a length and a payload. */
const hasNoPayload = (marker: number) => marker === 0x01 || (marker >= 0xd0 && marker <= 0xd7)

/** The end of the entropy-coded data of a scan, in which FF 00 encodes an FF byte and restart markers may occur. */
const endOfScan = (bytes: Uint8Array, from: number): number => {
  for (let offset = from; ; offset += 2) {
    offset = bytes.indexOf(0xff, offset)
    if (offset === -1 || offset + 1 >= bytes.length) return refuse('truncated')
    const next = bytes[offset + 1] as number
    if (next !== 0x00 && !hasNoPayload(next)) return offset
  }
}

/**
 * The segments of a JPEG, from SOI to EOI (ITU-T T.81, annex B); a scan is one part with its entropy-coded data. Fill bytes
 * and zeros between two segments belong to no part: viewers skip them.
 */
function* jpegParts(bytes: Uint8Array): Generator<ImagePart> {
  const view = viewOf(bytes)
  let hasFrame = false
  yield { type: 'd8', start: 0, end: 2 }
  for (let start = 2; ; ) {
    if (start + 2 > bytes.length) refuse('truncated')
    const marker = bytes[start + 1] as number
    if (bytes[start] === 0x00 || (bytes[start] === 0xff && marker === 0xff)) {
      start += 1
      continue
    }
    if (bytes[start] !== 0xff || marker === 0x00 || marker === 0xd8) refuse('damaged')
    const type = marker.toString(16).padStart(2, '0')
    if (marker === 0xd9) {
      if (!hasFrame) refuse('damaged')
      yield { type, start, end: start + 2 }
      return
    }
    if (hasNoPayload(marker)) {
      yield { type, start, end: start + 2 }
      start += 2
      continue
    }
    if (start + 4 > bytes.length) refuse('truncated')
    let end = start + 2 + view.getUint16(start + 2)
    if (end < start + 4) refuse('damaged')
    if (end > bytes.length) refuse('truncated')
    if (isFrameHeader(marker)) {
      if (end - start < 9) refuse('damaged')
      hasFrame = true
    }
    if (marker === 0xda) end = endOfScan(bytes, end)
    yield { type, start, end }
    start = end
  }
}

/** The chunks of a WebP, up to the end that the RIFF header gives (RFC 9649, §2). */
function* webpParts(bytes: Uint8Array): Generator<ImagePart> {
  const view = viewOf(bytes)
  if (bytes.length < 30) refuse('truncated')
  const end = 8 + view.getUint32(4, true)
  if (end > bytes.length) refuse('truncated')
  if (!['VP8 ', 'VP8L', 'VP8X'].includes(nameAt(bytes, 12))) refuse('damaged')
  yield { type: 'RIFF', start: 0, end: 12 }
  for (let start = 12; start < end; ) {
    if (start + 8 > end) refuse('trailing_data')
    const length = view.getUint32(start + 4, true)
    const next = start + 8 + length + (length % 2)
    if (next > end) refuse('truncated')
    yield { type: nameAt(bytes, start), start, end: next }
    start = next
  }
}

const walks = { png: pngParts, jpeg: jpegParts, webp: webpParts } as const

/** Far above the parts of any image. It bounds the time that an image of empty parts takes. */
const maxParts = 100_000

/**
 * Walks the parts of an image in order, from its first byte to its end; what follows the image is in no part.
 * Throws `StructureRefused`. Memory use is constant for any input.
 */
export function* imageParts(bytes: Uint8Array, type: ImageType): Generator<ImagePart> {
  let parts = 0
  for (const part of walks[type](bytes)) {
    parts += 1
    if (parts > maxParts) refuse('damaged')
    yield part
  }
}
