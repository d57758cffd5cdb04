import type { Sql } from '../../platform/postgres.ts'

/** The Redis server that the instances of a database share. */
export type RedisChoice = {
  /** Random, new with each choice. */
  readonly epoch: string
  /** Its run id; `noRedis` where the instances use none. */
  readonly server: string
  /** Identifies the database, and the files of its cached tables. */
  readonly database: string
  /** The newest id of an invalidation event. It falls only when the database is set back. */
  readonly events: number
  /** How long ago it was chosen. */
  readonly chosenMs: number
}

/** The instance ends, so another server may be chosen at once where it was the last one to use its own. */
export const unregisterRedis = async (sql: Sql, instance: string): Promise<void> => {
  await sql`delete from redis_registrations where instance = ${instance}`
}

/** Stands for the run id of the server where no Redis is configured. */
export const noRedis = '-'

/**
 * Registers the server of an instance for ten seconds. `server` is undefined while it cannot be reached, and `outdatedEpoch`
 * is replaced if it is still the current one. Undefined: nothing is chosen for this database.
 */
export const registerRedis = async (
  sql: Sql,
  instance: string,
  server: string | undefined,
  outdatedEpoch: string | undefined,
): Promise<RedisChoice | undefined> => {
  const [row] = await sql<{ epoch: string; server: string; database: string; events: string; chosen_s: number }[]>`
    select epoch, server, database, events, chosen_s
      from register_redis(${instance}, ${server ?? null}, ${outdatedEpoch ?? null})`
  if (row === undefined) return undefined
  const { epoch, server: chosen, database, events, chosen_s } = row
  return { epoch, server: chosen, database, events: Number(events), chosenMs: 1_000 * chosen_s }
}
