import { Buffer } from 'node:buffer'
import { crc32 } from 'node:zlib'

export const pngChunk = (type: string, data: Uint8Array): Buffer => {
  const chunk = Buffer.alloc(data.length + 12)
  chunk.writeUInt32BE(data.length, 0)
  chunk.write(type, 4, 'latin1')
  chunk.set(data, 8)
  chunk.writeUInt32BE(crc32(chunk.subarray(4, data.length + 8)), data.length + 8)
  return chunk
}

export const pngXmpKeyword = 'XML:com.adobe.xmp\0'

/** XMP as a chunk of a PNG: uncompressed international text (ISO 16684-1, part 3). */
export const pngXmp = (packet: Uint8Array): Buffer =>
  pngChunk('iTXt', Buffer.concat([Buffer.from(`${pngXmpKeyword}\0\0\0\0`, 'latin1'), packet]))
