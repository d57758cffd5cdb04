import type { Deadline } from '../../kit/deadline.ts'
import { maxSliceBytes, yieldToEventLoop } from '../../kit/pause.ts'
import { createWorkerPool } from '../../platform/worker-pool.ts'
import { type ImageRefusal, type ImageType, imageLimits } from '../formats/image-format.ts'
import { type VideoHeader, type VideoRefusal, videoLimits } from '../formats/video-format.ts'

export type InspectedImage = {
  readonly type: ImageType
  /** As it is shown, after the orientation that its metadata tells. */
  readonly width: number
  readonly height: number
  readonly sha256: string
}

export type InspectedVideo = VideoHeader & { readonly sha256: string }

export const thumbnailEdges = [256, 512, 1024] as const
export type ThumbnailEdge = (typeof thumbnailEdges)[number]
export type Thumbnail = { readonly bytes: Uint8Array; readonly width: number; readonly height: number }

/** Pixels a side of what is rendered. */
export const renderLimits = { least: 64, most: 2048 } as const

export type RenderRequest = {
  readonly prompt: string
  readonly negative_prompt?: string
  /** A whole number. */
  readonly seed: number
  readonly width: number
  readonly height: number
  readonly format: 'png' | 'webp'
  /** A picture to take the colours from. */
  readonly reference?: Uint8Array
}

/** What the metadata of a rendered picture says of it: `Comment` of a PNG, the XMP description of both. */
export const renderedBy = 'Velro local/procedural: made procedurally from the prompt and the seed, without a model'

export type ImageWork =
  | { readonly kind: 'inspect'; readonly bytes: Uint8Array }
  | { readonly kind: 'inspect_video'; readonly bytes: Uint8Array }
  | { readonly kind: 'thumbnail'; readonly bytes: Uint8Array; readonly edge: ThumbnailEdge }
  | { readonly kind: 'render'; readonly request: RenderRequest }
export type ImageResult =
  | { readonly kind: 'inspect'; readonly image: InspectedImage }
  | { readonly kind: 'inspect_video'; readonly video: InspectedVideo }
  | ({ readonly kind: 'thumbnail' } & Thumbnail)
  | { readonly kind: 'render'; readonly bytes: Uint8Array }
  | { readonly kind: 'refused'; readonly reason: ImageRefusal }
  | { readonly kind: 'video_refused'; readonly reason: VideoRefusal }

/** Raised for bytes that are not taken for a picture. */
export class ImageRefused extends Error {
  override readonly name = 'ImageRefused'
  readonly reason: ImageRefusal
  constructor(reason: ImageRefusal) {
    super(`Not a picture that is taken: ${reason}`)
    this.reason = reason
  }
}

/** Raised for bytes that are not taken for a film. */
export class VideoRefused extends Error {
  override readonly name = 'VideoRefused'
  readonly reason: VideoRefusal
  constructor(reason: VideoRefusal) {
    super(`Not a film that is taken: ${reason}`)
    this.reason = reason
  }
}

export type ImageOptions = {
  /** Calls it off; the promise rejects with the signal's reason at once, and what waits for a worker is dropped. */
  readonly signal?: AbortSignal
}

export type RenderOptions = ImageOptions & {
  /** Hears fractions from 0 to 1. */
  readonly onProgress?: (fraction: number) => void
}

/**
 * Work on pictures and films, in threads of its own.
 *
 * Promise: the event loop is not held up, however large the bytes; what strangers send is decoded only when its header
 * is within the limits, and never for longer than `imageTaskMs`; work that fails, or takes its worker with it, is one
 * rejected promise. Rejects with `ImageRefused` or `VideoRefused`, `PoolBusy` at once when as much waits as may, `DeadlinePassed`,
 * `WorkTimedOut`, or an error that tells of a fault of ours.
 */
