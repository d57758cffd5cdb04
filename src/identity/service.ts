import type { Changes } from '../access/invalidation/committed-change.ts'
import type { Clock } from '../kit/clock.ts'
import type { Quotas } from '../limits/quotas.ts'
import type { Log } from '../platform/log.ts'
import { type AccountLifecycle, createAccounts } from './accounts.ts'
import type { Passwords } from './passwords.ts'
import type { SessionTokens } from './session-tokens.ts'
import { createSessions } from './sessions.ts'
import type { IdentityStore } from './store.ts'
import type { TokenUses } from './token-uses.ts'

type Dependencies = {
  store: IdentityStore
  changes: Changes
  passwords: Passwords
  tokens: SessionTokens
  uses: TokenUses
  lifecycle: AccountLifecycle
  clock: Clock
  log: Log
  maxSessions: Quotas['maxSessions']
}

/** Accounts, their sessions and the tokens of those, as one service. */
export const createIdentity = ({
  store,
  changes,
  passwords,
  tokens,
  uses,
  lifecycle,
  clock,
  log,
  maxSessions,
}: Dependencies) => {
  const sessions = createSessions({ store, changes, tokens, uses, clock, log, maxSessions })
  return {
    ...createAccounts({ store, changes, passwords, sessions, lifecycle }),
    claimsOf: tokens.claimsOf,
    refresh: sessions.refresh,
    logout: sessions.logout,
    logoutAll: sessions.logoutAll,
    listSessions: sessions.list,
    endSession: sessions.end,
    purgeSessions: sessions.purge,
    recordTokenUses: uses.flushOnSchedule,
  }
}

export type Identity = ReturnType<typeof createIdentity>
