import { maxSliceBytes, yieldToEventLoop } from '../../kit/async.ts'
import type { Deadline } from '../../kit/deadline.ts'
import { createWorkerPool, type WorkerPool } from '../../platform/worker-pool.ts'
import type { DigitalSource } from '../formats/digital-source.ts'
import { type ImageRefusal, type ImageType, imageLimits } from '../formats/image-format.ts'
import { type VideoHeader, type VideoRefusal, videoLimits } from '../formats/video-format.ts'

export type InspectedImage = {
  readonly type: ImageType
  /** Display size, after the orientation in its metadata. */
  readonly width: number
  readonly height: number
  /** Of the bytes to store. */
  readonly sha256: string
  /** The bytes to store; absent when they are the bytes given. */
  readonly bytes?: Uint8Array
}

export type InspectedVideo = VideoHeader & Pick<InspectedImage, 'sha256' | 'bytes'>

export const thumbnailEdges = [256, 512, 1024] as const
export type ThumbnailEdge = (typeof thumbnailEdges)[number]
export type Thumbnail = { readonly bytes: Uint8Array; readonly width: number; readonly height: number }

/** Limits of the width and height of a rendered image, in pixels. */
export const renderLimits = { minSide: 64, maxSide: 2048 } as const

export type RenderRequest = {
  readonly prompt: string
  readonly negative_prompt?: string
  /** A safe integer. */
  readonly seed: number
  readonly width: number
  readonly height: number
  readonly format: 'png' | 'webp'
  /** An image whose colours the rendered image takes. */
  readonly reference?: Uint8Array
}

/** Written into the metadata of every rendered image: the `Comment` text of a PNG, and the XMP description of PNG and WebP. */
export const renderedBy = 'Velro local/procedural: made procedurally from the prompt and the seed, without a model'

type GivenMedia = { readonly bytes: Uint8Array; readonly madeBy: DigitalSource | undefined }

export type ImageWork =
  | ({ readonly kind: 'inspect' } & GivenMedia)
  | ({ readonly kind: 'inspect_video' } & GivenMedia)
  | ({ readonly kind: 'thumbnail'; readonly edge: ThumbnailEdge } & GivenMedia)
  | { readonly kind: 'render'; readonly request: RenderRequest }
export type ImageResult =
  | { readonly kind: 'inspect'; readonly image: InspectedImage }
  | { readonly kind: 'inspect_video'; readonly video: InspectedVideo }
  | ({ readonly kind: 'thumbnail' } & Thumbnail)
  | { readonly kind: 'render'; readonly bytes: Uint8Array }
  | { readonly kind: 'refused'; readonly reason: ImageRefusal }
  | { readonly kind: 'video_refused'; readonly reason: VideoRefusal }

/** Raised for bytes that are refused as an image. */
export class ImageRefused extends Error {
  override readonly name = 'ImageRefused'
  readonly reason: ImageRefusal
  constructor(reason: ImageRefusal) {
    super(`The image was refused: ${reason}`)
    this.reason = reason
  }
}

/** Raised for bytes that are refused as a video. */
export class VideoRefused extends Error {
  override readonly name = 'VideoRefused'
  readonly reason: VideoRefusal
  constructor(reason: VideoRefusal) {
    super(`The video was refused: ${reason}`)
    this.reason = reason
  }
}

export type ImageOptions = {
  /** Aborts the work: the promise rejects with the signal's reason at once, and work that waits for a worker is dropped. */
  readonly signal?: AbortSignal
}

export type InspectOptions = ImageOptions & {
  /** How the provider that delivered the bytes makes them; absent for an upload. Written where they do not say it. */
  readonly madeBy?: DigitalSource | undefined
}

export type RenderOptions = ImageOptions & {
  /** Called with the completed fraction, from 0 to 1. */
  readonly onProgress?: (fraction: number) => void
}

/**
 * Inspects, scales and renders images and inspects videos, on worker threads.
 *
 * Promise: the event loop is never blocked, however large the input. Untrusted bytes are decoded only when their header is
 * within the limits, and for at most `imageTaskMs`. Work that fails or crashes its worker rejects its own promise and no
 * other. Rejects with `ImageRefused`, `VideoRefused`, `PoolBusy` (at once, when the queue is full), `DeadlinePassed`,
 * `WorkTimedOut`, or an error that is a fault of the server.
 */
