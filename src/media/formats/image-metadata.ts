import { Buffer } from 'node:buffer'
import { inflateSync } from 'node:zlib'
import {
  type DigitalSource,
  digitalSourceIn,
  isByModel,
  namesPlace,
  withDigitalSource,
  xmpOf,
} from './digital-source.ts'
import { exifOf, readExif } from './exif.ts'
import { hasText, type ImagePart, type ImageType, imageParts } from './image-parts.ts'
import { pngChunk, pngXmp, pngXmpKeyword } from './png-chunks.ts'

/**
 * What a part of an image holds. `picture`: pixels, colours, and all that a viewer needs. `credential`: a C2PA manifest.
 * `maker`: text that says which program made the image. `private`: any other metadata.
 */
type Content =
  | { readonly kind: 'picture' | 'credential' | 'maker' | 'private' }
  | { readonly kind: 'exif'; readonly data: Buffer }
  | { readonly kind: 'xmp'; readonly packet: string }

const picture = { kind: 'picture' } as const
const hidden = { kind: 'private' } as const
const credential = { kind: 'credential' } as const

type Format = {
  readonly contentOf: (bytes: Buffer, part: ImagePart) => Content
  /** Wrap EXIF data and an XMP packet as parts of the image. */
  readonly exifPart: (exif: Buffer) => Buffer
  readonly xmpPart: (packet: Buffer) => Buffer
  /** Whether new metadata is written before this part; a format without it writes them at the end. */
  readonly goesBefore?: (part: ImagePart) => boolean
  /** Changes a part that was copied to `written`, so that strict decoders accept it too. */
  readonly repair?: (written: Buffer, part: ImagePart, frame: string) => void
  readonly finish?: (written: Buffer, added: { exif: boolean; xmp: boolean }) => Buffer
}

const xmpHeader = 'http://ns.adobe.com/xap/1.0/\0'
const maxXmpBytes = 65_000

const jpegSegment = (marker: number, ...data: Uint8Array[]): Buffer => {
  const body = Buffer.concat(data)
  const head = Buffer.from([0xff, marker, 0, 0])
  head.writeUInt16BE(body.length + 2, 2)
  return Buffer.concat([head, body])
}

const jpeg: Format = {
  contentOf: (bytes, { type, start, end }) => {
    const data = start + 4
    const has = (text: string) => hasText(bytes, data, text)
    const keptIf = (isPicture: boolean) => (isPicture ? picture : hidden)
    if (type === 'fe') return hidden
    if (!type.startsWith('e')) return picture
    if (type === 'e0') return keptIf(has('JFIF\0'))
    if (type === 'e1' && has('Exif\0\0')) return { kind: 'exif', data: bytes.subarray(data, end) }
    if (type === 'e1' && has(xmpHeader))
      return { kind: 'xmp', packet: bytes.toString('utf8', data + xmpHeader.length, end) }
    if (type === 'e2') return keptIf(has('ICC_PROFILE\0'))
    if (type === 'eb') return has('JP') ? credential : hidden
    return keptIf(type === 'ee' && has('Adobe'))
  },
  exifPart: (exif) => jpegSegment(0xe1, Buffer.from('Exif\0\0', 'latin1'), exif),
  xmpPart: (packet) => jpegSegment(0xe1, Buffer.from(xmpHeader, 'latin1'), packet),
  goesBefore: ({ type }) => type !== 'd8' && type !== 'e0',
  repair: (written, { type }, frame) => {
    // The parameters of a scan mean nothing outside progressive frames (T.81, B.2.3), and phones write arbitrary ones.
    if (type === 'da' && (frame === 'c0' || frame === 'c1')) {
      const end = 2 + written.readUInt16BE(2)
      if (end >= 8) written.set([0, 63, 0], end - 3)
    }
    if (type === 'e0' && written.length >= 16) written[9] = 1
  },
}

const textTypes = ['tEXt', 'zTXt', 'iTXt']
const makerTexts = ['Software\0', 'Comment\0']

const inflated = (text: Buffer) => inflateSync(text, { maxOutputLength: 1_048_576 })

/** The text of a chunk behind its keyword; empty when it cannot be read. libvips writes XMP as zTXt, the standard as iTXt. */
const textOf = (type: string, data: Buffer): string => {
  try {
    if (type === 'tEXt') return data.toString('utf8')
    if (type === 'zTXt') return inflated(data.subarray(1)).toString('utf8')
    const language = data.indexOf(0, 2)
    const translated = language === -1 ? -1 : data.indexOf(0, language + 1)
    if (translated === -1) return ''
    const text = data.subarray(translated + 1)
    return (data[0] === 1 ? inflated(text) : text).toString('utf8')
  } catch {
    return ''
  }
}

