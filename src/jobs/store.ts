import { Fault } from '../fault.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { Fragment, Sql, TransactionSql } from '../platform/postgres.ts'

/** A job that is ours for a while: `attempt` is the number others would have outlived. */
export type LeasedJob = {
  readonly generation_id: string
  readonly attempt: number
  /** How many attempts came to nothing before this one. */
  readonly failures: number
  readonly remote: unknown
  readonly owner_id: string
  readonly model: string
  readonly prompt: string
  readonly negative_prompt: string
  readonly parameters: Readonly<Record<string, string | number | boolean>>
  readonly outputs: number
  /** What the bytes of the picture it goes by are called. */
  readonly reference_sha256: string | null
  /** How long ago somebody first began to make it. */
  readonly age_ms: number
}

export type Lease = { readonly generationId: string; readonly attempt: number }
/** What a worker can make; what was due for `strandedMs` it takes all the same, so that what nobody makes comes to an end. */
export type Makes = { readonly models: readonly string[]; readonly strandedMs: number }
/** How far an attempt is, from 0 to 1. */
export type Report = Lease & { readonly fraction: number }

/** Who is further back in the queue than this is not counted. */
const maxPosition = 10_000

/** Removes jobs; what was ordered for them at a provider is to be cancelled when that is committed. Counts those removed. */
const drop = async (tx: TransactionSql, which: Fragment): Promise<number> => {
  const dropped = await tx`
    with dropped as (
      delete from generation_jobs where ${which} returning generation_id, remote
    ), noted as (
      insert into order_cancellations (generation_id, model, remote)
      select generation_id, g.model, remote from dropped join generations g on g.id = generation_id
       where jsonb_typeof(remote) = 'object'
    )
    select from dropped`
  return dropped.length
}

