import { Fault } from '../../fault.ts'
import { admitted, type Deadline } from '../../kit/deadline.ts'
import { isRolledBack, type Sql, type TransactionSql } from '../../platform/postgres.ts'
import type { FactCache } from '../cache/fact-cache.ts'
import type { Bus } from './bus.ts'
import type { CommitWait } from './commit-waits.ts'
import { publishEvent } from './event-store.ts'
import type { InvalidationEvent } from './model.ts'

/**
 * Runs every transaction that changes a fact.
 *
 * Guarantee: once `commitAndInvalidate` resolves, the change is committed and no instance decides on the earlier facts,
 * from any tier. When it rejects, nothing was changed, except with `request.outcome_unknown`: the connection was lost during
 * the commit, or the deadline passed meanwhile, for example because a synchronous standby is away. Triggers record which facts
 * a transaction invalidates, so callers name none. A change on another database than the one the bus listens to is rolled
 * back: `bus.mismatch`. A transaction that Postgres aborted over a deadlock or serialization failure is tried again, three
 * times in all.
 */
export type Changes = {
  commitAndInvalidate<T>(
    deadline: Deadline,
    work: (tx: TransactionSql) => Promise<T>,
    options?: ChangeOptions,
  ): Promise<T>
}

type ChangeOptions = {
  /**
   * The change takes no access away. Any other change that finds its rows changed already still waits for acknowledgements:
   * an identical change may have been committed just before, whose writer was not answered yet.
   */
  readonly grantsOnly?: boolean
}

type Dependencies = {
  readonly sql: Sql
  readonly bus: Pick<Bus, 'instance' | 'registerCommit' | 'databaseIdentity'>
  readonly facts: Pick<FactCache, 'invalidate'>
  /** Takes over the committed event, to delete its keys from Redis. */
  readonly onCommitted: (event: InvalidationEvent) => void
}

const maxTries = 3

const isDeadlock = (error: unknown): boolean =>
  typeof error === 'object' && error !== null && 'code' in error && (error.code === '40P01' || error.code === '40001')

type Published = { readonly event: InvalidationEvent; readonly wait: CommitWait }

export const createChanges = ({ sql, bus, facts, onCommitted }: Dependencies): Changes => ({
  commitAndInvalidate: (deadline, work, { grantsOnly = false } = {}) => {
    /** The commit was sent, and Postgres has not refused it. */
    let mayBeCommitted = false
    const attempt = async () => {
      let published: Published | undefined
      const publish = async (tx: TransactionSql) => {
        const event = await publishEvent(tx, bus.instance, !grantsOnly)
        const busIdentity = bus.databaseIdentity()
        // Thrown inside the transaction, which is rolled back: no instance would receive its event.
        if (event !== undefined && busIdentity !== undefined && event.identity !== busIdentity) {
          throw new Fault('bus.mismatch', { detail: { changes: event.identity, bus: busIdentity } })
        }
        // Before the commit: an acknowledgement may arrive before the confirmation of the commit does.
        if (event !== undefined) published = { event, wait: bus.registerCommit(event.id) }
      }
      try {
        const result = await admitted(deadline, 'changes', undefined, async () =>
          sql.begin(async (tx) => {
            // The wait for a connection may have used up the deadline; a request that was given up must change nothing.
            deadline.check()
            const result = await work(tx)
            await publish(tx)
            deadline.check()
            mayBeCommitted = true
            return result
          }),
        )
        return { result, published }
      } catch (error) {
        if (isRolledBack(error)) mayBeCommitted = false
        published?.wait.abandon()
        // The transaction may have been committed all the same.
        facts.invalidate(published?.event.keys ?? [])
        throw error
      }
    }
    const attemptAndWait = async () => {
      for (let tries = 1; ; tries += 1) {
        try {
          const { result, published } = await attempt()
          if (published === undefined) return result
          facts.invalidate(published.event.keys)
          onCommitted(published.event)
          await published.wait.acknowledgedByAll()
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
})
