import { Buffer } from 'node:buffer'
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { setPriority } from 'node:os'
import sharp, { type Sharp } from 'sharp'
import { hasThreadPriority, lowerThreadPriority } from '../../platform/thread-priority.ts'
import type { ResultMessage, WorkMessage } from '../../platform/worker-pool.ts'
import { renderImage } from '../../providers/local/renderer.ts'
import { type DigitalSource, digitalSourceDescription, xmpOf, xmpPacket } from '../formats/digital-source.ts'
import { imageLimits, readImageExtent, readImageHeader } from '../formats/image-format.ts'
import { readMark, toStoredImage } from '../formats/image-metadata.ts'
import { readVideo } from '../formats/video-format.ts'
import { toStoredVideo } from '../formats/video-mark.ts'
import { type ImageResult, type ImageWork, imageTaskMs, type RenderRequest, renderedBy } from './images.ts'
import { refusePngData, withPngText } from './png.ts'

/** One worker thread of the image pool. Images are decoded, rendered and encoded only here; videos are inspected. */
declare const self: Worker

// One image at a time, on one codec thread, and no cache between images.
sharp.concurrency(1)
sharp.cache(false)

/** The codecs start short-lived threads that do not inherit this thread's priority, so it is set again at this interval. */
const reniceEveryMs = 10

const nice = lowerThreadPriority(10)

const reniceCodecThreads = () => {
  for (const task of readdirSync('/proc/self/task')) {
    try {
      const name = readFileSync(`/proc/self/task/${task}/comm`, 'utf8')
      if (name.startsWith('libvips')) setPriority(Number(task), nice)
    } catch {
      // The thread has ended, or the change is not permitted.
    }
  }
}

const atLowPriority = async <T>(work: () => Promise<T>): Promise<T> => {
  if (!hasThreadPriority) return work()
  const timer = setInterval(reniceCodecThreads, reniceEveryMs)
  try {
    return await work()
  } finally {
    clearInterval(timer)
    reniceCodecThreads()
  }
}

/** Raised between two bands of rows when the caller has aborted the work. */
class Aborted extends Error {
  override readonly name = 'Aborted'
}

const timeout = { seconds: Math.ceil(imageTaskMs / 1_000) }

/** A decoder for untrusted bytes. Call it only after `readImageExtent` has accepted them. */
const decoder = (bytes: Buffer, failOn: 'warning' | 'error' = 'warning') =>
  sharp(bytes, { failOn, limitInputPixels: imageLimits.pixels, sequentialRead: true }).timeout(timeout)

/** The first warning of a JPEG that is complete: padding behind its last scan. */
const isComplete = (error: unknown) =>
  error instanceof Error && /extraneous bytes before marker 0xd9/.test(error.message)

/** Decodes with the strictest decoder; where its only objection is padding behind the last scan, with one that skips it. */
const decode = async <T>(bytes: Buffer, use: (from: Sharp) => Promise<T>): Promise<T> => {
  try {
    return await use(decoder(bytes))
  } catch (error) {
    if (!isComplete(error)) throw error
    return use(decoder(bytes, 'error'))
  }
}

/** Converts to sRGB first. By default sharp would leave 16-bit pixels of a profile in Display P3, without a profile. */
const inSrgb = (image: Sharp) => image.pipelineColourspace('srgb')

type Refused = ImageResult & { kind: 'refused' }
const refused = (reason: Refused['reason']): Refused => ({ kind: 'refused', reason })

/** The refusal for an error of a codec: truncated where its message says so, else damaged. A timeout is rethrown. */
const refusalOf = (error: unknown): Refused => {
  const message = error instanceof Error ? error.message : ''
  if (/timeout/i.test(message)) throw error
  return refused(
    /premature|truncat|unexpected end|not enough data|end of (?:file|stream)/i.test(message) ? 'truncated' : 'damaged',
  )
}

/** Copies into a buffer that can be transferred to another thread; the codecs' own buffers cannot. */
const toTransferable = (bytes: Uint8Array): Uint8Array<ArrayBuffer> => new Uint8Array(bytes)

/** The bytes of an image as they are stored, or its refusal. */
const toStored = (given: Buffer, madeBy: DigitalSource | undefined) => {
  const extent = readImageExtent(given)
  if ('refused' in extent) return extent
  const { type, width, height } = extent
  return { type, width, height, bytes: toStoredImage(given, type, madeBy) }
}

const inspect = async (given: Buffer, madeBy: DigitalSource | undefined): Promise<ImageResult> => {
  const header = toStored(given, madeBy)
  if ('refused' in header) return refused(header.refused)
  const { bytes } = header
  try {
    const { width, height, format, pages = 1, autoOrient } = await decoder(bytes).metadata()
    if (pages !== 1) return refused('animated')
    if (format !== header.type || width !== header.width || height !== header.height) return refused('damaged')
    const reason = header.type === 'png' ? await refusePngData(bytes) : undefined
    if (reason !== undefined) return refused(reason)
    // Every pixel contributes to this 4 × 4 image, so every pixel is decoded.
    await decode(bytes, (image) =>
      image.resize({ width: 4, height: 4, fit: 'fill', fastShrinkOnLoad: false }).raw().toBuffer(),
    )
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    const image = { type: header.type, width: autoOrient.width, height: autoOrient.height, sha256 }
    return bytes.equals(given)
      ? { kind: 'inspect', image }
      : { kind: 'inspect', image: { ...image, bytes: toTransferable(bytes) } }
  } catch (error) {
    return refusalOf(error)
  }
}

