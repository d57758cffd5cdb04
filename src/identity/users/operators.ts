import type { Caller } from '../../access/principal.ts'
import { Fault } from '../../fault.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import type { AccountRow, UserStore } from './store.ts'

/**
 * Decides again, in the transaction of a change, that its caller is an operator of the platform: the door decided before.
 *
 * Promise: whoever passes is an operator until the transaction ends, because a suspension or a demotion waits for it; after
 * one that came first, it throws `identity.not_signed_in` or `access.admins_only`, and what was done in the transaction is
 * undone. Comes first in it, so that accounts are locked before anything else. Another account the change is about is
 * locked along, in the order all do, and returned if there is such an account.
 *
 * `keep` lets others keep the same accounts; `lock` lets nobody, and is for changing the other one.
 */
export const createOperators = (store: Pick<UserStore, 'keep' | 'lock'>) => {
  const requireWith =
    (hold: UserStore['keep' | 'lock']) =>
    async (tx: TransactionSql, caller: Caller, aboutId = caller.userId): Promise<AccountRow | undefined> => {
      const held = await hold(tx, [caller.userId, aboutId])
      const operator = held.find(({ id }) => id === caller.userId)
      if (operator?.status !== 'active') throw new Fault('identity.not_signed_in')
      if (operator.role !== 'admin') throw new Fault('access.admins_only')
      return held.find(({ id }) => id === aboutId)
    }
  return { keep: requireWith(store.keep), lock: requireWith(store.lock) }
}

export type Operators = ReturnType<typeof createOperators>
