import type { Access, Caller } from '../access/access.ts'
import type { Action } from '../access/model.ts'
import type { Call } from '../call.ts'
import { Fault } from '../fault.ts'
import { type ByteRange, RangeNotSatisfiable } from '../kit/byte-range.ts'
import { toPage } from '../kit/cursor.ts'
import { entityTag } from '../kit/entity-tag.ts'
import { type ObjectStore, type OpenObject, objectKey } from '../platform/objects.ts'
import { type Media, type Variant, type Visit, variants } from './model.ts'
import type { MediaRow, MediaStore } from './store.ts'

const toMedia = (row: MediaRow): Media => ({
  id: row.id,
  generation_id: row.generation_id,
  owner_id: row.owner_id,
  position: row.position,
  content_type: row.content_type as Media['content_type'],
  bytes: row.bytes,
  width: row.width,
  height: row.height,
  variants: [...variants],
  created_at: row.created_at.toISOString(),
})

/** One spelling of the bytes of a thing, which never change. */
export type Content = {
  readonly contentType: string
  readonly tag: string
  /** What to call it where it is saved. */
  readonly fileName: string
  readonly key: string
}

const extensions: Readonly<Record<string, string>> = { 'image/webp': 'webp', 'image/png': 'png', 'image/jpeg': 'jpg' }

const toContent = ({ id, sha256, content_type }: MediaRow, variant: Variant): Content => {
  const contentType = variant === 'original' ? content_type : 'image/webp'
  const suffix = variant === 'original' ? '' : `-${variant}`
  return {
    contentType,
    tag: entityTag(sha256 + suffix),
    fileName: `${id}${suffix}.${extensions[contentType] ?? 'bin'}`,
    key: objectKey(sha256, variant === 'original' ? undefined : variant),
  }
}

/**
 * What was made, as those who may see it see it. Who may follows from its generation: `read` for what it is, `download`
 * for its bytes; for everybody else there is no such thing.
 */
export const createMedia = ({
  store,
  access,
  objects,
}: {
  store: Pick<MediaStore, 'find' | 'list'>
  access: Pick<Access, 'decide'>
  objects: Pick<ObjectStore, 'open'>
}) => {
  /** What may be done to a thing follows from its generation. */
  const isAllowed = async ({ deadline }: Call, userId: string, action: Action, id: string, row?: MediaRow) => {
    // What is not there is asked about as if it were, so that it takes as long to say so.
    const generation = { type: 'generation', id: row?.generation_id ?? id } as const
    return (await access.decide(userId, action, generation, deadline)).allowed
  }

  const find = async (
    call: Call,
    id: string,
    { userId, action, refusal }: Pick<Visit, 'userId' | 'action' | 'refusal'>,
  ): Promise<MediaRow> => {
    const row = await store.find(call.deadline, id)
    const allowed = await isAllowed(call, userId, action, id, row)
    if (row === undefined || !allowed) throw new Fault(refusal)
    return row
  }

  return {
    get: async (call: Call, { userId }: Caller, id: string): Promise<Media> =>
      toMedia(await find(call, id, { userId, action: 'read', refusal: 'media.not_found' })),

    /** Passes, or throws: 404 where the caller may not even read, 403 where it may read but not do this. */
    require: async (call: Call, { userId }: Caller, id: string, action: Action): Promise<void> => {
      const row = await store.find(call.deadline, id)
      const allowed = await isAllowed(call, userId, action, id, row)
      if (row !== undefined && allowed) return
      const isVisible = await isAllowed(call, userId, 'read', id, row)
      throw new Fault(row !== undefined && isVisible ? 'access.denied' : 'media.not_found')
    },

    list: async (call: Call, generationId: string, place: { after: string | null; limit: number }) => {
      const { items, next_cursor } = toPage(await store.list(call.deadline, generationId, place), place.limit)
      return { items: items.map(toMedia), next_cursor }
    },

    getContent: async (call: Call, id: string, visit: Visit): Promise<Content> =>
      toContent(await find(call, id, visit), visit.variant),

    /** The stream must be read to its end or cancelled. Throws `media.range_not_satisfiable`. */
    open: async ({ deadline }: Call, { key }: Content, range: ByteRange | undefined): Promise<OpenObject> => {
      const opening = objects.open(key, range)
      const opened = await deadline.run(opening).catch((error) => {
        // What comes too late is not left open.
        opening.then(
          (late) => late?.stream.cancel(),
          () => {},
        )
        if (error instanceof RangeNotSatisfiable) {
          const headers = { 'content-range': `bytes */${error.total}`, 'accept-ranges': 'bytes' }
          throw new Fault('media.range_not_satisfiable', { headers })
        }
        throw new Fault('media.unavailable', { cause: error, detail: { key } })
      })
      if (opened === undefined) throw new Fault('media.unavailable', { detail: { key } })
      return opened
    },
  }
}

export type MediaService = ReturnType<typeof createMedia>
