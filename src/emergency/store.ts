import type { Mode } from '../access/policy/modes.ts'
import { highestId } from '../kit/cursor.ts'
import type { Deadline } from '../kit/deadline.ts'
import { lockKeys } from '../platform/lock-keys.ts'
import type { Queryable, Sql, TransactionSql } from '../platform/postgres.ts'
import type { BlockKind, BlockSource } from './model.ts'

export type ModeRow = {
  mode: Mode
  reason: string
  set_by: string | null
  set_at: Date
  expires_at: Date | null
}

export type BlockRow = {
  id: string
  kind: BlockKind
  network: string | null
  user_id: string | null
  key_id: string | null
  source: BlockSource
  reason: string
  created_by: string | null
  created_at: Date
  expires_at: Date
}

type NewBlockRow = Pick<
  BlockRow,
  'id' | 'kind' | 'network' | 'user_id' | 'key_id' | 'source' | 'reason' | 'created_by'
> & {
  readonly lastsS: number
}

const modeColumns = (sql: Queryable) => sql`mode, reason, set_by, set_at, expires_at`
const blockColumns = (sql: Queryable) => sql`
  id, kind, network::text as network, user_id, key_id, source, reason, created_by, created_at, expires_at`

/** `batch`: the pool for what no request waits for. */
export const createRestrictionStore = (sql: Sql, batch: Sql) => ({
  /** Undefined where the row is gone. */
  findMode: async (deadline: Deadline): Promise<ModeRow | undefined> => {
    const [row] = await deadline.run(sql<ModeRow[]>`select ${modeColumns(sql)} from restrictions`)
    return row
  },

  /** Up to `limit + 1` blocks, newest first. */
  listBlocks: (
    deadline: Deadline,
    { after, limit, kind = null }: { after: string | null; limit: number; kind?: BlockKind | null | undefined },
  ): Promise<BlockRow[]> =>
    deadline.run(sql<BlockRow[]>`
      select ${blockColumns(sql)} from blocks
       where id < ${after ?? highestId} and (${kind}::text is null or kind = ${kind})
       order by id desc limit ${limit + 1}`),

  /** Whether a mode or a block has expired. */
  hasExpired: async (): Promise<boolean> => {
    const [row] = await batch<{ expired: boolean }[]>`
      select exists (select from restrictions where expires_at <= now())
          or exists (select from blocks where expires_at <= now()) as expired`
    return row?.expired === true
  },
})

export type RestrictionStore = ReturnType<typeof createRestrictionStore>

/**
 * Sets the mode, and returns it with the one before. Waits for the registrations that began before (see `mode_for_registration`).
 * `lastsS`: undefined for the normal mode, which stays. Makes the row again where it is gone.
 */
export const setMode = async (
  tx: TransactionSql,
  { mode, reason, by, lastsS }: { mode: Mode; reason: string; by: string | null; lastsS: number | undefined },
): Promise<{ before: ModeRow | undefined; after: ModeRow }> => {
  await tx`select pg_advisory_xact_lock(${lockKeys.mode})`
  const [before] = await tx<ModeRow[]>`select ${modeColumns(tx)} from restrictions for no key update`
  const seconds = lastsS === undefined ? null : lastsS
  const [after] = await tx<ModeRow[]>`
    insert into restrictions (mode, reason, set_by, set_at, expires_at)
    values (${mode}, ${reason}, ${by}, now(), now() + ${seconds}::int * interval '1 second')
        on conflict (id) do update
       set mode = excluded.mode, reason = excluded.reason, set_by = excluded.set_by, set_at = excluded.set_at,
           expires_at = excluded.expires_at
    returning ${modeColumns(tx)}`
  return { before, after: after as ModeRow }
}

/** The row of the account that is to be blocked, locked; undefined where it does not exist or is deleted. */
export const lockUserForBlock = async (tx: TransactionSql, id: string): Promise<boolean> => {
  const { count } = await tx`select from users where id = ${id} and status <> 'deleted' for no key update`
  return count === 1
}

/** Whether the key exists and is not revoked. */
export const hasServiceKey = async (tx: TransactionSql, id: string): Promise<boolean> => {
  const { count } = await tx`select from service_keys where id = ${id} and revoked_at is null`
  return count === 1
}

