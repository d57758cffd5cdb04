import type { Deadline } from '../../kit/deadline.ts'
import type { Sql, TransactionSql } from '../../platform/postgres.ts'
import type { FactCache } from '../cache/fact-cache.ts'
import type { Bus } from './bus.ts'
import type { CommitWait } from './commit-waits.ts'
import { publishEvent } from './event-store.ts'
import type { InvalidationEvent } from './model.ts'

/**
 * The one way to change what decisions depend on.
 *
 * Promise: when it resolves, the change is committed and no instance makes a decision on the facts as they were, from any
 * tier. When it rejects, nothing was changed (or, where the connection died during the commit or the time ran out after
 * it, nobody knows). What changed is told by the tables themselves. Two changes that deadlock are one change and a second
 * try of the other.
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
   * It takes nothing away from anybody. Where another change finds nothing left to change, somebody else has just made it,
   * perhaps without having been answered: it too waits until everybody has heard.
   */
  readonly grantsOnly?: boolean
}

type Dependencies = {
  readonly sql: Sql
  readonly bus: Pick<Bus, 'instance' | 'registerCommit'>
  readonly facts: Pick<FactCache, 'invalidate'>
  /** Takes over a committed event: the outer cache is to forget what it touched. */
  readonly onCommitted: (event: InvalidationEvent) => void
}

const maxTries = 3

const isDeadlock = (error: unknown): boolean =>
  typeof error === 'object' && error !== null && 'code' in error && (error.code === '40P01' || error.code === '40001')

type Published = { readonly event: InvalidationEvent; readonly announcement: CommitWait }

export const createChanges = ({ sql, bus, facts, onCommitted }: Dependencies): Changes => ({
  commitAndInvalidate: (deadline, work, { grantsOnly: adds = false } = {}) => {
    const attempt = async () => {
      let published: Published | undefined
      const publish = async (tx: TransactionSql) => {
        const event = await publishEvent(tx, bus.instance, !adds)
        // Before the commit, because others may hear and answer before we learn that it was done.
        if (event !== undefined) published = { event, announcement: bus.registerCommit(event.id) }
      }
      try {
        const result = await sql.begin(async (tx) => {
          // The wait for a connection may have used up the time; what nobody waits for any more must not be done.
          deadline.check()
          const result = await work(tx)
          await publish(tx)
          deadline.check()
          return result
        })
        return { result, published }
      } catch (error) {
        published?.announcement.abandon()
        // It may have been committed all the same.
        facts.invalidate(published?.event.keys ?? [])
        throw error
      }
    }
    const settle = async () => {
      for (let tries = 1; ; tries += 1) {
        try {
          const { result, published } = await attempt()
          if (published === undefined) return result
          facts.invalidate(published.event.keys)
          onCommitted(published.event)
          await published.announcement.acknowledgedByAll()
          return result
        } catch (error) {
          if (!isDeadlock(error) || tries === maxTries) throw error
        }
      }
    }
    return deadline.run(settle()) as ReturnType<typeof work>
  },
})