const png: Format = {
  contentOf: (bytes, { type, start, end }) => {
    const data = bytes.subarray(start + 8, end - 4)
    if (type === 'eXIf') return { kind: 'exif', data }
    if (type === 'caBX') return credential
    if (textTypes.includes(type) && hasText(data, 0, pngXmpKeyword)) {
      return { kind: 'xmp', packet: textOf(type, data.subarray(pngXmpKeyword.length)) }
    }
    if (type === 'tEXt' && makerTexts.some((keyword) => hasText(data, 0, keyword))) return { kind: 'maker' }
    return type === 'tIME' || textTypes.includes(type) ? hidden : picture
  },
  exifPart: (exif) => pngChunk('eXIf', exif),
  xmpPart: pngXmp,
  goesBefore: ({ type }) => type !== 'signature' && type !== 'IHDR',
}

const webpChunk = (type: string, data: Uint8Array): Buffer => {
  const chunk = Buffer.alloc(8 + data.length + (data.length % 2))
  chunk.write(type, 0, 'latin1')
  chunk.writeUInt32LE(data.length, 4)
  chunk.set(data, 8)
  return chunk
}

const webpFlags = { xmp: 0x04, exif: 0x08, alpha: 0x10 } as const
const riffHeaderBytes = 12

/** The extended header that a simple WebP lacks; metadata needs one (RFC 9649, §2.7). */
const extendedHeader = (webp: Buffer): Buffer => {
  const data = riffHeaderBytes + 8
  const isLossless = hasText(webp, riffHeaderBytes, 'VP8L')
  const bits = isLossless ? webp.readUInt32LE(data + 1) : 0
  const width = isLossless ? bits & 0x3fff : (webp.readUInt16LE(data + 6) & 0x3fff) - 1
  const height = isLossless ? (bits >>> 14) & 0x3fff : (webp.readUInt16LE(data + 8) & 0x3fff) - 1
  const header = Buffer.alloc(10)
  header[0] = (bits & 0x10000000) === 0 ? 0 : webpFlags.alpha
  header.writeUIntLE(width, 4, 3)
  header.writeUIntLE(height, 7, 3)
  return webpChunk('VP8X', header)
}

const webp: Format = {
  contentOf: (bytes, { type, start, end }) => {
    const data = bytes.subarray(start + 8, start + 8 + bytes.readUInt32LE(start + 4))
    if (type === 'EXIF') return { kind: 'exif', data }
    if (type === 'XMP ') return { kind: 'xmp', packet: data.toString('utf8') }
    if (type === 'C2PA') return credential
    return ['RIFF', 'VP8X', 'ICCP', 'ALPH', 'VP8 ', 'VP8L'].includes(type) && end > start ? picture : hidden
  },
  exifPart: (exif) => webpChunk('EXIF', exif),
  xmpPart: (packet) => webpChunk('XMP ', packet),
  finish: (written, { exif, xmp }) => {
    const isExtended = hasText(written, riffHeaderBytes, 'VP8X')
    const out =
      isExtended || !(exif || xmp)
        ? written
        : Buffer.concat([
            written.subarray(0, riffHeaderBytes),
            extendedHeader(written),
            written.subarray(riffHeaderBytes),
          ])
    if (isExtended || exif || xmp) {
      const flags = (out[riffHeaderBytes + 8] as number) & ~(webpFlags.exif | webpFlags.xmp)
      out[riffHeaderBytes + 8] = flags | (exif ? webpFlags.exif : 0) | (xmp ? webpFlags.xmp : 0)
    }
    out.writeUInt32LE(out.length - 8, 4)
    return out
  },
}

const formats = { jpeg, png, webp } as const

type Found = {
  /** Behind the last part. */
  end: number
  hasExif: boolean
  orientation: number
  xmp: string | undefined
  /** The digital source type in the C2PA manifest. */
  credentialSource: DigitalSource | undefined
  hasCredential: boolean
  credentialNamesPlace: boolean
  /** Whether any metadata names the place where the image was taken. */
  namesPlace: boolean
  hasPrivate: boolean
}

/** A manifest over 64 KiB is continued in further segments of a JPEG, each with this header (ISO/IEC 19566-5, annex D). */
const jumbfHeaderBytes = 20

const survey = (bytes: Buffer, type: ImageType): Found => {
  const manifest: string[] = []
  const found: Found = {
    end: 0,
    hasExif: false,
    orientation: 1,
    xmp: undefined,
    credentialSource: undefined,
    hasCredential: false,
    credentialNamesPlace: false,
    namesPlace: false,
    hasPrivate: false,
  }
  for (const part of imageParts(bytes, type)) {
    found.end = part.end
    const content = formats[type].contentOf(bytes, part)
    if (content.kind === 'exif' && !found.hasExif) {
      found.hasExif = true
      const exif = readExif(content.data)
      found.orientation = exif.orientation
      found.namesPlace ||= exif.hasPlace
    }
    if (content.kind === 'xmp') {
      found.xmp ??= content.packet
      found.namesPlace ||= namesPlace(content.packet)
    }
    if (content.kind === 'credential') {
      const repeated = found.hasCredential && type === 'jpeg' ? jumbfHeaderBytes : 0
      manifest.push(bytes.toString('latin1', part.start + repeated, part.end))
      found.hasCredential = true
    }
    if (content.kind !== 'picture' && content.kind !== 'credential') found.hasPrivate = true
  }
  const text = manifest.join('')
  found.credentialSource = digitalSourceIn(text)
  found.credentialNamesPlace = namesPlace(text)
  found.namesPlace ||= found.credentialNamesPlace
  return found
}

