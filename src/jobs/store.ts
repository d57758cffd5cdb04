import { commonChannel, encodeMessage } from '../access/invalidation/topics.ts'
import { Fault } from '../fault.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { Fragment, Queryable, Sql, TransactionSql } from '../platform/postgres.ts'

/** A job leased to this worker. `attempt` is the fencing token: every lease has a higher one than the lease before. */
export type LeasedJob = {
  readonly generation_id: string
  readonly attempt: number
  /** How many earlier attempts failed. An attempt whose lease expired does not count. */
  readonly failures: number
  /** The provider's reference of the order that an earlier attempt recorded; null without one. */
  readonly remote: unknown
  readonly owner_id: string
  readonly model: string
  readonly prompt: string
  readonly negative_prompt: string
  readonly parameters: Readonly<Record<string, string | number | boolean>>
  readonly outputs: number
  /** SHA-256 of the reference picture; null without one. */
  readonly reference_sha256: string | null
  /** Time since its first attempt started. */
  readonly age_ms: number
}

export type Lease = { readonly generationId: string; readonly attempt: number }
/**
 * The models a worker can run. It also leases a job of any other model that has been due for `strandedMs`, in order to fail
 * it, so that a job no worker can run still ends.
 */
export type WorkerCapability = { readonly models: readonly string[]; readonly strandedMs: number }
/** How far an attempt is, from 0 to 1. */
export type ProgressReport = Lease & { readonly fraction: number }

/** The highest position that is counted; a job further back has this one. */
const maxPosition = 10_000

/**
 * Removes jobs and, in the same transaction, enqueues the cancellation of the orders recorded for them. Returns how many
 * jobs were removed.
 */
