import { timingSafeEqual } from 'node:crypto'
import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { Clock } from '../../kit/clock.ts'
import { toPage } from '../../kit/cursor.ts'
import { newId } from '../../kit/id.ts'
import type { ContentAccess, Variant } from '../model.ts'
import { maxLive, type NewShareLink, type ShareLink } from './model.ts'
import { makeSecret, readSecret } from './secret.ts'
import type { ShareLinkRow, ShareLinkStore } from './store.ts'

const toShareLink = (row: ShareLinkRow): ShareLink => ({
  id: row.id,
  label: row.label,
  created_by: row.created_by,
  created_at: row.created_at.toISOString(),
  expires_at: row.expires_at?.toISOString() ?? null,
})

/** Path and query of a link. */
const shareTarget = (mediaId: string, secret: string): string => `/api/v1/media/${mediaId}/content?share=${secret}`

/**
 * Links that open the bytes of one thing to whoever has them, without an account, until they are removed or run out.
 *
 * Promise: a link is good for as long as its maker's account is active and may share the thing. It is looked up each time
 * it is used, so one that was removed opens nothing by the time `remove` is done, wherever it is tried. Its secret leaves
 * once and is kept as a hash. All refusals are the same.
 */
export const createShareLinks = ({
  store,
  changes,
  clock,
}: {
  store: ShareLinkStore
  changes: Changes
  clock: Clock
}) => ({
  create: async (context: RequestContext, caller: Caller, mediaId: string, { expires_in, label }: NewShareLink) => {
    const nowMs = clock.now()
    const now = new Date(nowMs)
    const id = newId()
    const { text, hash } = makeSecret(id)
    const row: ShareLinkRow = {
      id,
      media_id: mediaId,
      label: label ?? null,
      created_by: caller.userId,
      created_at: now,
      expires_at: expires_in === undefined ? null : new Date(nowMs + expires_in * 1_000),
    }
    await changes.commitAndInvalidate(
      context.deadline,
      async (tx) => {
        const live = await store.lockAndCount(tx, mediaId, now)
        if (live === undefined) throw new Fault('media.not_found')
        if (live >= maxLive) throw new Fault('share_link.too_many', { extensions: { limit: maxLive } })
        await store.insert(tx, { ...row, secret_hash: hash })
      },
      { grantsOnly: true },
    )
    return { ...toShareLink(row), target: shareTarget(mediaId, text) }
  },

  list: async (context: RequestContext, mediaId: string, place: { after: string | null; limit: number }) => {
    const rows = await store.list(context.deadline, mediaId, new Date(clock.now()), place)
    const { items, next_cursor } = toPage(rows, place.limit)
    return { items: items.map(toShareLink), next_cursor }
  },

  remove: async (context: RequestContext, mediaId: string, id: string): Promise<void> => {
    // No instance keeps any of it, so there is nobody to wait for.
    await changes.commitAndInvalidate(
      context.deadline,
      async (tx) => {
        if (!(await store.remove(tx, mediaId, id, new Date(clock.now())))) throw new Fault('share_link.not_found')
      },
      { grantsOnly: true },
    )
  },

  open: async (
    { deadline }: RequestContext,
    mediaId: string,
    secret: string,
    variant: Variant,
  ): Promise<ContentAccess> => {
    const presented = readSecret(secret)
    const kept = presented && (await store.find(deadline, presented.id, new Date(clock.now())))
    const isIt = presented && kept?.media_id === mediaId && timingSafeEqual(presented.hash, kept.secret_hash)
    if (!isIt) throw new Fault('media.link_refused')
    return { userId: kept.created_by, action: 'share', variant, refusal: 'media.link_refused' }
  },

  purge: (): Promise<void> => store.purge(new Date(clock.now())),
})

export type ShareLinks = ReturnType<typeof createShareLinks>
