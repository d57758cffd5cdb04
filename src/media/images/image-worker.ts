import { Buffer } from 'node:buffer'
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { platform, setPriority } from 'node:os'
import sharp from 'sharp'
import type { ResultMessage, WorkMessage } from '../../platform/worker-pool.ts'
import { renderImage } from '../../providers/local/renderer.ts'
import { imageLimits, readImageHeader } from '../formats/image-format.ts'
import { readVideoHeader } from '../formats/video-format.ts'
import { type ImageResult, type ImageWork, imageTaskMs, type RenderRequest, renderedBy } from './images.ts'
import { refusePngData, withPngText } from './png.ts'

/** One worker thread of the image pool. Images are decoded, rendered and encoded only here; videos are inspected. */
declare const self: Worker

// One image at a time, on one codec thread, and no cache between images.
sharp.concurrency(1)
sharp.cache(false)

/**
 * Image work runs at a lower CPU priority (a nice value) than the threads that answer requests. Linux only: elsewhere the
 * priority is that of the whole process. Degrades: where lowering is not permitted, image work runs at normal priority.
 */
const niceValue = 10
const hasThreadPriority = platform() === 'linux' && existsSync('/proc/self/task')
/** The codecs start short-lived threads that do not inherit this thread's priority, so it is set again at this interval. */
const reniceEveryMs = 10

const reniceCodecThreads = () => {
  for (const task of readdirSync('/proc/self/task')) {
    try {
      const name = readFileSync(`/proc/self/task/${task}/comm`, 'utf8')
      if (name.startsWith('libvips')) setPriority(Number(task), niceValue)
    } catch {
      // The thread has ended, or the change is not permitted.
    }
  }
}

try {
  if (hasThreadPriority) setPriority(niceValue)
} catch {}

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

/** A decoder for untrusted bytes. Call it only after `readImageHeader` has accepted them. */
const decoder = (bytes: Buffer) =>
  sharp(bytes, { failOn: 'warning', limitInputPixels: imageLimits.pixels, sequentialRead: true }).timeout(timeout)

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

const inspect = async (bytes: Buffer): Promise<ImageResult> => {
  const header = readImageHeader(bytes)
  if ('refused' in header) return refused(header.refused)
  try {
    const { width, height, format, pages = 1, autoOrient } = await decoder(bytes).metadata()
    if (pages !== 1) return refused('animated')
    if (format !== header.type || width !== header.width || height !== header.height) return refused('damaged')
    const reason = header.type === 'png' ? await refusePngData(bytes) : undefined
    if (reason !== undefined) return refused(reason)
    // Every pixel contributes to this 4 × 4 image, so every pixel is decoded.
    await decoder(bytes).resize({ width: 4, height: 4, fit: 'fill', fastShrinkOnLoad: false }).raw().toBuffer()
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    return { kind: 'inspect', image: { type: header.type, width: autoOrient.width, height: autoOrient.height, sha256 } }
  } catch (error) {
    return refusalOf(error)
  }
}

const thumbnail = async (bytes: Buffer, edge: number): Promise<ImageResult> => {
  const header = readImageHeader(bytes)
  if ('refused' in header) return refused(header.refused)
  try {
    const reason = header.type === 'png' ? await refusePngData(bytes) : undefined
    if (reason !== undefined) return refused(reason)
    const { data, info } = await decoder(bytes)
      .autoOrient()
      .resize({ width: edge, height: edge, fit: 'inside', withoutEnlargement: true })
      .webp({ quality: 80, effort: 3 })
      .toBuffer({ resolveWithObject: true })
    return { kind: 'thumbnail', bytes: toTransferable(data), width: info.width, height: info.height }
  } catch (error) {
    return refusalOf(error)
  }
}

const xmp = `<?xpacket begin="\uFEFF" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" xmp:CreatorTool="Velro local/procedural"><dc:description><rdf:Alt><rdf:li xml:lang="x-default">${renderedBy}</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>`

/** The share of drawing in the progress of a render; the rest is encoding. */
const drawingShare = 0.9

/** The pixels of an image scaled to 32 × 32, as a sample of its colours; or its refusal. */
const coloursOf = async (bytes: Buffer): Promise<Uint8Array | Refused> => {
  const header = readImageHeader(bytes)
  if ('refused' in header) return refused(header.refused)
  try {
    const small = decoder(bytes).flatten({ background: '#808080' }).toColourspace('srgb')
    return await small.resize({ width: 32, height: 32, fit: 'fill', kernel: 'cubic' }).raw().toBuffer()
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
  const image = sharp(pixels, { raw: { width, height, channels: 3 } })
    .withXmp(xmp)
    .timeout(timeout)
  const encoded =
    format === 'png'
      ? withPngText(await image.png({ compressionLevel: 6 }).toBuffer(), { Software: 'Velro', Comment: renderedBy })
      : await image.webp({ quality: 90, effort: 3 }).toBuffer()
  onBand(1)
  return { kind: 'render', bytes: toTransferable(encoded) }
}

const hashedBytes = 1_048_576

/** Reads the shared memory in place: nothing is decoded, and a copy would double the memory of a video. */
const inspectVideo = (bytes: Uint8Array): ImageResult => {
  const header = readVideoHeader(bytes)
  if ('refused' in header) return { kind: 'video_refused', reason: header.refused }
  const hash = createHash('sha256')
  // Copied in slices, because the hash does not read shared memory.
  for (let at = 0; at < bytes.length; at += hashedBytes)
    hash.update(toTransferable(bytes.subarray(at, at + hashedBytes)))
  return { kind: 'inspect_video', video: { ...header, sha256: hash.digest('hex') } }
}

const perform = async (work: ImageWork, onBand: (fraction: number) => void): Promise<ImageResult> => {
  if (work.kind === 'render') return render(work.request, onBand)
  if (work.kind === 'inspect_video') return inspectVideo(work.bytes)
  // Copied: the input must not change while it is decoded, and the codecs do not read shared memory.
  const bytes = Buffer.from(work.bytes)
  return work.kind === 'inspect' ? inspect(bytes) : thumbnail(bytes, work.edge)
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
    const transfer = 'bytes' in result ? [result.bytes.buffer as ArrayBuffer] : []
    self.postMessage({ id, result } satisfies ResultMessage<ImageResult>, transfer)
  } catch (error) {
    const message = error instanceof Error ? error.message || error.name : 'An image task failed'
    self.postMessage({ id, error: message } satisfies ResultMessage<ImageResult>)
  }
}