export const createJobStore = (sql: Sql, worker: string, { models, strandedMs }: Makes) => {
  /** Due, nobody's, and for us; of a job and its generation. */
  const isDue = (on: Sql | TransactionSql) => on`
    j.run_after <= clock_timestamp() and coalesce(j.lease_until <= clock_timestamp(), true)
    and (g.model = any (${models as string[]}::text[]) or greatest(j.run_after, j.lease_until)
         <= clock_timestamp() - ${strandedMs}::float8 * interval '1 millisecond')`

  return {
    /**
     * With the generation, in its transaction. Tells everybody, when that is committed, that there is work. Throws where its
     * owner's account is not active any more; it stays what it is until the end of the transaction.
     */
    add: async (tx: TransactionSql, generationId: string, referenceSha256: string | null = null): Promise<void> => {
      const { count } = await tx`
        insert into generation_jobs (generation_id, priority, reference_sha256)
        select id, case plan when 'enterprise' then 0 when 'pro' then 1 else 2 end, ${referenceSha256}
          from (select g.id, u.plan from generations g join users u on u.id = g.owner_id
                 where g.id = ${generationId} and u.status = 'active' for share of u) owned`
      if (count === 0) throw new Fault('identity.not_signed_in')
      await tx`select pg_notify('velro', 'job')`
    },

    /** Whether any is due, nobody's, and for us; a look that takes no lock and opens no transaction. */
    isAnyDue: async (): Promise<boolean> => {
      const [row] = await sql<{ due: boolean }[]>`
        select exists (
          select from generation_jobs j join generations g on g.id = j.generation_id where ${isDue(sql)}
        ) as due`
      return row?.due === true
    },

    /**
     * Takes up to `limit` jobs that are due, nobody's and for us, and says so on their generations. Those that others are at
     * are passed over, so it waits for nobody. A worker that has not been heard of for the length of its lease has lost what
     * it had.
     *
     * The order is strict: enterprise before pro before free, by the plan its owner had when it was accepted, and within a plan
     * as they were accepted. Free ones wait for as long as those who pay keep every worker busy, however long that is.
     */
    take: async (tx: TransactionSql, limit: number, leaseMs: number): Promise<LeasedJob[]> => {
      const jobs = await tx<LeasedJob[]>`
        with due as (
          select j.generation_id from generation_jobs j join generations g on g.id = j.generation_id
           where ${isDue(tx)}
           order by j.priority, j.created_at, j.generation_id
           limit ${limit} for update of j skip locked for no key update of g skip locked
        ), taken as (
          update generation_jobs j
             set attempt = attempt + 1, progress = 0, worker = ${worker},
                 lease_until = clock_timestamp() + ${leaseMs}::float8 * interval '1 millisecond'
            from due where j.generation_id = due.generation_id
          returning j.generation_id, j.attempt, j.failures, j.remote, j.reference_sha256
        )
        select t.generation_id, t.attempt, t.failures, t.remote, g.owner_id, g.model, g.prompt, g.negative_prompt,
               g.parameters, g.outputs, t.reference_sha256,
               extract(epoch from clock_timestamp() - coalesce(g.started_at, clock_timestamp()))::float8 * 1000 as age_ms
          from taken t join generations g on g.id = t.generation_id`
      const ids = jobs.map(({ generation_id }) => generation_id)
      if (ids.length > 0) {
        await tx`
          update generations set status = 'processing', started_at = now(), updated_at = now()
           where id = any (${ids}::uuid[]) and status = 'queued'`
      }
      return jobs
    },

    /** Holds on to those that are still ours, and notes how far they are. Returns which those are. */
    renew: async (
      held: ReadonlyMap<string, { readonly attempt: number; readonly fraction: number }>,
      leaseMs: number,
    ): Promise<ReadonlySet<string>> => {
      const each = [...held.values()]
      // In the order in which others take several of them away.
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

    /** Tells everybody how far attempts are. It is worth nothing after a crash, so nobody waits for the disk. */
    tellProgress: async (reports: readonly Report[]): Promise<void> => {
      const messages = reports.map(
        ({ generationId, attempt, fraction }) => `progress ${generationId} ${attempt} ${fraction}`,
      )
      await sql`
        select set_config('synchronous_commit', 'off', true), pg_notify('velro', message)
          from unnest(${messages}::text[]) as message`
    },

    /**
     * How many jobs go before each of these, of those that wait for a worker; which wait no more are left out. It reads the
     * front of the queue, in its order: behind that, each is told the length of it, so it costs no more than that.
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

    /** False: it is not ours any more. */
    note: async ({ generationId, attempt }: Lease, remote: unknown): Promise<boolean> => {
      const { count } = await sql`
        update generation_jobs set remote = ${sql.json(remote as never)}
         where generation_id = ${generationId} and attempt = ${attempt} and worker = ${worker}`
      return count === 1
    },

    /** Removes a job that is still ours: whoever does has the last word on its generation, which is locked until the commit. */
    finish: async (tx: TransactionSql, { generationId, attempt }: Lease): Promise<boolean> => {
      await tx`select from generations where id = ${generationId} for no key update`
      const { count } = await tx`
      delete from generation_jobs
       where generation_id = ${generationId} and attempt = ${attempt} and worker = ${worker}`
      return count === 1
    },

    /** As `finish`, for one that comes to nothing: what was ordered for it is cancelled. */
    failPermanently: async (tx: TransactionSql, { generationId, attempt }: Lease): Promise<boolean> => {
      await tx`select from generations where id = ${generationId} for no key update`
      const ours = tx`generation_id = ${generationId} and attempt = ${attempt} and worker = ${worker}`
      return (await drop(tx, ours)) === 1
    },

    /**
     * Removes a job, whoever has it, and tells everybody when that is committed: what is brought then is not taken, and what
     * was ordered for it is cancelled. Lock its generation first. False: there is none, it is over.
     */
    cancel: async (tx: TransactionSql, generationId: string): Promise<boolean> => {
      if ((await drop(tx, tx`generation_id = ${generationId}`)) === 0) return false
      await tx`select pg_notify('velro', ${`cancelled ${generationId}`})`
      return true
    },

    /** Gives back a job that is still ours, for another attempt after a while. */
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
