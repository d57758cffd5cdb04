import type { Sql, TransactionSql } from '../../platform/postgres.ts'
import { type AccessEvent, commonChannel, toTouched } from './bus.ts'

const toEvent = ({ id, keys }: { id: string; keys: string[] }): AccessEvent => ({ id, touched: toTouched(keys) })

/**
 * Announces what this transaction has changed, to be heard when it commits: the event's id and the names of the facts,
 * or undefined where it changed none, unless `always`. `instance` is who waits for it to be heard.
 */
export const publishChange = async (
  tx: TransactionSql,
  instance: string,
  always = false,
): Promise<AccessEvent | undefined> => {
  const [row] = await tx<
    { id: string; keys: string[] }[]
  >`select id, keys from publish_access_event(${instance}, ${always})`
  return row && toEvent(row)
}

/** Events that stand: the outer cache has not confirmed yet that it forgot what they touched. */
export const createOutboxStore = (sql: Sql) => ({
  /** Those of these that stand. */
  listLeft: async (ids: readonly string[]): Promise<Set<string>> => {
    const rows = await sql<{ id: string }[]>`
      select id from access_events where id = any (${ids as string[]}::bigint[])`
    return new Set(rows.map(({ id }) => id))
  },

  /** Removes events and tells everybody so, in one statement: a row is never gone without being told of. */
  remove: async (ids: readonly string[], incarnation: string): Promise<void> => {
    await sql`
      with gone as (delete from access_events where id = any (${ids as string[]}::bigint[]))
      select pg_notify(${commonChannel}, ${`confirmed ${incarnation} ${ids.join(' ')}`})`
  },
})

export type OutboxStore = ReturnType<typeof createOutboxStore>

/** What the bus reads on its own connection, which knows no type of arrays: it would take one for text. */
export const readEvent = async (sql: Sql, id: string): Promise<AccessEvent | undefined> => {
  const [row] = await sql<{ id: string; keys: string[] }[]>`
    select id, to_jsonb(keys) as keys from access_events where id = ${id}`
  return row && toEvent(row)
}

export const readStandingEvents = async (sql: Sql): Promise<AccessEvent[]> =>
  (await sql<{ id: string; keys: string[] }[]>`select id, to_jsonb(keys) as keys from access_events`).map(toEvent)
