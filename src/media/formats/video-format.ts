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

export { type VideoRefusal, videoLimits, videoRefusals } from './mp4-boxes.ts'

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
const brands = new Set([
  'isom',
  'iso2',
  'iso3',
  'iso4',
  'iso5',
  'iso6',
  'iso7',
  'iso8',
  'iso9',
  'mp41',
  'mp42',
  'avc1',
  'av01',
  'M4V ',
])
const fragments = ['moof', 'sidx', 'styp', 'mfra', 'mvex']
/** `sefd` is the trailer of Samsung phones. */
const metadata = ['meta', 'udta', 'pdin', 'sefd']
const topLevel = new Set(['ftyp', 'moov', 'mdat', 'free', 'skip', 'wide', 'uuid', ...fragments, ...metadata])
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

const toCheckedMs = (units: number, timescale: number, limitMs: number = videoLimits.durationMs): number => {
  const ms = timescale === 0 ? refuse('damaged') : Math.ceil((units / timescale) * 1_000)
  return ms > limitMs ? refuse('too_long') : ms
}

/** The duration in a header, as 32 or 64 bits; 0 where it is unknown, which is written as all ones (§8.2.2). */
const readDuration = ({ u32, u64 }: Reader, header: Box, offset: number, isLong: boolean): number => {
  const isUnknown = u32(header, offset) === 0xffffffff && (!isLong || u32(header, offset + 4) === 0xffffffff)
  if (isUnknown) return 0
  return isLong ? u64(header, offset) : u32(header, offset)
}

/** The media boxes of a file, in order; whether the last extends to the end of the file, and where its samples end. */
type MediaData = { readonly boxes: readonly Box[]; readonly isOpen: boolean; usedEnd: number }

/** Requires that bytes lie in one media box. Binary search: a file may have many boxes and many chunks. */
const checkWithin = (media: MediaData, start: number, end: number): void => {
  let [low, high] = [0, media.boxes.length]
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((media.boxes[middle] as Box).start <= start) low = middle + 1
    else high = middle
  }
  const box = media.boxes[low - 1]
  const isLast = low === media.boxes.length
  const isWithin = box !== undefined && end <= box.end
  if (!isWithin) refuse(media.isOpen && isLast ? 'truncated' : 'damaged')
  if (isLast) media.usedEnd = Math.max(media.usedEnd, end)
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

/**
 * Requires that every chunk of samples lies in a media box, by chunk offsets (§8.7.5), samples per chunk (§8.7.4) and sample
 * sizes (§8.7.3).
 */