const thumbnail = async (given: Buffer, edge: number, madeBy: DigitalSource | undefined): Promise<ImageResult> => {
  const extent = readImageExtent(given)
  if ('refused' in extent) return refused(extent.refused)
  const bytes = given.subarray(0, extent.end)
  try {
    const reason = extent.type === 'png' ? await refusePngData(bytes) : undefined
    if (reason !== undefined) return refused(reason)
    const mark = readMark(bytes, extent.type) ?? (madeBy && xmpOf(madeBy))
    const { data, info } = await decode(bytes, (image) => {
      const scaled = inSrgb(image)
        .autoOrient()
        .resize({ width: edge, height: edge, fit: 'inside', withoutEnlargement: true })
        .webp({ quality: 80, effort: 3 })
      return (mark === undefined ? scaled : scaled.withXmp(mark)).toBuffer({ resolveWithObject: true })
    })
    return { kind: 'thumbnail', bytes: toTransferable(data), width: info.width, height: info.height }
  } catch (error) {
    return refusalOf(error)
  }
}

/** The mark of a rendered image: a program made it, without a model. */
const renderedXmp = xmpPacket(
  `<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" xmp:CreatorTool="Velro local/procedural"><dc:description><rdf:Alt><rdf:li xml:lang="x-default">${renderedBy}</rdf:li></rdf:Alt></dc:description></rdf:Description>${digitalSourceDescription('algorithmicMedia')}`,
)

/** The share of drawing in the progress of a render; the rest is encoding. */
const drawingShare = 0.9

/** The pixels of an image scaled to 32 × 32, as a sample of its colours; or its refusal. */
const coloursOf = async (bytes: Buffer): Promise<Uint8Array | Refused> => {
  const header = readImageHeader(bytes)
  if ('refused' in header) return refused(header.refused)
  try {
    return await decode(bytes, (image) =>
      inSrgb(image)
        .flatten({ background: '#808080' })
        .toColourspace('srgb')
        .resize({ width: 32, height: 32, fit: 'fill', kernel: 'cubic' })
        .raw()
        .toBuffer(),
    )
  } catch (error) {
    return refusalOf(error)
  }
}

const render = async (request: RenderRequest, onBand: (fraction: number) => void): Promise<ImageResult> => {
  const { width, height, format } = request
  const colours = request.reference && (await coloursOf(Buffer.from(request.reference)))
  if (colours && 'kind' in colours) return colours
  const onRow = (fraction: number) => onBand(fraction * drawingShare)
  const pixels = renderImage(colours ? { ...request, colours } : request, onRow)
  const image = sharp(pixels, { raw: { width, height, channels: 3 } }).timeout(timeout)
  const texts = { Software: 'Velro', Comment: renderedBy }
  const encoded =
    format === 'png'
      ? withPngText(await image.png({ compressionLevel: 6 }).toBuffer(), renderedXmp, texts)
      : await image.withXmp(renderedXmp).webp({ quality: 90, effort: 3 }).toBuffer()
  onBand(1)
  return { kind: 'render', bytes: toTransferable(encoded) }
}

const hashedBytes = 1_048_576

/** Reads the shared memory in place: nothing is decoded, and the video is copied only where its bytes change. */
const inspectVideo = (bytes: Uint8Array, madeBy: DigitalSource | undefined): ImageResult => {
  const video = readVideo(bytes)
  if ('refused' in video) return { kind: 'video_refused', reason: video.refused }
  const { header, layout } = video
  const stored = toStoredVideo(bytes, layout, madeBy)
  const hash = createHash('sha256')
  // Copied in slices, because the hash does not read shared memory.
  for (let at = 0; at < stored.length; at += hashedBytes)
    hash.update(toTransferable(stored.subarray(at, at + hashedBytes)))
  const inspected = { ...header, sha256: hash.digest('hex') }
  return stored === bytes
    ? { kind: 'inspect_video', video: inspected }
    : { kind: 'inspect_video', video: { ...inspected, bytes: stored } }
}

const perform = async (work: ImageWork, onBand: (fraction: number) => void): Promise<ImageResult> => {
  if (work.kind === 'render') return render(work.request, onBand)
  if (work.kind === 'inspect_video') return inspectVideo(work.bytes, work.madeBy)
  // Copied: the input must not change while it is decoded, and the codecs do not read shared memory.
  const bytes = Buffer.from(work.bytes)
  return work.kind === 'inspect' ? inspect(bytes, work.madeBy) : thumbnail(bytes, work.edge, work.madeBy)
}

/** The bytes that a task made; undefined where the input is stored as it is. */
const madeBytes = (result: ImageResult): Uint8Array | undefined => {
  if (result.kind === 'inspect') return result.image.bytes
  if (result.kind === 'inspect_video') return result.video.bytes
  return 'bytes' in result ? result.bytes : undefined
}

/** Smallest step of progress that is reported. Each report is a message to the main thread. */
const progressStep = 0.05

self.onmessage = async ({ data: { id, work, cancelled } }: MessageEvent<WorkMessage<ImageWork>>) => {
  let reported = 0
  const onBand = (fraction: number) => {
    if (cancelled !== undefined && Atomics.load(cancelled, 0) !== 0) throw new Aborted()
    if (fraction < 1 && fraction - reported < progressStep) return
    reported = fraction
    self.postMessage({ id, progress: fraction } satisfies ResultMessage<ImageResult>)
  }
  try {
    const result = await atLowPriority(() => perform(work, onBand))
    const made = madeBytes(result)
    const transfer = made === undefined ? [] : [made.buffer as ArrayBuffer]
    self.postMessage({ id, result } satisfies ResultMessage<ImageResult>, transfer)
  } catch (error) {
    const message = error instanceof Error ? error.message || error.name : 'An image task failed'
    self.postMessage({ id, error: message } satisfies ResultMessage<ImageResult>)
  }
}
