import type { Deadline } from '../kit/deadline.ts'
import type { Sql, TransactionSql } from '../platform/postgres.ts'
import type { FactCache } from './facts.ts'
import { type FactKey, type FactKind, factKey } from './model.ts'

/** Names a fact that the transaction changes. */
export type Touch = (kind: FactKind, id: string) => void

/**
 * The one way to change what decisions depend on.
 *
 * Promise: when it resolves, the change is committed and no decision of this instance is made on the facts as they were.
 * When it rejects, nothing was changed (or, where the connection died during the commit, nobody knows), and the facts
 * are forgotten all the same.
 */
export type Changes = {
  run<T>(deadline: Deadline, work: (tx: TransactionSql, touch: Touch) => Promise<T>): Promise<T>
}

export const createChanges = (sql: Sql, facts: FactCache): Changes => ({
  run: async (deadline, work) => {
    const touched = new Set<FactKey>()
    const commit = sql.begin(async (tx) => {
      // The wait for a connection may have used up the time; what nobody waits for any more must not be done.
      deadline.check()
      const result = await work(tx, (kind, id) => touched.add(factKey(kind, id)))
      deadline.check()
      return result
    })
    const settled = commit.finally(() => facts.invalidate(touched)) as ReturnType<typeof work>
    return deadline.run(settled)
  },
})
