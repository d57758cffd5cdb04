import { Fault } from '../../fault.ts'
import { allInOrder } from '../../kit/async.ts'
import type { Clock } from '../../kit/clock.ts'
import { admitted, type Deadline } from '../../kit/deadline.ts'
import { isRolledBack, type Sql, type TransactionSql } from '../../platform/postgres.ts'
import type { FactCache } from '../cache/fact-cache.ts'
import type { Bus } from './bus.ts'
import type { CommitWait } from './commit-waits.ts'
import { recordEvent } from './event-store.ts'
import type { InvalidationEvent } from './model.ts'

/**
 * Runs every transaction that changes a fact.
 *
 * Guarantee: once `commitAndInvalidate` resolves, the change is committed and no instance decides on the earlier facts,
 * from any tier. When it rejects, nothing was changed, except with `request.outcome_unknown`: the connection was lost during
 * the commit, or the deadline passed meanwhile, for example because a synchronous standby is away. Triggers record which facts
 * a transaction invalidates, so callers name none. A change on another database than the one the bus listens to is rolled
 * back: `bus.mismatch`. One beside a commit that has not ended for 1.5 s is rolled back: `request.timeout`. A transaction that
 * Postgres aborted over a deadlock or serialization failure is tried again, three times in all.
 */
export type Changes = {
  commitAndInvalidate<T>(
    deadline: Deadline,
    work: (tx: TransactionSql, lastly: Lastly) => Promise<T>,
    options?: ChangeOptions,
  ): Promise<T>
}

/**
 * Leaves a write for the end of the transaction, where it shares a round trip with the invalidation event. Where it rejects, the
 * transaction is rolled back and the call rejects with its error.
 */
export type Lastly = (write: () => Promise<unknown>) => void

type ChangeOptions = {
  /**
   * The change takes no access away. Any other change that finds its rows changed already still waits for acknowledgements:
   * an identical change may have been committed just before, whose writer was not answered yet.
   */
  readonly grantsOnly?: boolean
}

type Dependencies = {
  readonly sql: Sql
  readonly clock: Clock
  readonly bus: Pick<Bus, 'instance' | 'registerCommit' | 'databaseIdentity'>
  readonly facts: Pick<FactCache, 'invalidate'>
  /** Sends the events that are committed and unsent. */
  readonly sendEvents: () => Promise<void>
  /** Takes over the committed event, to delete its keys from Redis. */
  readonly onCommitted: (event: InvalidationEvent) => void
}

const maxTries = 3

const isDeadlock = (error: unknown): boolean =>
  typeof error === 'object' && error !== null && 'code' in error && (error.code === '40P01' || error.code === '40001')

/**
 * Sends all committed events by one statement at a time. Calls while a statement is under way share the next statement.
 * Degrades: where a statement fails, heartbeats send the events, and writers wait as long as for a silent member.
 */
const createSender = (send: () => Promise<void>) => {
  let isSending = false
  let isDue = false
  const sendWhileDue = async () => {
    isSending = true
    while (isDue) {
      isDue = false
      await send().catch(() => {})
    }
    isSending = false
  }
  return () => {
    isDue = true
    if (!isSending) void sendWhileDue()
  }
}

/** A commit takes no longer, unless the disk is stuck or a synchronous standby is away. */
const maxCommitMs = 1_500

/**
 * Refuses to commit while another commit of this instance is stuck: it would most likely be stuck too, and its outcome unknown
 * to its client. So few changes are, and the others are certainly not made.
 */
const createCommitGate = (clock: Clock) => {
  /** When each began; the oldest is first. */
  const underWay = new Map<symbol, number>()
  return {
    enter: (): symbol => {
      const [oldestMs] = underWay.values()
      if (oldestMs !== undefined && clock.monotonic() - oldestMs > maxCommitMs) throw new Fault('request.timeout')
      const commit = Symbol()
      underWay.set(commit, clock.monotonic())
      return commit
    },
    leave: (commit: symbol | undefined): void => {
      if (commit !== undefined) underWay.delete(commit)
    },
  }
}

type Recorded = { readonly event: InvalidationEvent; readonly wait: CommitWait }

export const createChanges = ({ sql, clock, bus, facts, sendEvents, onCommitted }: Dependencies): Changes => {
  const send = createSender(sendEvents)
  const gate = createCommitGate(clock)
  return {
    commitAndInvalidate: (deadline, work, { grantsOnly = false } = {}) => {
      /** The commit was sent, and Postgres has not refused it. */
      let mayBeCommitted = false
      const attempt = async () => {
        let recorded: Recorded | undefined
        let commit: symbol | undefined
        const writeAndRecord = async (tx: TransactionSql, writes: readonly (() => Promise<unknown>)[]) => {
          const [, event] = await allInOrder([
            () => allInOrder(writes),
            () => recordEvent(tx, bus.instance, !grantsOnly),
          ])
          const busIdentity = bus.databaseIdentity()
          // Thrown inside the transaction, which is rolled back: no instance would receive its event.
          if (event !== undefined && busIdentity !== undefined && event.identity !== busIdentity) {
            throw new Fault('bus.mismatch', { detail: { changes: event.identity, bus: busIdentity } })
          }
          // Before the commit: an acknowledgement may arrive before the confirmation of the commit does.
          if (event !== undefined) recorded = { event, wait: bus.registerCommit(event.id, event.keys) }
        }
        try {
          const result = await admitted(deadline, 'changes', undefined, async () =>
            sql.begin(async (tx) => {
              // The wait for a connection may have used up the deadline; a request that was given up must change nothing.
              deadline.check()
              const writes: (() => Promise<unknown>)[] = []
              const result = await work(tx, (write) => void writes.push(write))
              await writeAndRecord(tx, writes)
              deadline.check()
              commit = gate.enter()
              mayBeCommitted = true
              return result
            }),
          )
          return { result, recorded }
        } catch (error) {
          if (isRolledBack(error)) mayBeCommitted = false
          recorded?.wait.abandon()
          // The transaction may have been committed all the same.
          facts.invalidate(recorded?.event.keys ?? [])
          throw error
        } finally {
          gate.leave(commit)
        }
      }
      const attemptAndWait = async () => {
        for (let tries = 1; ; tries += 1) {
          try {
            const { result, recorded } = await attempt()
            if (recorded === undefined) return result
            send()
            facts.invalidate(recorded.event.keys)
            onCommitted(recorded.event)
            await recorded.wait.acknowledgedByAll()
            return result
          } catch (error) {
            if (!isDeadlock(error) || tries === maxTries) throw error
          }
        }
      }
      return deadline.run(attemptAndWait()).catch((error) => {
        throw mayBeCommitted ? new Fault('request.outcome_unknown', { cause: error }) : error
      }) as ReturnType<typeof work>
    },
  }
}
