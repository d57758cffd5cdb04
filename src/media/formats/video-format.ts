import {
  type Box,
  createReader,
  find,
  get,
  type Reader,
  Refused,
  refuse,
  type VideoRefusal,
  videoLimits,
} from './mp4-boxes.ts'

export { type VideoRefusal, videoLimits } from './mp4-boxes.ts'

export type VideoType = 'mp4'

export type VideoHeader = {
  readonly type: VideoType
  /** Display size, after the rotation that the track header gives. */
  readonly width: number
  readonly height: number
  readonly durationMs: number
}
export type VideoVerdict = VideoHeader | { readonly refused: VideoRefusal }

/** Accepted brands. QuickTime files have the same structure but their brand is not accepted. */
const brands = new Set(['isom', 'iso2', 'iso3', 'iso4', 'iso5', 'iso6', 'mp41', 'mp42', 'avc1', 'av01', 'M4V '])
const topLevel = new Set(['ftyp', 'moov', 'mdat', 'free', 'skip', 'wide', 'uuid', 'moof', 'sidx', 'styp', 'mfra'])
const fragments = ['moof', 'sidx', 'styp', 'mfra', 'mvex']
/** The accepted video sample entries, each with the configuration box that a decoder needs to start. */
const videoCodecs: Readonly<Record<string, string>> = {
  avc1: 'avcC',
  avc3: 'avcC',
  hvc1: 'hvcC',
  hev1: 'hvcC',
  av01: 'av1C',
}
const audioCodecs = new Set(['mp4a', 'Opus', 'fLaC', 'ac-3', 'ec-3'])

type Track = { readonly isVideo: boolean; readonly width: number; readonly height: number; readonly durationMs: number }

const toCheckedMs = (units: number, timescale: number): number => {
  const ms = timescale === 0 ? refuse('damaged') : Math.ceil((units / timescale) * 1_000)
  return ms > videoLimits.durationMs ? refuse('too_long') : ms
}

/** Requires that every data reference points into this file (§8.7.2). Returns the number of references. */
const readReferences = ({ u32, childrenOf }: Reader, dref: Box): number => {
  const references = childrenOf(dref, 8)
  if (references.length !== u32(dref, 4) || references.length === 0) refuse('damaged')
  for (const reference of references) {
    const isHere = (u32(reference, 0) & 1) === 1 && reference.end - reference.start === 4
    if (reference.type !== 'url ' || !isHere) refuse('external_data')
  }
  return references.length
}

/** Reads the sample description (§8.5.2, §12.1.3): exactly one entry, of a codec that browsers support. */
const readDescription = (reader: Reader, stsd: Box, isVideo: boolean, references: number) => {
  const { u16, u32, childrenOf } = reader
  const [entry, ...others] = childrenOf(stsd, 8)
  if (entry === undefined || others.length > 0 || u32(stsd, 4) !== 1) return refuse('damaged')
  const reference = u16(entry, 6)
  if (reference < 1 || reference > references) refuse('damaged')
  if (!isVideo) return audioCodecs.has(entry.type) ? { width: 0, height: 0 } : refuse('codec_not_accepted')
  const configuration = videoCodecs[entry.type] ?? refuse('codec_not_accepted')
  const [width, height] = [u16(entry, 24), u16(entry, 26)]
  if (width === 0 || height === 0) refuse('damaged')
  if (width > videoLimits.side || height > videoLimits.side) refuse('side_too_long')
  get(childrenOf(entry, 78), configuration)
  return { width, height }
}

/** The total duration of the samples and their number (§8.6.1.2). */
const readTimes = (reader: Reader, stts: Box): { units: number; samples: number } => {
  const entries = reader.u32(stts, 4)
  let [units, samples] = [0, 0]
  for (let entry = 0; entry < entries; entry += 1) {
    const count = reader.u32(stts, 8 + 8 * entry)
    samples += count
    units += count * reader.u32(stts, 12 + 8 * entry)
  }
  return { units, samples }
}

