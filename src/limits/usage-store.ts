import type { Sql } from '../platform/postgres.ts'

/** Accounts that one statement compares, so that its time and memory have a bound. */
const accountsPerSlice = 1_000
const lastId = 'ffffffff-ffff-ffff-ffff-ffffffffffff'

/** The counters of an account, and the bytes and projects that it holds. */
export type UsageDifference = {
  readonly user_id: string
  readonly media_bytes: number
  readonly projects: number
  readonly held_bytes: number
  readonly held_projects: number
}

/** What the scheduled recount of usage does in Postgres. `batch` is the pool for background tasks. */
export const createUsageStore = (batch: Sql) => ({
  /**
   * Claims the recount if it is due: one instance at a time runs it. A claim that is not completed, because its instance was
   * killed, ends after an hour.
   */
  claim: async (): Promise<boolean> => {
    const { count } = await batch`
      update access_checks set due_at = clock_timestamp() + interval '1 hour'
       where name = 'account_usage' and due_at <= clock_timestamp()`
    return count === 1
  },

  /** It stays due where a trigger was enabled meanwhile. */
  complete: async (tookMs: number, nextInMs: number): Promise<void> => {
    await batch`
      update access_checks
         set finished_at = clock_timestamp(), took = ${tookMs}::float8 * interval '1 millisecond',
             due_at = case when due_at <= clock_timestamp() then due_at
                           else clock_timestamp() + ${nextInMs}::float8 * interval '1 millisecond' end
       where name = 'account_usage'`
  },

  /** Accounts of one slice, by id, whose counters are wrong. Locks nothing. */
  findWrongAfter: async (after: string): Promise<{ accounts: string[]; next: string | undefined }> => {
    const [last] = await batch<{ id: string }[]>`
      select id from users where id > ${after} order by id limit 1 offset ${accountsPerSlice - 1}`
    const rows = await batch<{ user_id: string }[]>`
      select user_id from wrong_usage(${after}, ${last?.id ?? lastId}) user_id`
    return { accounts: rows.map(({ user_id }) => user_id), next: last?.id }
  },

  /** Counts one account anew, under the lock of its counters. Undefined where they are right. */
  recount: async (userId: string): Promise<UsageDifference | undefined> => {
    const [row] = await batch<UsageDifference[]>`
      select ${userId} as user_id, media_bytes::float8 as media_bytes, projects::float8 as projects,
             held_bytes::float8 as held_bytes, held_projects::float8 as held_projects
        from recount_usage_of(${userId})`
    return row
  },
})

export type UsageStore = ReturnType<typeof createUsageStore>
