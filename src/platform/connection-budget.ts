import type { Sql } from './postgres.ts'

/**
 * Connections of a process outside its pools: two of the bus, and a short one that cancels a statement or asks whether the
 * server can be reached.
 */
const outsidePools = 3

/** Left for operators, and for the first connection of an instance that starts. */
const leftFree = 4

/** Instances that must fit: a rolling deploy starts the next one before it stops the last. */
const instances = 2

export type ConnectionLimits = {
  /** max_connections less superuser_reserved_connections and reserved_connections. */
  readonly server: number
  /** Undefined: no limit. */
  readonly role: number | undefined
  readonly database: number | undefined
}

/** What the server, the role and the database of this connection allow. */
export const readConnectionLimits = async (sql: Sql): Promise<ConnectionLimits> => {
  const [row] = await sql<{ server: number; role: number; database: number }[]>`
    select current_setting('max_connections')::int
         - current_setting('superuser_reserved_connections')::int
         - coalesce(nullif(current_setting('reserved_connections', true), '')::int, 0) as server,
           coalesce((select rolconnlimit from pg_roles where rolname = session_user), -1) as role,
           coalesce((select datconnlimit from pg_database where datname = current_database()), -1) as database`
  const limit = (count = -1) => (count < 0 ? undefined : count)
  return { server: row?.server ?? 0, role: limit(row?.role), database: limit(row?.database) }
}

/**
 * The connections that the pools of one of `processes` equal processes may open: half of the least limit, so that a second
 * instance fits beside this one, divided by the processes. May be less than one for each pool.
 */
export const connectionBudget = ({ server, role, database }: ConnectionLimits, processes: number): number => {
  const least = Math.min(server, role ?? Number.POSITIVE_INFINITY, database ?? Number.POSITIVE_INFINITY)
  return Math.floor((least - leftFree) / instances / processes) - outsidePools
}
