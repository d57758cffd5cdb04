import type { Sql } from '../platform/postgres.ts'

export type OrderCancellation = {
  readonly generation_id: string
  readonly model: string
  /** What the provider calls the order. */
  readonly remote: unknown
}

export const createCancellationStore = (sql: Sql) => ({
  /**
   * Takes up to `limit` that are due, of these models. They are due again after a pause as long as they have been there, and
   * of `leastPauseMs` at least; those that others are at are passed over.
   */
  take: (models: readonly string[], limit: number, leastPauseMs: number): Promise<OrderCancellation[]> => sql`
    update order_cancellations
       set due_at = clock_timestamp()
           + greatest(clock_timestamp() - created_at, ${leastPauseMs}::float8 * interval '1 millisecond')
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
