import { Buffer } from 'node:buffer'
import type { Clock } from '../kit/clock.ts'
import { createDeadline } from '../kit/deadline.ts'
import { newId } from '../kit/id.ts'
import type { Log } from '../platform/log.ts'
import { type ObjectStore, objectKey } from '../platform/objects.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { type Images, thumbnailEdges } from './images/images.ts'
import type { MediaStore } from './store.ts'

/** For looking at one picture or film, or making it smaller, the wait for a worker included. */
const pieceMs = 60_000
/** Far more than there can be between claiming an object and referring to it. */
const claimMs = 3_600_000
const maxSwept = 500
/** What is deleted comes in bursts; one look for all of it. */
const soonMs = 200

/**
 * Settles when none of them is under way any more, then throws the first reason there is: what comes after a failure, as
 * taking away what was put or giving up what holds others off, must not be overtaken by the rest.
 */
const settle = async (works: readonly Promise<void>[]): Promise<void> => {
  for (const each of await Promise.allSettled(works)) if (each.status === 'rejected') throw each.reason
}

const referenceVariant = String(Math.max(...thumbnailEdges))

/** A picture that can be shown, with smaller ones of it; or a film, of which there are none. */
export type Made = {
  /** The id of the claim it is kept under: one for each time it is brought. */
  readonly claim: string
  readonly bytes: Uint8Array
  readonly contentType: string
  readonly width: number
  readonly height: number
  /** Null for a picture. */
  readonly durationMs: number | null
  readonly sha256: string
  readonly thumbnails: readonly { readonly variant: string; readonly bytes: Uint8Array }[]
}

/** Raised when what was kept was given up before it was referred to: an hour went by. */
export class ClaimLost extends Error {
  override readonly name = 'ClaimLost'
}

/** Whose a picture is to be: an upload is of no generation. */
export type Belonging = { readonly generationId: string | null; readonly ownerId: string }

/**
 * What was made or brought, on its way to where it is kept, and away from there.
 *
 * Promise: whoever reads a media row finds its bytes and those of every variant. They are claimed, put, and then referred to
 * in the transaction that shows them. What nothing refers to any more goes at once, and what came to nothing in between,
 * because its process was killed, after an hour.
 * How it degrades: bytes that cannot be taken away now are tried again with the next sweep. Closing waits for the object
 * that is being taken away and leaves the others to whoever sweeps next.
 */
