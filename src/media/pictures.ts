import { Buffer } from 'node:buffer'
import type { Clock } from '../kit/clock.ts'
import { createDeadline } from '../kit/deadline.ts'
import { newId } from '../kit/id.ts'
import { type Images, type ImageType, thumbnailEdges } from '../platform/images.ts'
import type { Log } from '../platform/log.ts'
import { type ObjectStore, objectKey } from '../platform/objects.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type { MediaStore } from './store.ts'

/** For looking at one picture or making it smaller, the wait for a worker included. */
const pieceMs = 60_000
/** Far more than there can be between claiming an object and referring to it. */
const claimMs = 3_600_000
const maxSwept = 500

/** A picture that can be shown, and smaller ones of it. */
export type Picture = {
  readonly bytes: Uint8Array
  readonly type: ImageType
  readonly width: number
  readonly height: number
  readonly sha256: string
  readonly thumbnails: readonly { readonly variant: string; readonly bytes: Uint8Array }[]
}

/**
 * Pictures on their way to where they are kept.
 *
 * Promise: whoever reads a media row finds its bytes and those of every variant. They are claimed, put, and then referred to
 * in the transaction that shows them; what comes to nothing in between is swept away after an hour.
 */
export const createPictures = ({
  store,
  images,
  objects,
  clock,
  log,
}: {
  store: Pick<MediaStore, 'claim' | 'insert' | 'listAbandoned' | 'letGo'>
  images: Pick<Images, 'inspect' | 'thumbnail'>
  objects: Pick<ObjectStore, 'put' | 'delete'>
  clock: Clock
  log: Log
}) => {
  const piece = () => createDeadline(clock, pieceMs)
  const put = async ({ bytes, type, sha256, thumbnails }: Picture) => {
    await Promise.all([
      objects.put(objectKey(sha256), bytes, `image/${type}`),
      ...thumbnails.map((small) => objects.put(objectKey(sha256, small.variant), small.bytes, 'image/webp')),
    ])
  }
  const remove = async (sha256: string) => {
    for (const edge of thumbnailEdges) await objects.delete(objectKey(sha256, String(edge)))
    await objects.delete(objectKey(sha256))
  }

  return {
    /** Throws `ImageRefused` for what is none. */
    inspect: async (bytes: Uint8Array, signal: AbortSignal): Promise<Picture> => {
      const { type, width, height, sha256 } = await images.inspect(bytes, piece())
      const thumbnails: { variant: string; bytes: Uint8Array }[] = []
      for (const edge of thumbnailEdges) {
        signal.throwIfAborted()
        const small = await images.thumbnail(bytes, edge, piece())
        thumbnails.push({ variant: String(edge), bytes: small.bytes })
      }
      return { bytes, type, width, height, sha256, thumbnails }
    },

    keep: async (pictures: readonly Picture[]): Promise<void> => {
      await store.claim(
        pictures.map(({ sha256, type, bytes, width, height }) => ({
          sha256,
          content_type: `image/${type}`,
          bytes: Buffer.byteLength(bytes),
          width,
          height,
        })),
      )
      for (const picture of pictures) await put(picture)
    },

    publish: async (
      tx: TransactionSql,
      { generationId, ownerId }: { generationId: string; ownerId: string },
      pictures: readonly Picture[],
    ): Promise<void> => {
      const rows = pictures.map(({ sha256 }, position) => ({
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

export type Pictures = ReturnType<typeof createPictures>