/** Blocked addresses and networks, counted under the lock that adding another one takes. */
export const lockAndCountNetworks = async (tx: TransactionSql): Promise<number> => {
  await tx`select from restrictions for no key update`
  const [row] = await tx<{ count: number }[]>`select count(*)::int as count from blocks where network is not null`
  return row?.count ?? 0
}

/** Whether the detection of anomalies has blocked the network, and whether for `leastS` seconds or longer. */
export const findAnomalyBlock = async (
  tx: TransactionSql,
  network: string | null,
  leastS: number,
): Promise<'lasting' | 'ending' | undefined> => {
  const [row] = await tx<{ lasts: boolean }[]>`
    select expires_at >= now() + ${leastS}::int * interval '1 second' as lasts from blocks
     where source = 'anomaly' and network = ${network}::cidr`
  if (row === undefined) return undefined
  return row.lasts ? 'lasting' : 'ending'
}

/** Sends a message to all instances when the transaction commits. */
export const notifyAll = async (tx: TransactionSql, channel: string, payload: string): Promise<void> => {
  await tx`select pg_notify(${channel}, ${payload})`
}

/**
 * Adds a block. A target has at most one of each source: with `extend` that one gets the later expiry and the new
 * reason, else nothing is changed and the result is undefined.
 */
export const insertBlock = async (
  tx: TransactionSql,
  { lastsS, ...block }: NewBlockRow,
  { extend }: { extend: boolean },
): Promise<BlockRow | undefined> => {
  const { kind, network, user_id, key_id, source, reason } = block
  if (extend) {
    const [extended] = await tx<BlockRow[]>`
      update blocks
         set expires_at = greatest(expires_at, now() + ${lastsS}::int * interval '1 second'), reason = ${reason}, kind = ${kind}
       where source = ${source} and (network = ${network}::cidr or user_id = ${user_id} or key_id = ${key_id})
      returning ${blockColumns(tx)}`
    if (extended !== undefined) return extended
  }
  const [row] = await tx<BlockRow[]>`
    insert into blocks (id, kind, network, user_id, key_id, source, reason, created_by, expires_at)
    values (${block.id}, ${kind}, ${network}, ${user_id}, ${key_id}, ${source}, ${reason}, ${block.created_by},
            now() + ${lastsS}::int * interval '1 second')
        on conflict do nothing
    returning ${blockColumns(tx)}`
  return row
}

/** Locks the accounts of blocks before their rows, in the order of all changes. */
const lockUsersOfBlocks = async (tx: TransactionSql, ids: readonly string[]): Promise<void> => {
  await tx`
    select from users
     where id in (select user_id from blocks where id = any (${[...ids]}::uuid[])) order by id for no key update`
}

/** Removes blocks, and returns those that were there. */
export const removeBlocks = async (tx: TransactionSql, ids: readonly string[]): Promise<BlockRow[]> => {
  await lockUsersOfBlocks(tx, ids)
  return [
    ...(await tx<BlockRow[]>`delete from blocks where id = any (${[...ids]}::uuid[]) returning ${blockColumns(tx)}`),
  ]
}

/** The ids of at most 1,000 blocks, all or those that have expired. */
export const findBlockIds = async (tx: TransactionSql, which: 'all' | 'expired'): Promise<string[]> => {
  const rows = await tx<{ id: string }[]>`
    select id from blocks where ${which === 'all'} or expires_at <= now() order by expires_at limit 1000`
  return rows.map(({ id }) => id)
}

/** Whether the mode has expired, for the transaction that ends it. */
export const isModeExpired = async (tx: TransactionSql): Promise<boolean> => {
  const { count } = await tx`select from restrictions where expires_at <= now()`
  return count === 1
}

export const removeBlocksOfUser = async (tx: TransactionSql, userId: string): Promise<void> => {
  await tx`delete from blocks where user_id = ${userId}`
}

/** A last statement, which fails where the audit row before it failed. */
export const awaitRecorded = async (tx: TransactionSql): Promise<void> => {
  await tx`select 1`
}