/** What a mark says about how an image was made: an XMP packet that names its digital source type; undefined without one. */
export const readMark = (bytes: Uint8Array, type: ImageType): string | undefined => {
  const { xmp, credentialSource } = survey(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), type)
  if (xmp !== undefined && digitalSourceIn(xmp) !== undefined && Buffer.byteLength(xmp) <= maxXmpBytes) return xmp
  return credentialSource === undefined ? undefined : xmpOf(credentialSource)
}

type Plan = {
  readonly orientation: number
  readonly xmp: Buffer | undefined
  readonly keepsCredential: boolean
  readonly keepsMaker: boolean
}

const planUpload = (found: Found): Plan => {
  const source = digitalSourceIn(found.xmp ?? '') ?? found.credentialSource
  // A manifest signs the whole file, so it is void once anything is removed. It stays as a mark where a model is named.
  const isMark = isByModel(found.credentialSource) || !found.hasPrivate
  const needsXmp = source !== undefined && (found.hasPrivate || found.credentialNamesPlace)
  return {
    orientation: found.orientation,
    xmp: needsXmp ? Buffer.from(xmpOf(source)) : undefined,
    keepsCredential: isMark && !found.credentialNamesPlace,
    keepsMaker: false,
  }
}

const planOutput = (found: Found, madeBy: DigitalSource): Plan => {
  const source = found.credentialSource ?? madeBy
  const packet = Buffer.from(found.xmp === undefined ? xmpOf(source) : withDigitalSource(found.xmp, source))
  return {
    orientation: found.orientation,
    xmp: packet.length <= maxXmpBytes ? packet : Buffer.from(xmpOf(source)),
    keepsCredential: false,
    keepsMaker: true,
  }
}

/**
 * Copies the parts that the plan keeps into a new buffer. The metadata that it writes takes the place of the same kind in the
 * image, or its own place in the format.
 */
const rewrite = (bytes: Buffer, type: ImageType, found: Found, plan: Plan): Buffer => {
  const { contentOf, exifPart, xmpPart, goesBefore, repair, finish } = formats[type]
  let exif = plan.orientation === 1 ? undefined : exifPart(exifOf(plan.orientation))
  let xmp = plan.xmp && xmpPart(plan.xmp)
  const out = Buffer.alloc(bytes.length + (exif?.length ?? 0) + (xmp?.length ?? 0))
  let length = 0
  let frame = ''
  const append = (from: Buffer, start = 0, end = from.length) => {
    from.copy(out, length, start, end)
    length += end - start
  }
  const appendExif = () => {
    if (exif) append(exif)
    exif = undefined
  }
  const appendXmp = () => {
    if (xmp) append(xmp)
    xmp = undefined
  }
  for (const part of imageParts(bytes, type)) {
    const content = contentOf(bytes, part)
    const { kind } = content
    if (goesBefore?.(part)) {
      if (!found.hasExif) appendExif()
      if (found.xmp === undefined) appendXmp()
    }
    if (kind === 'exif') appendExif()
    const isSameXmp = kind === 'xmp' && xmp !== undefined && plan.xmp?.toString() === content.packet
    if (isSameXmp) xmp = undefined
    else if (kind === 'xmp') appendXmp()
    const isKept =
      kind === 'picture' ||
      isSameXmp ||
      (kind === 'credential' && plan.keepsCredential) ||
      (kind === 'maker' && plan.keepsMaker)
    if (!isKept) continue
    append(bytes, part.start, part.end)
    if (part.type.startsWith('c') && part.type !== 'c4') frame = part.type
    repair?.(out.subarray(length - (part.end - part.start), length), part, frame)
  }
  appendExif()
  appendXmp()
  const written = out.subarray(0, length)
  return finish?.(written, { exif: plan.orientation !== 1, xmp: plan.xmp !== undefined }) ?? written
}

/**
 * The bytes of an image as they are stored: they end where the image ends, and its metadata is removed. Pixels, colour
 * profile and orientation stay.
 *
 * An upload (`madeBy` is undefined) keeps of its metadata only the digital source type, in XMP, and a C2PA manifest that is
 * still valid or says that a model made the image. An output of a provider keeps its own marks, XMP and C2PA; where neither
 * names a digital source type, `madeBy` is added. A file signed by C2PA is left as it is, since any change would void it,
 * unless it names a place.
 *
 * Call it only after `readImageExtent` has accepted the bytes. Returns a view of the same bytes where nothing changes.
 */
export const toStoredImage = (given: Uint8Array, type: ImageType, madeBy: DigitalSource | undefined): Buffer => {
  const bytes = Buffer.from(given.buffer, given.byteOffset, given.byteLength)
  const found = survey(bytes, type)
  const image = bytes.subarray(0, found.end)
  if (madeBy !== undefined && found.hasCredential && !found.namesPlace) return image
  const written = rewrite(image, type, found, madeBy === undefined ? planUpload(found) : planOutput(found, madeBy))
  return written.equals(image) ? image : written
}
