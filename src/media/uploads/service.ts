import type { Access } from '../../access/access.ts'
import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { Fault, type FaultCode } from '../../fault.ts'
import { readBytes } from '../../http/body.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { Clock } from '../../kit/clock.ts'
import { toPage } from '../../kit/cursor.ts'
import { createDeadline, type Deadline } from '../../kit/deadline.ts'
import { databaseFault } from '../../platform/postgres.ts'
import { PoolBusy, WorkTooLong } from '../../platform/worker-pool.ts'
import { type ImageRefusal, imageLimits } from '../formats/image-format.ts'
import { ImageRefused } from '../images/images.ts'
import type { Made, MediaStorage } from '../media-storage.ts'
import { type Media, pictureTypes } from '../model.ts'
import { toMedia } from '../service.ts'
import type { MediaStore } from '../store.ts'

export const maxUploadBytes = imageLimits.bytes
/** For the bytes to come in: 25 MiB at 3.5 Mbit/s. */
const readMs = 60_000
/** For looking at a picture and making it smaller, the wait for a worker included. */
const workMs = 30_000
/** What one instance has in memory at once: 200 MiB, and as much in the workers. */
const maxAtOnce = 8
/** So that one person with a slow line leaves room for others. */
const maxOfOne = 4

/** What is said of bytes that are no picture, or none that is taken. */
export const refusals = {
  empty: 'media.empty',
  too_many_bytes: 'media.too_large',
  type_not_accepted: 'media.type_not_accepted',
  side_too_long: 'media.side_too_long',
  too_many_pixels: 'media.too_many_pixels',
  animated: 'media.animated',
  truncated: 'media.truncated',
  trailing_data: 'media.trailing_data',
  damaged: 'media.damaged',
} as const satisfies Record<ImageRefusal, FaultCode>

/** The fault of a refused image, with the limit that it exceeds. */
const refused = (reason: ImageRefusal, cause?: unknown): Fault => {
  const { bytes: max_bytes, side: max_side, pixels: max_pixels } = imageLimits
  const code = refusals[reason]
  switch (code) {
    case 'media.too_large':
      return new Fault(code, { cause, extensions: { max_bytes } })
    case 'media.side_too_long':
      return new Fault(code, { cause, extensions: { max_side } })
    case 'media.too_many_pixels':
      return new Fault(code, { cause, extensions: { max_pixels } })
    default:
      return new Fault(code, { cause })
  }
}

const faultOf = (error: unknown): unknown => {
  if (error instanceof ImageRefused) return refused(error.reason, error)
  if (error instanceof PoolBusy) return new Fault('media.busy', { cause: error })
  // It took its worker all the time one may have, whatever its header says.
  return error instanceof WorkTooLong ? new Fault('media.damaged', { cause: error }) : error
}

/** The type that a request says its body has. */
const typeOf = ({ headers }: Request): string => {
  const [type = ''] = (headers.get('content-type') ?? '').split(';', 1)
  const named = type.trim().toLowerCase()
  if (!pictureTypes.some((each) => each === named)) throw new Fault('media.type_not_accepted')
  return named
}

/**
 * Pictures that people bring, each its uploader's alone.
 *
 * Promise: nothing is read of whoever is not signed in (its route sees to that), says a type that is not taken, announces
 * too much, or comes when as many are under way as may be. What is answered is kept; what is refused, or fails, leaves
 * nothing. A picture has a minute to come in and half a minute to be looked at; what is done then has the time of a request,
 * and is done for whoever is signed in still.
 */
export const createUploads = ({
  store,
  mediaStorage,
  access,
  changes,
  clock,
  requestMs,
}: {
  store: Pick<MediaStore, 'listUploads' | 'findInserted'>
  mediaStorage: Pick<MediaStorage, 'inspect' | 'put' | 'discard' | 'confirm'>
  access: Pick<Access, 'enter'>
  changes: Changes
  clock: Clock
  requestMs: number
}) => {
  const underWay: string[] = []
  const isFull = (userId: string) =>
    underWay.length >= maxAtOnce || underWay.filter((each) => each === userId).length >= maxOfOne

  const inspect = async (bytes: Uint8Array, type: string): Promise<Made> => {
    const tooLate = new AbortController()
    const looking = mediaStorage.inspect(bytes, tooLate.signal).catch((error) => {
      throw faultOf(error)
    })
    const picture = await createDeadline(clock, workMs).run(
      Object.assign(looking, { cancel: () => tooLate.abort(new Error('An upload took too long')) }),
    )
    if (picture.contentType !== type) throw new Fault('media.type_contradicted')
    return picture
  }

  const keep = async (picture: Made, ownerId: string, deadline: Deadline): Promise<Media> => {
    const keeping = mediaStorage.put([picture])
    try {
      await deadline.run(keeping).catch((cause: unknown) => {
        throw databaseFault(cause) ?? new Fault('media.unavailable', { cause, detail: { sha256: picture.sha256 } })
      })
      return await changes.commitAndInvalidate(
        deadline,
        async (tx) => {
          const [id = ''] = await mediaStorage.confirm(tx, { generationId: null, ownerId }, [picture])
          return toMedia(await store.findInserted(tx, id))
        },
        { grantsOnly: true },
      )
    } catch (error) {
      // When nothing is written any more; if it cannot be given up now, that comes by itself.
      keeping.catch(() => {}).then(() => mediaStorage.discard([picture]).catch(() => {}))
      throw error
    }
  }

  return {
    take: async ({ deadline }: RequestContext, { userId, sessionId }: Caller, request: Request): Promise<Media> => {
      const type = typeOf(request)
      deadline.check()
      if (isFull(userId)) throw new Fault('media.busy')
      underWay.push(userId)
      try {
        const bytes = await readBytes(request, { maxBytes: maxUploadBytes, deadline: createDeadline(clock, readMs) })
        if (bytes === undefined) throw refused('too_many_bytes')
        const picture = await inspect(bytes, type)
        const keeping = createDeadline(clock, requestMs)
        await access.enter({ userId, sessionId }, keeping)
        return await keep(picture, userId, keeping)
      } finally {
        underWay.splice(underWay.indexOf(userId), 1)
      }
    },

    list: async ({ deadline }: RequestContext, { userId }: Caller, place: { after: string | null; limit: number }) => {
      const { items, next_cursor } = toPage(await store.listUploads(deadline, userId, place), place.limit)
      return { items: items.map(toMedia), next_cursor }
    },
  }
}

export type Uploads = ReturnType<typeof createUploads>
