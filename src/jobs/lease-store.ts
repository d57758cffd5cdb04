import type { Queryable, Sql, TransactionSql } from '../platform/postgres.ts'
import { removeJobsAndCancelOrders } from './cancellation-store.ts'

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

/** What a worker does with the jobs it leases. Every write requires the lease, and does nothing when it is lost. */
export const createLeaseStore = (sql: Sql, worker: string, { models, strandedMs }: WorkerCapability) => {
  /** Condition on a job `j` and its generation `g`: due, not leased, and for this worker. */
  const isDue = (on: Queryable) => on`
    j.run_after <= clock_timestamp() and coalesce(j.lease_until <= clock_timestamp(), true)
    and (g.model = any (${models as string[]}::text[]) or greatest(j.run_after, j.lease_until)
         <= clock_timestamp() - ${strandedMs}::float8 * interval '1 millisecond')`

  /**
   * Locks a generation for no key update, and its owner's account for key share before: media and credits of the owner
   * refer to the account, which closing it locks first.
   */
  const lockGeneration = async (tx: TransactionSql, id: string): Promise<void> => {
    await tx`select from users where id = (select owner_id from generations where id = ${id}) for key share`
    await tx`select from generations where id = ${id} for no key update`
  }

  return {
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
     * The order is strict: enterprise before pro before free, by the owner's plan when the job was enqueued. Within a plan the
     * owners take turns (`job-turns.sql`), and within a turn the oldest job is first. Degrades: free jobs starve for as long
     * as jobs of paying owners keep every worker busy. Cost: reads the index of turns until `limit` jobs are found, past
     * those that are leased, wait for a retry or need another model.
     */
    lease: async (tx: TransactionSql, limit: number, leaseMs: number): Promise<LeasedJob[]> => {
      const jobs = await tx<LeasedJob[]>`
        with due as (
          select j.generation_id from generation_jobs j join generations g on g.id = j.generation_id
           where ${isDue(tx)}
           order by j.priority, j.turn, j.created_at, j.generation_id
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
      // The order of `lockUnfinishedForNoKeyUpdate` in the generation store, so that cancelling many jobs cannot deadlock with
      // a heartbeat.
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
      await lockGeneration(tx, generationId)
      const { count } = await tx`
      delete from generation_jobs
       where generation_id = ${generationId} and attempt = ${attempt} and worker = ${worker}`
      return count === 1
    },

    /** As `complete`, and cancels the order recorded for the job. */
    failPermanently: async (tx: TransactionSql, { generationId, attempt }: Lease): Promise<boolean> => {
      await lockGeneration(tx, generationId)
      const ours = tx`generation_id = ${generationId} and attempt = ${attempt} and worker = ${worker}`
      return (await removeJobsAndCancelOrders(tx, ours)) === 1
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

export type LeaseStore = ReturnType<typeof createLeaseStore>