const removeAndCancelOrders = async (tx: TransactionSql, condition: Fragment): Promise<number> => {
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

export const createJobStore = (sql: Sql, worker: string, { models, strandedMs }: WorkerCapability) => {
  /** Condition on a job `j` and its generation `g`: due, not leased, and for this worker. */
  const isDue = (on: Queryable) => on`
    j.run_after <= clock_timestamp() and coalesce(j.lease_until <= clock_timestamp(), true)
    and (g.model = any (${models as string[]}::text[]) or greatest(j.run_after, j.lease_until)
         <= clock_timestamp() - ${strandedMs}::float8 * interval '1 millisecond')`

  return {
    /**
     * Adds the job of a generation in the transaction that inserts the generation, and wakes the runners of all instances
     * on commit. Locks the owner's account for share, so it stays active until the commit; throws
     * `identity.not_signed_in` when it is not active.
     */
    enqueue: async (tx: TransactionSql, generationId: string, referenceSha256: string | null = null): Promise<void> => {
      const { count } = await tx`
        insert into generation_jobs (generation_id, priority, reference_sha256)
        select id, case plan when 'enterprise' then 0 when 'pro' then 1 else 2 end, ${referenceSha256}
          from (select g.id, u.plan from generations g join users u on u.id = g.owner_id
                 where g.id = ${generationId} and u.status = 'active' for share of u) owned`
      if (count === 0) throw new Fault('identity.not_signed_in')
      await tx`select pg_notify(${commonChannel}, ${encodeMessage('job', {})})`
    },

    /** Whether this worker could lease a job. One read without lock or transaction, so that an idle poll stays cheap. */
    isAnyDue: async (): Promise<boolean> => {
      const [row] = await sql<{ due: boolean }[]>`
        select exists (
          select from generation_jobs j join generations g on g.id = j.generation_id where ${isDue(sql)}
        ) as due`
      return row?.due === true
    },

    /**
     * Leases up to `limit` due jobs to this worker for `leaseMs` and marks their generations as processing. A job whose
     * lease has expired is due again: that is how an instance takes over the jobs of one that stopped sending heartbeats.
     * Locks the jobs for update and their generations for no key update, skips those that are locked, and so never waits.
     *
     * The order is strict: enterprise before pro before free, by the owner's plan when the job was enqueued, then first in,
     * first out. Degrades: free jobs starve for as long as jobs of paying owners keep every worker busy.
     */
    lease: async (tx: TransactionSql, limit: number, leaseMs: number): Promise<LeasedJob[]> => {
      const jobs = await tx<LeasedJob[]>`
        with due as (
          select j.generation_id from generation_jobs j join generations g on g.id = j.generation_id
           where ${isDue(tx)}
           order by j.priority, j.created_at, j.generation_id
           limit ${limit} for update of j skip locked for no key update of g skip locked
        ), leased as (
          update generation_jobs j
             set attempt = attempt + 1, progress = 0, worker = ${worker},
                 lease_until = clock_timestamp() + ${leaseMs}::float8 * interval '1 millisecond'
            from due where j.generation_id = due.generation_id
          returning j.generation_id, j.attempt, j.failures, j.remote, j.reference_sha256
        )
        select l.generation_id, l.attempt, l.failures, l.remote, g.owner_id, g.model, g.prompt, g.negative_prompt,
               g.parameters, g.outputs, l.reference_sha256,
               extract(epoch from clock_timestamp() - coalesce(g.started_at, clock_timestamp()))::float8 * 1000 as age_ms
          from leased l join generations g on g.id = l.generation_id`
      const ids = jobs.map(({ generation_id }) => generation_id)
      if (ids.length > 0) {
        await tx`
          update generations set status = 'processing', started_at = now(), updated_at = now()
           where id = any (${ids}::uuid[]) and status = 'queued'`
      }
      return jobs
    },

    /**
     * Extends the leases this worker still has and stores the progress of their attempts. Returns the ids of those jobs; a
     * lease that is not among them is lost. Locks the jobs for update, in order of id.
     */
    heartbeat: async (
      held: ReadonlyMap<string, { readonly attempt: number; readonly fraction: number }>,
      leaseMs: number,
    ): Promise<ReadonlySet<string>> => {
      const each = [...held.values()]
      // The order of `lockUnfinished` in the generation store, so that cancelling many jobs cannot deadlock with a heartbeat.
      const rows = await sql<{ generation_id: string }[]>`
        with ours as (
          select j.generation_id, held.progress
            from generation_jobs j
            join unnest(${[...held.keys()]}::uuid[], ${each.map(({ attempt }) => attempt)}::integer[],
                        ${each.map(({ fraction }) => fraction)}::real[]) as held (id, attempt, progress)
              on j.generation_id = held.id and j.attempt = held.attempt
           where j.worker = ${worker} order by j.generation_id for update of j
        )
        update generation_jobs j
           set lease_until = clock_timestamp() + ${leaseMs}::float8 * interval '1 millisecond', progress = ours.progress
          from ours where j.generation_id = ours.generation_id
        returning j.generation_id`
      return new Set(rows.map((row) => row.generation_id))
    },

    /**
     * Publishes progress to all instances: one commit for all reports. The commit is asynchronous, because progress need
     * not survive a crash.
     */
    publishProgress: async (reports: readonly ProgressReport[]): Promise<void> => {
      const messages = reports.map((report) => encodeMessage('progress', report))
      await sql`
        select set_config('synchronous_commit', 'off', true), pg_notify(${commonChannel}, message)
          from unnest(${messages}::text[]) as message`
    },

    /**
     * The queue position of each of these jobs: how many due jobs are leased before it. Jobs that are leased are absent.
     * One statement, so all positions are of one snapshot. Cost: reads the first 10,000 due jobs; a job behind them has
     * position 10,000.
     */
    findPositions: async (deadline: Deadline, ids: readonly string[]): Promise<Map<string, number>> => {
      const rows = await deadline.run(sql<{ generation_id: string; position: number }[]>`
        with front as materialized (
          select generation_id, (row_number() over (order by priority, created_at, generation_id) - 1)::int as position
            from (select generation_id, priority, created_at from generation_jobs
                   where run_after <= clock_timestamp() and coalesce(lease_until <= clock_timestamp(), true)
                   order by priority, created_at, generation_id limit ${maxPosition}) waiting
        )
        select j.generation_id, coalesce(front.position, ${maxPosition}) as position
          from generation_jobs j left join front using (generation_id)
         where j.generation_id = any (${ids as string[]}::uuid[]) and coalesce(j.lease_until <= clock_timestamp(), true)`)
      return new Map(rows.map(({ generation_id, position }) => [generation_id, position]))
    },

    /** Records the provider's reference of an order. False: the lease is lost and nothing is recorded. */
    recordRemoteOrder: async ({ generationId, attempt }: Lease, remote: unknown): Promise<boolean> => {
      const { count } = await sql`
        update generation_jobs set remote = ${sql.json(remote as never)}
         where generation_id = ${generationId} and attempt = ${attempt} and worker = ${worker}`
      return count === 1
    },

    /**
     * Removes a job under its lease: one transaction at most can do so, and it decides how the generation ends. False: the
     * lease is lost. Locks the generation for no key update, then deletes the job.
     */
    complete: async (tx: TransactionSql, { generationId, attempt }: Lease): Promise<boolean> => {
      await tx`select from generations where id = ${generationId} for no key update`
      const { count } = await tx`
      delete from generation_jobs
       where generation_id = ${generationId} and attempt = ${attempt} and worker = ${worker}`
      return count === 1
    },

    /** As `complete`, and cancels the order recorded for the job. */
    failPermanently: async (tx: TransactionSql, { generationId, attempt }: Lease): Promise<boolean> => {
      await tx`select from generations where id = ${generationId} for no key update`
      const ours = tx`generation_id = ${generationId} and attempt = ${attempt} and worker = ${worker}`
      return (await removeAndCancelOrders(tx, ours)) === 1
    },

    /**
     * Removes a job, leased or not, so that the result of its worker is refused from then on, cancels the order recorded
     * for it, and publishes the cancellation to all instances on commit. False: the generation has ended already. The caller
     * locks the generation first.
     */
    cancel: async (tx: TransactionSql, generationId: string): Promise<boolean> => {
      if ((await removeAndCancelOrders(tx, tx`generation_id = ${generationId}`)) === 0) return false
      await tx`select pg_notify(${commonChannel}, ${encodeMessage('cancelled', { generationId })})`
      return true
    },

    /** Ends the lease and makes the job due again after `delayMs`. Does nothing when the lease is lost. */
    reschedule: async ({ generationId, attempt }: Lease, delayMs: number, failed: boolean): Promise<void> => {
      await sql`
      update generation_jobs
         set worker = null, lease_until = null, failures = failures + ${failed ? 1 : 0},
             run_after = clock_timestamp() + ${delayMs}::float8 * interval '1 millisecond'
       where generation_id = ${generationId} and attempt = ${attempt} and worker = ${worker}`
    },
  }
}

export type JobStore = ReturnType<typeof createJobStore>
