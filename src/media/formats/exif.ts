import { Buffer } from 'node:buffer'

const orientationTag = 0x0112
const placeTag = 0x8825
const shortType = 3
const entryBytes = 12
const prefix = 'Exif\0\0'

export type Exif = {
  /** From 1 to 8; 1, which is upright, where it is absent or invalid. */
  readonly orientation: number
  /** Whether it points to a directory with the place (GPS). */
  readonly hasPlace: boolean
}

/** Reads the first directory of EXIF data (CIPA DC-008, §4.6). Malformed data have an upright orientation and no place. */
export const readExif = (exif: Buffer): Exif => {
  const tiff = exif.toString('latin1', 0, prefix.length) === prefix ? exif.subarray(prefix.length) : exif
  const start = tiff.toString('latin1', 0, 4)
  const isLittle = start === 'II*\0'
  let [orientation, hasPlace] = [1, false]
  if ((!isLittle && start !== 'MM\0*') || tiff.length < 8) return { orientation, hasPlace }
  const u16 = (at: number) => (isLittle ? tiff.readUInt16LE(at) : tiff.readUInt16BE(at))
  const directory = isLittle ? tiff.readUInt32LE(4) : tiff.readUInt32BE(4)
  const entries = directory + 2 > tiff.length ? 0 : u16(directory)
  for (let entry = 0; entry < entries; entry += 1) {
    const at = directory + 2 + entryBytes * entry
    if (at + entryBytes > tiff.length) break
    const value = u16(at + 8)
    if (u16(at) === placeTag) hasPlace = true
    if (u16(at) === orientationTag && u16(at + 2) === shortType && value >= 1 && value <= 8) orientation = value
  }
  return { orientation, hasPlace }
}

/** EXIF data with one field, the orientation. */
export const exifOf = (orientation: number): Buffer => {
  const tiff = Buffer.alloc(8 + 2 + entryBytes + 4)
  tiff.write('MM\0*', 0, 'latin1')
  tiff.writeUInt32BE(8, 4)
  tiff.writeUInt16BE(1, 8)
  tiff.writeUInt16BE(orientationTag, 10)
  tiff.writeUInt16BE(shortType, 12)
  tiff.writeUInt32BE(1, 14)
  tiff.writeUInt16BE(orientation, 18)
  return tiff
}
