import type { Sql, TransactionSql } from '../../platform/postgres.ts'
import type { BusSnapshot } from './bus-handlers.ts'
import { type InvalidationEvent, toInvalidationKeys } from './model.ts'

const toEvent = ({ id, keys }: { id: string; keys: string[] }): InvalidationEvent => ({
  id,
  keys: toInvalidationKeys(keys),
})

/** `identity`: of the database that the transaction runs in. */
export type RecordedEvent = InvalidationEvent & { readonly identity: string }

/**
 * How long a commit waits for the locks that order the events of all transactions. One that waits for a synchronous standby
 * which is away holds them: those behind it must end, having changed nothing, before their requests do.
 */
const maxCommitLockMs = '1500'

/**
 * Records the invalidation event of this transaction, which `sendEvents` sends after the commit. Returns the event; undefined
 * where the transaction changed no fact, unless `always`. `instance` receives the acknowledgements.
 */
export const recordEvent = async (
  tx: TransactionSql,
  instance: string,
  always = false,
): Promise<RecordedEvent | undefined> => {
  const [row] = await tx<({ id: string; keys: string[]; identity: string } | { id: null })[]>`
    select id, keys, case when id is not null then database_identity() end as identity
      from (select set_config('lock_timeout', ${maxCommitLockMs}, true)) limited
      left join record_access_event(${instance}, ${always}) on true`
  return row === undefined || row.id === null ? undefined : { ...toEvent(row), identity: row.identity }
}

/**
 * Sends every event that is committed and unsent, those of other instances too. Waits for no disk. Where it fails, the next
 * heartbeat of any instance sends them.
 */
export const sendEvents = async (sql: Sql): Promise<void> => {
  await sql`
    select send_access_events()
      from (select set_config('lock_timeout', ${maxCommitLockMs}, true), set_config('synchronous_commit', 'off', true)) limited`
}

/** Adds a key to the invalidation event of this transaction, for a fact that no row of it changed. */
export const noteInvalidation = async (tx: TransactionSql, key: string): Promise<void> => {
  await tx`select note_touched(${`${key}\n`})`
}

/** The rows of events that Redis has not confirmed yet. */
export const createEventStore = (sql: Sql) => ({
  /** Those of the given ids that still have a row. */
  listPending: async (ids: readonly string[]): Promise<Set<string>> => {
    const rows = await sql<{ id: string }[]>`
      select id from access_events where id = any (${ids as string[]}::bigint[])`
    return new Set(rows.map(({ id }) => id))
  },

  /**
   * Removes rows and notifies every instance of those removed. Removes nothing when `epoch` is no longer that of the Redis
   * server the instances share; see sql/functions/redis-registry.sql.
   */
  remove: async (eventIds: readonly string[], epoch: string): Promise<void> => {
    await sql`
      select confirm_access_events(${eventIds as string[]}::bigint[], ${epoch}),
             set_config('lock_timeout', ${maxCommitLockMs}, true)`
  },
})

export type EventStore = ReturnType<typeof createEventStore>

/** For the connection of the bus, which does not fetch array types: an array column would be parsed as text. */
export const readEvent = async (sql: Sql, id: string): Promise<InvalidationEvent | undefined> => {
  const [row] = await sql<{ id: string; keys: string[] }[]>`
    select id, to_jsonb(keys) as keys from access_events where id = ${id}`
  return row && toEvent(row)
}

/**
 * One statement, so that the position is that of the newest event that the snapshot shows. Unsent events count: they are
 * sent with the next positions.
 */
export const readSnapshot = async (sql: Sql): Promise<BusSnapshot> => {
  const rows = await sql<{ identity: string; position: string; id: string | null; keys: string[] }[]>`
    select database.identity, database.position, e.id, to_jsonb(e.keys) as keys
      from (select database_identity() as identity,
                   coalesce((select position from event_positions), 0)
                   + (select count(*) from access_events where position is null) as position) database
      left join access_events e on true`
  const [first] = rows
  if (first === undefined) throw new Error('Postgres returned no snapshot of the events')
  return {
    identity: first.identity,
    position: Number(first.position),
    pendingInvalidations: rows.flatMap(({ id, keys }) => (id === null ? [] : [toEvent({ id, keys })])),
  }
}

export const sendHeartbeat = async (sql: Sql, instance: string, heartbeatId: string): Promise<void> => {
  await sql`select send_heartbeat(${instance}, ${heartbeatId})`
}
