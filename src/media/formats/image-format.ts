export type ImageType = 'png' | 'jpeg' | 'webp'

/** Why bytes are refused as an image. */
export type ImageRefusal =
  | 'empty'
  | 'too_many_bytes'
  | 'type_not_accepted'
  | 'side_too_long'
  | 'too_many_pixels'
  | 'animated'
  | 'truncated'
  | 'trailing_data'
  | 'damaged'

export type ImageHeader = { readonly type: ImageType; readonly width: number; readonly height: number }
export type ImageVerdict = ImageHeader | { readonly refused: ImageRefusal }

/** Limits: 25 MiB, 50 megapixels, 16,384 pixels a side. Only single-frame images are accepted. */
export const imageLimits = { bytes: 26_214_400, pixels: 50_000_000, side: 16_384 } as const

const pngSignature = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]

const at = (bytes: Uint8Array, offset: number, text: string) =>
  [...text].every((character, index) => bytes[offset + index] === character.charCodeAt(0))
const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

const typeOf = (bytes: Uint8Array): ImageType | undefined => {
  if (pngSignature.every((byte, index) => bytes[index] === byte)) return 'png'
  if (bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff) return 'jpeg'
  if (at(bytes, 0, 'RIFF') && at(bytes, 8, 'WEBP')) return 'webp'
  return undefined
}

type Size = { readonly width: number; readonly height: number }
type Frame = Size | { readonly refused: ImageRefusal }
const refuse = (refused: ImageRefusal) => ({ refused }) as const

/** Walks the chunks up to IEND (PNG third edition, §5). */
const walkPng = (bytes: Uint8Array): Frame => {
  const view = viewOf(bytes)
  if (bytes.length < 33) return refuse('truncated')
  if (view.getUint32(8) !== 13 || !at(bytes, 12, 'IHDR')) return refuse('damaged')
  const size = { width: view.getUint32(16), height: view.getUint32(20) }
  for (let offset = 8; ; ) {
    if (offset + 12 > bytes.length) return refuse('truncated')
    const end = offset + 12 + view.getUint32(offset)
    if (end > bytes.length) return refuse('truncated')
    if (at(bytes, offset + 4, 'acTL')) return refuse('animated')
    if (at(bytes, offset + 4, 'IEND')) return end === bytes.length ? size : refuse('trailing_data')
    offset = end
  }
}

/** SOF0 to SOF15. DHT, JPG and DAC lie in the same range of markers and are no frame headers. */
const isFrameHeader = (marker: number) => marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)
/** TEM and RST0 to RST7: markers without a length and a payload. */
const hasNoPayload = (marker: number) => marker === 0x01 || (marker >= 0xd0 && marker <= 0xd7)

type Jpeg = Size & { readonly end: number; readonly declaresMore: boolean }

/** Walks one JPEG from SOI to EOI (ITU-T T.81, annex B). */
const walkOneJpeg = (bytes: Uint8Array, start: number): Jpeg | { readonly refused: ImageRefusal } => {
  const view = viewOf(bytes)
  let size: Size | undefined
  let declaresMore = false
  for (let offset = start + 2; ; ) {
    if (offset + 2 > bytes.length) return refuse('truncated')
    if (bytes[offset] !== 0xff) return refuse('damaged')
    const marker = bytes[offset + 1] as number
    if (marker === 0xff) {
      offset += 1
      continue
    }
    if (marker === 0xd9) return size ? { ...size, end: offset + 2, declaresMore } : refuse('damaged')
    if (hasNoPayload(marker)) {
      offset += 2
      continue
    }
    if (offset + 4 > bytes.length) return refuse('truncated')
    const end = offset + 2 + view.getUint16(offset + 2)
    if (end > bytes.length) return refuse('truncated')
    if (isFrameHeader(marker)) {
      if (end - offset < 9) return refuse('damaged')
      size ??= { height: view.getUint16(offset + 5), width: view.getUint16(offset + 7) }
    }
    if (marker === 0xe2 && at(bytes, offset + 4, 'MPF\0')) declaresMore = true
    offset = end
    if (marker !== 0xda) continue
    // The entropy-coded data of a scan: FF 00 encodes an FF byte, and restart markers may occur.
    for (;;) {
      offset = bytes.indexOf(0xff, offset)
      if (offset === -1 || offset + 1 >= bytes.length) return refuse('truncated')
      const next = bytes[offset + 1] as number
      if (next !== 0x00 && !hasNoPayload(next)) break
      offset += 2
    }
  }
}

