import type { Access, Caller } from '../access/access.ts'
import type { Changes } from '../access/changes.ts'
import type { AccessInside } from '../access/inside.ts'
import type { Action, ResourceRef } from '../access/model.ts'
import type { Call } from '../call.ts'
import { Fault } from '../fault.ts'
import { type ByteRange, RangeNotSatisfiable } from '../kit/byte-range.ts'
import { toPage } from '../kit/cursor.ts'
import { entityTag } from '../kit/entity-tag.ts'
import { type ObjectStore, type OpenObject, objectKey } from '../platform/objects.ts'
import { type Media, type Variant, variants } from './model.ts'
import type { MediaRow, MediaStore } from './store.ts'

export const toMedia = (row: MediaRow): Media => ({
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

const generationOf = (id: string): ResourceRef => ({ type: 'generation', id })

/**
 * What was made or uploaded, as those who may see it see it. Who may follows from its generation: `read` for what it is,
 * `download` for its bytes, `delete` to take it away; an upload is its uploader's alone. For everybody else there is no such
 * thing.
 */
export const createMedia = ({
  store,
  access,
  accessInside,
  changes,
  objects,
}: {
  store: Pick<MediaStore, 'find' | 'list' | 'lockGeneration' | 'remove'>
  access: Pick<Access, 'decide' | 'requireDerivation'>
  accessInside: AccessInside
  changes: Changes
  objects: Pick<ObjectStore, 'open'>
}) => {
  const find = async ({ deadline }: Call, { userId }: Caller, id: string, action: Action): Promise<MediaRow> => {
    const row = await store.find(deadline, id)
    if (row?.generation_id === null && row.owner_id === userId) return row
    // What is not there, or is somebody else's upload, is asked about as if it were, so that it takes as long to say so.
    const { allowed } = await access.decide(userId, action, generationOf(row?.generation_id ?? id), deadline)
    // Nobody may read and not download, by the matrix, so there is no telling the two apart.
    if (row === undefined || row.generation_id === null || !allowed) throw new Fault('media.not_found')
    return row
  }

  return {
    get: async (call: Call, caller: Caller, id: string): Promise<Media> =>
      toMedia(await find(call, caller, id, 'read')),

    list: async (call: Call, generationId: string, place: { after: string | null; limit: number }) => {
      const { items, next_cursor } = toPage(await store.list(call.deadline, generationId, place), place.limit)
      return { items: items.map(toMedia), next_cursor }
    },

    getContent: async (call: Call, caller: Caller, id: string, variant: Variant): Promise<Content> =>
      toContent(await find(call, caller, id, 'download'), variant),

    /** A generation stays as it is, also when all that came of it is gone. */
    remove: async (call: Call, caller: Caller, id: string): Promise<void> => {
      const { generation_id } = await find(call, caller, id, 'read')
      await changes.run(call.deadline, async (tx) => {
        if (generation_id !== null) {
          await store.lockGeneration(tx, generation_id)
          const { allowed } = await accessInside(tx).decide(
            caller.userId,
            'delete',
            generationOf(generation_id),
            call.deadline,
          )
          if (!allowed) throw new Fault('access.denied')
        }
        if (!(await store.remove(tx, id))) throw new Fault('media.not_found')
      })
    },

    /** Passes where the caller may make something of it; throws as for its bytes, and as for a child of its generation. */
    requireReference: async (call: Call, caller: Caller, id: string): Promise<void> => {
      const { generation_id } = await find(call, caller, id, 'download')
      if (generation_id !== null) await access.requireDerivation(caller, generation_id, call.deadline)
    },

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
