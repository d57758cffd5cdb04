import type { Clock } from '../kit/clock.ts'
import { newId } from '../kit/id.ts'
import type { Log } from '../platform/log.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { createTaskRunner, type TaskHandler } from './runner.ts'
import type { OutboundStore } from './store.ts'

export type NewTask = {
  readonly kind: string
  /** JSON, for the handler of the kind. Seal secrets and addresses. */
  readonly payload: unknown
  /** Of the unfinished tasks of a kind at most one has this key. */
  readonly dedupeKey?: string
  /** Whether a task with a `dedupeKey` that is taken is dropped, or replaces the other one. Default: it is dropped. */
  readonly onDuplicate?: 'drop' | 'replace'
  /** Tasks of a kind with the same key run one after the other, in the order in which they were enqueued. */
  readonly orderingKey?: string
  /** Whose personal data the payload may hold: closing the account deletes the task. */
  readonly userId?: string | undefined
  /** Not before this time. Default: at once. */
  readonly runAt?: Date
}

/** How soon after `enqueue` this instance looks for the task; most transactions are committed that soon. */
const wakeMs = 20

/**
 * Work that reaches outside (mails, webhooks), as rows of a table.
 *
 * Guarantee: a task is enqueued in the transaction of the change that causes it, so it is run if and only if the change was
 * committed. It is run at least once, by one worker at a time, until it succeeds or its handler gives up. A worker that is killed
 * loses its lease, and another one runs the task again. A handler that deletes the task in its own transaction
 * (`task.complete`) makes the changes of that transaction exactly once.
 *
 * Degrades: while Postgres cannot be reached nothing is run, and nothing is lost.
 */
export const createOutboundQueue = ({ store, clock, log }: { store: OutboundStore; clock: Clock; log: Log }) => {
  const runner = createTaskRunner({ store, clock, log })
  let waking: ReturnType<typeof setTimeout> | undefined
  const wakeSoon = () => {
    waking ??= setTimeout(() => {
      waking = undefined
      runner.wake()
    }, wakeMs)
  }
  return {
    enqueue: async (
      tx: TransactionSql,
      { kind, payload, dedupeKey, onDuplicate = 'drop', orderingKey, userId, runAt }: NewTask,
    ): Promise<void> => {
      const at = new Date(clock.now())
      const task = {
        id: newId(),
        kind,
        payload,
        dedupeKey: dedupeKey ?? null,
        orderingKey: orderingKey ?? null,
        userId: userId ?? null,
        at,
        runAt: runAt ?? at,
      }
      await (onDuplicate === 'replace' ? store.insertOrReplace(tx, task) : store.insert(tx, task))
      wakeSoon()
    },

    /** Sets what runs the tasks of a kind. Tasks of a kind without a handler stay, for another instance or a later start. */
    handle: (kind: string, handler: TaskHandler): void => runner.handle(kind, handler),

    /** Runs tasks from now on, as soon as they are due. */
    start: runner.start,
    /** Looks for due tasks now. */
    wake: runner.wake,
    /** Runs all tasks that are due, and those that these enqueue, and resolves when no due task is left. For tests. */
    drain: runner.drain,
    forgetUser: store.deleteOfUser,
    countUnfinished: store.countUnfinished,
    /** Starts no further task, aborts those that run and makes them due for other workers. Idempotent. */
    close: async (): Promise<void> => {
      clearTimeout(waking)
      await runner.close()
    },
  }
}

export type OutboundQueue = ReturnType<typeof createOutboundQueue>
