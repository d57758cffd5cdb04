import type { Log } from '../platform/log.ts'
import type { JobStore, Lease, LeasedJob } from './store.ts'

/** How long what somebody works on is left to whoever it was, when nothing is heard of them. */
export const leaseMs = 15_000
const renewMs = 3_000
/** A job that nobody told of, such as one whose time has come, is found at the latest after this. */
const lookMs = 1_000
/** How often others hear how far attempts are, and how much it takes that they do: each time costs a commit. */
const tellMs = 300
const leastStep = 0.01
const maxFailures = 3
const firstRetryMs = 1_000
/** For what is being put in its place when the process ends; what takes longer is begun anew elsewhere. */
const closingMs = 5_000

/** Why an attempt made nothing; `retryable` when another may go better. */
export type Failure = { readonly reason: string; readonly retryable: boolean }

/** What is done about a job, by those who know what it is about. */
export type Work<R> = {
  /** Makes it; throws when it cannot. Ends soon after `signal` aborts. */
  make(job: LeasedJob, attempt: RunningAttempt): Promise<R>
  /** Puts what was made in its place, if the lease is still ours: false when it is not. */
  complete(job: LeasedJob, lease: Lease, result: R): Promise<boolean>
  /** Gives up on it for good, if the lease is still ours. */
  fail(job: LeasedJob, lease: Lease, failure: Failure): Promise<void>
  /** What an error of `make` or `complete` means. */
  judge(error: unknown): Failure
}

export type RunningAttempt = {
  readonly signal: AbortSignal
  onProgress(fraction: number): void
  /** Writes down what is to be known to the next attempt; throws where the lease is lost, and then no other will know. */
  note(remote: unknown): Promise<void>
}

type Running = {
  readonly lease: Lease
  readonly abort: AbortController
  readonly done: Promise<void>
  fraction: number
  /** Of that, what others heard. */
  told: number
}

/**
 * Works on jobs, some at a time.
 *
 * Promise: each job ends exactly once, as completed or as failed, whatever becomes of whoever works on it: a lease that is
 * not renewed runs out, another takes the job, and what the first brings then is not taken. An attempt that failed in a way
 * that may pass is made again, three times in all, after growing pauses. One that is not made within `timeLimitMs` from when
 * it was first begun is failed. One that is cancelled is told to stop, at the latest when its lease is to be renewed.
 * How it degrades: while the jobs cannot be reached nothing is begun, and what is under way may be made in vain.
 */
export type Runner = {
  /** There may be work. */
  wake(): void
  /** Somebody took this job away. */
  abort(generationId: string): void
  readonly running: number
  /** Takes no more work, and gives back what is under way for others to begin anew. Idempotent. */
  close(): Promise<void>
}

type Dependencies<R> = {
  readonly store: Pick<JobStore, 'isAnyDue' | 'renew' | 'note' | 'reschedule' | 'tellProgress'>
  /** Takes up to so many jobs; see `JobStore.take`. */
  readonly take: (limit: number, leaseMs: number) => Promise<readonly LeasedJob[]>
  readonly work: Work<R>
  readonly log: Log
  /** 0: works on none. */
  readonly concurrency: number
  readonly timeLimitMs: number
  readonly random?: () => number
}

/** Why an attempt is told to stop: its job is another's now, or nobody's; or its time is over. */
const lost = Symbol('lost')
const late = Symbol('late')

const leaseOf = ({ generation_id, attempt }: LeasedJob): Lease => ({ generationId: generation_id, attempt })

