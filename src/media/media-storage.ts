import { Buffer } from 'node:buffer'
import type { Clock } from '../kit/clock.ts'
import { createDeadlines, type Deadline } from '../kit/deadline.ts'
import { newId } from '../kit/id.ts'
import type { Log } from '../platform/log.ts'
import { type ObjectStore, objectKey } from '../platform/objects.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type { DigitalSource } from './formats/digital-source.ts'
import { type Images, type InspectOptions, thumbnailEdges } from './images/images.ts'
import type { MediaStore } from './store.ts'

/** Limit for one step of the image workers (an inspection or one thumbnail), including the wait for a worker. */
const stepMs = 60_000
/** Age at which a claim expires: far longer than any time between `put` and `confirm`. */
const maxClaimAgeMs = 3_600_000
const orphansPerPage = 500
/** Deletions come in bursts: a scheduled sweep waits this long, so that one sweep serves the whole burst. */
const sweepDelayMs = 200

/**
 * Waits until every promise has settled, then throws the first failure. The caller's clean-up (deleting objects, releasing
 * a lock) therefore never runs while one of them is still in flight.
 */
const allSettledOrThrow = async (promises: readonly Promise<void>[]): Promise<void> => {
  for (const each of await Promise.allSettled(promises)) if (each.status === 'rejected') throw each.reason
}

const referenceVariant = String(Math.max(...thumbnailEdges))

/** An image with its thumbnails, or a video, which has no thumbnails. */
export type InspectedMedia = {
  /** Id of the claim that protects the object until `confirm`; a new one for each inspection, also of the same bytes. */
  readonly claimId: string
  readonly bytes: Uint8Array
  readonly contentType: string
  readonly width: number
  readonly height: number
  /** Null for an image. */
  readonly durationMs: number | null
  readonly sha256: string
  readonly thumbnails: readonly { readonly variant: string; readonly bytes: Uint8Array }[]
}

/** Raised by `confirm` when a claim expired before it was confirmed: the object may have been swept. */
export class ClaimLost extends Error {
  override readonly name = 'ClaimLost'
}

/** The owner of new media, and the generation it is an output of: null for an upload. */
export type MediaOwner = { readonly generationId: string | null; readonly ownerId: string }

/** Inspections: from given bytes to the bytes to store, and their thumbnails. */
const createInspections = (
  images: Pick<Images, 'inspect' | 'inspectVideo' | 'thumbnail'>,
  stepDeadline: () => Deadline,
) => {
  const inspectImage = async (given: Uint8Array, options: InspectOptions): Promise<InspectedMedia> => {
    const { type, width, height, sha256, bytes = given } = await images.inspect(given, stepDeadline(), options)
    const thumbnails: { variant: string; bytes: Uint8Array }[] = []
    for (const edge of thumbnailEdges) {
      const small = await images.thumbnail(bytes, edge, stepDeadline(), options)
      thumbnails.push({ variant: String(edge), bytes: small.bytes })
    }
    const contentType = `image/${type}`
    return { claimId: newId(), bytes, contentType, width, height, durationMs: null, sha256, thumbnails }
  }
  const inspectVideo = async (given: Uint8Array, options: InspectOptions): Promise<InspectedMedia> => {
    const { type, bytes = given, ...video } = await images.inspectVideo(given, stepDeadline(), options)
    return { claimId: newId(), bytes, contentType: `video/${type}`, ...video, thumbnails: [] }
  }
  return { inspectImage, inspectVideo }
}

/**
 * Stores generated and uploaded media, and deletes the objects that nothing refers to any more.
 *
 * Promise: for every media row that a transaction can read, the bytes of all its variants are stored. Objects are claimed,
 * then put, then confirmed in the transaction that inserts their media rows. Objects that have lost their last reference
 * (orphans) are deleted by the next sweep; objects of a process that was killed between `put` and `confirm` are deleted
 * when their claim expires, after an hour.
 * How it degrades: an object that cannot be deleted now is tried again by a later sweep. `close` waits for the deletion in
 * progress and leaves the remaining orphans to the next sweep of any instance.
 */
