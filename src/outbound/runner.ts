import { rejectOnAbort } from '../kit/async.ts'
import type { Clock } from '../kit/clock.ts'
import type { Log } from '../platform/log.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type { OutboundStore, TaskRow } from './store.ts'

/** A task that this worker has leased. */
export type LeasedTask = {
  readonly id: string
  readonly payload: unknown
  readonly failures: number
  readonly createdAt: Date
  /**
   * Deletes the task in a transaction of the handler, so that it is done exactly when that is committed. Call it last. Throws
   * `LeaseLost` where another worker has the task, which rolls the transaction back.
   */
  complete(tx: TransactionSql): Promise<void>
}

export type TaskFailure = {
  /** Attempts that failed, this one included. */
  readonly failures: number
  /** Time since the task was enqueued. */
  readonly ageMs: number
  readonly error: unknown
}

export type TaskHandler = {
  /** Most tasks of the kind that one instance runs at once. */
  readonly concurrency: number
  /** An attempt that takes longer is aborted. */
  readonly timeLimitMs: number
  /** Resolves when the task is done. Ends soon after the signal aborts. */
  run(task: LeasedTask, signal: AbortSignal): Promise<void>
  /** In how long to try again; undefined: never. See `retryFor`. */
  retryInMs(failure: TaskFailure): number | undefined
  /** Called when no further attempt will be made, before the task is deleted; again if this worker is killed in between. */
  onGivenUp?(task: LeasedTask, error: unknown): Promise<void> | void
}

/** The task was leased by another worker meanwhile, replaced or deleted. */
export class LeaseLost extends Error {
  override readonly name = 'LeaseLost'
}

/** An attempt took longer than its handler allows. */
class TaskTimedOut extends Error {
  override readonly name = 'TaskTimedOut'
}

/**
 * Pauses that double from `firstMs` to `longestMs`, each by up to a quarter longer, and no attempt after `totalMs`. So tasks that
 * failed together are not tried again together.
 */
export const retryFor =
  ({ firstMs, longestMs, totalMs }: { firstMs: number; longestMs: number; totalMs: number }, random = Math.random) =>
  ({ failures, ageMs }: Pick<TaskFailure, 'failures' | 'ageMs'>): number | undefined => {
    const pauseMs = Math.min(longestMs, firstMs * 2 ** Math.min(failures - 1, 40)) * (1 + random() / 4)
    return ageMs + pauseMs > totalMs ? undefined : pauseMs
  }

const pollMs = 1_000
/** Beyond the time limit of an attempt, so that its worker has stored the outcome before another one leases the task. */
const leaseMarginMs = 15_000
/** How long closing waits for attempts to end. */
const closingMs = 5_000

type Running = { readonly abort: AbortController; readonly ended: Promise<void> }
type Kind = { readonly handler: TaskHandler; readonly running: Map<string, Running> }