/**
 * Phones append more JPEGs (a gain map, a depth map) and declare them in an MPF segment of the first (CIPA DC-007). JPEGs
 * that are declared may follow the first one; anything else after it is refused.
 */
const walkJpeg = (bytes: Uint8Array): Frame => {
  const first = walkOneJpeg(bytes, 0)
  if ('refused' in first) return first
  for (let { end } = first; end < bytes.length; ) {
    if (!first.declaresMore || bytes[end] !== 0xff || bytes[end + 1] !== 0xd8) return refuse('trailing_data')
    const next = walkOneJpeg(bytes, end)
    if ('refused' in next) return refuse('trailing_data')
    end = next.end
  }
  return { width: first.width, height: first.height }
}

/** Walks the chunks up to the end that the RIFF header gives (RFC 9649, §2). */
const walkWebp = (bytes: Uint8Array): Frame => {
  const view = viewOf(bytes)
  if (bytes.length < 30) return refuse('truncated')
  const end = 8 + view.getUint32(4, true)
  if (end > bytes.length) return refuse('truncated')
  if (end < bytes.length) return refuse('trailing_data')
  let size: Size | undefined
  for (let offset = 12; offset < end; ) {
    if (offset + 8 > end) return refuse('trailing_data')
    const length = view.getUint32(offset + 4, true)
    const data = offset + 8
    const next = data + length + (length % 2)
    if (next > end) return refuse('truncated')
    if (at(bytes, offset, 'ANIM') || at(bytes, offset, 'ANMF')) return refuse('animated')
    if (at(bytes, offset, 'VP8X') && length >= 10) {
      if (((bytes[data] as number) & 0x02) !== 0) return refuse('animated')
      const canvas = (from: number) => 1 + view.getUint16(from, true) + 65_536 * (bytes[from + 2] as number)
      size ??= { width: canvas(data + 4), height: canvas(data + 7) }
    }
    if (at(bytes, offset, 'VP8 ') && length >= 10) {
      size ??= { width: view.getUint16(data + 6, true) & 0x3fff, height: view.getUint16(data + 8, true) & 0x3fff }
    }
    if (at(bytes, offset, 'VP8L') && length >= 5) {
      const bits = view.getUint32(data + 1, true)
      size ??= { width: 1 + (bits & 0x3fff), height: 1 + ((bits >>> 14) & 0x3fff) }
    }
    offset = next
  }
  return size ?? refuse('damaged')
}

const walks = { png: walkPng, jpeg: walkJpeg, webp: walkWebp } as const

/**
 * Checks the structure of an image from the first byte to the last and reads its type and size. No pixel is decoded.
 *
 * Promise: for any input, memory use is constant and each byte is read at most once. Bytes that pass are one image of an
 * accepted type within the limits, and end where the image ends. Not checked: that the pixels can be decoded.
 */
export const readImageHeader = (bytes: Uint8Array): ImageVerdict => {
  if (bytes.length === 0) return refuse('empty')
  if (bytes.length > imageLimits.bytes) return refuse('too_many_bytes')
  const type = typeOf(bytes)
  if (type === undefined) return refuse('type_not_accepted')
  const frame = walks[type](bytes)
  if ('refused' in frame) return frame
  const { width, height } = frame
  if (width === 0 || height === 0) return refuse('damaged')
  if (width > imageLimits.side || height > imageLimits.side) return refuse('side_too_long')
  if (width * height > imageLimits.pixels) return refuse('too_many_pixels')
  return { type, width, height }
}
