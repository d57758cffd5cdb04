import type { Sql } from '../platform/postgres.ts'
import type { HeadRow } from './chain-store.ts'

/** Months that have partitions ahead of the current one. */
const monthsAhead = 2

export const createMaintenanceStore = (sql: Sql) => ({
  /** Returns how many partitions were missing. */
  createPartitions: async (): Promise<number> => {
    const [row] = await sql<{ created: number }[]>`select create_audit_partitions(${monthsAhead}) as created`
    return row?.created ?? 0
  },

  /** The clock of Postgres, by which events are dated. */
  nowMs: async (): Promise<number> => {
    const [row] = await sql<{ now: number }[]>`select extract(epoch from clock_timestamp())::float8 * 1000 as now`
    if (row === undefined) throw new Error('Postgres returned no time')
    return row.now
  },

  /** Heads of months that ended before a moment, and whose events are not dropped yet. */
  listEnded: (before: Date): Promise<HeadRow[]> =>
    sql<HeadRow[]>`
      select to_char(month at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as month, token from audit_heads
       where month < date_trunc('month', ${before}::timestamptz at time zone 'UTC') at time zone 'UTC' and dropped_at is null
       order by audit_heads.month`,

  /** Drops the months that ended before a moment, and replaces their heads by those that say so. */
  drop: async (before: Date, heads: readonly HeadRow[]): Promise<number> => {
    const dropped = await sql.begin(async (tx) => {
      for (const { month, token } of heads) await tx`update audit_heads set token = ${token} where month = ${month}`
      const [row] = await tx<{ dropped: number }[]>`select drop_audit_partitions(${before}) as dropped`
      return row?.dropped ?? 0
    })
    return dropped
  },
})

export type MaintenanceStore = ReturnType<typeof createMaintenanceStore>