const checkSamples = (reader: Reader, table: readonly Box[], samples: number, media: MediaData) => {
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
    const start = stco ? u32(chunks, 8 + 4 * chunk) : u64(chunks, 8 + 8 * chunk)
    let at = start
    const end = sample + perChunk
    if (size > 0) at += size * perChunk
    else for (let each = sample; each < end; each += 1) at += u32(stsz, 12 + 4 * each)
    sample = end
    checkWithin(media, start, at)
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

const handlerOf = ({ text, childrenOf }: Reader, trak: Box): string =>
  text(get(childrenOf(get(childrenOf(trak), 'mdia')), 'hdlr'), 8)

/** Players show the first enabled track. A disabled one holds, for example, the pictures of chapters. */
const isEnabled = ({ u32, childrenOf }: Reader, trak: Box): boolean => (u32(get(childrenOf(trak), 'tkhd'), 0) & 1) === 1

/** Reads and checks one track (§8.3 to §8.8), video or audio. */
const readTrack = (reader: Reader, trak: Box, movieTimescale: number, media: MediaData): Track => {
  const { u8, u32, childrenOf } = reader
  const isVideo = handlerOf(reader, trak) === 'vide'
  const parts = childrenOf(trak)
  const mdia = childrenOf(get(parts, 'mdia'))

  const minf = childrenOf(get(mdia, 'minf'))
  const table = childrenOf(get(minf, 'stbl'))
  const references = readReferences(reader, get(childrenOf(get(minf, 'dinf')), 'dref'))
  const { width, height } = readDescription(reader, get(table, 'stsd'), isVideo, references)

  const [tkhd, mdhd] = [get(parts, 'tkhd'), get(mdia, 'mdhd')]
  const [isLongTrack, isLongMedia] = [u8(tkhd, 0) === 1, u8(mdhd, 0) === 1]
  const timescale = u32(mdhd, isLongMedia ? 20 : 12)
  const edited = readEdits(reader, parts)
  // An edit list leaves out the priming of an audio codec, and frames that a cut needs but does not show.
  const limitMs = edited === undefined ? videoLimits.durationMs : videoLimits.editedMs
  const { units, samples } = readTimes(reader, get(table, 'stts'))
  const wholeMs = toCheckedMs(units, timescale, limitMs)
  toCheckedMs(readDuration(reader, mdhd, isLongMedia ? 24 : 16, isLongMedia), timescale, limitMs)
  toCheckedMs(readDuration(reader, tkhd, isLongTrack ? 28 : 20, isLongTrack), movieTimescale)
  const durationMs = toCheckedMs(edited ?? units, edited === undefined ? timescale : movieTimescale)
  if (wholeMs === 0 || durationMs === 0) refuse('damaged')
  checkSamples(reader, table, samples, media)

  // The transformation matrix, then the display size; all are 16.16 fixed-point numbers.
  const matrix = isLongTrack ? 52 : 40
  const [shownWidth, shownHeight] = [u32(tkhd, matrix + 36) / 65_536, u32(tkhd, matrix + 40) / 65_536]
  if (shownWidth > videoLimits.side || shownHeight > videoLimits.side) refuse('side_too_long')
  const isRotated90 = u32(tkhd, matrix) === 0 && u32(tkhd, matrix + 16) === 0
  return isRotated90 ? { isVideo, durationMs, width: height, height: width } : { isVideo, durationMs, width, height }
}

/**
 * Checks a track that players ignore, such as a time code, chapters or subtitles: it must refer to no external data. Its
 * samples count as used bytes where its tables are sound.
 */
const checkIgnoredTrack = (reader: Reader, trak: Box, media: MediaData): void => {
  const { u32, childrenOf } = reader
  const minf = find(childrenOf(get(childrenOf(trak), 'mdia')), 'minf')
  const parts = minf === undefined ? [] : childrenOf(minf)
  const dinf = find(parts, 'dinf')
  const dref = dinf && find(childrenOf(dinf), 'dref')
  for (const reference of dref ? childrenOf(dref, 8) : []) {
    if ((u32(reference, 0) & 1) === 0) refuse('external_data')
  }
  const stbl = find(parts, 'stbl')
  if (stbl === undefined) return
  try {
    const table = childrenOf(stbl)
    checkSamples(reader, table, readTimes(reader, get(table, 'stts')).samples, media)
  } catch (error) {
    if (!(error instanceof Refused) || error.refused === 'too_many_boxes') throw error
  }
}

/** Whether the major brand or a compatible brand is accepted (§4.3). Only the first 128 bytes of the brand list count. */
const isMp4 = ({ text }: Reader, ftyp: Box): boolean => {
  const end = Math.min(ftyp.end - ftyp.start, 128)
  const named: string[] = []
  // Four bytes of version follow the major brand.
  for (let at = 0; at < end; at += at === 0 ? 8 : 4) named.push(text(ftyp, at))
  return named[0] !== 'qt  ' && named.some((brand) => brands.has(brand))
}

/** Whether a track has samples: some recorders write an audio track without any. */
const hasSamples = ({ u32, childrenOf }: Reader, trak: Box): boolean => {
  const minf = get(childrenOf(get(childrenOf(trak), 'mdia')), 'minf')
  return u32(get(childrenOf(get(childrenOf(minf), 'stbl')), 'stsz'), 8) > 0
}

/** Sorts the tracks: those that a player shows, and those it ignores. */
const sortTracks = (reader: Reader, traks: readonly Box[]): { shown: Box[]; ignored: Box[] } => {
  const videos = traks.filter((trak) => handlerOf(reader, trak) === 'vide')
  const enabled = videos.filter((trak) => isEnabled(reader, trak))
  const [video, ...others] = enabled.length > 0 ? enabled : videos
  if (video === undefined || others.length > 0) return refuse('tracks_not_accepted')
  const isAudio = (trak: Box) => handlerOf(reader, trak) === 'soun' && hasSamples(reader, trak)
  const shown = traks.filter((trak) => trak === video || isAudio(trak))
  return { shown, ignored: traks.filter((trak) => !shown.includes(trak)) }
}

/** The box of the file that extends to its end, and where its samples end. */
export type OpenBox = { readonly at: number; readonly usedEnd: number }
/** What `toStoredVideo` needs to know of a video that was read. */
export type VideoLayout = { readonly boxes: readonly Box[]; readonly open: OpenBox | undefined }

/** The boxes of the file in order, without those that may not be there. */
const readTopLevel = (reader: Reader, length: number): Box[] => {
  const boxes: Box[] = []
  const has = (type: string) => boxes.some((box) => box.type === type)
  const isComplete = () => has('moov') && has('mdat')
  const file = { type: '', at: 0, start: 0, end: length }
  const refusalOf = (type = '') => (isComplete() && !topLevel.has(type) ? 'trailing_data' : 'truncated')
  for (const box of reader.walk(file, refusalOf, (type) => type === 'mdat')) {
    const { type } = box
    if (fragments.includes(type)) refuse('fragmented')
    if (!topLevel.has(type)) refuse(isComplete() ? 'trailing_data' : 'damaged')
    // A second `ftyp` starts another file.
    if (type === 'ftyp' && has('ftyp')) refuse('trailing_data')
    if (type === 'moov' && has('moov')) refuse('damaged')
    if (type === 'ftyp' && !isMp4(reader, box)) refuse('type_not_accepted')
    boxes.push(box)
  }
  return boxes
}

const readMp4 = (bytes: Uint8Array): { header: VideoHeader; layout: VideoLayout } => {
  const reader = createReader(bytes)
  const boxes = readTopLevel(reader, bytes.length)
  const moov = boxes.find(({ type }) => type === 'moov')
  const mdats = boxes.filter(({ type }) => type === 'mdat')
  const last = mdats.at(-1)
  if (moov === undefined || last === undefined) return refuse('truncated')
  const isOpen = reader.u32({ ...last, start: last.at }, 0) === 0
  const media: MediaData = { boxes: mdats, isOpen, usedEnd: last.start }

  const parts = reader.childrenOf(moov)
  if (parts.some(({ type }) => type === 'mvex')) refuse('fragmented')
  const mvhd = get(parts, 'mvhd')
  const isLong = reader.u8(mvhd, 0) === 1
  const timescale = reader.u32(mvhd, isLong ? 20 : 12)
  const movieMs = toCheckedMs(readDuration(reader, mvhd, isLong ? 24 : 16, isLong), timescale)
  const { shown, ignored } = sortTracks(
    reader,
    parts.filter(({ type }) => type === 'trak'),
  )
  for (const trak of ignored) checkIgnoredTrack(reader, trak, media)
  const tracks = shown.map((trak) => readTrack(reader, trak, timescale, media))
  const { width, height } = tracks.find(({ isVideo }) => isVideo) as Track
  const durationMs = Math.max(movieMs, ...tracks.map((track) => track.durationMs))
  const open = isOpen ? { at: last.at, usedEnd: media.usedEnd } : undefined
  return { header: { type: 'mp4', width, height, durationMs }, layout: { boxes, open } }
}

/**
 * Checks the structure of an MP4 (ISO/IEC 14496-12; sections are cited above) from the first byte to the last and reads its
 * size and duration. No frame is decoded.
 *
 * Promise: for any input it does not throw, reads nothing beyond the end, takes time linear in the number of bytes and holds
 * at most `videoLimits.boxes` small objects. Bytes that pass are one MP4 within the limits: its boxes fill it exactly, it has
 * one video track (H.264, HEVC or AV1), it refers to no external data, and every sample of its video and audio lies inside it.
 * The duration is that of the edit lists, where there are any. Tracks of other kinds and disabled video tracks are ignored, as
 * players do. Not checked: that the samples can be decoded, and that they have the size the track gives. Fragmented MP4, as
 * used for streaming, is refused.
 */
export const readVideo = (
  bytes: Uint8Array,
): { header: VideoHeader; layout: VideoLayout } | { refused: VideoRefusal } => {
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

/** As `readVideo`, without the layout. */
export const readVideoHeader = (bytes: Uint8Array): VideoVerdict => {
  const video = readVideo(bytes)
  return 'refused' in video ? video : video.header
}
