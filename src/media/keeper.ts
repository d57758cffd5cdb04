import { Buffer } from 'node:buffer'
import type { Clock } from '../kit/clock.ts'
import { createDeadline } from '../kit/deadline.ts'
import { newId } from '../kit/id.ts'
import { type Images, thumbnailEdges } from '../platform/images.ts'
import type { Log } from '../platform/log.ts'
import { type ObjectStore, objectKey } from '../platform/objects.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type { MediaStore } from './store.ts'

/** For looking at one picture or film, or making it smaller, the wait for a worker included. */
const pieceMs = 60_000
/** Far more than there can be between claiming an object and referring to it. */
const claimMs = 3_600_000
const maxSwept = 500

/** A picture that can be shown, with smaller ones of it; or a film, of which there are none. */
export type Made = {
  readonly bytes: Uint8Array
  readonly contentType: string
  readonly width: number
  readonly height: number
  /** Null for a picture. */
  readonly durationMs: number | null
  readonly sha256: string
  readonly thumbnails: readonly { readonly variant: string; readonly bytes: Uint8Array }[]
}

/**
 * What was made, on its way to where it is kept.
 *
 * Promise: whoever reads a media row finds its bytes and those of every variant. They are claimed, put, and then referred to
 * in the transaction that shows them; what comes to nothing in between is swept away after an hour.
 */
export const createKeeper = ({
  store,
  images,
  objects,
  clock,
  log,
}: {
  store: Pick<MediaStore, 'claim' | 'insert' | 'listAbandoned' | 'letGo'>
  images: Pick<Images, 'inspect' | 'inspectVideo' | 'thumbnail'>
  objects: Pick<ObjectStore, 'put' | 'delete'>
  clock: Clock
  log: Log
}) => {
  const piece = () => createDeadline(clock, pieceMs)
  const put = async ({ bytes, contentType, sha256, thumbnails }: Made) => {
    await Promise.all([
      objects.put(objectKey(sha256), bytes, contentType),
      ...thumbnails.map((small) => objects.put(objectKey(sha256, small.variant), small.bytes, 'image/webp')),
    ])
  }
  const remove = async (sha256: string) => {
    for (const edge of thumbnailEdges) await objects.delete(objectKey(sha256, String(edge)))
    await objects.delete(objectKey(sha256))
  }

  const inspectPicture = async (bytes: Uint8Array, signal: AbortSignal): Promise<Made> => {
    const { type, width, height, sha256 } = await images.inspect(bytes, piece())
    const thumbnails: { variant: string; bytes: Uint8Array }[] = []
    for (const edge of thumbnailEdges) {
      signal.throwIfAborted()
      const small = await images.thumbnail(bytes, edge, piece())
      thumbnails.push({ variant: String(edge), bytes: small.bytes })
    }
    return { bytes, contentType: `image/${type}`, width, height, durationMs: null, sha256, thumbnails }
  }
  const inspectFilm = async (bytes: Uint8Array): Promise<Made> => {
    const { type, ...told } = await images.inspectVideo(bytes, piece())
    return { bytes, contentType: `video/${type}`, ...told, thumbnails: [] }
  }

  return {
    /** Throws `ImageRefused`, or `VideoRefused`, for what is not of its kind. */
    inspect: (bytes: Uint8Array, signal: AbortSignal, kind: 'image' | 'video' = 'image'): Promise<Made> =>
      kind === 'video' ? inspectFilm(bytes) : inspectPicture(bytes, signal),

    keep: async (things: readonly Made[]): Promise<void> => {
      await store.claim(
        things.map(({ sha256, contentType, bytes, width, height, durationMs }) => ({
          sha256,
          content_type: contentType,
          bytes: Buffer.byteLength(bytes),
          width,
          height,
          duration_ms: durationMs,
        })),
      )
      for (const thing of things) await put(thing)
    },

    publish: async (
      tx: TransactionSql,
      { generationId, ownerId }: { generationId: string; ownerId: string },
      things: readonly Made[],
    ): Promise<void> => {
      const rows = things.map(({ sha256 }, position) => ({
        id: newId(),
        generation_id: generationId,
        owner_id: ownerId,
        position,
        sha256,
      }))
      await store.insert(tx, rows)
    },

    /** Takes away what came to nothing; what cannot be taken away now is tried again next time. */
    sweep: async (): Promise<void> => {
      for (const sha256 of await store.listAbandoned(claimMs, maxSwept)) {
        await store
          .letGo(sha256, claimMs, () => remove(sha256))
          .catch((error) => log.warn({ event: 'media.not_swept', sha256, error }, 'an object could not be removed'))
      }
    },
  }
}

export type Keeper = ReturnType<typeof createKeeper>