/** Requires that every sample lies in `mdat`, by chunk offsets (§8.7.5), samples per chunk (§8.7.4) and sample sizes (§8.7.3). */
const checkSamples = (reader: Reader, table: readonly Box[], samples: number, mdat: Box) => {
  const { u32, u64 } = reader
  const stsz = get(table, 'stsz')
  const [size, count] = [u32(stsz, 4), u32(stsz, 8)]
  if (count === 0 || count !== samples) refuse('damaged')
  if (count > videoLimits.samples) refuse('too_many_samples')
  const [stco, co64] = [find(table, 'stco'), find(table, 'co64')]
  const chunks = (stco === undefined) === (co64 === undefined) ? refuse('damaged') : ((stco ?? co64) as Box)
  const chunkCount = u32(chunks, 4)
  const stsc = get(table, 'stsc')
  const runs = u32(stsc, 4)
  if (runs === 0 || u32(stsc, 8) !== 1) refuse('damaged')
  let [run, sample] = [0, 0]
  for (let chunk = 0; chunk < chunkCount; chunk += 1) {
    // Chunks are counted from 1.
    if (run + 1 < runs && u32(stsc, 8 + 12 * (run + 1)) === chunk + 1) run += 1
    const perChunk = u32(stsc, 12 + 12 * run)
    if (u32(stsc, 16 + 12 * run) !== 1) refuse('damaged')
    let at = stco ? u32(chunks, 8 + 4 * chunk) : u64(chunks, 8 + 8 * chunk)
    if (at < mdat.start) refuse('damaged')
    const end = sample + perChunk
    if (size > 0) at += size * perChunk
    else for (let each = sample; each < end; each += 1) at += u32(stsz, 12 + 4 * each)
    sample = end
    if (at > mdat.end) refuse('damaged')
  }
  if (sample !== count || run !== runs - 1) refuse('damaged')
}

/** The duration of a track's edit list (§8.6.6) in the movie's time scale; undefined when the track has none and plays whole. */
const readEdits = (reader: Reader, trak: readonly Box[]): number | undefined => {
  const edts = find(trak, 'edts')
  const elst = edts && find(reader.childrenOf(edts), 'elst')
  if (elst === undefined) return undefined
  const isLong = reader.u8(elst, 0) === 1
  const entryBytes = isLong ? 20 : 12
  const entries = reader.u32(elst, 4)
  let units = 0
  for (let entry = 0; entry < entries; entry += 1) {
    const at = 8 + entryBytes * entry
    units += isLong ? reader.u64(elst, at) : reader.u32(elst, at)
  }
  return units
}

/** Reads and checks one track (§8.3 to §8.8), video or audio. */
const readTrack = (reader: Reader, trak: Box, movieTimescale: number, mdat: Box): Track => {
  const { u8, u32, u64, text, childrenOf } = reader
  const parts = childrenOf(trak)
  const mdia = childrenOf(get(parts, 'mdia'))
  const handler = text(get(mdia, 'hdlr'), 8)
  const isVideo = handler === 'vide'
  if (!isVideo && handler !== 'soun') refuse('tracks_not_accepted')

  const minf = childrenOf(get(mdia, 'minf'))
  const table = childrenOf(get(minf, 'stbl'))
  const references = readReferences(reader, get(childrenOf(get(minf, 'dinf')), 'dref'))
  const { width, height } = readDescription(reader, get(table, 'stsd'), isVideo, references)

  const [tkhd, mdhd] = [get(parts, 'tkhd'), get(mdia, 'mdhd')]
  const timescale = u8(mdhd, 0) === 1 ? u32(mdhd, 20) : u32(mdhd, 12)
  const { units, samples } = readTimes(reader, get(table, 'stts'))
  const wholeMs = toCheckedMs(units, timescale)
  toCheckedMs(u8(mdhd, 0) === 1 ? u64(mdhd, 24) : u32(mdhd, 16), timescale)
  toCheckedMs(u8(tkhd, 0) === 1 ? u64(tkhd, 28) : u32(tkhd, 20), movieTimescale)
  const edited = readEdits(reader, parts)
  const durationMs = edited === undefined ? wholeMs : toCheckedMs(edited, movieTimescale)
  if (wholeMs === 0 || durationMs === 0) refuse('damaged')
  checkSamples(reader, table, samples, mdat)

  // The transformation matrix, then the display size; all are 16.16 fixed-point numbers.
  const matrix = u8(tkhd, 0) === 1 ? 52 : 40
  const [shownWidth, shownHeight] = [u32(tkhd, matrix + 36) / 65_536, u32(tkhd, matrix + 40) / 65_536]
  if (shownWidth > videoLimits.side || shownHeight > videoLimits.side) refuse('side_too_long')
  const isRotated90 = u32(tkhd, matrix) === 0 && u32(tkhd, matrix + 16) === 0
  return isRotated90 ? { isVideo, durationMs, width: height, height: width } : { isVideo, durationMs, width, height }
}

