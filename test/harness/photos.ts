import { Buffer } from 'node:buffer'
import { readdir, readFile } from 'node:fs/promises'
import sharp from 'sharp'
import { writeBoxes } from './film.ts'
import { png, rowsOf, zip } from './pictures.ts'

const folder = new URL('../media/fixtures/taken/', import.meta.url)

/** The committed photos or films that must be accepted, by name. `make.sh` and `cases.md` describe them. */
export const takenFiles = async (type: 'images' | 'films'): Promise<{ name: string; bytes: Buffer }[]> => {
  const names = (await readdir(folder)).filter((name) => name.endsWith('.mp4') === (type === 'films')).toSorted()
  return Promise.all(names.map(async (name) => ({ name, bytes: await readFile(new URL(name, folder)) })))
}
export const takenFile = (name: string): Promise<Buffer> => readFile(new URL(name, folder))

/** A segment of a JPEG: its marker, its length, its data. */
export const segment = (marker: number, ...data: (string | Uint8Array)[]): Buffer => {
  const body = Buffer.concat(data.map((part) => (typeof part === 'string' ? Buffer.from(part, 'latin1') : part)))
  const head = Buffer.from([0xff, marker, 0, 0])
  head.writeUInt16BE(body.length + 2, 2)
  return Buffer.concat([head, body])
}
/** A JPEG with more segments behind its SOI marker. */
export const withSegments = (jpeg: Uint8Array, ...segments: Uint8Array[]): Buffer =>
  Buffer.concat([jpeg.subarray(0, 2), ...segments, jpeg.subarray(2)])

/** A JPEG whose scan has the parameters of a progressive one, although it is sequential. */
export const withScanParameters = (jpeg: Buffer, ...parameters: [number, number, number]): Buffer => {
  const changed = Buffer.from(jpeg)
  const scan = changed.indexOf(Buffer.from([0xff, 0xda]))
  changed.set(parameters, scan + 2 + changed.readUInt16BE(scan + 2) - 3)
  return changed
}

/** Smooth colours: small files. */
export const gradient = (width = 64, height = 48) => {
  const pixels = Buffer.alloc(width * height * 3)
  for (let at = 0; at < pixels.length; at += 3) {
    const [x, y] = [(at / 3) % width, Math.floor(at / 3 / width)]
    pixels.set([(x * 255) / width, (y * 255) / height, 120], at)
  }
  return sharp(pixels, { raw: { width, height, channels: 3 } })
}

const xmpHeader = 'http://ns.adobe.com/xap/1.0/\0'
export const xmpSegment = (packet: string): Buffer => segment(0xe1, xmpHeader, Buffer.from(packet))
export const xmpWith = (attributes: string): string =>
  `<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" ${attributes}/></rdf:RDF></x:xmpmeta>`
export const digitalSource = (type: string): string =>
  `xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/${type}"`
/** A segment that holds a C2PA manifest, as far as its mark is concerned: the box structure of JUMBF is not read. */
export const credentialSegment = (text: string): Buffer => segment(0xeb, 'JP\0\x01\0\0\0\x01jumbc2pa', text)

/** A film with a box of XMP at its end that says that a model made it. */
export const markedFilm = (film: Buffer): Buffer => {
  const xmp = Buffer.from(xmpWith(digitalSource('trainedAlgorithmicMedia')))
  const data = Buffer.concat([Buffer.from('be7acfcb97a942e89c71999491e3afac', 'hex'), xmp])
  return Buffer.concat([film, writeBoxes([{ type: 'uuid', data, boxes: undefined }])])
}

/** EXIF with the place where a photo was taken, for sharp. */
export const place = { IFD0: { Make: 'Phone', Copyright: 'Ada' }, IFD3: { GPSLatitude: '51/1 30/1 3230/100' } }

