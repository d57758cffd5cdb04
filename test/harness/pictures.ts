import { Buffer } from 'node:buffer'
import { crc32, deflateSync } from 'node:zlib'
import sharp from 'sharp'

export const chunk = (type: string, data: Uint8Array): Buffer => {
  const body = Buffer.concat([Buffer.from(type), data])
  const length = Buffer.alloc(4)
  length.writeUInt32BE(data.length)
  const check = Buffer.alloc(4)
  check.writeUInt32BE(crc32(body))
  return Buffer.concat([length, body, check])
}
/** An RGBA PNG whose header claims the given size, with any data. */
export const png = (width: number, height: number, data: Uint8Array, ...before: Buffer[]) => {
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  header.set([8, 6, 0, 0, 0], 8)
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
  return Buffer.concat([
    signature,
    chunk('IHDR', header),
    ...before,
    chunk('IDAT', data),
    chunk('IEND', Buffer.alloc(0)),
  ])
}
/** Noise on green. */
export const plain = (width: number, height: number) =>
  sharp({
    create: { width, height, channels: 3, background: '#4a7', noise: { type: 'gaussian', mean: 128, sigma: 30 } },
  })

export const gif = Buffer.from('R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7', 'base64')
export const zip = Buffer.concat([Buffer.from('PK\x05\x06', 'latin1'), Buffer.alloc(18)])
/** The data of a PNG of RGBA that is black all over. */
export const rowsOf = (width: number, height: number) =>
  deflateSync(Buffer.alloc((width * 4 + 1) * height), { level: 9 })

/** No two are the same: what one test uploads is not what another has. */
export const newPicture = (type: 'png' | 'jpeg' | 'webp' = 'png', width = 96, height = 64) =>
  plain(width, height)[type]().toBuffer()

export type Upload = { name: string; type: string; bytes: Uint8Array; refusal: string }

const text = (words: string) => new TextEncoder().encode(words)

/** Hostile uploads, each with the error that refuses it. */
export const hostileUploads = async (): Promise<Upload[]> => {
  const good = await newPicture()
  const jpeg = await newPicture('jpeg')
  const webp = await newPicture('webp')
  const script = '<script>alert(1)</script>'
  const svg = text(`<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)">${script}</svg>`)
  const animation = await sharp(
    [1, 2].map((shade) => ({
      create: { width: 8, height: 8, channels: 3 as const, background: { r: shade * 99, g: 0, b: 0 } },
    })) as never,
    { join: { animated: true } } as never,
  )
    .webp()
    .toBuffer()
  const cases: [name: string, type: string, bytes: Uint8Array, refusal: string][] = [
    ['nothing', 'image/png', new Uint8Array(), '422 media.empty'],
    ['an SVG with scripts, called that', 'image/svg+xml', svg, '415 media.type_not_accepted'],
    ['an SVG with scripts, called a PNG', 'image/png', svg, '415 media.type_not_accepted'],
    ['HTML', 'image/webp', text(`<!doctype html>${script}`), '415 media.type_not_accepted'],
    ['a zip', 'image/png', zip, '415 media.type_not_accepted'],
    ['a GIF', 'image/gif', gif, '415 media.type_not_accepted'],
    ['a GIF, called a JPEG', 'image/jpeg', gif, '415 media.type_not_accepted'],
    ['a picture without a type', '', good, '415 media.type_not_accepted'],
    ['a picture, called bytes', 'application/octet-stream', good, '415 media.type_not_accepted'],
    ['a form that is none', 'multipart/form-data; boundary=x', good, '400 request.malformed'],
    ['a JPEG, called a PNG', 'image/png', jpeg, '422 media.type_contradicted'],
    ['a PNG, called a WebP', 'image/webp', good, '422 media.type_contradicted'],
    ['a PNG with a zip behind it', 'image/png', Buffer.concat([good, zip]), '422 media.trailing_data'],
    ['a PNG with a page behind it', 'image/png', Buffer.concat([good, text(script)]), '422 media.trailing_data'],
    ['a JPEG with a zip behind it', 'image/jpeg', Buffer.concat([jpeg, zip]), '422 media.trailing_data'],
    ['a WebP with a page behind it', 'image/webp', Buffer.concat([webp, text(script)]), '422 media.trailing_data'],
    ['1 x 10^9', 'image/png', png(1, 1_000_000_000, deflateSync(Buffer.alloc(5))), '422 media.side_too_long'],
    ['a bomb of pixels', 'image/png', png(10_000, 10_000, rowsOf(10_000, 1)), '422 media.too_many_pixels'],
    [
      'a small picture with a bomb of data',
      'image/png',
      png(16, 16, deflateSync(Buffer.alloc(100_000_000))),
      '422 media.trailing_data',
    ],
    ['fewer rows than it says', 'image/png', png(4_000, 4_000, rowsOf(4_000, 10)), '422 media.truncated'],
    ['a PNG cut off', 'image/png', good.subarray(0, good.length - 20), '422 media.truncated'],
    ['a JPEG cut off', 'image/jpeg', jpeg.subarray(0, jpeg.length >> 1), '422 media.truncated'],
    ['a PNG of no data', 'image/png', png(64, 64, Buffer.alloc(400, 7)), '422 media.damaged'],
    ['an animated PNG', 'image/png', png(1, 1, rowsOf(1, 1), chunk('acTL', Buffer.alloc(8))), '422 media.animated'],
    ['an animated WebP', 'image/webp', animation, '422 media.animated'],
  ]
  return cases.map(([name, type, bytes, refusal]) => ({ name, type, bytes, refusal }))
}
