import { Buffer } from 'node:buffer'
import { Readable } from 'node:stream'
import { createInflate } from 'node:zlib'
import type { ImageRefusal } from '../formats/image-format.ts'
import { pngChunk, pngXmp } from '../formats/png-chunks.ts'

const afterHeader = 33

/**
 * Inserts XMP and `tEXt` chunks after the header of a PNG. Viewers show them, and sharp cannot write them so. Latin-1 texts
 * only.
 */
export const withPngText = (png: Buffer, xmp: string, texts: Readonly<Record<string, string>>): Buffer =>
  Buffer.concat([
    png.subarray(0, afterHeader),
    pngXmp(Buffer.from(xmp)),
    ...Object.entries(texts).map(([keyword, text]) => pngChunk('tEXt', Buffer.from(`${keyword}\0${text}`, 'latin1'))),
    png.subarray(afterHeader),
  ])

/** Adam7 passes: the first column and row of each, and the distance between its columns and rows. */
const passes = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
] as const
const whole = [[0, 0, 1, 1]] as const
const channelsOf: Readonly<Record<number, number>> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }

/** Number of bytes of the uncompressed rows, including the filter byte of each row. */
const rowBytesOf = (png: Buffer): number => {
  const [width, height] = [png.readUInt32BE(16), png.readUInt32BE(20)]
  const bits = (png[24] as number) * (channelsOf[png[25] as number] ?? 0)
  let bytes = 0
  for (const [x, y, stepX, stepY] of png[28] === 0 ? whole : passes) {
    const columns = Math.ceil((width - x) / stepX)
    const rows = Math.ceil((height - y) / stepY)
    if (columns > 0 && rows > 0) bytes += rows * (1 + Math.ceil((columns * bits) / 8))
  }
  return bytes
}

function* dataChunksOf(png: Buffer): Generator<Buffer> {
  for (let offset = 8; offset < png.length; ) {
    const length = png.readUInt32BE(offset)
    if (png.toString('latin1', offset + 4, offset + 8) === 'IDAT') yield png.subarray(offset + 8, offset + 8 + length)
    offset += length + 12
  }
}

/**
 * Checks that the compressed data of a PNG inflate to exactly the rows of its pixels. Decoders stop after the last row, so
 * more data could hide a decompression bomb for another decoder, or a payload. Undefined when they match. Holds a few chunks
 * of 256 KiB at most, independent of the size of the image.
 */
export const refusePngData = async (png: Buffer): Promise<ImageRefusal | undefined> => {
  const expected = rowBytesOf(png)
  let [compressed, consumed, inflated] = [0, 0, 0]
  for (const data of dataChunksOf(png)) compressed += data.length
  const inflate = createInflate({ chunkSize: 262_144 })
  try {
    for await (const rows of Readable.from(dataChunksOf(png)).pipe(inflate)) {
      inflated += (rows as Buffer).length
      if (inflated > expected) return 'trailing_data'
    }
    consumed = inflate.bytesWritten
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'Z_BUF_ERROR' ? 'truncated' : 'damaged'
  } finally {
    inflate.destroy()
  }
  if (inflated < expected) return 'truncated'
  return consumed < compressed ? 'trailing_data' : undefined
}
