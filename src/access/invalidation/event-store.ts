import type { Sql, TransactionSql } from '../../platform/postgres.ts'
import { type InvalidationEvent, toInvalidationKeys } from './model.ts'
import { commonChannel, encodeMessage } from './topics.ts'

const toEvent = ({ id, keys }: { id: string; keys: string[] }): InvalidationEvent => ({
  id,
  keys: toInvalidationKeys(keys),
})

/**
 * Publishes the invalidation event of this transaction, delivered when it commits. Returns the event; undefined where the
 * transaction changed no fact, unless `always`. `instance` receives the acknowledgements.
 */
export const publishEvent = async (
  tx: TransactionSql,
  instance: string,
  always = false,
): Promise<InvalidationEvent | undefined> => {
  const [row] = await tx<
    { id: string; keys: string[] }[]
  >`select id, keys from publish_access_event(${instance}, ${always})`
  return row && toEvent(row)
}

/** The rows of events that Redis has not confirmed yet. */
export const createEventStore = (sql: Sql) => ({
  /** Those of the given ids that still have a row. */
  listPending: async (ids: readonly string[]): Promise<Set<string>> => {
    const rows = await sql<{ id: string }[]>`
      select id from access_events where id = any (${ids as string[]}::bigint[])`
    return new Set(rows.map(({ id }) => id))
  },

  /** Deletes rows and notifies every instance in one statement, so that no row disappears without a notification. */
  remove: async (eventIds: readonly string[], serverRunId: string): Promise<void> => {
    await sql`
      with gone as (delete from access_events where id = any (${eventIds as string[]}::bigint[]))
      select pg_notify(${commonChannel}, ${encodeMessage('confirmed', { serverRunId, eventIds })})`
  },
})

export type EventStore = ReturnType<typeof createEventStore>

/** For the connection of the bus, which does not fetch array types: an array column would be parsed as text. */
export const readEvent = async (sql: Sql, id: string): Promise<InvalidationEvent | undefined> => {
  const [row] = await sql<{ id: string; keys: string[] }[]>`
    select id, to_jsonb(keys) as keys from access_events where id = ${id}`
  return row && toEvent(row)
}

export const readPendingEvents = async (sql: Sql): Promise<InvalidationEvent[]> =>
  (await sql<{ id: string; keys: string[] }[]>`select id, to_jsonb(keys) as keys from access_events`).map(toEvent)
