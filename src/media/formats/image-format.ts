import { Buffer } from 'node:buffer'
import { isOtherDocument } from './after-image.ts'
import {
  hasText,
  type ImagePart,
  type ImageRefusal,
  type ImageType,
  imageParts,
  isFrameHeader,
  refuse,
  StructureRefused,
} from './image-parts.ts'

export { type ImageRefusal, type ImageType, imageRefusals } from './image-parts.ts'

export type ImageHeader = { readonly type: ImageType; readonly width: number; readonly height: number }
export type ImageVerdict = ImageHeader | { readonly refused: ImageRefusal }

/**
 * Limits: 25 MiB, 16,384 pixels a side, and 8,192 × 6,144 pixels, which phones call 50 megapixels. Only single-frame images are
 * accepted.
 */
export const imageLimits = { bytes: 26_214_400, pixels: 50_331_648, side: 16_384 } as const

const pngSignature = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]

const typeOf = (bytes: Uint8Array): ImageType | undefined => {
  if (pngSignature.every((byte, index) => bytes[index] === byte)) return 'png'
  if (bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff) return 'jpeg'
  if (hasText(bytes, 0, 'RIFF') && hasText(bytes, 8, 'WEBP')) return 'webp'
  return undefined
}

type Size = { readonly width: number; readonly height: number }

/** The size that a part of an image gives; undefined for a part that gives none. Refuses a part of an animation. */
type SizeOfPart = (view: DataView, part: ImagePart) => Size | undefined

const sizeOfPngPart: SizeOfPart = (view, { type, start }) => {
  if (type === 'acTL') refuse('animated')
  return type === 'IHDR' ? { width: view.getUint32(start + 8), height: view.getUint32(start + 12) } : undefined
}

const sizeOfJpegPart: SizeOfPart = (view, { type, start }) =>
  isFrameHeader(Number.parseInt(type, 16))
    ? { height: view.getUint16(start + 5), width: view.getUint16(start + 7) }
    : undefined

const sizeOfWebpPart: SizeOfPart = (view, { type, start, end }) => {
  const data = start + 8
  const length = end - data
  if (type === 'ANIM' || type === 'ANMF') refuse('animated')
  if (type === 'VP8X' && length >= 10) {
    if ((view.getUint8(data) & 0x02) !== 0) refuse('animated')
    const canvas = (from: number) => 1 + view.getUint16(from, true) + 65_536 * view.getUint8(from + 2)
    return { width: canvas(data + 4), height: canvas(data + 7) }
  }
  if (type === 'VP8 ' && length >= 10) {
    return { width: view.getUint16(data + 6, true) & 0x3fff, height: view.getUint16(data + 8, true) & 0x3fff }
  }
  if (type === 'VP8L' && length >= 5) {
    const bits = view.getUint32(data + 1, true)
    return { width: 1 + (bits & 0x3fff), height: 1 + ((bits >>> 14) & 0x3fff) }
  }
  return undefined
}

const sizeOfPart = { png: sizeOfPngPart, jpeg: sizeOfJpegPart, webp: sizeOfWebpPart } as const

const googleContainer = 'http://ns.google.com/photos/1.0/container/'

/**
 * Whether a segment of a JPEG declares more pictures behind it, such as a gain map or a depth map: an index of CIPA DC-007
 * (MPF), or a container directory in XMP (Ultra HDR, depth photos).
 */
const declaresPictures = (bytes: Uint8Array, { type, start, end }: ImagePart): boolean => {
  if (type === 'e2') return hasText(bytes, start + 4, 'MPF\0')
  if (type !== 'e1' || !hasText(bytes, start + 4, 'http://ns.adobe.com/xap/1.0/\0')) return false
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).includes(googleContainer)
}

const readImage = (bytes: Uint8Array, type: ImageType): { size: Size; end: number } => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let size: Size | undefined
  let declaresMore = false
  let end = 0
  for (const part of imageParts(bytes, type)) {
    const found = sizeOfPart[type](view, part)
    size ??= found
    if (type === 'jpeg' && !declaresMore) declaresMore = declaresPictures(bytes, part)
    end = part.end
  }
  if (end < bytes.length && isOtherDocument(bytes.subarray(end), declaresMore)) refuse('trailing_data')
  return { size: size ?? refuse('damaged'), end }
}

/**
 * Checks the structure of an image from the first byte to the last and reads its type and size, and where it ends. No pixel
 * is decoded.
 *
 * Promise: for any input, memory use is constant and takes linear time. Bytes that pass begin with one image of an accepted
 * type within the limits. Bytes may follow it, as phones append them, unless they are another document: store `end` bytes
 * only. Not checked: that the pixels can be decoded.
 */
export const readImageExtent = (
  bytes: Uint8Array,
): (ImageHeader & { readonly end: number }) | { refused: ImageRefusal } => {
  if (bytes.length === 0) return { refused: 'empty' }
  if (bytes.length > imageLimits.bytes) return { refused: 'too_many_bytes' }
  const type = typeOf(bytes)
  if (type === undefined) return { refused: 'type_not_accepted' }
  try {
    const { size, end } = readImage(bytes, type)
    const { width, height } = size
    if (width === 0 || height === 0) refuse('damaged')
    if (width > imageLimits.side || height > imageLimits.side) refuse('side_too_long')
    if (width * height > imageLimits.pixels) refuse('too_many_pixels')
    return { type, width, height, end }
  } catch (error) {
    if (error instanceof StructureRefused) return { refused: error.refused }
    throw error
  }
}

/** As `readImageExtent`, without the end. */
export const readImageHeader = (bytes: Uint8Array): ImageVerdict => {
  const extent = readImageExtent(bytes)
  if ('refused' in extent) return extent
  const { type, width, height } = extent
  return { type, width, height }
}