/** Leases due tasks and runs their handlers. */
export const createTaskRunner = ({
  store,
  clock,
  log,
}: {
  store: Pick<OutboundStore, 'findDueKinds' | 'lease' | 'complete' | 'reschedule'>
  clock: Clock
  log: Log
}) => {
  const kinds = new Map<string, Kind>()
  let polling: Promise<void> | undefined
  let pollAgain = false
  let closing = false
  let closed: Promise<void> | undefined
  let timer: ReturnType<typeof setInterval> | undefined

  const conclude = async (row: TaskRow, task: LeasedTask, { handler }: Kind, error: unknown): Promise<void> => {
    const now = clock.now()
    if (closing) return store.reschedule(row, new Date(now), false)
    if (error instanceof LeaseLost) return
    const failure = { failures: row.failures + 1, ageMs: now - row.created_at.getTime(), error }
    const inMs = handler.retryInMs(failure)
    const fields = { kind: row.kind, task_id: row.id, failures: failure.failures, error }
    if (inMs === undefined) {
      await handler.onGivenUp?.(task, error)
      await store.complete(row)
      log.error({ event: 'outbound.given_up', ...fields }, 'a task failed and will not be tried again')
      return
    }
    await store.reschedule(row, new Date(now + inMs), true)
    const retry_in_seconds = Math.ceil(inMs / 1_000)
    log.warn({ event: 'outbound.failed', ...fields, retry_in_seconds }, 'a task failed and will be tried again')
  }

  const attempt = async (row: TaskRow, kind: Kind, abort: AbortController): Promise<void> => {
    const { handler } = kind
    const task: LeasedTask = {
      id: row.id,
      payload: row.payload,
      failures: row.failures,
      createdAt: row.created_at,
      complete: async (tx) => {
        if (!(await store.complete(row, tx))) throw new LeaseLost()
      },
    }
    const limit = setTimeout(() => abort.abort(new TaskTimedOut()), handler.timeLimitMs)
    try {
      await rejectOnAbort(handler.run(task, abort.signal), abort.signal)
      await store.complete(row)
    } catch (error) {
      await conclude(row, task, kind, error)
    } finally {
      clearTimeout(limit)
    }
  }

  const start = (row: TaskRow, kind: Kind): void => {
    const abort = new AbortController()
    const ended = attempt(row, kind, abort)
      // The task is due again when its lease ends.
      .catch((error) =>
        log.warn({ event: 'outbound.not_concluded', kind: row.kind, error }, 'the outcome of a task was not stored'),
      )
      .then(() => {
        if (kind.running.get(row.id)?.abort === abort) kind.running.delete(row.id)
        poll()
      })
    kind.running.set(row.id, { abort, ended })
  }

  const leaseDue = async (): Promise<void> => {
    const names = [...kinds].flatMap(([name, { handler, running }]) =>
      running.size < handler.concurrency ? [name] : [],
    )
    if (names.length === 0) return
    for (const name of await store.findDueKinds(names, new Date(clock.now()))) {
      const kind = kinds.get(name)
      if (kind === undefined || closing) continue
      const { handler, running } = kind
      const nowMs = clock.now()
      const until = new Date(nowMs + handler.timeLimitMs + leaseMarginMs)
      const rows = await store.lease(name, handler.concurrency - running.size, new Date(nowMs), until)
      for (const row of rows) {
        if (closing) await store.reschedule(row, new Date(clock.now()), false)
        else start(row, kind)
      }
    }
  }

  const poll = (): void => {
    if (closing) return
    if (polling !== undefined) {
      pollAgain = true
      return
    }
    polling = leaseDue()
      .catch((error) => log.debug({ error }, 'polling for outbound tasks failed'))
      .then(() => {
        polling = undefined
        if (!pollAgain) return
        pollAgain = false
        poll()
      })
  }

  const allRunning = () => [...kinds.values()].flatMap(({ running }) => [...running.values()])

  const release = async (): Promise<void> => {
    clearInterval(timer)
    for (const { abort } of allRunning()) abort.abort(new LeaseLost())
    const ended = async () => {
      await polling
      await Promise.all(allRunning().map((each) => each.ended))
    }
    let limit: ReturnType<typeof setTimeout> | undefined
    const timeout = new Promise<void>((resolve) => {
      limit = setTimeout(resolve, closingMs)
    })
    await Promise.race([ended(), timeout])
    clearTimeout(limit)
  }

  return {
    handle: (name: string, handler: TaskHandler): void => {
      kinds.set(name, { handler, running: new Map() })
    },
    start: (): void => {
      timer ??= setInterval(poll, pollMs)
      poll()
    },
    wake: poll,
    drain: async (): Promise<void> => {
      for (;;) {
        poll()
        while (polling !== undefined) await polling
        const running = allRunning()
        if (running.length > 0) await Promise.all(running.map((each) => each.ended))
        else if ((await store.findDueKinds([...kinds.keys()], new Date(clock.now()))).length === 0) return
      }
    },
    close: (): Promise<void> => {
      closing = true
      closed ??= release()
      return closed
    },
  }
}
