import type { Fragment, Sql, TransactionSql } from '../platform/postgres.ts'

export type OrderCancellation = {
  readonly generation_id: string
  readonly model: string
  /** The provider's reference of the order, as the worker recorded it. */
  readonly remote: unknown
}

/**
 * Removes jobs and, in the same transaction, enqueues the cancellation of the orders recorded for them. Returns how many
 * jobs were removed.
 */
export const removeJobsAndCancelOrders = async (tx: TransactionSql, condition: Fragment): Promise<number> => {
  const removed = await tx`
    with removed as (
      delete from generation_jobs where ${condition} returning generation_id, remote
    ), cancellations as (
      insert into order_cancellations (generation_id, model, remote)
      select generation_id, g.model, remote from removed join generations g on g.id = generation_id
       where jsonb_typeof(remote) = 'object'
    )
    select from removed`
  return removed.length
}

export const createCancellationStore = (sql: Sql) => ({
  /**
   * Leases up to `limit` due cancellations of these models, the longest due first. Each is due again after a pause as long
   * as its age, and at least `minRetryMs`, so pauses double. Locks the leased rows for update and skips rows that another
   * instance has locked, so it never waits. Cost: one index range over due rows.
   */
  lease: (models: readonly string[], limit: number, minRetryMs: number): Promise<OrderCancellation[]> => sql`
    update order_cancellations
       set due_at = clock_timestamp()
           + greatest(clock_timestamp() - created_at, ${minRetryMs}::float8 * interval '1 millisecond')
     where generation_id in (
       select generation_id from order_cancellations
        where due_at <= clock_timestamp() and model = any (${models as string[]}::text[])
        order by due_at limit ${limit} for update skip locked
     )
    returning generation_id, model, remote`,

  remove: async (generationId: string): Promise<void> => {
    await sql`delete from order_cancellations where generation_id = ${generationId}`
  },

  purge: async (olderThanMs: number): Promise<void> => {
    await sql`
      delete from order_cancellations
       where created_at < clock_timestamp() - ${olderThanMs}::float8 * interval '1 millisecond'`
  },
})

export type CancellationStore = ReturnType<typeof createCancellationStore>
