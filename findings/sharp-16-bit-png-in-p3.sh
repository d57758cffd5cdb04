#!/usr/bin/env bash
# sharp 0.35.5 converts a 16-bit PNG with an ICC profile to Display P3, and writes these values as 8-bit WebP without a
# profile. A viewer takes them for sRGB.
# Expected: sRGB values, as from the same picture with 8 bits.
# Seen: the red (200, 30, 30) of a 16-bit PNG with an sRGB profile becomes (184, 50, 41). With a Display P3 profile it stays
# (200, 30, 30) where (218, 0, 9) is right. `toColourspace('srgb')` changes nothing. `withIccProfile('srgb')` is right for
# these two, but treats a 16-bit PNG without a profile as Display P3. `pipelineColourspace('srgb')` is right for all. JPEG,
# AVIF and PNG output have the same errors.
# Consequence: 16-bit pictures lose their colours, even those in plain sRGB, and nothing reports it.
# Exits with 1 when this changes. Needs npm and Node.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit sharp@0.35.5 >/dev/null
cat >probe.mjs <<'JS'
import { crc32, deflateSync } from 'node:zlib'
import sharp from 'sharp'

const red = [200, 30, 30]
const side = 8

const uint32 = (value) => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}
const chunk = (type, data) => {
  const content = Buffer.concat([Buffer.from(type), data])
  return Buffer.concat([uint32(data.length), content, uint32(crc32(content))])
}
/** The same red in 8 or 16 bits: 16-bit samples are the 8-bit ones times 257. */
const png = (bits, profile) => {
  const pixel = Buffer.from(bits === 8 ? red : red.flatMap((value) => [value, value]))
  const line = Buffer.concat([Buffer.from([0]), ...Array(side).fill(pixel)])
  return Buffer.concat([
    Buffer.from('89504e470d0a1a0a', 'hex'),
    chunk('IHDR', Buffer.concat([uint32(side), uint32(side), Buffer.from([bits, 2, 0, 0, 0])])),
    profile ? chunk('iCCP', Buffer.concat([Buffer.from('profile\0\0'), deflateSync(profile)])) : Buffer.alloc(0),
    chunk('IDAT', deflateSync(Buffer.concat(Array(side).fill(line)))),
    chunk('IEND', Buffer.alloc(0)),
  ])
}
const profile = async (name) => {
  const picture = sharp({ create: { width: 1, height: 1, channels: 3, background: 'white' } }).withIccProfile(name)
  return (await sharp(await picture.png().toBuffer()).metadata()).icc
}

const sources = { 'profile sRGB': await profile('srgb'), 'profile P3': await profile('p3'), 'no profile': undefined }
const ways = {
  default: (image) => image,
  "toColourspace('srgb')": (image) => image.toColourspace('srgb'),
  "withIccProfile('srgb')": (image) => image.withIccProfile('srgb'),
  "pipelineColourspace('srgb')": (image) => image.pipelineColourspace('srgb'),
}
const seen = {}
for (const [source, icc] of Object.entries(sources)) {
  for (const bits of [8, 16]) {
    const results = []
    for (const way of Object.values(ways)) {
      const output = await way(sharp(png(bits, icc))).webp({ lossless: true }).toBuffer()
      const { hasProfile, depth } = await sharp(output).metadata()
      const pixels = await sharp(output, { ignoreIcc: true }).raw().toBuffer()
      results.push(`${[...pixels.subarray(0, 3)]}${hasProfile ? ' with a profile' : ''}${depth === 'uchar' ? '' : ` ${depth}`}`)
    }
    seen[`${source}, ${bits} bits`] = results
  }
}
console.log(Object.keys(ways).join(' | '))
for (const [source, results] of Object.entries(seen)) console.log(`${source}: ${results.join(' | ')}`)

const expected = {
  'profile sRGB, 8 bits': ['200,30,30', '200,30,30', '200,30,30 with a profile', '200,30,30'],
  'profile sRGB, 16 bits': ['184,50,41', '184,50,41', '200,30,30 with a profile', '200,30,30'],
  'profile P3, 8 bits': ['218,0,9', '218,0,9', '218,0,9 with a profile', '218,0,9'],
  'profile P3, 16 bits': ['200,30,30', '200,30,30', '218,0,9 with a profile', '218,0,9'],
  'no profile, 8 bits': ['200,30,30', '200,30,30', '200,30,30 with a profile', '200,30,30'],
  'no profile, 16 bits': ['200,30,30', '200,30,30', '218,0,9 with a profile', '200,30,30'],
}
process.exit(JSON.stringify(seen) === JSON.stringify(expected) ? 0 : 1)
JS
node probe.mjs
