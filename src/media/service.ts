import type { Access } from '../access/access.ts'
import type { Changes } from '../access/invalidation/committed-change.ts'
import type { MediaFact } from '../access/policy/facts/media.ts'
import type { Caller } from '../access/principal.ts'
import type { TransactionalAccess } from '../access/transactional-access.ts'
import { audit } from '../audit/audit.ts'
import { Fault, invalidInput } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import { type ByteRange, RangeNotSatisfiable } from '../kit/byte-range.ts'
import { toPage } from '../kit/cursor.ts'
import { entityTag } from '../kit/entity-tag.ts'
import { closeObject, type ObjectStore, type OpenObject, objectKey } from '../platform/objects.ts'
import type { Spool } from '../platform/spool.ts'
import { type ContentAccess, type Media, type Variant, variants } from './model.ts'
import type { MediaRow, MediaStore } from './store.ts'

/** Content up to this size is sent from memory. */
const maxWholeBytes = 1_048_576

export const noSuchVariant = 'must be original, because the media is a video'

/** Videos have no thumbnails. */
export const variantsOf = (contentType: string): readonly Variant[] =>
  contentType.startsWith('video/') ? ['original'] : variants

export const toMedia = (row: MediaRow): Media => ({
  id: row.id,
  generation_id: row.generation_id,
  owner_id: row.owner_id,
  position: row.position,
  content_type: row.content_type as Media['content_type'],
  bytes: row.bytes,
  width: row.width,
  height: row.height,
  duration_ms: row.duration_ms,
  variants: [...variantsOf(row.content_type)],
  created_at: row.created_at.toISOString(),
})

/** The content of one variant. It never changes, so its tag is a strong validator. */
export type Content = {
  readonly contentType: string
  readonly tag: string
  /** Suggested name for saving it. */
  readonly fileName: string
  readonly key: string
}

const extensions: Readonly<Record<string, string>> = {
  'image/webp': 'webp',
  'image/png': 'png',
  'image/jpeg': 'jpg',
  'video/mp4': 'mp4',
}

const toContent = (id: string, { sha256, contentType: original }: MediaFact, variant: Variant): Content => {
  const contentType = variant === 'original' ? original : 'image/webp'
  const suffix = variant === 'original' ? '' : `-${variant}`
  return {
    contentType,
    tag: entityTag(sha256 + suffix),
    fileName: `${id}${suffix}.${extensions[contentType] ?? 'bin'}`,
    key: objectKey(sha256, variant === 'original' ? undefined : variant),
  }
}

/**
 * Media: the outputs of generations, and uploads.
 *
 * Promise: `get` and `list` rely on the permission check of their route. `getContent` checks the permission itself,
 * `requireReference` by the access it is given; `remove` checks it inside its transaction.
 */
export const createMedia = ({
  store,
  access,
  transactionalAccess,
  changes,
  objects,
  spool,
}: {
  store: Pick<MediaStore, 'find' | 'list' | 'remove'>
  access: Pick<Access, 'requireMedia'>
  transactionalAccess: TransactionalAccess
  changes: Changes
  objects: Pick<ObjectStore, 'open'>
  spool: Spool
}) => {
  const requireAccess = async (
    context: RequestContext,
    id: string,
    { userId, action, refusal }: ContentAccess,
  ): Promise<MediaFact> => {
    try {
      return await access.requireMedia({ userId }, action, id, context.deadline)
    } catch (cause) {
      if (cause instanceof Fault && cause.status < 500) throw new Fault(refusal, { cause })
      throw cause
    }
  }

  return {
    get: async (context: RequestContext, id: string): Promise<Media> => {
      const row = await store.find(context.deadline, id)
      // Deleted between the permission check and this read.
      if (row === undefined) throw new Fault('media.not_found')
      return toMedia(row)
    },

    list: async (context: RequestContext, generationId: string, page: { after: string | null; limit: number }) => {
      const { items, next_cursor } = toPage(await store.list(context.deadline, generationId, page), page.limit)
      return { items: items.map(toMedia), next_cursor }
    },

    /** Checks the permission and returns whether the media has the requested variant. */
    hasVariant: async (context: RequestContext, id: string, visit: ContentAccess): Promise<boolean> =>
      variantsOf((await requireAccess(context, id, visit)).contentType).includes(visit.variant),

    /** The permission is checked first: only a permitted user learns, by a 422, that the media lacks the variant. */
    getContent: async (context: RequestContext, id: string, visit: ContentAccess): Promise<Content> => {
      const fact = await requireAccess(context, id, visit)
      if (!variantsOf(fact.contentType).includes(visit.variant)) {
        throw invalidInput('query', '/variant', noSuchVariant)
      }
      return toContent(id, fact, visit.variant)
    },

    /** The generation does not change, even when its last media is removed. */
    remove: (context: RequestContext, caller: Caller, id: string): Promise<void> =>
      changes.commitAndInvalidate(context.deadline, async (tx) => {
        const { lockAndRequire } = transactionalAccess(tx)
        await lockAndRequire(caller, { changedMedia: [id] }, 'delete', { type: 'media', id }, context.deadline)
        audit.record(tx, { action: 'media.deleted', actor: caller, target: { type: 'media', id }, context })
        if (!(await store.remove(tx, id))) throw new Fault('media.not_found')
      }),

    /**
     * Resolves when the caller may use the image as a reference: it needs `download`, and the right to derive from its
     * generation.
     */
    requireReference: async (
      context: RequestContext,
      caller: Caller,
      id: string,
      by: Pick<Access, 'requireMedia' | 'requireDerivation'>,
    ): Promise<void> => {
      const { generationId, contentType } = await by.requireMedia(caller, 'download', id, context.deadline)
      if (!contentType.startsWith('image/'))
        throw invalidInput('body', '/reference_media_id', 'must be the id of an image')
      if (generationId !== null) await by.requireDerivation(caller, generationId, context.deadline)
    },

    /** Pass the result to `toBody` or to `closeObject`. Throws `media.range_not_satisfiable`. */
    open: async ({ deadline }: RequestContext, { key }: Content, range: ByteRange | undefined): Promise<OpenObject> => {
      const opening = objects.open(key, range)
      const opened = await deadline.run(opening).catch((error) => {
        // Closes a stream that opens after the deadline.
        opening.then(
          (late) => late && closeObject(late),
          () => {},
        )
        if (error instanceof RangeNotSatisfiable) {
          const headers = { 'content-range': `bytes */${error.total}`, 'accept-ranges': 'bytes' }
          throw new Fault('media.range_not_satisfiable', { headers, extensions: { size: error.total } })
        }
        throw new Fault('media.unavailable', { cause: error, detail: { key } })
      })
      if (opened === undefined) throw new Fault('media.unavailable', { detail: { key } })
      return opened
    },

    /** The body of a response whose Content-Length is that of the object. It may take longer than a request, up to a minute. */
    toBody: async ({ deadline }: RequestContext, { key }: Content, opened: OpenObject): Promise<BodyInit> => {
      const { body, first, length } = opened
      try {
        return length <= maxWholeBytes
          ? await deadline.run(new Response(body).arrayBuffer())
          : await spool.toBody(`${key} ${first}-${length}`, opened)
      } catch (cause) {
        if (cause instanceof Fault) throw cause
        throw new Fault('media.unavailable', { cause, detail: { key } })
      }
    },
  }
}

export type MediaService = ReturnType<typeof createMedia>
