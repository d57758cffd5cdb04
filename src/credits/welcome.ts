import type { Config } from '../config.ts'
import type { AccountHash } from '../identity/account-hash.ts'
import { networkOf } from '../kit/client-address.ts'
import type { Log } from '../platform/log.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type { WelcomeStore } from './store.ts'

export type WelcomePolicy = {
  /** Credits of each new account. */
  readonly credits: number
  /** At verification of the e-mail address, where credits are worth money. */
  readonly after: Config['welcomeAfter']
  /** Most accounts of one address that get them on one day (UTC). 0: no limit. */
  readonly accountsPerAddress: number
}

/** An IPv6 client can use every address of its /64 network. */
const addressBits = { v4: 32, v6: 64 }

/**
 * The first credits of new accounts.
 *
 * Guarantee: an account gets them once, and so does an e-mail address: an account that is closed and registered again gets
 * none, nor does one with the former address of another account. A keyed hash of the address is remembered for 400 days from
 * the credits on, and from the closing of the account on. Of one network address no more accounts get them on a day than the
 * policy says, however many are registered and verified at once. Credits that this limit withholds stay pending: another
 * verification on a later day gives them. Closing the account drops them.
 *
 * The hashes stay the same when SECRET changes.
 */
export const createWelcome = ({
  store,
  policy,
  grant,
  hashOf,
  log,
}: {
  store: WelcomeStore
  policy: WelcomePolicy
  /** Adds the credits to the balance, which it locks until the transaction ends. */
  grant: (tx: TransactionSql, userId: string, amount: number) => Promise<unknown>
  hashOf: AccountHash
  log: Log
}) => {
  type Account = { readonly userId: string; readonly email: string; readonly network: string }

  /** False where the credits stay pending. */
  const give = async (tx: TransactionSql, { userId, email, network }: Account): Promise<boolean> => {
    const addressHash = hashOf(email)
    if (await store.isWelcomed(tx, addressHash)) {
      const fields = { event: 'credits.welcome_repeated', user_id: userId }
      log.info(fields, 'an account got no welcome credits: its e-mail address has had them')
      return true
    }
    const max = policy.accountsPerAddress
    if (max > 0 && !(await store.countGrant(tx, network, max))) {
      const fields = { event: 'credits.welcome_withheld', user_id: userId, network, accounts_per_address: max }
      log.info(fields, 'an account got no welcome credits: enough accounts of its address got them today')
      return false
    }
    await grant(tx, userId, policy.credits)
    await store.rememberWelcomed(tx, addressHash)
    return true
  }

  return {
    /** For a new account: gives the credits, or keeps them until the e-mail address is verified. */
    registered: async (
      tx: TransactionSql,
      { userId, email, address }: { userId: string; email: string; address: string },
    ): Promise<void> => {
      if (policy.credits === 0) return
      const network = networkOf(address, addressBits)
      if (policy.after === 'verification' || !(await give(tx, { userId, email, network })))
        await store.defer(tx, userId, network)
    },

    /** For an account whose e-mail address is verified now, or was before. */
    verified: async (tx: TransactionSql, userId: string): Promise<void> => {
      const pending = await store.lockPending(tx, userId)
      if (pending === undefined || policy.credits === 0) return
      if (await give(tx, { userId, ...pending })) await store.removePending(tx, userId)
    },

    /** For an account that is about to be closed. */
    closing: async (tx: TransactionSql, userId: string): Promise<void> => {
      const email = await store.findWelcomedAddress(tx, userId)
      if (email !== undefined) await store.rememberWelcomed(tx, hashOf(email))
    },

    closed: store.removePending,
    purge: store.purge,
  }
}

export type Welcome = ReturnType<typeof createWelcome>
