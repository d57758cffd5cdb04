import type { TransactionSql } from '../platform/postgres.ts'

/** Accounts that are locked, or compared, in the transaction of a sign-in. */
export const accountLockStore = {
  /** Compare and set: replaces the hash only if it is still the one that was compared, so one of two concurrent changes wins. */
  replacePasswordHash: async (
    tx: TransactionSql,
    id: string,
    from: string,
    to: string,
    secondFactor: boolean | null = null,
  ): Promise<boolean> => {
    const { count } = await tx`
      update users set password_hash = ${to}, updated_at = now()
       where id = ${id} and status = 'active' and password_hash = ${from}
         and second_factor = coalesce(${secondFactor}, second_factor)`
    return count === 1
  },

  /**
   * Locks the account for no key update until the transaction ends, so that its sign-ins take turns and each counts the
   * sessions of those before. Returns false when it is no longer active or its hash is not the one that was compared, so a
   * sign-in that races with a change of password or with closing is refused. So is one whose account has got or lost its second
   * factor meanwhile, where `secondFactor` is given.
   */
  lockAccountForNoKeyUpdate: async (
    tx: TransactionSql,
    id: string,
    passwordHash: string | null,
    secondFactor: boolean | null = null,
  ): Promise<boolean> => {
    const { count } = await tx`
      select from users
       where id = ${id} and status = 'active' and password_hash is not distinct from ${passwordHash}
         and second_factor = coalesce(${secondFactor}, second_factor)
         for no key update`
    return count === 1
  },

  /** As `lockAccountForNoKeyUpdate`, for a sign-in without a password. */
  lockActiveAccount: async (tx: TransactionSql, id: string): Promise<boolean> => {
    const { count } = await tx`select from users where id = ${id} and status = 'active' for no key update`
    return count === 1
  },
}
