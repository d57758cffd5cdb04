import { timingSafeEqual } from 'node:crypto'
import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import type { TransactionalAccess } from '../../access/transactional-access.ts'
import { audit } from '../../audit/audit.ts'
import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { Clock } from '../../kit/clock.ts'
import { toPage } from '../../kit/cursor.ts'
import { newId } from '../../kit/id.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import type { ContentAccess, Variant } from '../model.ts'
import { maxShareLinks, type NewShareLink, type ShareLink } from './model.ts'
import { createSecret, parseSecret } from './secret.ts'
import type { ShareLinkRow, ShareLinkStore } from './store.ts'

const toShareLink = (row: ShareLinkRow): ShareLink => ({
  id: row.id,
  label: row.label,
  created_by: row.created_by,
  created_at: row.created_at.toISOString(),
  expires_at: row.expires_at?.toISOString() ?? null,
})

/** Path and query of a share link. */
const shareTarget = (mediaId: string, secret: string): string => `/api/v1/media/${mediaId}/content?share=${secret}`

/**
 * Share links: any holder can fetch the bytes of one media item, without an account, until the link is removed or expires.
 *
 * Promise: a link works only while its creator's account is active and may share the media. It is read from the database at
 * each use, so once `remove` has returned it works on no instance. Its secret is returned once and stored as a hash. All
 * refusals are identical.
 */
export const createShareLinks = ({
  store,
  transactionalAccess,
  changes,
  clock,
}: {
  store: ShareLinkStore
  transactionalAccess: TransactionalAccess
  changes: Changes
  clock: Clock
}) => {
  /** Checks the permission again, under locks that hold until the commit. */
  const lockAndRequire = async (tx: TransactionSql, context: RequestContext, caller: Caller, mediaId: string) => {
    const resource = { type: 'media', id: mediaId } as const
    await transactionalAccess(tx).lockAndRequire(caller, { media: [mediaId] }, 'share', resource, context.deadline)
  }

  return {
    create: async (context: RequestContext, caller: Caller, mediaId: string, { expires_in, label }: NewShareLink) => {
      const nowMs = clock.now()
      const now = new Date(nowMs)
      const id = newId()
      const { text, hash } = createSecret(id)
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
          await lockAndRequire(tx, context, caller, mediaId)
          const live = await store.lockMediaAndCount(tx, mediaId, now)
          if (live === undefined) throw new Fault('media.not_found')
          if (live >= maxShareLinks) throw new Fault('share_link.too_many', { extensions: { limit: maxShareLinks } })
          audit.record(tx, {
            action: 'share_link.created',
            actor: caller,
            target: { type: 'share_link', id },
            after: { media_id: mediaId, expires_at: row.expires_at?.toISOString() ?? null },
            context,
          })
          await store.insert(tx, { ...row, secret_hash: hash })
        },
        { grantsOnly: true },
      )
      return { ...toShareLink(row), target: shareTarget(mediaId, text) }
    },

    list: async (context: RequestContext, mediaId: string, page: { after: string | null; limit: number }) => {
      const rows = await store.list(context.deadline, mediaId, new Date(clock.now()), page)
      const { items, next_cursor } = toPage(rows, page.limit)
      return { items: items.map(toShareLink), next_cursor }
    },

    remove: async (context: RequestContext, caller: Caller, mediaId: string, id: string): Promise<void> => {
      // No instance caches share links, so there is no acknowledgement to wait for.
      await changes.commitAndInvalidate(
        context.deadline,
        async (tx) => {
          await lockAndRequire(tx, context, caller, mediaId)
          audit.record(tx, {
            action: 'share_link.revoked',
            actor: caller,
            target: { type: 'share_link', id },
            before: { media_id: mediaId },
            context,
          })
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
      const presented = parseSecret(secret)
      const link = presented && (await store.find(deadline, presented.id, new Date(clock.now())))
      const isValid = presented && link?.media_id === mediaId && timingSafeEqual(presented.hash, link.secret_hash)
      if (!isValid) throw new Fault('media.link_refused')
      return { userId: link.created_by, action: 'share', variant, refusal: 'media.link_refused' }
    },

    purge: (): Promise<void> => store.purge(new Date(clock.now())),
  }
}

export type ShareLinks = ReturnType<typeof createShareLinks>
