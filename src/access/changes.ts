import type { Deadline } from '../kit/deadline.ts'
import type { Sql, TransactionSql } from '../platform/postgres.ts'
import type { FactCache } from './facts.ts'
import { type FactKey, type FactKind, factKey } from './model.ts'
import { touchedGrants } from './store.ts'

/** Names a fact that the transaction changes. */
export type Touch = (kind: Exclude<FactKind, 'grant'>, id: string) => void

type Options = {
  /** Set where projects, teams or grants change: which grant facts that touches is then asked of the database. */
  readonly grants?: boolean
}

/**
 * The one way to change what decisions depend on.
 *
 * Promise: when it resolves, the change is committed and no decision of this instance is made on the facts as they were.
 * When it rejects, nothing was changed (or, where the connection died during the commit, nobody knows), and the facts
 * are forgotten all the same. Two changes that deadlock are one change and a second try of the other.
 */
export type Changes = {
  run<T>(deadline: Deadline, work: (tx: TransactionSql, touch: Touch) => Promise<T>, options?: Options): Promise<T>
}

const maxTries = 3

const isDeadlock = (error: unknown): boolean =>
  typeof error === 'object' && error !== null && 'code' in error && (error.code === '40P01' || error.code === '40001')

export const createChanges = (sql: Sql, facts: FactCache): Changes => ({
  run: (deadline, work, { grants = false } = {}) => {
    const attempt = async () => {
      const touched = new Set<FactKey>()
      try {
        return await sql.begin(async (tx) => {
          // The wait for a connection may have used up the time; what nobody waits for any more must not be done.
          deadline.check()
          const result = await work(tx, (kind, id) => touched.add(factKey(kind, id)))
          if (grants) for (const id of await touchedGrants(tx)) touched.add(factKey('grant', id))
          deadline.check()
          return result
        })
      } finally {
        facts.invalidate(touched)
      }
    }
    const settle = async () => {
      for (let tries = 1; ; tries += 1) {
        try {
          return await attempt()
        } catch (error) {
          if (!isDeadlock(error) || tries === maxTries) throw error
        }
      }
    }
    return deadline.run(settle()) as ReturnType<typeof work>
  },
})
