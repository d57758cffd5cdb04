import type { Log } from '../platform/log.ts'
import type { Lease, LeasedJob } from './lease-store.ts'
import type { JobStore } from './store.ts'

/** Smallest change of progress that is published. */
const minProgressStep = 0.01
const maxFailures = 3
const firstRetryMs = 1_000

/** Why an attempt failed, and for a refused output, why it is refused. Retryable: another attempt may succeed. */
export type Failure = { readonly reason: string; readonly retryable: boolean; readonly detail?: string }

/** The part of a job that knows its subject. `R` is the result of an attempt. */
export type Work<R> = {
  /** Makes the result; throws when it cannot. Ends soon after the signal of `context` aborts. */
  make(job: LeasedJob, context: AttemptContext): Promise<R>
  /** Stores the result and ends the job under the lease. False: the lease is lost and nothing is stored. */
  complete(job: LeasedJob, lease: Lease, result: R): Promise<boolean>
  /** Ends the job without a result. Does nothing when the lease is lost. */
  failPermanently(job: LeasedJob, lease: Lease, failure: Failure): Promise<void>
  /** Classifies an error of `make` or `complete`. */
  classifyFailure(error: unknown): Failure
}

export type AttemptContext = {
  readonly signal: AbortSignal
  onProgress(fraction: number): void
  /** Records an order at a provider, so that the next attempt resumes it. Throws when the lease is lost: nothing is recorded. */
  recordRemoteOrder(remote: unknown): Promise<void>
}

type RunningAttempt = {
  readonly lease: Lease
  readonly abort: AbortController
  readonly ended: Promise<void>
  fraction: number
  publishedFraction: number
}

/** Abort reasons. `leaseLost`: the job was leased by another worker, cancelled or released. `timedOut`: over its time limit. */
const leaseLost = Symbol('lease lost')
const timedOut = Symbol('timed out')

export const leaseOf = ({ generation_id, attempt }: LeasedJob): Lease => ({ generationId: generation_id, attempt })

type Dependencies<R> = {
  readonly store: Pick<JobStore, 'heartbeat' | 'recordRemoteOrder' | 'reschedule' | 'publishProgress'>
  readonly work: Work<R>
  readonly log: Log
  readonly leaseMs: number
  readonly timeLimitMs: number
  readonly random: () => number
  /** Called after each attempt, completed, failed or aborted. */
  readonly onEnd: () => void
}

/** The attempts this worker has under way: starts them, extends their leases, publishes their progress, and ends them. */
export const createRunningAttempts = <R>({
  store,
  work,
  log,
  leaseMs,
  timeLimitMs,
  random,
  onEnd,
}: Dependencies<R>) => {
  const running = new Map<string, RunningAttempt>()
  let publishing = false
  let stopping = false

  const handleError = async (job: LeasedJob, { signal }: AbortController, error: unknown): Promise<void> => {
    const lease = leaseOf(job)
    if (stopping) return store.reschedule(lease, 0, false)
    if (signal.reason === leaseLost) return
    const failure = signal.reason === timedOut ? { reason: 'timeout', retryable: false } : work.classifyFailure(error)
    const { generation_id, attempt, failures } = job
    log.warn({ event: 'job.failed', generation_id, attempt, ...failure, error }, 'an attempt at a generation failed')
    if (!failure.retryable || failures + 1 >= maxFailures) return work.failPermanently(job, lease, failure)
    await store.reschedule(lease, firstRetryMs * 2 ** failures * (0.5 + random()), true)
  }

  const run = async (job: LeasedJob, abort: AbortController): Promise<void> => {
    const lease = leaseOf(job)
    const timeLimit = setTimeout(() => abort.abort(timedOut), Math.max(0, timeLimitMs - job.age_ms))
    try {
      const result = await work.make(job, {
        signal: abort.signal,
        onProgress: (fraction) => {
          const attempt = running.get(job.generation_id)
          if (attempt?.lease.attempt === job.attempt) {
            attempt.fraction = Math.min(1, Math.max(attempt.fraction, fraction))
          }
        },
        recordRemoteOrder: async (remote) => {
          if (await store.recordRemoteOrder(lease, remote)) return
          abort.abort(leaseLost)
          throw abort.signal.reason
        },
      })
      abort.signal.throwIfAborted()
      clearTimeout(timeLimit)
      if (!(await work.complete(job, lease, result))) {
        const { generation_id, attempt } = job
        log.info({ event: 'job.lost', generation_id, attempt }, 'a result was discarded because the lease was lost')
      }
    } catch (error) {
      await handleError(job, abort, error)
    } finally {
      clearTimeout(timeLimit)
    }
  }

  return {
    start: (job: LeasedJob): void => {
      const { generation_id } = job
      // An earlier attempt of this worker, whose lease expired before this one was taken.
      running.get(generation_id)?.abort.abort(leaseLost)
      const abort = new AbortController()
      const lease = leaseOf(job)
      const ended = run(job, abort)
        // The job is due again when its lease expires.
        .catch((error) =>
          log.warn({ event: 'job.not_concluded', generation_id, error }, 'the outcome of a job could not be stored'),
        )
        .then(() => {
          if (running.get(generation_id)?.lease === lease) running.delete(generation_id)
          onEnd()
        })
      running.set(generation_id, { lease, abort, ended, fraction: 0, publishedFraction: 0 })
    },

    /** Aborts the attempt at a generation whose job is cancelled. */
    abort: (generationId: string): void => running.get(generationId)?.abort.abort(leaseLost),

    /** Extends all leases in one statement, and aborts the attempts whose lease is lost. */
    heartbeat: async (): Promise<void> => {
      if (running.size === 0) return
      const held = new Map([...running].map(([id, { lease, fraction }]) => [id, { attempt: lease.attempt, fraction }]))
      const extended = await store.heartbeat(held, leaseMs)
      for (const [id, { attempt }] of held) {
        const current = running.get(id)
        if (!extended.has(id) && current?.lease.attempt === attempt) current.abort.abort(leaseLost)
      }
    },

    /** Publishes the progress made since the last time. A message that is lost is made good by the next heartbeat. */
    publishProgress: (): void => {
      if (publishing) return
      const advanced = [...running.values()].filter(
        ({ fraction, publishedFraction }) => fraction - publishedFraction >= minProgressStep,
      )
      if (advanced.length === 0) return
      for (const attempt of advanced) attempt.publishedFraction = attempt.fraction
      publishing = true
      store
        .publishProgress(advanced.map(({ lease, fraction }) => ({ ...lease, fraction })))
        .catch((error) => log.debug({ error }, 'progress could not be published'))
        .finally(() => {
          publishing = false
        })
    },

    /** Aborts all attempts and reschedules their jobs at once, for other workers. */
    stop: (): void => {
      // Before the first abort, because `handleError` reads it.
      stopping = true
      for (const { abort } of running.values()) abort.abort(leaseLost)
    },

    allEnded: async (): Promise<void> => {
      await Promise.all([...running.values()].map(({ ended }) => ended))
    },

    get size() {
      return running.size
    },
  }
}
