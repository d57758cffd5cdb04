import { Buffer } from 'node:buffer'

/** First bytes of files that are opened, unpacked or executed. Phones and cameras append none of them to a photo. */
const signatures = [
  'GIF8',
  '%PDF',
  'PK\x03\x04',
  'PK\x05\x06',
  'Rar!',
  '7z\xbc\xaf',
  '\x89PNG',
  'RIFF',
  '\x7fELF',
  'MZ',
  '#!',
  '\xca\xfe\xba\xbe',
  '\x1f\x8b',
  'BZh',
  '\xfd7zXZ',
].map((text) => Buffer.from(text, 'latin1'))

const markup = /<(?:script|html|head|body|svg|iframe|object|embed|!doctype|\?php)/i
const longestMarkup = 9
/** Text is searched in slices, to hold little of it at a time. */
const sliceBytes = 1_048_576
const endOfZip = Buffer.from('PK\x05\x06', 'latin1')
const endOfZipBytes = 22
/** A PDF reader accepts a header within the first 1,024 bytes. */
const pdfHeaderWithin = 1_024

const isPadding = (byte: number | undefined) => byte === 0x00 || byte === 0xff || byte === 0x20 || byte === 0x0a

const holdsMarkup = (bytes: Buffer): boolean => {
  for (let at = 0; at < bytes.length; at += sliceBytes) {
    if (markup.test(bytes.toString('latin1', at, at + sliceBytes + longestMarkup))) return true
  }
  return false
}

/** Whether an unpacker would find a zip archive: its directory ends with the bytes. */
const endsAsZip = (bytes: Buffer): boolean => {
  const at = bytes.lastIndexOf(endOfZip)
  return at !== -1 && at + endOfZipBytes <= bytes.length && bytes.length - at - endOfZipBytes <= 0xffff
}

/**
 * Whether the bytes behind an image are another document, so that the whole is taken for a polyglot and refused: an archive,
 * a program, a page, or a second picture that the first does not declare (`declaresMore`). Padding, the trailers of phone
 * makers, the film of a motion photo and declared pictures are accepted. Bytes behind an image are never stored.
 */
export const isOtherDocument = (after: Uint8Array, declaresMore: boolean): boolean => {
  const bytes = Buffer.from(after.buffer, after.byteOffset, after.byteLength)
  let start = 0
  // A padding of FF bytes ends before the marker of a JPEG.
  while (start < bytes.length && isPadding(bytes[start]) && !(bytes[start] === 0xff && bytes[start + 1] === 0xd8)) {
    start += 1
  }
  const rest = bytes.subarray(start)
  if (rest[0] === 0xff && rest[1] === 0xd8 && rest[2] === 0xff) {
    if (!declaresMore) return true
  } else if (signatures.some((signature) => rest.subarray(0, signature.length).equals(signature))) return true
  return rest.subarray(0, pdfHeaderWithin).includes('%PDF-') || endsAsZip(rest) || holdsMarkup(rest)
}
