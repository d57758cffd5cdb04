import type { Queryable, Sql, TransactionSql } from '../platform/postgres.ts'

export type TaskRow = {
  readonly id: string
  readonly kind: string
  readonly payload: unknown
  readonly attempt: number
  /** How many earlier attempts failed. */
  readonly failures: number
  readonly created_at: Date
}

export type TaskLease = Pick<TaskRow, 'id' | 'attempt'>

export type StoredTask = {
  readonly id: string
  readonly kind: string
  readonly payload: unknown
  readonly dedupeKey: string | null
  readonly orderingKey: string | null
  readonly userId: string | null
  readonly at: Date
  readonly runAt: Date
}

/** Of the tasks with one ordering key only the first is due. */
const isDue = (on: Queryable, now: Date) => on`
  t.run_at <= ${now}
  and (t.ordering_key is null or not exists (
    select from outbound_tasks earlier
     where earlier.kind = t.kind and earlier.ordering_key = t.ordering_key and earlier.position < t.position))`

/**
 * Outbound tasks. A lease is an attempt number and a time in `run_at`: a task whose worker is gone is due again when its lease
 * ends, and what that worker does later has another attempt number and changes nothing.
 */
export const createOutboundStore = (sql: Sql) => ({
  /** Does nothing where an unfinished task of the kind has the same key. */
  insert: async (tx: TransactionSql, task: StoredTask): Promise<void> => {
    await tx`
      insert into outbound_tasks (id, kind, payload, dedupe_key, ordering_key, user_id, created_at, run_at)
      values (${task.id}, ${task.kind}, ${tx.json(task.payload as never)}, ${task.dedupeKey}, ${task.orderingKey},
              ${task.userId}, ${task.at}, ${task.runAt})
      on conflict on constraint outbound_tasks__dedupe_key do nothing`
  },

  /** As `insert`, but takes the place of an unfinished task with the same key. An attempt at that one loses its lease. */
  insertOrReplace: async (tx: TransactionSql, task: StoredTask): Promise<void> => {
    await tx`
      insert into outbound_tasks as t (id, kind, payload, dedupe_key, ordering_key, user_id, created_at, run_at)
      values (${task.id}, ${task.kind}, ${tx.json(task.payload as never)}, ${task.dedupeKey}, ${task.orderingKey},
              ${task.userId}, ${task.at}, ${task.runAt})
      on conflict on constraint outbound_tasks__dedupe_key do update
         set payload = excluded.payload, user_id = excluded.user_id, created_at = excluded.created_at,
             run_at = excluded.run_at, attempt = t.attempt + 1, failures = 0`
  },

  /** Which of these kinds have a task that can be leased. One read, so that an idle poll stays cheap. */
  findDueKinds: async (kinds: readonly string[], now: Date): Promise<string[]> => {
    const rows = await sql<{ kind: string }[]>`
      select wanted.kind from unnest(${[...kinds]}::text[]) as wanted (kind)
       where exists (select from outbound_tasks t where t.kind = wanted.kind and ${isDue(sql, now)})`
    return rows.map(({ kind }) => kind)
  },

  /**
   * Leases up to `limit` due tasks of a kind until `until`, those that are due for longest first. Of the tasks with one ordering
   * key only the first can be leased. Skips locked rows, so it never waits.
   */
  lease: (kind: string, limit: number, now: Date, until: Date): Promise<TaskRow[]> => sql<TaskRow[]>`
    with due as (
      select t.id from outbound_tasks t
       where t.kind = ${kind} and ${isDue(sql, now)}
       order by t.run_at, t.position limit ${limit} for update of t skip locked
    )
    update outbound_tasks t set attempt = t.attempt + 1, run_at = ${until}
      from due where t.id = due.id
    returning t.id, t.kind, t.payload, t.attempt, t.failures, t.created_at`,

  /** Deletes a finished task under its lease. False: the lease is lost, and nothing is deleted. */
  complete: async ({ id, attempt }: TaskLease, on: Queryable = sql): Promise<boolean> => {
    const { count } = await on`delete from outbound_tasks where id = ${id} and attempt = ${attempt}`
    return count === 1
  },

  /** Ends the lease. Does nothing when it is lost. */
  reschedule: async ({ id, attempt }: TaskLease, runAt: Date, failed: boolean): Promise<void> => {
    await sql`
      update outbound_tasks set run_at = ${runAt}, failures = failures + ${failed ? 1 : 0}
       where id = ${id} and attempt = ${attempt}`
  },

  /** For an account that is closed. */
  deleteOfUser: async (tx: TransactionSql, userId: string): Promise<void> => {
    await tx`delete from outbound_tasks where user_id = ${userId}`
  },

  /** How many tasks of each kind are unfinished. */
  countUnfinished: async (): Promise<ReadonlyMap<string, number>> => {
    const rows = await sql<{ kind: string; tasks: number }[]>`
      select kind, count(*)::int as tasks from outbound_tasks group by kind`
    return new Map(rows.map(({ kind, tasks }) => [kind, tasks]))
  },
})

export type OutboundStore = ReturnType<typeof createOutboundStore>