/** Photos as phones and cameras write them, each with bytes behind or between its parts that viewers skip. */
export const phonePhotos = async (): Promise<{ name: string; bytes: Buffer }[]> => {
  const photo = await gradient().jpeg().toBuffer()
  const many = await gradient().jpeg({ progressive: true }).toBuffer()
  const small = await gradient(16, 16).jpeg().toBuffer()
  const screenshot = await gradient().png().toBuffer()
  const webp = await gradient().webp().toBuffer()
  const motion = await takenFile('faststart.mp4')
  const index = segment(0xe2, 'MPF\0MM\0*\0\0\0\x08')
  const container = xmpSegment(xmpWith('xmlns:Container="http://ns.google.com/photos/1.0/container/"'))
  const padding = (bytes: number) => Buffer.alloc(bytes)
  const behind = (...parts: Uint8Array[]) => Buffer.concat([photo, ...parts])
  return [
    ['a trailer of JSON', behind(Buffer.from('vivo{"com.camera":"portrait"}\0\0\0\x20'))],
    ['a motion photo behind a gap', behind(padding(37), motion)],
    ['a motion photo behind the mark of its maker', behind(Buffer.from('MotionPhoto_Data'), motion)],
    ['a padding of FF bytes', behind(Buffer.alloc(100, 0xff))],
    ['a line feed at the end', behind(Buffer.from('\n'))],
    ['binary data of a depth map', behind(Buffer.from(Array.from({ length: 500 }, (_, at) => (at * 37) % 251)))],
    ['a declared second picture', Buffer.concat([withSegments(photo, index), small])],
    ['a declared second picture behind a gap', Buffer.concat([withSegments(photo, index), padding(5), small, small])],
    ['a gain map declared in XMP', Buffer.concat([withSegments(photo, container), small])],
    ['a second picture and a film', Buffer.concat([withSegments(photo, index), small, motion, padding(64)])],
    ['zeros between two segments', withSegments(photo, segment(0xfe, 'a lighthouse'), padding(7))],
    ['zeros behind the last scan', Buffer.concat([photo.subarray(0, -2), padding(9), photo.subarray(-2)])],
    ['zeros behind the last progressive scan', Buffer.concat([many.subarray(0, -2), padding(9), many.subarray(-2)])],
    ['fill bytes before a marker', withSegments(photo, Buffer.alloc(5, 0xff))],
    ['scan parameters of no spectrum', withScanParameters(photo, 0, 0, 0)],
    ['scan parameters of a refinement', withScanParameters(photo, 0, 63, 1)],
    ['a JFIF version of 2', withSegments(photo, segment(0xe0, 'JFIF\0\x02\x01\0\0\x01\0\x01\0\0'))],
    ['a screenshot with the end of a former one', Buffer.concat([screenshot, screenshot.subarray(60, -12)])],
    ['a padded PNG', Buffer.concat([screenshot, padding(512)])],
    ['a padded WebP', Buffer.concat([webp, padding(512)])],
  ].map(([name, bytes]) => ({ name: name as string, bytes: bytes as Buffer }))
}

/** Bytes behind a picture that make it a polyglot: each is refused. */
export const polyglots = async (): Promise<{ name: string; bytes: Buffer }[]> => {
  const photo = await gradient().jpeg().toBuffer()
  const small = await gradient(16, 16).jpeg().toBuffer()
  const index = segment(0xe2, 'MPF\0')
  const motion = await takenFile('faststart.mp4')
  const text = (words: string) => Buffer.from(words, 'latin1')
  const zeros = Buffer.alloc(64)
  return [
    ['a zip', zip],
    ['a zip behind a gap', Buffer.concat([zeros, zip])],
    ['a zip behind the film of a motion photo', Buffer.concat([motion, zip])],
    ['a zip with a comment', Buffer.concat([zip.subarray(0, 20), Buffer.from([3, 0]), text('abc')])],
    ['a page', text('<!DOCTYPE html><p>')],
    ['a script behind a trailer', text('SEFH\0\0<ScRiPt>alert(1)</script>SEFT')],
    ['PHP', text('<?php system($_GET[0]);')],
    ['a PDF', text('%PDF-1.7\n')],
    ['a PDF behind a few bytes', text('abcdef%PDF-1.7\n')],
    ['a program', text('\x7fELF\x02\x01')],
    ['a shell script', text('#!/bin/sh\n')],
    ['a RAR', text('Rar!\x1a\x07')],
    ['a GIF', text('GIF89a')],
    ['a PNG', png(4, 4, rowsOf(4, 4))],
    ['an undeclared picture', small],
    ['an undeclared picture behind a gap', Buffer.concat([zeros, small])],
  ]
    .map(([name, after]) => ({ name: name as string, bytes: Buffer.concat([photo, after as Buffer]) }))
    .concat({
      name: 'a zip behind a declared picture',
      bytes: Buffer.concat([withSegments(photo, index), small, zip]),
    })
}