export const createRunner = <R>({
  store,
  take,
  work,
  log,
  concurrency,
  timeLimitMs,
  random = Math.random,
}: Dependencies<R>): Runner => {
  const running = new Map<string, Running>()
  /** Cancelled while some were being taken: it may have been one of them. */
  const cancelledMeanwhile = new Set<string>()
  let looking: Promise<void> | undefined
  let again = false
  let telling = false
  let closing: Promise<void> | undefined

  const conclude = async (job: LeasedJob, { signal }: AbortController, error: unknown): Promise<void> => {
    const lease = leaseOf(job)
    if (closing !== undefined) return store.reschedule(lease, 0, false)
    if (signal.reason === lost) return
    const failure = signal.reason === late ? { reason: 'timeout', retryable: false } : work.judge(error)
    const { generation_id, attempt, failures } = job
    log.warn({ event: 'job.failed', generation_id, attempt, ...failure, error }, 'an attempt at a generation failed')
    if (!failure.retryable || failures + 1 >= maxFailures) return work.fail(job, lease, failure)
    await store.reschedule(lease, firstRetryMs * 2 ** failures * (0.5 + random()), true)
  }

  const run = async (job: LeasedJob, abort: AbortController): Promise<void> => {
    const lease = leaseOf(job)
    const limit = setTimeout(() => abort.abort(late), Math.max(0, timeLimitMs - job.age_ms))
    try {
      const result = await work.make(job, {
        signal: abort.signal,
        onProgress: (fraction) => {
          const own = running.get(job.generation_id)
          if (own?.lease.attempt === job.attempt) own.fraction = Math.min(1, Math.max(own.fraction, fraction))
        },
        note: async (remote) => {
          if (await store.note(lease, remote)) return
          abort.abort(lost)
          throw abort.signal.reason
        },
      })
      abort.signal.throwIfAborted()
      clearTimeout(limit)
      if (!(await work.complete(job, lease, result))) {
        log.info({ event: 'job.lost', generation_id: job.generation_id, attempt: job.attempt }, 'made in vain')
      }
    } catch (error) {
      await conclude(job, abort, error)
    } finally {
      clearTimeout(limit)
    }
  }

  const begin = (job: LeasedJob) => {
    const { generation_id } = job
    // An attempt of ours that has lost its lease to this one.
    running.get(generation_id)?.abort.abort(lost)
    const abort = new AbortController()
    const lease = leaseOf(job)
    const done = run(job, abort)
      // What could not be written down is found again when the lease runs out.
      .catch((error) => log.warn({ event: 'job.not_concluded', generation_id, error }, 'a job could not be concluded'))
      .then(() => {
        if (running.get(generation_id)?.lease === lease) running.delete(generation_id)
        look()
      })
    running.set(generation_id, { lease, abort, done, fraction: 0, told: 0 })
  }

  const takeSome = async () => {
    if (!(await store.isAnyDue())) return
    const jobs = await take(concurrency - running.size, leaseMs)
    if (closing !== undefined) {
      await Promise.all(jobs.map((job) => store.reschedule(leaseOf(job), 0, false)))
      return
    }
    for (const job of jobs) {
      if (cancelledMeanwhile.has(job.generation_id)) again = true
      else begin(job)
    }
  }

  const look = (): void => {
    if (closing !== undefined || running.size >= concurrency) return
    if (looking !== undefined) {
      again = true
      return
    }
    looking = takeSome()
      .catch((error) => log.debug({ error }, 'jobs could not be looked for'))
      .then(() => {
        looking = undefined
        cancelledMeanwhile.clear()
        if (!again) return
        again = false
        look()
      })
  }

  const renew = async () => {
    if (running.size === 0) return
    const held = new Map([...running].map(([id, { lease, fraction }]) => [id, { attempt: lease.attempt, fraction }]))
    const ours = await store.renew(held, leaseMs)
    for (const [id, { attempt }] of held) {
      const own = running.get(id)
      if (!ours.has(id) && own?.lease.attempt === attempt) own.abort.abort(lost)
    }
  }

  /** What is not heard is read, the next time a lease is renewed. */
  const tell = () => {
    if (telling) return
    const moved = [...running.values()].filter(({ fraction, told }) => fraction - told >= leastStep)
    if (moved.length === 0) return
    for (const own of moved) own.told = own.fraction
    telling = true
    store
      .tellProgress(moved.map(({ lease, fraction }) => ({ ...lease, fraction })))
      .catch((error) => log.debug({ error }, 'progress could not be told'))
      .finally(() => {
        telling = false
      })
  }

  const timers = [
    setInterval(look, lookMs),
    setInterval(tell, tellMs),
    setInterval(() => void renew().catch((error) => log.debug({ error }, 'leases could not be renewed')), renewMs),
  ]
  look()

  const giveBack = async () => {
    for (const timer of timers) clearInterval(timer)
    for (const { abort } of running.values()) abort.abort(lost)
    const ended = async () => {
      await looking
      await Promise.all([...running.values()].map(({ done }) => done))
    }
    let limit: ReturnType<typeof setTimeout> | undefined
    const tooLong = new Promise<void>((resolve) => {
      limit = setTimeout(resolve, closingMs)
    })
    await Promise.race([ended(), tooLong])
    clearTimeout(limit)
  }

  return {
    wake: look,
    abort: (generationId) => {
      if (looking !== undefined) cancelledMeanwhile.add(generationId)
      running.get(generationId)?.abort.abort(lost)
    },
    get running() {
      return running.size
    },
    close: () => {
      // Before anything that is told to stop asks why.
      if (closing === undefined) {
        const begun = Promise.withResolvers<void>()
        closing = begun.promise
        giveBack().then(begun.resolve, begun.reject)
      }
      return closing
    },
  }
}
