import { lockKeys } from '../../platform/lock-keys.ts'
import type { Sql } from '../../platform/postgres.ts'

/** The materialized views, which are refreshed on a schedule. */
export const views = ['hottest_pairs', 'access_statistics'] as const
export type View = (typeof views)[number]

export const createViewStore = (sql: Sql) => ({
  /**
   * Refreshes a view unless another instance is at it or did it within `everyMs`; says whether it did. Whoever reads it
   * meanwhile waits for nothing and sees it as it was. The lock ends with the transaction, and not with the connection,
   * so that it works behind a pooler too.
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
