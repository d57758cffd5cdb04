import type { Access } from '../../access/access.ts'
import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { requireSignedInForShare } from '../../access/transactional-access.ts'
import { audit } from '../../audit/audit.ts'
import { Fault, type FaultCode } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { Load } from '../../kit/admission.ts'
import type { Clock } from '../../kit/clock.ts'
import { toPage } from '../../kit/cursor.ts'
import { createDeadlines, type Deadline, DeadlinePassed } from '../../kit/deadline.ts'
import { createFairSlots, SlotsFull } from '../../kit/fair-slots.ts'
import type { Quotas } from '../../limits/quotas.ts'
import { databaseFault } from '../../platform/postgres.ts'
import { PoolBusy, WorkTimedOut } from '../../platform/worker-pool.ts'
import { type ImageRefusal, imageLimits } from '../formats/image-format.ts'
import { ImageRefused } from '../images/images.ts'
import type { InspectedMedia, MediaStorage } from '../media-storage.ts'
import { imageTypes, type Media } from '../model.ts'
import { toMedia } from '../service.ts'
import type { MediaStore } from '../store.ts'
import { createBodyReader } from './body.ts'
import { createFormReader } from './form.ts'

export const maxUploadBytes = imageLimits.bytes
/** Limit for inspecting an image and making its thumbnails, including the wait for a worker. */
const inspectMs = 30_000
/** Uploads of one instance that have a slot. They bound its memory: 200 MiB here, and as much again in the workers. */
const maxSlots = 8
const slotsPerPerson = 2
/** The rest is kept for other addresses. */
const slotsPerAddress = 6
/** Uploads of one person that have a slot, wait for one, or have just begun. */
const maxPerPerson = 8
/** Uploads that wait for a slot; each holds the first bytes of its body. */
const maxWaiting = 256
const waitMs = 10_000

export const formType = 'multipart/form-data'

/** The error code of each reason for which an image is refused. */
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

