import type { Log } from '../platform/log.ts'
import type { LeasedJob } from './lease-store.ts'
import { createRunningAttempts, leaseOf, type Work } from './running-attempts.ts'
import type { JobStore } from './store.ts'

/** How long a job stays with a worker that sends no heartbeat. After that, any worker takes it over. */
export const defaultLeaseMs = 15_000
const heartbeatsPerLease = 5
/** Longest wait for a job that no message announced, such as one that was rescheduled. */
const pollMs = 1_000
/** How often progress is published; each time costs one commit. */
const progressMs = 300
/** How long closing waits for attempts to end. The jobs of those that take longer are taken over when their leases expire. */
const closingMs = 5_000

/**
 * Runs jobs, up to `concurrency` at a time.
 *
 * Guarantee: each job ends exactly once, completed or failed, even if workers are killed. A lease without heartbeats expires
 * and another worker takes the job over; a late result of the first worker is refused by the attempt number. A retryable
 * failure is attempted three times in all, after pauses that double. A job that is not completed within `timeLimitMs` of the
 * start of its first attempt fails. A cancelled job is aborted by message, or at the latest at the next heartbeat.
 * Degrades: while Postgres is unreachable no job starts, and the results of running attempts may be lost and made again.
 */
export type Runner = {
  /** Polls now: there may be jobs. */
  wake(): void
  /** Aborts the attempt at a generation whose job was cancelled. */
  abort(generationId: string): void
  readonly running: number
  /** Leases no more jobs, aborts the running attempts and reschedules their jobs for other workers. Idempotent. */
  close(): Promise<void>
}

type Dependencies<R> = {
  readonly store: Pick<JobStore, 'isAnyDue' | 'heartbeat' | 'recordRemoteOrder' | 'reschedule' | 'publishProgress'>
  /** `JobStore.lease` in a transaction. */
  readonly lease: (limit: number, leaseMs: number) => Promise<readonly LeasedJob[]>
  readonly work: Work<R>
  readonly log: Log
  /** 0: runs no jobs. */
  readonly concurrency: number
  readonly timeLimitMs: number
  readonly leaseMs?: number
  readonly random?: () => number
}

export const createRunner = <R>({
  store,
  lease,
  work,
  log,
  concurrency,
  timeLimitMs,
  leaseMs = defaultLeaseMs,
  random = Math.random,
}: Dependencies<R>): Runner => {
  /** Cancelled during a poll: the job may be among those being leased. */
  const cancelledDuringPoll = new Set<string>()
  let polling: Promise<void> | undefined
  let pollAgain = false
  let closing = false
  let closed: Promise<void> | undefined

  const attempts = createRunningAttempts({ store, work, log, leaseMs, timeLimitMs, random, onEnd: () => poll() })

  const leaseAndStart = async () => {
    if (!(await store.isAnyDue())) return
    const jobs = await lease(concurrency - attempts.size, leaseMs)
    if (closing) {
      await Promise.all(jobs.map((job) => store.reschedule(leaseOf(job), 0, false)))
      return
    }
    for (const job of jobs) {
      if (cancelledDuringPoll.has(job.generation_id)) pollAgain = true
      else attempts.start(job)
    }
  }

  const poll = (): void => {
    if (closing || attempts.size >= concurrency) return
    if (polling !== undefined) {
      pollAgain = true
      return
    }
    polling = leaseAndStart()
      .catch((error) => log.debug({ error }, 'polling for jobs failed'))
      .then(() => {
        polling = undefined
        cancelledDuringPoll.clear()
        if (!pollAgain) return
        pollAgain = false
        poll()
      })
  }

  const heartbeat = () => {
    attempts.heartbeat().catch((error) => log.debug({ error }, 'a heartbeat failed: leases were not extended'))
  }
  const timers = [
    setInterval(poll, pollMs),
    setInterval(attempts.publishProgress, progressMs),
    setInterval(heartbeat, leaseMs / heartbeatsPerLease),
  ]
  poll()

  const releaseJobs = async () => {
    for (const timer of timers) clearInterval(timer)
    attempts.stop()
    const ended = async () => {
      await polling
      await attempts.allEnded()
    }
    let limit: ReturnType<typeof setTimeout> | undefined
    const timeout = new Promise<void>((resolve) => {
      limit = setTimeout(resolve, closingMs)
    })
    await Promise.race([ended(), timeout])
    clearTimeout(limit)
  }

  return {
    wake: poll,
    abort: (generationId) => {
      if (polling !== undefined) cancelledDuringPoll.add(generationId)
      attempts.abort(generationId)
    },
    get running() {
      return attempts.size
    },
    close: () => {
      closing = true
      closed ??= releaseJobs()
      return closed
    },
  }
}
