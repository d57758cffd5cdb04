import type { BreakerMode, BreakerPolicies, BreakerPolicy, Dependency } from '../platform/breaker.ts'
import type { Queryable, TransactionSql } from '../platform/postgres.ts'

type Row = { dependency: Dependency; mode: BreakerMode; failures: number; probe_after_ms: number }

/** The policies that operators have set. */
export const createBreakerStore = (sql: Queryable) => ({
  list: async (): Promise<Partial<BreakerPolicies>> => {
    const rows = await sql<Row[]>`select dependency, mode, failures, probe_after_ms from breaker_policies`
    return Object.fromEntries(
      rows.map(({ dependency, mode, failures, probe_after_ms }) => [
        dependency,
        { mode, failures, probeAfterMs: probe_after_ms },
      ]),
    )
  },

  /** Locks the policy until the transaction ends, so that of two changes each sees the other. Undefined: none is set. */
  lock: async (tx: TransactionSql, dependency: Dependency): Promise<BreakerPolicy | undefined> => {
    const [row] = await tx<Row[]>`
      select dependency, mode, failures, probe_after_ms from breaker_policies where dependency = ${dependency} for update`
    return row && { mode: row.mode, failures: row.failures, probeAfterMs: row.probe_after_ms }
  },

  set: async (tx: TransactionSql, dependency: Dependency, policy: BreakerPolicy): Promise<void> => {
    const { mode, failures, probeAfterMs } = policy
    await tx`
      insert into breaker_policies (dependency, mode, failures, probe_after_ms)
           values (${dependency}, ${mode}, ${failures}, ${probeAfterMs})
      on conflict (dependency) do update
         set mode = excluded.mode, failures = excluded.failures, probe_after_ms = excluded.probe_after_ms,
             updated_at = now()`
  },
})

export type BreakerStore = ReturnType<typeof createBreakerStore>
