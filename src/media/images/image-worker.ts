import { Buffer } from 'node:buffer'
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { platform, setPriority } from 'node:os'
import sharp from 'sharp'
import type { ResultMessage, WorkMessage } from '../../platform/worker-pool.ts'
import { drawPicture } from '../../providers/local/picture.ts'
import { imageLimits, readImageHeader } from '../formats/image-format.ts'
import { readVideoHeader } from '../formats/video-format.ts'
import { type ImageResult, type ImageWork, imageTaskMs, type RenderRequest, renderedBy } from './images.ts'
import { refusePngData, withPngText } from './png.ts'

/** One thread of the image pool: pictures are decoded, drawn and encoded here and nowhere else; films are looked at. */
declare const self: Worker

// One picture at a time on one thread, and nothing of it kept when it is done.
sharp.concurrency(1)
sharp.cache(false)

/**
 * Whoever waits for an answer comes before whoever waits for a picture. Only on Linux is this of a thread and not of the
 * process; where it is not allowed, pictures are made all the same.
 */
const patience = 10
const yieldsToOthers = platform() === 'linux' && existsSync('/proc/self/task')
/** For the codecs' own threads, which come and go, and are as urgent as whoever starts them: not this one. */
const yieldEveryMs = 10

const haveThreadsYield = () => {
  for (const task of readdirSync('/proc/self/task')) {
    try {
      const name = readFileSync(`/proc/self/task/${task}/comm`, 'utf8')
      if (name.startsWith('libvips')) setPriority(Number(task), patience)
    } catch {
      // It has ended meanwhile, or it is not allowed.
    }
  }
}

try {
  if (yieldsToOthers) setPriority(patience)
} catch {}

const atLowPriority = async <T>(work: () => Promise<T>): Promise<T> => {
  if (!yieldsToOthers) return work()
  const timer = setInterval(haveThreadsYield, yieldEveryMs)
  try {
    return await work()
  } finally {
    clearInterval(timer)
    haveThreadsYield()
  }
}

/** Raised between two bands of rows when nobody wants the picture any more. */
class Aborted extends Error {
  override readonly name = 'CalledOff'
}

const timeout = { seconds: Math.ceil(imageTaskMs / 1_000) }

/** A picture from a stranger, once its header was found to be in order. */
const decoder = (bytes: Buffer) =>
  sharp(bytes, { failOn: 'warning', limitInputPixels: imageLimits.pixels, sequentialRead: true }).timeout(timeout)

type Refused = ImageResult & { kind: 'refused' }
const refused = (reason: Refused['reason']): Refused => ({ kind: 'refused', reason })

/** What a codec says of a file that ends too early, or is not what its header told. */
const refusalOf = (error: unknown): Refused => {
  const words = error instanceof Error ? error.message : ''
  if (/timeout/i.test(words)) throw error
  return refused(
    /premature|truncat|unexpected end|not enough data|end of (?:file|stream)/i.test(words) ? 'truncated' : 'damaged',
  )
}

/** A copy with nothing else in its memory, to be handed over: what the codecs give may not leave the thread. */
const own = (bytes: Uint8Array): Uint8Array<ArrayBuffer> => new Uint8Array(bytes)

const inspect = async (bytes: Buffer): Promise<ImageResult> => {
  const header = readImageHeader(bytes)
  if ('refused' in header) return refused(header.refused)
  try {
    const { width, height, format, pages = 1, autoOrient } = await decoder(bytes).metadata()
    if (pages !== 1) return refused('animated')
    if (format !== header.type || width !== header.width || height !== header.height) return refused('damaged')
    const reason = header.type === 'png' ? await refusePngData(bytes) : undefined
    if (reason !== undefined) return refused(reason)
    // Every pixel has a part in these few, so that every pixel is decoded.
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
    return { kind: 'thumbnail', bytes: own(data), width: info.width, height: info.height }
  } catch (error) {
    return refusalOf(error)
  }
}

const xmp = `<?xpacket begin="\uFEFF" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" xmp:CreatorTool="Velro local/procedural"><dc:description><rdf:Alt><rdf:li xml:lang="x-default">${renderedBy}</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>`

/** Of the work of a picture, how much is drawing; the rest is encoding. */
const drawingShare = 0.9

/** The pixels of a picture, made so small that each stands for a part of it; or that it is refused. */
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
  const pixels = drawPicture(colours ? { ...request, colours } : request, onRow)
  const picture = sharp(pixels, { raw: { width, height, channels: 3 } })
    .withXmp(xmp)
    .timeout(timeout)
  const encoded =
    format === 'png'
      ? withPngText(await picture.png({ compressionLevel: 6 }).toBuffer(), { Software: 'Velro', Comment: renderedBy })
      : await picture.webp({ quality: 90, effort: 3 }).toBuffer()
  onBand(1)
  return { kind: 'render', bytes: own(encoded) }
}

const hashedBytes = 1_048_576

/** Read where it is, shared: a copy of a film would be as large as it, and nothing of it is decoded. */
const inspectVideo = (bytes: Uint8Array): ImageResult => {
  const header = readVideoHeader(bytes)
  if ('refused' in header) return { kind: 'video_refused', reason: header.refused }
  const hash = createHash('sha256')
  // Piece by piece, since what hashes does not read shared memory.
  for (let at = 0; at < bytes.length; at += hashedBytes) hash.update(own(bytes.subarray(at, at + hashedBytes)))
  return { kind: 'inspect_video', video: { ...header, sha256: hash.digest('hex') } }
}

const perform = async (work: ImageWork, onBand: (fraction: number) => void): Promise<ImageResult> => {
  if (work.kind === 'render') return render(work.request, onBand)
  if (work.kind === 'inspect_video') return inspectVideo(work.bytes)
  // A copy: what is decoded must not change meanwhile, and the codecs do not read shared memory.
  const bytes = Buffer.from(work.bytes)
  return work.kind === 'inspect' ? inspect(bytes) : thumbnail(bytes, work.edge)
}

/** Often enough to see it move; each costs the process a message. */
const progressStep = 0.05

self.onmessage = async ({ data: { id, work, cancelled } }: MessageEvent<WorkMessage<ImageWork>>) => {
  let told = 0
  const onBand = (fraction: number) => {
    if (cancelled !== undefined && Atomics.load(cancelled, 0) !== 0) throw new Aborted()
    if (fraction < 1 && fraction - told < progressStep) return
    told = fraction
    self.postMessage({ id, progress: fraction } satisfies ResultMessage<ImageResult>)
  }
  try {
    const result = await atLowPriority(() => perform(work, onBand))
    const transfer = 'bytes' in result ? [result.bytes.buffer as ArrayBuffer] : []
    self.postMessage({ id, result } satisfies ResultMessage<ImageResult>, transfer)
  } catch (error) {
    const words = error instanceof Error ? error.message || error.name : 'a picture failed'
    self.postMessage({ id, error: words } satisfies ResultMessage<ImageResult>)
  }
}
