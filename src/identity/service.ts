import type { Changes } from '../access/invalidation/committed-change.ts'
import type { RecordSecurityEvent } from '../http/security-events.ts'
import type { Clock } from '../kit/clock.ts'
import type { Limits } from '../limits/limits.ts'
import type { Quotas } from '../limits/quotas.ts'
import type { AccountHash } from './account-hash.ts'
import { type AccountLifecycle, createAccounts } from './accounts.ts'
import type { DeviceTokens } from './device-tokens.ts'
import { createClosing } from './erasure/closing.ts'
import type { Erasure } from './erasure/erasure.ts'
import type { PasswordRules } from './password-rules.ts'
import type { Passwords } from './passwords.ts'
import type { SessionTokens } from './session-tokens.ts'
import { createSessions } from './sessions.ts'
import { createSignIn } from './sign-in.ts'
import { createSignInProtection, createSignInPurge } from './sign-in-protection.ts'
import type { SignInStore } from './sign-in-store.ts'
import type { IdentityStore } from './store.ts'
import type { TokenUses } from './token-uses.ts'
import type { Profiles } from './users/profiles.ts'

type Dependencies = {
  store: IdentityStore
  profiles: Profiles
  signInStore: SignInStore
  hashOf: AccountHash
  deviceTokens: DeviceTokens
  changes: Changes
  passwords: Passwords
  passwordRules: PasswordRules
  tokens: SessionTokens
  uses: TokenUses
  lifecycle: AccountLifecycle
  erasure: Erasure
  clock: Clock
  record: RecordSecurityEvent
  maxSessions: Quotas['maxSessions']
  limits: Pick<Limits, 'authenticationTo'>
}

/** Accounts, their sessions and the tokens of those, as one service. */
export const createIdentity = ({
  store,
  profiles,
  signInStore,
  hashOf,
  deviceTokens,
  changes,
  passwords,
  passwordRules,
  tokens,
  uses,
  lifecycle,
  erasure,
  clock,
  record,
  maxSessions,
  limits,
}: Dependencies) => {
  const sessions = createSessions({
    store,
    devices: signInStore,
    deviceTokens,
    hashOf,
    changes,
    tokens,
    uses,
    clock,
    record,
    maxSessions,
  })
  const protection = createSignInProtection({ store: signInStore, hashOf, deviceTokens, clock, record })
  return {
    ...createAccounts({
      store,
      profiles,
      changes,
      passwords,
      passwordRules,
      sessions,
      protection,
      record,
      lifecycle,
      hashOf,
      limits,
    }),
    closeMe: createClosing({ store, changes, sessions, protection, lifecycle, erasure, clock, record }),
    login: createSignIn({ store, changes, passwords, sessions, protection, record, limits }),
    claimsOf: tokens.claimsOf,
    refresh: sessions.refresh,
    logout: sessions.logout,
    logoutAll: sessions.logoutAll,
    listSessions: sessions.list,
    endSession: sessions.end,
    purgeSessions: sessions.purge,
    purgeSignIns: createSignInPurge({ store: signInStore, clock }),
    erasePending: erasure.erasePending,
    recordTokenUses: uses.flushOnSchedule,
  }
}

export type Identity = ReturnType<typeof createIdentity>
