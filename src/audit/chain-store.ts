import { lowestId } from '../kit/cursor.ts'
import { lockKeys } from '../platform/lock-keys.ts'
import type { Sql, TransactionSql } from '../platform/postgres.ts'
import type { VerifyingKey } from '../platform/tokens.ts'
import type { EventRow, Link } from './chain.ts'

export type AuditKeyRow = {
  readonly kid: string
  readonly public_jwk: VerifyingKey['publicJwk']
  readonly mac: Uint8Array
}
export type HeadRow = { readonly month: string; readonly token: string }
export type CheckpointRow = HeadRow & { readonly sequence: number }

/** The last linked event. An event of a transaction that was over when it was linked comes after none that is not linked. */
export type Cursor = { readonly xid: string; readonly id: string }

/** The columns of an event as the chain reads them. `e` is audit_events. */
export const chainedColumns = (sql: Sql | TransactionSql) => sql`
  e.id, to_char(e.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as at, e.xid::text as xid, e.action, e.actor_kind, e.actor_id,
  e.service_key_id, e.session_id, e.target_type, e.target_id, e.user_id, e.team_id, e.request_id, e.before::text as before,
  e.after::text as after, e.count, e.details_hash, e.mac`

/** Which server and database transaction ids are of. */
const server = (tx: TransactionSql | Sql) =>
  tx`concat(split_part(database_identity(), '-', 1), '-', split_part(database_identity(), '-', 2))`

export const createChainStore = (sql: Sql) => ({
  /**
   * Whether there may be rows to link: also on another server than before, whose transaction ids may be lower. Rows of a dump may
   * have ids that this server has not given yet. Reads one entry of an index where there are none.
   */
  hasUnlinked: async (): Promise<boolean> => {
    const [row] = await sql<{ found: boolean }[]>`
      select exists (select from audit_events e
                      where (e.xid, e.id) > (coalesce((select c.xid from audit_cursor c), '0'::xid8),
                                             coalesce((select c.id from audit_cursor c), ${lowestId}::uuid))
                        and e.xid < pg_snapshot_xmax(pg_current_snapshot()))
             or exists (select from audit_cursor c where c.server <> ${server(sql)}) as found`
    return row?.found === true
  },

  /** Runs the work in a transaction, unless another instance is linking rows. */
  exclusively: <T>(work: (tx: TransactionSql) => Promise<T>): Promise<T | undefined> =>
    sql.begin(async (tx) => {
      const [row] = await tx<{ locked: boolean }[]>`select pg_try_advisory_xact_lock(${lockKeys.auditChain}) as locked`
      return row?.locked === true ? work(tx) : undefined
    }) as Promise<T | undefined>,
})

export type ChainStore = ReturnType<typeof createChainStore>

/**
 * Where to go on, and up to where. Every transaction before `until` is over, and what it committed is visible to the next
 * statement. On another server than before, such as a restored copy, transaction ids mean nothing: all rows are looked through.
 */
export const readCursor = async (
  tx: TransactionSql,
): Promise<{ readonly from: Cursor; readonly until: string; readonly isMoved: boolean; readonly now: string }> => {
  const [row] = await tx<
    { xid: string | null; id: string | null; until: string; moved: boolean | null; now: string }[]
  >`
    select c.xid::text as xid, c.id, pg_snapshot_xmin(pg_current_snapshot())::text as until, c.server <> ${server(tx)} as moved,
           to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as now
      from (select) one left join audit_cursor c on true`
  if (row === undefined) throw new Error('Postgres returned no cursor')
  const from = { xid: row.xid ?? '0', id: row.id ?? lowestId }
  return { from, until: row.until, isMoved: row.moved === true, now: row.now }
}

/**
 * Rows after a cursor, in the order of their transactions; `isLinked` for those that have a link already, as a restored copy may
 * have. `until` undefined: all that are visible. Reads `limit` entries of an index, and one of the links for each.
 */
export const listAfter = (
  tx: TransactionSql,
  { from, until }: { readonly from: Cursor; readonly until: string | undefined },
  limit: number,
): Promise<(EventRow & { readonly isLinked: boolean })[]> =>
  tx<(EventRow & { isLinked: boolean })[]>`
    select ${chainedColumns(tx)}, l.found is not null as "isLinked"
      from (select id, at, xid, action, actor_kind, actor_id, service_key_id, session_id, target_type, target_id, user_id, team_id,
                   request_id, before, after, count, details_hash, mac
              from audit_events
             where (xid, id) > (${from.xid}::xid8, ${from.id}::uuid) ${until === undefined ? tx`` : tx`and xid < ${until}::xid8`}
             order by xid, id limit ${limit}) e
      left join lateral (
        select true as found from audit_links
         where at = date_trunc('month', e.at at time zone 'UTC') at time zone 'UTC' and event_id = e.id and event_at = e.at
         limit 1) l on true
     order by e.xid, e.id`

export const listHeads = (tx: TransactionSql | Sql): Promise<HeadRow[]> =>
  tx<HeadRow[]>`
    select to_char(month at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as month, token from audit_heads h order by h.month`

export const listAuditKeys = (tx: TransactionSql | Sql): Promise<AuditKeyRow[]> =>
  tx<AuditKeyRow[]>`select kid, public_jwk, mac from audit_keys`

/** The newest link of a month, whoever made it. */
export const findLastLink = async (
  tx: TransactionSql,
  month: string,
): Promise<{ readonly sequence: number; readonly hash: string } | undefined> => {
  const [row] = await tx<{ sequence: string; hash: string }[]>`
    select sequence, encode(hash, 'hex') as hash from audit_links where at = ${month} order by sequence desc limit 1`
  return row && { sequence: Number(row.sequence), hash: row.hash }
}

export const addKey = async (tx: TransactionSql, { kid, public_jwk, mac }: AuditKeyRow): Promise<void> => {
  await tx`
    insert into audit_keys (kid, public_jwk, mac) values (${kid}, ${tx.json(public_jwk as never)}, ${mac})
        on conflict (kid) do nothing`
}

export const addLinks = async (tx: TransactionSql, links: readonly Link[]): Promise<void> => {
  await tx`
    insert into audit_links (at, sequence, event_id, event_at, row_hash, hash)
    select l.month, l.sequence, l.event_id, l.event_at, decode(l.row_hash, 'hex'), decode(l.hash, 'hex')
      from json_to_recordset(${JSON.stringify(links)}::text::json)
           as l (month timestamptz, sequence bigint, event_id uuid, event_at timestamptz, row_hash text, hash text)`
}

export const setHead = async (tx: TransactionSql, { month, token }: HeadRow): Promise<void> => {
  await tx`
    insert into audit_heads (month, token) values (${month}, ${token})
        on conflict (month) do update set token = excluded.token`
}

export const addCheckpoint = async (tx: TransactionSql, { month, sequence, token }: CheckpointRow): Promise<void> => {
  await tx`
    insert into audit_checkpoints (month, sequence, token) values (${month}, ${sequence}, ${token}) on conflict do nothing`
}

export const setCursor = async (tx: TransactionSql, { xid, id }: Cursor): Promise<void> => {
  await tx`
    insert into audit_cursor (xid, id, server) values (${xid}::xid8, ${id}::uuid, ${server(tx)})
        on conflict (singleton) do update set xid = excluded.xid, id = excluded.id, server = excluded.server`
}
