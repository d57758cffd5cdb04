import { lowestId } from '../kit/cursor.ts'
import type { Sql, TransactionSql } from '../platform/postgres.ts'
import type { EventRow } from './chain.ts'
import { type CheckpointRow, chainedColumns, type HeadRow, listAuditKeys } from './chain-store.ts'

/** A link with its event and the personal data beside that. Everything of the event is null where the event is gone. */
export type LinkedRow = {
  readonly link: {
    readonly sequence: string
    readonly event_id: string
    readonly event_at: string
    readonly row_hash: string
    readonly hash: string
  }
  readonly event: EventRow | undefined
  readonly details: { readonly salt: Uint8Array; readonly details: string } | undefined
  /** Whose personal data it was has closed the account. */
  readonly closed: boolean
  /** Another link before this one has an event with the same id. */
  readonly isRepeated: boolean
}

export type StrayRow = { readonly id: string; readonly at: string }

/** An event that is not linked yet. */
export type PendingRow = Pick<LinkedRow, 'isRepeated'> & { readonly event: EventRow }

const time = (sql: Sql | TransactionSql, column: string) =>
  sql`to_char(${sql(column)} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`

/** `e` is an event of the month, and has no link. */
const unlinked = (tx: TransactionSql, month: string) => tx`
  e.at >= ${month}::timestamptz and e.at < (${month}::timestamptz at time zone 'UTC' + interval '1 month') at time zone 'UTC'
  and not exists (select from audit_links l where l.at = ${month} and l.event_id = e.id and l.event_at = e.at)`

/** `e` is of a transaction that comes after the last linked one. */
const isPending = (tx: TransactionSql) => tx`
  ((e.xid, e.id) > (coalesce((select xid from audit_cursor), '0'::xid8),
                    coalesce((select id from audit_cursor), ${lowestId}::uuid))
   and e.xid < pg_snapshot_xmax(pg_current_snapshot()))`

/** Reads of one snapshot. */
export const createVerifyStore = (tx: TransactionSql) => ({
  keys: () => listAuditKeys(tx),

  /** Every month that has a link, an event or a head, oldest first. */
  listMonths: async (): Promise<(Partial<HeadRow> & { readonly month: string; readonly isEmpty: boolean })[]> =>
    tx<(Partial<HeadRow> & { month: string; isEmpty: boolean })[]>`
      with months as (
        select month from audit_heads
         union select distinct at from audit_links
         union select distinct date_trunc('month', at at time zone 'UTC') at time zone 'UTC' from audit_events)
      select to_char(m.month at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as month, h.token,
             not exists (select from audit_links l where l.at = m.month)
             and not exists (select from audit_events e
                              where e.at >= m.month and e.at < (m.month at time zone 'UTC' + interval '1 month') at time zone 'UTC')
               as "isEmpty"
        from months m left join audit_heads h using (month) order by m.month`,

  /** The hash of one link; undefined where it is gone. */
  findHash: async (month: string, sequence: number): Promise<string | undefined> => {
    const [row] = await tx<{ hash: string }[]>`
      select encode(hash, 'hex') as hash from audit_links where at = ${month} and sequence = ${sequence}`
    return row?.hash
  },

  listCheckpoints: (month: string): Promise<CheckpointRow[]> =>
    tx<CheckpointRow[]>`
      select ${month}::text as month, sequence::int as sequence, token from audit_checkpoints where month = ${month} order by 2`,

  /** Links of a month after a position, in their order. */
  listLinks: async (month: string, after: number, limit: number): Promise<LinkedRow[]> => {
    const rows = await tx<
      (EventRow & {
        sequence: string
        event_id: string
        event_at: string
        row_hash: string
        hash: string
        salt: Uint8Array | null
        details: string | null
        closed: boolean
        repeated: boolean
      })[]
    >`
      select l.sequence, l.event_id, ${time(tx, 'l.event_at')} as event_at, encode(l.row_hash, 'hex') as row_hash,
             encode(l.hash, 'hex') as hash, d.salt, d.details,
             d.event_id is null and e.details_hash is not null and exists (
               select from users u where u.id = coalesce(e.actor_id, e.user_id) and u.status = 'deleted') as closed,
             exists (select from audit_links o where o.event_id = l.event_id and (o.at, o.sequence) < (l.at, l.sequence)) as repeated,
             ${chainedColumns(tx)}
        from (select at, sequence, event_id, event_at, row_hash, hash from audit_links
               where at = ${month} and sequence > ${after} order by sequence limit ${limit}) l
        left join lateral (
          select id, at, xid, action, actor_kind, actor_id, service_key_id, session_id, target_type, target_id, user_id, team_id,
                 request_id, before, after, count, details_hash, mac
            from audit_events where id = l.event_id and at = l.event_at limit 1) e on true
        left join lateral (
          select event_id, salt, details from audit_details where event_id = l.event_id and at = l.event_at limit 1) d on true
       order by l.sequence`
    return rows.map((row) => {
      const { sequence, event_id, event_at, row_hash, hash, salt, details, closed, repeated, ...event } = row
      return {
        link: { sequence, event_id, event_at, row_hash, hash },
        event: event.id === null ? undefined : event,
        details: salt === null || details === null ? undefined : { salt, details },
        closed,
        isRepeated: repeated,
      }
    })
  },

  /**
   * Events of a month without a link that should have one: of a transaction that was over when rows were linked last, or of one
   * that never was. The first `limit`.
   */
  findStrays: (month: string, limit: number): Promise<StrayRow[]> =>
    tx<StrayRow[]>`
      select e.id, ${time(tx, 'e.at')} as at from audit_events e
       where ${unlinked(tx, month)} and not ${isPending(tx)} order by e.at, e.id limit ${limit}`,

  /** Events of a month that are to be linked: how many, and the first `limit` of them. */
  findPending: async (
    month: string,
    limit: number,
  ): Promise<{ readonly count: number; readonly events: readonly PendingRow[] }> => {
    const rows = await tx<(EventRow & { total: number; repeated: boolean })[]>`
      select (count(*) over ())::int as total,
             exists (select from audit_links o where o.event_id = e.id) as repeated, ${chainedColumns(tx)}
        from audit_events e where ${unlinked(tx, month)} and ${isPending(tx)} order by e.xid, e.id limit ${limit}`
    const events = rows.map(({ total: _, repeated, ...event }) => ({ event, isRepeated: repeated }))
    return { count: rows[0]?.total ?? 0, events }
  },
})

export type VerifyStore = ReturnType<typeof createVerifyStore>

/** Runs reads that all see the same moment. */
export const withSnapshot = <T>(sql: Sql, work: (store: VerifyStore) => Promise<T>): Promise<T> =>
  sql.begin('isolation level repeatable read read only', (tx) => work(createVerifyStore(tx))) as Promise<T>
