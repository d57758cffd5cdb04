import { highestId } from '../../kit/cursor.ts'
import type { Deadline } from '../../kit/deadline.ts'
import type { Sql, TransactionSql } from '../../platform/postgres.ts'

export type ShareLinkRow = {
  id: string
  media_id: string
  label: string | null
  created_by: string
  created_at: Date
  expires_at: Date | null
}

type PageRequest = { readonly after: string | null; readonly limit: number }

/** Share links. Every read and removal ignores expired links. */
export const createShareLinkStore = (sql: Sql, batch: Sql) => ({
  /** Reads a valid link by primary key. */
  find: async (
    deadline: Deadline,
    id: string,
    now: Date,
  ): Promise<{ media_id: string; created_by: string; secret_hash: Uint8Array } | undefined> => {
    const [row] = await deadline.run(sql<{ media_id: string; created_by: string; secret_hash: Uint8Array }[]>`
      select media_id, created_by, secret_hash from share_links
       where id = ${id} and (expires_at is null or expires_at > ${now})`)
    return row
  },

  /** The valid links of a media item, newest first. Returns up to `limit` + 1 rows. */
  list: (deadline: Deadline, mediaId: string, now: Date, { after, limit }: PageRequest): Promise<ShareLinkRow[]> =>
    deadline.run(sql<ShareLinkRow[]>`
      select id, media_id, label, created_by, created_at, expires_at from share_links
       where media_id = ${mediaId} and (expires_at is null or expires_at > ${now})
         and id < ${after ?? highestId}
       order by id desc limit ${limit + 1}`),

  /**
   * Locks the media row for no key update, so that concurrent counts queue, and counts its valid links. Undefined: no such
   * media.
   */
  lockMediaAndCount: async (tx: TransactionSql, mediaId: string, now: Date): Promise<number | undefined> => {
    const { count: locked } = await tx`select from media where id = ${mediaId} for no key update`
    if (locked === 0) return undefined
    const [row] = await tx<{ live: number }[]>`
      select count(*)::int as live from share_links
       where media_id = ${mediaId} and (expires_at is null or expires_at > ${now})`
    return row?.live
  },

  insert: async (tx: TransactionSql, link: ShareLinkRow & { secret_hash: Uint8Array }): Promise<void> => {
    await tx`insert into share_links ${tx(link)}`
  },

  /** Returns whether a valid link was removed. */
  remove: async (tx: TransactionSql, mediaId: string, id: string, now: Date): Promise<boolean> => {
    const { count } = await tx`
      delete from share_links
       where id = ${id} and media_id = ${mediaId} and (expires_at is null or expires_at > ${now})`
    return count === 1
  },

  /** Deletes expired links. */
  purge: async (now: Date): Promise<void> => {
    await batch`delete from share_links where expires_at <= ${now}`
  },
})

export type ShareLinkStore = ReturnType<typeof createShareLinkStore>
