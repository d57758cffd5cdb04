import type { Sql, TransactionSql } from '../../platform/postgres.ts'
import { type InvalidationEvent, toInvalidationKeys } from './model.ts'
import { commonChannel, encodeMessage } from './topics.ts'

const toEvent = ({ id, keys }: { id: string; keys: string[] }): InvalidationEvent => ({
  id,
  keys: toInvalidationKeys(keys),
})

/**
 * Announces what this transaction has changed, to be heard when it commits: the event's id and the names of the facts,
 * or undefined where it changed none, unless `always`. `instance` is who waits for it to be heard.
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

/** Events that stand: the outer cache has not confirmed yet that it forgot what they touched. */
export const createEventStore = (sql: Sql) => ({
  /** Those of these that stand. */
  listPending: async (ids: readonly string[]): Promise<Set<string>> => {
    const rows = await sql<{ id: string }[]>`
      select id from access_events where id = any (${ids as string[]}::bigint[])`
    return new Set(rows.map(({ id }) => id))
  },

  /** Removes events and tells everybody so, in one statement: a row is never gone without being told of. */
  remove: async (eventIds: readonly string[], serverRunId: string): Promise<void> => {
    await sql`
      with gone as (delete from access_events where id = any (${eventIds as string[]}::bigint[]))
      select pg_notify(${commonChannel}, ${encodeMessage('confirmed', { serverRunId, eventIds })})`
  },
})

export type EventStore = ReturnType<typeof createEventStore>

/** What the bus reads on its own connection, which knows no type of arrays: it would take one for text. */
export const readEvent = async (sql: Sql, id: string): Promise<InvalidationEvent | undefined> => {
  const [row] = await sql<{ id: string; keys: string[] }[]>`
    select id, to_jsonb(keys) as keys from access_events where id = ${id}`
  return row && toEvent(row)
}

export const readPendingEvents = async (sql: Sql): Promise<InvalidationEvent[]> =>
  (await sql<{ id: string; keys: string[] }[]>`select id, to_jsonb(keys) as keys from access_events`).map(toEvent)