export type Images = {
  /** Decodes every pixel once: what passes can be shown. */
  inspect(bytes: Uint8Array, deadline: Deadline, options?: ImageOptions): Promise<InspectedImage>
  /** Reads how it is built, from the first byte to the last, and decodes nothing: see `readVideoHeader`. */
  inspectVideo(bytes: Uint8Array, deadline: Deadline, options?: ImageOptions): Promise<InspectedVideo>
  /** WebP within `edge` × `edge`, upright, without metadata; never larger than the picture is. */
  thumbnail(bytes: Uint8Array, edge: ThumbnailEdge, deadline: Deadline, options?: ImageOptions): Promise<Thumbnail>
  /** The same request gives the same bytes, as long as the versions are the same. Throws a `RangeError` for a size that is none. */
  render(request: RenderRequest, deadline: Deadline, options?: RenderOptions): Promise<Uint8Array>
  /** How much waits for a worker. */
  readonly queued: number
  close(): Promise<void>
}

/** Longest that the codecs may work on one picture, and a little more, after which the worker is ended. */
export const imageTaskMs = 20_000
const workLimitMs = imageTaskMs + 10_000

/** Memory that a worker sees too: copied there piece by piece, since a large thing at once would be felt by everybody. */
const share = async (bytes: Uint8Array): Promise<Uint8Array> => {
  if (bytes.buffer instanceof SharedArrayBuffer) return bytes
  const shared = new Uint8Array(new SharedArrayBuffer(bytes.byteLength))
  for (let at = 0; at < bytes.byteLength; at += maxSliceBytes) {
    if (at > 0) await yieldToEventLoop()
    shared.set(bytes.subarray(at, at + maxSliceBytes), at)
  }
  return shared
}

const isSide = (value: number) => Number.isInteger(value) && value >= renderLimits.least && value <= renderLimits.most

/** Workers start with the first picture: a process that has none to do pays nothing for them. */
export const createImages = ({ workers, maxQueued }: { workers: number; maxQueued: number }): Images => {
  const pool = createWorkerPool<ImageWork, ImageResult>({
    url: new URL('./image-worker.ts', import.meta.url),
    size: workers,
    maxQueued,
    workLimitMs,
    whenNeeded: true,
  })
  const run = async <K extends ImageWork['kind']>(
    work: ImageWork & { kind: K },
    deadline: Deadline,
    { signal = new AbortController().signal, onProgress }: RenderOptions = {},
  ) => {
    const result = await pool.run(work, deadline, { signal, onProgress })
    if (result.kind === 'refused') throw new ImageRefused(result.reason)
    if (result.kind === 'video_refused') throw new VideoRefused(result.reason)
    if (result.kind !== work.kind) throw new TypeError('The worker answered another question')
    return result as Extract<ImageResult, { kind: K }>
  }
  const given = (bytes: Uint8Array) => {
    if (bytes.byteLength === 0) throw new ImageRefused('empty')
    if (bytes.byteLength > imageLimits.bytes) throw new ImageRefused('too_many_bytes')
    return share(bytes)
  }
  return {
    inspect: async (bytes, deadline, options) =>
      (await run({ kind: 'inspect', bytes: await given(bytes) }, deadline, options)).image,
    inspectVideo: async (bytes, deadline, options) => {
      if (bytes.byteLength === 0) throw new VideoRefused('empty')
      if (bytes.byteLength > videoLimits.bytes) throw new VideoRefused('too_many_bytes')
      return (await run({ kind: 'inspect_video', bytes: await share(bytes) }, deadline, options)).video
    },
    thumbnail: async (bytes, edge, deadline, options) => {
      const { kind, ...made } = await run({ kind: 'thumbnail', bytes: await given(bytes), edge }, deadline, options)
      return made
    },
    render: async (request, deadline, options) => {
      if (!isSide(request.width) || !isSide(request.height) || !Number.isSafeInteger(request.seed)) {
        throw new RangeError('Not a size or a seed that can be rendered')
      }
      const { reference, ...rest } = request
      const shared = reference && (await given(reference))
      const work = { kind: 'render', request: shared ? { ...rest, reference: shared } : rest } as const
      return (await run(work, deadline, options)).bytes
    },
    get queued() {
      return pool.queued
    },
    close: pool.close,
  }
}