export const createMediaStorage = ({
  store,
  images,
  objects,
  clock,
  log,
}: {
  store: Pick<
    MediaStore,
    'claim' | 'confirm' | 'discard' | 'discardExpired' | 'insert' | 'listOrphans' | 'deleteOrphan' | 'postponeSweep'
  >
  images: Pick<Images, 'inspect' | 'inspectVideo' | 'thumbnail'>
  objects: Pick<ObjectStore, 'put' | 'delete' | 'open'>
  clock: Clock
  log: Log
}) => {
  const startDeadline = createDeadlines(clock)
  const stepDeadline = () => startDeadline(stepMs)
  const putVariants = ({ bytes, contentType, sha256, thumbnails }: InspectedMedia) =>
    allSettledOrThrow([
      objects.put(objectKey(sha256), bytes, contentType),
      ...thumbnails.map((small) => objects.put(objectKey(sha256, small.variant), small.bytes, 'image/webp')),
    ])
  const deleteVariants = (sha256: string) =>
    allSettledOrThrow([undefined, ...thumbnailEdges].map((edge) => objects.delete(objectKey(sha256, edge?.toString()))))
  const claimIdsOf = (media: readonly InspectedMedia[]) => media.map(({ claimId }) => claimId)

  const deleteOrphans = async (): Promise<void> => {
    const orphans = await store.listOrphans(orphansPerPage)
    let deleted = 0
    for (const sha256 of orphans) {
      if (closed) return
      await store
        .deleteOrphan(sha256, () => deleteVariants(sha256))
        .then(
          (wasDeleted) => {
            if (wasDeleted) deleted += 1
          },
          async (error) => {
            log.warn({ event: 'media.not_swept', sha256, error }, 'an orphaned object could not be deleted')
            await store.postponeSweep(sha256).catch(() => {})
          },
        )
    }
    if (orphans.length === orphansPerPage && deleted > 0) await deleteOrphans()
  }
  /** Sweeps run one after the other: each starts when the previous one has settled. */
  let lastSweep: Promise<void> = Promise.resolve()
  const afterLastSweep = (sweep: () => Promise<void>): Promise<void> => {
    lastSweep = lastSweep.catch(() => {}).then(sweep)
    return lastSweep
  }
  let sweepTimer: ReturnType<typeof setTimeout> | undefined
  let closed = false

  const { inspectImage, inspectVideo } = createInspections(images, stepDeadline)

  return {
    /**
     * The bytes to store and their variants: without private metadata, marked with the digital source type. `madeBy` is that
     * of the provider; undefined for an upload. Throws `ImageRefused` or `VideoRefused`. An abort of `signal` drops work
     * that waits for a worker.
     */
    inspect: (
      bytes: Uint8Array,
      signal: AbortSignal,
      kind: 'image' | 'video' = 'image',
      madeBy?: DigitalSource,
    ): Promise<InspectedMedia> =>
      kind === 'video' ? inspectVideo(bytes, { signal, madeBy }) : inspectImage(bytes, { signal, madeBy }),

    /** Claims the objects and writes all their variants. When it throws, call `discard`. */
    put: async (media: readonly InspectedMedia[]): Promise<void> => {
      await store.claim(
        media.map(({ claimId, sha256, contentType, bytes, width, height, durationMs }) => ({
          claimId,
          sha256,
          content_type: contentType,
          bytes: Buffer.byteLength(bytes),
          width,
          height,
          duration_ms: durationMs,
        })),
      )
      for (const each of media) await putVariants(each)
    },

    /** The bytes a provider receives as a reference image: the largest thumbnail. Throws when they cannot be read. */
    readReference: async (sha256: string, signal: AbortSignal): Promise<{ bytes: Uint8Array; contentType: string }> => {
      const opened = await objects.open(objectKey(sha256, referenceVariant))
      if (opened === undefined) throw new Error(`The object ${sha256} has no stored bytes`)
      const bytes = await stepDeadline().run(new Response(opened.body).bytes())
      signal.throwIfAborted()
      return { bytes, contentType: 'image/webp' }
    },

    /** Releases the claims of media that will not be confirmed, whether or not `put` succeeded. */
    discard: (media: readonly InspectedMedia[]): Promise<void> => store.discard(claimIdsOf(media)),

    /** Inserts the media rows and releases the claims. Returns the ids of the rows, in the same order. Throws `ClaimLost`. */
    confirm: async (
      tx: TransactionSql,
      { generationId, ownerId }: MediaOwner,
      media: readonly InspectedMedia[],
    ): Promise<string[]> => {
      const rows = media.map(({ sha256 }, position) => ({
        id: newId(),
        generation_id: generationId,
        owner_id: ownerId,
        position: generationId === null ? null : position,
        sha256,
      }))
      if (!(await store.confirm(tx, claimIdsOf(media)))) throw new ClaimLost('A claim expired before it was confirmed')
      await store.insert(tx, rows)
      return rows.map(({ id }) => id)
    },

    /** Discards expired claims and deletes orphans. */
    sweep: (): Promise<void> =>
      afterLastSweep(async () => {
        await store.discardExpired(maxClaimAgeMs)
        await deleteOrphans()
      }),

    /** Deletes orphans in a moment. Call it when an object may have lost its last reference; calls in a burst share one sweep. */
    scheduleSweep: (): void => {
      if (closed) return
      sweepTimer ??= setTimeout(() => {
        sweepTimer = undefined
        afterLastSweep(deleteOrphans).catch((error) => log.debug({ error }, 'a sweep of orphaned objects failed'))
      }, sweepDelayMs)
    },

    close: async (): Promise<void> => {
      closed = true
      clearTimeout(sweepTimer)
      await lastSweep.catch(() => {})
    },
  }
}

export type MediaStorage = ReturnType<typeof createMediaStorage>