/** The fault for a refused image; it reports the limit that the image exceeds. */
const refusalFault = (reason: ImageRefusal, cause?: unknown): Fault => {
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

const toFault = (error: unknown): unknown => {
  if (error instanceof ImageRefused) return refusalFault(error.reason, error)
  if (error instanceof PoolBusy) return new Fault('media.busy', { cause: error })
  // The header was within the limits, yet decoding took the whole time limit of a worker.
  return error instanceof WorkTimedOut ? new Fault('media.damaged', { cause: error }) : error
}

/** At least one, so that an upload without Content-Length is refused where nothing more fits. */
const announcedBytes = ({ headers }: Request): number => Math.max(1, Number(headers.get('content-length') ?? 1))

const isAccepted = (type: string) => imageTypes.some((each) => each === type)

/** The media type in the request's Content-Type; throws when uploads do not accept it. */
const acceptedType = ({ headers }: Request): string => {
  const [value = ''] = (headers.get('content-type') ?? '').split(';', 1)
  const type = value.trim().toLowerCase()
  if (!isAccepted(type) && type !== formType) throw new Fault('media.type_not_accepted')
  return type
}

const openFormOf =
  ({ headers }: Request) =>
  (onBytes: (bytes: Uint8Array) => void) =>
    createFormReader(headers.get('content-type') ?? '', { maxBytes: maxUploadBytes, onBytes })

/**
 * Uploads of images. An upload is visible to its uploader only.
 *
 * Promise: no byte of the body is read when the caller is not signed in (its route checks that), when the Content-Type is
 * not accepted, when the announced length is over the limit, or when the caller has as many uploads under way as may be. An
 * upload answered with 201 is stored; one that is refused or fails leaves nothing behind.
 *
 * An upload takes a slot once its bytes flow, and holds it while they do and while the image is worked on. People and addresses
 * take turns at the slots (`FairSlots`), so that many accounts behind one address cannot keep others out. An upload that got
 * none within 10 s is refused with `media.busy`, one whose bytes do not keep flowing with `media.too_slow` (see
 * `createBodyReader`). Inspection has a limit of half a minute. Storing the image then has the deadline of an ordinary request,
 * and begins with a new check of the session, which is repeated inside the transaction.
 */
export const createUploads = ({
  store,
  mediaStorage,
  access,
  changes,
  quotas,
  clock,
  requestMs,
}: {
  store: Pick<MediaStore, 'listUploads' | 'findInserted'>
  mediaStorage: Pick<MediaStorage, 'inspect' | 'put' | 'discard' | 'confirm'>
  access: Pick<Access, 'authenticate'>
  changes: Changes
  quotas: Pick<Quotas, 'require' | 'requireSoFar'>
  clock: Clock
  requestMs: number
}) => {
  const startDeadline = createDeadlines(clock)
  /** A person's uploads beyond two wait here, so that no other upload gives way to them. */
  const ofPeople = createFairSlots({ slots: Number.POSITIVE_INFINITY, slotsPerKey: slotsPerPerson, maxWaiting })
  const slots = createFairSlots({ slots: maxSlots, slotsPerKey: slotsPerAddress, maxWaiting })
  const readBody = createBodyReader({
    startDeadline,
    maxBytes: maxUploadBytes,
    othersWait: () => slots.waiting > 0,
  })
  const load: Load = {
    limit: maxSlots,
    get inFlight() {
      return slots.inFlight
    },
    get waiting() {
      return slots.waiting + ofPeople.waiting
    },
    get shed() {
      return slots.shed + ofPeople.shed
    },
  }
  const underWay = new Map<string, number>()

  const begin = (userId: string) => {
    const count = underWay.get(userId) ?? 0
    if (count >= maxPerPerson) throw new Fault('media.too_many_uploads', { extensions: { limit: maxPerPerson } })
    underWay.set(userId, count + 1)
  }
  const end = (userId: string) => {
    const count = (underWay.get(userId) ?? 0) - 1
    if (count > 0) underWay.set(userId, count)
    else underWay.delete(userId)
  }

  const takeTurn = async (userId: string, address: string | undefined): Promise<() => void> => {
    const deadline = startDeadline(waitMs)
    let releasePerson = () => {}
    try {
      releasePerson = await ofPeople.take([userId], deadline)
      const releaseSlot = await slots.take(address === undefined ? [userId] : [userId, address], deadline)
      return () => {
        releaseSlot()
        releasePerson()
      }
    } catch (cause) {
      releasePerson()
      throw cause instanceof SlotsFull || cause instanceof DeadlinePassed ? new Fault('media.busy', { cause }) : cause
    }
  }

  /** `type`: the media type that the bytes must have; undefined: any that is accepted. */
  const inspect = async (bytes: Uint8Array, type: string | undefined): Promise<InspectedMedia> => {
    const timeout = new AbortController()
    const inspection = mediaStorage.inspect(bytes, timeout.signal).catch((error) => {
      throw toFault(error)
    })
    const image = await startDeadline(inspectMs).run(
      Object.assign(inspection, { cancel: () => timeout.abort(new Error('The inspection of an upload timed out')) }),
    )
    if (type !== undefined && image.contentType !== type) throw new Fault('media.type_contradicted')
    return image
  }

  const storeImage = async (
    context: RequestContext,
    image: InspectedMedia,
    caller: Caller,
    deadline: Deadline,
  ): Promise<Media> => {
    const putting = mediaStorage.put([image])
    try {
      await deadline.run(putting).catch((cause: unknown) => {
        throw databaseFault(cause) ?? new Fault('media.unavailable', { cause, detail: { sha256: image.sha256 } })
      })
      return await changes.commitAndInvalidate(
        deadline,
        async (tx) => {
          await requireSignedInForShare(tx, caller)
          await quotas.require(tx, caller.userId, { stored_bytes: image.bytes.byteLength })
          const [id = ''] = await mediaStorage.confirm(tx, { generationId: null, ownerId: caller.userId }, [image])
          audit.record(tx, {
            action: 'media.uploaded',
            actor: caller,
            target: { type: 'media', id },
            after: { content_type: image.contentType, bytes: image.bytes.byteLength },
            context,
          })
          return toMedia(await store.findInserted(tx, id))
        },
        { grantsOnly: true },
      )
    } catch (error) {
      // Not before `put` has settled, so that no write is in flight. If this fails too, the claim expires.
      putting.catch(() => {}).then(() => mediaStorage.discard([image]).catch(() => {}))
      throw error
    }
  }

  return {
    load,
    create: async (context: RequestContext, caller: Caller, request: Request): Promise<Media> => {
      const { deadline, addressForLimits } = context
      const { userId, sessionId } = caller
      const type = acceptedType(request)
      deadline.check()
      begin(userId)
      let release = () => {}
      try {
        await quotas.requireSoFar(deadline, userId, { stored_bytes: announcedBytes(request) })
        const takeSlot = async () => {
          release = await takeTurn(userId, addressForLimits?.(request))
        }
        const read = await readBody(request, takeSlot, type === formType ? openFormOf(request) : undefined)
        if (read === undefined) throw refusalFault('too_many_bytes')
        const stated = type === formType ? read.type : type
        if (stated !== undefined && !isAccepted(stated)) throw new Fault('media.type_not_accepted')
        const image = await inspect(read.bytes, stated)
        const storeDeadline = startDeadline(requestMs)
        await access.authenticate({ userId, sessionId }, storeDeadline)
        return await storeImage(context, image, caller, storeDeadline)
      } finally {
        release()
        end(userId)
      }
    },

    list: async ({ deadline }: RequestContext, { userId }: Caller, page: { after: string | null; limit: number }) => {
      const { items, next_cursor } = toPage(await store.listUploads(deadline, userId, page), page.limit)
      return { items: items.map(toMedia), next_cursor }
    },
  }
}

export type Uploads = ReturnType<typeof createUploads>