/** Whether the major brand or a compatible brand is accepted (§4.3). Only the first 128 bytes of the brand list count. */
const isMp4 = ({ text }: Reader, ftyp: Box): boolean => {
  const end = Math.min(ftyp.end - ftyp.start, 128)
  const named: string[] = []
  // Four bytes of version follow the major brand.
  for (let at = 0; at < end; at += at === 0 ? 8 : 4) named.push(text(ftyp, at))
  return named[0] !== 'qt  ' && named.some((brand) => brands.has(brand))
}

const readMp4 = (bytes: Uint8Array): VideoHeader => {
  const reader = createReader(bytes)
  const found = new Map<string, Box>()
  const isComplete = () => found.has('moov') && found.has('mdat')
  const isTrailing = (type: string) => isComplete() && !topLevel.has(type)
  const file = { type: '', start: 0, end: bytes.length }
  for (const box of reader.walk(file, (type = '') => (isTrailing(type) ? 'trailing_data' : 'truncated'))) {
    const { type } = box
    if (fragments.includes(type)) refuse('fragmented')
    if (!topLevel.has(type)) refuse(isComplete() ? 'trailing_data' : 'damaged')
    // A second `ftyp` starts another file.
    if (found.has(type) && type === 'ftyp') refuse('trailing_data')
    if (found.has(type) && (type === 'moov' || type === 'mdat')) refuse('damaged')
    if (type === 'ftyp' && !isMp4(reader, box)) refuse('type_not_accepted')
    found.set(type, box)
  }
  const [moov, mdat] = [found.get('moov'), found.get('mdat')]
  if (moov === undefined || mdat === undefined) return refuse('truncated')

  const parts = reader.childrenOf(moov)
  if (parts.some(({ type }) => type === 'mvex')) refuse('fragmented')
  const mvhd = get(parts, 'mvhd')
  const isLong = reader.u8(mvhd, 0) === 1
  const timescale = isLong ? reader.u32(mvhd, 20) : reader.u32(mvhd, 12)
  const movieMs = toCheckedMs(isLong ? reader.u64(mvhd, 24) : reader.u32(mvhd, 16), timescale)
  const tracks = parts.filter(({ type }) => type === 'trak')
  if (tracks.length === 0 || tracks.length > 2) refuse('tracks_not_accepted')
  const read = tracks.map((trak) => readTrack(reader, trak, timescale, mdat))
  const [video, ...others] = read.filter(({ isVideo }) => isVideo)
  if (video === undefined || others.length > 0) return refuse('tracks_not_accepted')
  const durationMs = Math.max(movieMs, ...read.map((track) => track.durationMs))
  return { type: 'mp4', width: video.width, height: video.height, durationMs }
}

/**
 * Checks the structure of an MP4 (ISO/IEC 14496-12; sections are cited above) from the first byte to the last and reads its
 * size and duration. No frame is decoded.
 *
 * Promise: for any input it does not throw, reads nothing beyond the end, takes time linear in the number of bytes and holds
 * at most `videoLimits.boxes` small objects. Bytes that pass are one MP4 within the limits: its boxes fill it exactly, it has
 * one video track (H.264, HEVC or AV1), at most one audio track and no other, it refers to no external data, and every sample
 * in its tables lies inside it. Not checked: that the samples can be decoded, and that they have the size the track gives.
 * Fragmented MP4, as used for streaming, is refused.
 */
export const readVideoHeader = (bytes: Uint8Array): VideoVerdict => {
  if (bytes.length === 0) return { refused: 'empty' }
  if (bytes.length > videoLimits.bytes) return { refused: 'too_many_bytes' }
  if (bytes.length < 12 || String.fromCharCode(...bytes.subarray(4, 8)) !== 'ftyp')
    return { refused: 'type_not_accepted' }
  try {
    return readMp4(bytes)
  } catch (error) {
    if (error instanceof Refused) return { refused: error.refused }
    throw error
  }
}