export type Images = {
  /**
   * Decodes every pixel once: an image that passes can be displayed. What follows the image and its private metadata are
   * not among the bytes to store; see `toStoredImage`.
   */
  inspect(bytes: Uint8Array, deadline: Deadline, options?: InspectOptions): Promise<InspectedImage>
  /** Checks the structure of every byte and decodes nothing; see `readVideo` and `toStoredVideo`. */
  inspectVideo(bytes: Uint8Array, deadline: Deadline, options?: InspectOptions): Promise<InspectedVideo>
  /**
   * Scales to a WebP in sRGB that fits `edge` × `edge` and is upright; never enlarges. Its only metadata is XMP that names
   * the digital source type, where the image has a mark of it.
   */
  thumbnail(bytes: Uint8Array, edge: ThumbnailEdge, deadline: Deadline, options?: InspectOptions): Promise<Thumbnail>
  /**
   * Deterministic for the same versions of Velro and sharp: equal requests give equal bytes. Throws a `RangeError` for a size
   * or seed out of range.
   */
  render(request: RenderRequest, deadline: Deadline, options?: RenderOptions): Promise<Uint8Array>
  /** Number of tasks that wait for a worker. */
  readonly queued: number
  readonly threads: Pick<WorkerPool<unknown, unknown>, 'size' | 'busy' | 'queued'>
  close(): Promise<void>
}

/**
 * Time limit of the codecs for one image. The worker is terminated after `workLimitMs`, which leaves them room to stop by
 * themselves.
 */
export const imageTaskMs = 20_000
const workLimitMs = imageTaskMs + 10_000

/** Copies bytes to memory shared with the workers, in slices, so that a large copy does not block the event loop. */
const toShared = async (bytes: Uint8Array): Promise<Uint8Array> => {
  if (bytes.buffer instanceof SharedArrayBuffer) return bytes
  const shared = new Uint8Array(new SharedArrayBuffer(bytes.byteLength))
  for (let at = 0; at < bytes.byteLength; at += maxSliceBytes) {
    if (at > 0) await yieldToEventLoop()
    shared.set(bytes.subarray(at, at + maxSliceBytes), at)
  }
  return shared
}

const isSide = (value: number) =>
  Number.isInteger(value) && value >= renderLimits.minSide && value <= renderLimits.maxSide

/** Workers start with the first task, so a process without image work pays nothing for them. */
export const createImages = ({ workers, maxQueued }: { workers: number; maxQueued: number }): Images => {
  const pool = createWorkerPool<ImageWork, ImageResult>({
    url: new URL('./image-worker.ts', import.meta.url),
    size: workers,
    maxQueued,
    workLimitMs,
    lazy: true,
  })
  const run = async <K extends ImageWork['kind']>(
    work: ImageWork & { kind: K },
    deadline: Deadline,
    { signal = new AbortController().signal, onProgress }: RenderOptions = {},
  ) => {
    const result = await pool.run(work, deadline, { signal, onProgress })
    if (result.kind === 'refused') throw new ImageRefused(result.reason)
    if (result.kind === 'video_refused') throw new VideoRefused(result.reason)
    if (result.kind !== work.kind) throw new TypeError('The worker returned the result of another kind of task')
    return result as Extract<ImageResult, { kind: K }>
  }
  const checkedImage = (bytes: Uint8Array) => {
    if (bytes.byteLength === 0) throw new ImageRefused('empty')
    if (bytes.byteLength > imageLimits.bytes) throw new ImageRefused('too_many_bytes')
    return toShared(bytes)
  }
  return {
    inspect: async (bytes, deadline, options) =>
      (await run({ kind: 'inspect', bytes: await checkedImage(bytes), madeBy: options?.madeBy }, deadline, options))
        .image,
    inspectVideo: async (bytes, deadline, options) => {
      if (bytes.byteLength === 0) throw new VideoRefused('empty')
      if (bytes.byteLength > videoLimits.bytes) throw new VideoRefused('too_many_bytes')
      const work = { kind: 'inspect_video', bytes: await toShared(bytes), madeBy: options?.madeBy } as const
      return (await run(work, deadline, options)).video
    },
    thumbnail: async (bytes, edge, deadline, options) => {
      const { kind, ...thumbnail } = await run(
        { kind: 'thumbnail', bytes: await checkedImage(bytes), edge, madeBy: options?.madeBy },
        deadline,
        options,
      )
      return thumbnail
    },
    render: async (request, deadline, options) => {
      if (!isSide(request.width) || !isSide(request.height) || !Number.isSafeInteger(request.seed)) {
        throw new RangeError(
          `Cannot render: width and height must be integers from ${renderLimits.minSide} to ${renderLimits.maxSide}, the seed a safe integer`,
        )
      }
      const { reference, ...rest } = request
      const shared = reference && (await checkedImage(reference))
      const work = { kind: 'render', request: shared ? { ...rest, reference: shared } : rest } as const
      return (await run(work, deadline, options)).bytes
    },
    get queued() {
      return pool.queued
    },
    threads: pool,
    close: pool.close,
  }
}
