import { lockKeys } from '../../platform/lock-keys.ts'
import type { Sql } from '../../platform/postgres.ts'

/** The materialized views that are refreshed on a schedule. */
export const views = ['hottest_pairs', 'access_statistics'] as const
export type View = (typeof views)[number]

export const createViewStore = (sql: Sql) => ({
  /**
   * Refreshes a view unless another instance is refreshing it or did so within `everyMs`. Resolves to whether it refreshed
   * it. Concurrent reads do not wait and see the earlier contents. The advisory lock belongs to the transaction, not to the
   * connection, so that it works behind a pooler.
   */
  refresh: (view: View, everyMs: number): Promise<boolean> =>
    sql.begin(async (tx) => {
      const [lock] = await tx<{ ours: boolean }[]>`
        select pg_try_advisory_xact_lock(${lockKeys.viewRefresh}::int, hashtext(${view})) as ours`
      if (!lock?.ours) return false
      const { count: fresh } = await tx`
        select from view_refreshes
         where view = ${view} and refreshed_at > clock_timestamp() - ${everyMs}::float8 * interval '1 millisecond'`
      if (fresh > 0) return false
      await tx`refresh materialized view concurrently ${tx(view)}`
      await tx`
        insert into view_refreshes (view, refreshed_at, took) values (${view}, clock_timestamp(), clock_timestamp() - now())
            on conflict (view) do update set refreshed_at = excluded.refreshed_at, took = excluded.took`
      return true
    }) as Promise<boolean>,
})

export type ViewStore = ReturnType<typeof createViewStore>
