import type { Sql } from '../platform/postgres.ts'

/** Queues of work in Postgres, by the names of their readers. */
export const queues = ['jobs', 'outbound', 'webhooks', 'cancellations', 'invalidations'] as const
export type Queue = (typeof queues)[number]

export const createMonitoringStore = (sql: Sql) => ({
  /**
   * How long the entry of each queue that is due and waits longest has waited, in milliseconds; null: none does. One statement,
   * whose parts each read one entry of an index or a table of unfinished work.
   */
  readLags: async (): Promise<Record<Queue, number | null>> => {
    const [row] = await sql<Record<Queue, number | null>[]>`
      select (extract(epoch from now() - jobs) * 1000)::float8 as jobs,
             (extract(epoch from now() - outbound) * 1000)::float8 as outbound,
             (extract(epoch from now() - webhooks) * 1000)::float8 as webhooks,
             (extract(epoch from now() - cancellations) * 1000)::float8 as cancellations,
             (extract(epoch from now() - invalidations) * 1000)::float8 as invalidations
        from (select
          (select min(run_after) from generation_jobs where worker is null and run_after <= now()) as jobs,
          (select min(run_at) from outbound_tasks where run_at <= now()) as outbound,
          (select queued_at from webhook_deliveries
            where due_at is null and state = 'pending' order by ordinal limit 1) as webhooks,
          (select min(due_at) from order_cancellations where due_at <= now()) as cancellations,
          (select created_at from access_events order by id limit 1) as invalidations) oldest`
    if (row === undefined) throw new Error('Postgres returned no row of the queues')
    return row
  },
})

export type MonitoringStore = ReturnType<typeof createMonitoringStore>
