import { commonChannel, encodeMessage } from '../access/invalidation/topics.ts'
import { Fault } from '../fault.ts'
import { allInOrder } from '../kit/async.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { Sql, TransactionSql } from '../platform/postgres.ts'
import { removeJobsAndCancelOrders } from './cancellation-store.ts'
import { createLeaseStore, type Lease, type WorkerCapability } from './lease-store.ts'

/** How far an attempt is, from 0 to 1. */
export type ProgressReport = Lease & { readonly fraction: number }

type NewJob = {
  readonly generationId: string
  readonly referenceSha256?: string | null
  /** The most that its outputs may take. */
  readonly reservedBytes?: number
}

/** The highest position that is counted; a job further back has this one. */
const maxPosition = 10_000

/** The queue of jobs: the operations of a worker under its leases, and those that need none. */
export const createJobStore = (sql: Sql, worker: string, capability: WorkerCapability) => ({
  ...createLeaseStore(sql, worker, capability),

  /**
   * Adds the job of a generation in the transaction that inserts the generation, and wakes the runners of all instances
   * on commit. Locks the owner's account for share, so it stays active until the commit; throws
   * `identity.not_signed_in` when it is not active.
   */
  enqueue: async (
    tx: TransactionSql,
    { generationId, referenceSha256 = null, reservedBytes = 0 }: NewJob,
  ): Promise<void> => {
    const [{ count }] = await allInOrder([
      () => tx`
        insert into generation_jobs (generation_id, priority, reference_sha256, reserved_bytes)
        select id, case plan when 'enterprise' then 0 when 'pro' then 1 else 2 end, ${referenceSha256}, ${reservedBytes}
          from (select g.id, u.plan from generations g join users u on u.id = g.owner_id
                 where g.id = ${generationId} and u.status = 'active' for share of u) owned`,
      () => tx`select pg_notify(${commonChannel}, ${encodeMessage('job', {})})`,
    ])
    if (count === 0) throw new Fault('identity.not_signed_in')
  },

  /**
   * Publishes progress to all instances: one commit for all reports. The commit is asynchronous, because progress need
   * not survive a crash.
   */
  publishProgress: async (reports: readonly ProgressReport[]): Promise<void> => {
    const messages = reports.map((report) => encodeMessage('progress', report))
    await sql`
      select set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '1500', true),
             pg_notify(${commonChannel}, message)
        from unnest(${messages}::text[]) as message`
  },

  /**
   * The queue position of each of these jobs: how many due jobs are leased before it, unless an owner with an earlier turn
   * adds one. Jobs that are leased are absent. One statement, so all positions are of one snapshot. Cost: reads the first
   * 10,000 due jobs; a job behind them has position 10,000.
   */
  findPositions: async (deadline: Deadline, ids: readonly string[]): Promise<Map<string, number>> => {
    const rows = await deadline.run(sql<{ generation_id: string; position: number }[]>`
      with front as materialized (
        select generation_id, (row_number() over (order by priority, turn, created_at, generation_id) - 1)::int as position
          from (select generation_id, priority, turn, created_at from generation_jobs
                 where run_after <= clock_timestamp() and coalesce(lease_until <= clock_timestamp(), true)
                 order by priority, turn, created_at, generation_id limit ${maxPosition}) waiting
      )
      select j.generation_id, coalesce(front.position, ${maxPosition}) as position
        from generation_jobs j left join front using (generation_id)
       where j.generation_id = any (${ids as string[]}::uuid[]) and coalesce(j.lease_until <= clock_timestamp(), true)`)
    return new Map(rows.map(({ generation_id, position }) => [generation_id, position]))
  },

  /**
   * Removes a job, leased or not, so that the result of its worker is refused from then on, cancels the order recorded
   * for it, and publishes the cancellation to all instances on commit. False: the generation has ended already. The caller
   * locks the generation first.
   */
  cancel: async (tx: TransactionSql, generationId: string): Promise<boolean> => {
    if ((await removeJobsAndCancelOrders(tx, tx`generation_id = ${generationId}`)) === 0) return false
    await tx`select pg_notify(${commonChannel}, ${encodeMessage('cancelled', { generationId })})`
    return true
  },
})

export type JobStore = ReturnType<typeof createJobStore>
