import type { Caller } from '../../access/principal.ts'
import { requireSignedInForShare } from '../../access/transactional-access.ts'
import { Fault } from '../../fault.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import type { AccountRow, UserStore } from './store.ts'

/**
 * Rechecks inside the transaction of a change that its caller is an operator of the platform. The guard decided before.
 *
 * Guarantees that the caller stays a signed-in operator until the transaction ends: account and session are locked, so a
 * suspension, a demotion or the end of the session waits. After one that was committed first it throws `identity.not_signed_in`
 * or `access.admins_only`, and the transaction is rolled back. Call it first in the transaction, because accounts are locked
 * before all other rows. The account that the change is about (`aboutId`) is locked by the same statement, in the order of ids,
 * and returned if it exists.
 *
 * `requireForShare` locks for share, so that operators do not wait for each other. `requireForNoKeyUpdate` is for changing
 * the account `aboutId`.
 */
export const createOperators = (store: Pick<UserStore, 'lockForShare' | 'lockForNoKeyUpdate'>) => {
  const requireWith =
    (lockAccounts: UserStore['lockForShare' | 'lockForNoKeyUpdate']) =>
    async (tx: TransactionSql, caller: Caller, aboutId = caller.userId): Promise<AccountRow | undefined> => {
      const accounts = await lockAccounts(tx, [caller.userId, aboutId])
      const operator = accounts.find(({ id }) => id === caller.userId)
      if (operator?.status !== 'active') throw new Fault('identity.not_signed_in')
      if (operator.role !== 'admin') throw new Fault('access.admins_only')
      await requireSignedInForShare(tx, caller)
      return accounts.find(({ id }) => id === aboutId)
    }
  return {
    requireForShare: requireWith(store.lockForShare),
    requireForNoKeyUpdate: requireWith(store.lockForNoKeyUpdate),
  }
}

export type Operators = ReturnType<typeof createOperators>
