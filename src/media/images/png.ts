import { Buffer } from 'node:buffer'
import { Readable } from 'node:stream'
import { crc32, createInflate } from 'node:zlib'
import type { ImageRefusal } from '../formats/image-format.ts'

const afterHeader = 33

const chunk = (type: string, data: Buffer): Buffer => {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data])
  const out = Buffer.alloc(body.length + 8)
  out.writeUInt32BE(data.length, 0)
  body.copy(out, 4)
  out.writeUInt32BE(crc32(body), body.length + 4)
  return out
}

/** A PNG with `tEXt` chunks behind its header, which viewers show and sharp cannot write. Latin-1 only. */
export const withPngText = (png: Buffer, texts: Readonly<Record<string, string>>): Buffer =>
  Buffer.concat([
    png.subarray(0, afterHeader),
    ...Object.entries(texts).map(([keyword, text]) => chunk('tEXt', Buffer.from(`${keyword}\0${text}`, 'latin1'))),
    png.subarray(afterHeader),
  ])

/** Adam7: where each pass begins and how far apart its pixels are. */
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

/** How many bytes the rows of a picture take before they are compressed, the filter byte of each included. */
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

function* dataOf(png: Buffer): Generator<Buffer> {
  for (let offset = 8; offset < png.length; ) {
    const length = png.readUInt32BE(offset)
    if (png.toString('latin1', offset + 4, offset + 8) === 'IDAT') yield png.subarray(offset + 8, offset + 8 + length)
    offset += length + 12
  }
}

/**
 * Whether the data of a PNG are those of its pixels, no fewer and no more: decoders stop after the last row, and what
 * comes after it may be a bomb for the next or something to hide. Undefined: they are. Never holds more than a few rows.
 */
export const refusePngData = async (png: Buffer): Promise<ImageRefusal | undefined> => {
  const wanted = rowBytesOf(png)
  let [given, taken, inflated] = [0, 0, 0]
  for (const data of dataOf(png)) given += data.length
  const inflate = createInflate({ chunkSize: 262_144 })
  try {
    for await (const rows of Readable.from(dataOf(png)).pipe(inflate)) {
      inflated += (rows as Buffer).length
      if (inflated > wanted) return 'trailing_data'
    }
    taken = inflate.bytesWritten
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'Z_BUF_ERROR' ? 'truncated' : 'damaged'
  } finally {
    inflate.destroy()
  }
  if (inflated < wanted) return 'truncated'
  return taken < given ? 'trailing_data' : undefined
}