export const createMediaStorage = ({
  store,
  images,
  objects,
  clock,
  log,
}: {
  store: Pick<MediaStore, 'claim' | 'redeem' | 'abandon' | 'abandonOld' | 'insert' | 'listOrphans' | 'letGo' | 'putOff'>
  images: Pick<Images, 'inspect' | 'inspectVideo' | 'thumbnail'>
  objects: Pick<ObjectStore, 'put' | 'delete' | 'open'>
  clock: Clock
  log: Log
}) => {
  const piece = () => createDeadline(clock, pieceMs)
  const putObjects = ({ bytes, contentType, sha256, thumbnails }: Made) =>
    settle([
      objects.put(objectKey(sha256), bytes, contentType),
      ...thumbnails.map((small) => objects.put(objectKey(sha256, small.variant), small.bytes, 'image/webp')),
    ])
  const remove = (sha256: string) =>
    settle([undefined, ...thumbnailEdges].map((edge) => objects.delete(objectKey(sha256, edge?.toString()))))
  const claimsOf = (things: readonly Made[]) => things.map(({ claim }) => claim)

  const letOrphansGo = async (): Promise<void> => {
    const orphans = await store.listOrphans(maxSwept)
    let seen = 0
    for (const sha256 of orphans) {
      if (closed) return
      await store
        .letGo(sha256, () => remove(sha256))
        .then(
          (gone) => {
            if (gone) seen += 1
          },
          async (error) => {
            log.warn({ event: 'media.not_swept', sha256, error }, 'an object could not be removed')
            await store.putOff(sha256).catch(() => {})
          },
        )
    }
    if (orphans.length === maxSwept && seen > 0) await letOrphansGo()
  }
  /** One at a time; whoever asks meanwhile is told of the next. */
  let last: Promise<void> = Promise.resolve()
  const inTurn = (work: () => Promise<void>): Promise<void> => {
    last = last.catch(() => {}).then(work)
    return last
  }
  let soon: ReturnType<typeof setTimeout> | undefined
  let closed = false

  const inspectPicture = async (bytes: Uint8Array, signal: AbortSignal): Promise<Made> => {
    const { type, width, height, sha256 } = await images.inspect(bytes, piece(), { signal })
    const thumbnails: { variant: string; bytes: Uint8Array }[] = []
    for (const edge of thumbnailEdges) {
      const small = await images.thumbnail(bytes, edge, piece(), { signal })
      thumbnails.push({ variant: String(edge), bytes: small.bytes })
    }
    return { claim: newId(), bytes, contentType: `image/${type}`, width, height, durationMs: null, sha256, thumbnails }
  }
  const inspectFilm = async (bytes: Uint8Array, signal: AbortSignal): Promise<Made> => {
    const { type, ...told } = await images.inspectVideo(bytes, piece(), { signal })
    return { claim: newId(), bytes, contentType: `video/${type}`, ...told, thumbnails: [] }
  }

  return {
    /** Throws `ImageRefused`, or `VideoRefused`, for what is not of its kind. What waits when `signal` aborts is dropped. */
    inspect: (bytes: Uint8Array, signal: AbortSignal, kind: 'image' | 'video' = 'image'): Promise<Made> =>
      kind === 'video' ? inspectFilm(bytes, signal) : inspectPicture(bytes, signal),

    /** Throws when they cannot be kept; `abandon` them then. */
    put: async (things: readonly Made[]): Promise<void> => {
      await store.claim(
        things.map(({ claim, sha256, contentType, bytes, width, height, durationMs }) => ({
          claim,
          sha256,
          content_type: contentType,
          bytes: Buffer.byteLength(bytes),
          width,
          height,
          duration_ms: durationMs,
        })),
      )
      for (const thing of things) await putObjects(thing)
    },

    /** What a picture is given to a provider as: the largest of its smaller ones. Throws when it cannot be had. */
    readReference: async (sha256: string, signal: AbortSignal): Promise<{ bytes: Uint8Array; contentType: string }> => {
      const opened = await objects.open(objectKey(sha256, referenceVariant))
      if (opened === undefined) throw new Error(`There are no bytes of ${sha256}`)
      const bytes = await piece().run(new Response(opened.stream).bytes())
      signal.throwIfAborted()
      return { bytes, contentType: 'image/webp' }
    },

    /** Gives up what was kept, or was to be, and is not referred to. */
    discard: (things: readonly Made[]): Promise<void> => store.abandon(claimsOf(things)),

    /** Returns the ids of their media, in their order. Throws `ClaimLost`. */
    confirm: async (
      tx: TransactionSql,
      { generationId, ownerId }: Belonging,
      things: readonly Made[],
    ): Promise<string[]> => {
      const rows = things.map(({ sha256 }, position) => ({
        id: newId(),
        generation_id: generationId,
        owner_id: ownerId,
        position: generationId === null ? null : position,
        sha256,
      }))
      if (!(await store.redeem(tx, claimsOf(things)))) throw new ClaimLost('What was kept is no longer claimed')
      await store.insert(tx, rows)
      return rows.map(({ id }) => id)
    },

    /** Takes away what nothing refers to, and what came to nothing. */
    sweep: (): Promise<void> =>
      inTurn(async () => {
        await store.abandonOld(claimMs)
        await letOrphansGo()
      }),

    /** Something may have lost the last who referred to it: takes away, in a moment, what did. */
    sweepSoon: (): void => {
      if (closed) return
      soon ??= setTimeout(() => {
        soon = undefined
        inTurn(letOrphansGo).catch((error) => log.debug({ error }, 'objects could not be swept'))
      }, soonMs)
    },

    close: async (): Promise<void> => {
      closed = true
      clearTimeout(soon)
      await last.catch(() => {})
    },
  }
}

export type MediaStorage = ReturnType<typeof createMediaStorage>
