import type { Changes } from '../access/invalidation/committed-change.ts'
import type { AuditSource } from '../http/request-context.ts'
import type { RecordSecurityEvent } from '../http/security-events.ts'
import type { Clock } from '../kit/clock.ts'
import { timeText } from '../kit/date-time.ts'
import type { StartDeadline } from '../kit/deadline.ts'
import type { Limits } from '../limits/limits.ts'
import type { Quotas } from '../limits/quotas.ts'
import type { Mail, Payloads } from '../mail/service.ts'
import type { OutboundQueue } from '../outbound/queue.ts'
import type { ClientContexts } from '../security-context/client-contexts.ts'
import type { Screening } from '../security-context/screening.ts'
import type { AccountHash } from './account-hash.ts'
import { type AccountLifecycle, createAccounts } from './accounts.ts'
import type { DeviceTokens } from './device-tokens.ts'
import { createClosing } from './erasure/closing.ts'
import type { Erasure } from './erasure/erasure.ts'
import { createFactorNotices } from './factors/factor-notices.ts'
import { createFactors, type FactorDependencies } from './factors/service.ts'
import type { OneTimeTokens } from './one-time-tokens.ts'
import { createOwnPassword } from './own-password.ts'
import type { PasswordRules } from './password-rules.ts'
import type { Passwords } from './passwords.ts'
import { createConfirmations } from './recovery/confirmations.ts'
import { createFlowHandler } from './recovery/flow-handler.ts'
import { createNewPasswords } from './recovery/new-passwords.ts'
import { createFlowRequests, flowKind } from './recovery/requests.ts'
import type { RecoveryStore } from './recovery/store.ts'
import { createReplacement } from './replaced-sessions.ts'
import type { SessionTokens } from './session-tokens.ts'
import { createSessions } from './sessions.ts'
import { createSignIn } from './sign-in.ts'
import { createSignInProtection, createSignInPurge } from './sign-in-protection.ts'
import type { SignInStore } from './sign-in-store.ts'
import type { IdentityStore } from './store.ts'
import type { TokenUses } from './token-uses.ts'
import type { Profiles } from './users/profiles.ts'

type Dependencies = {
  recoveryStore: RecoveryStore
  oneTimeTokens: OneTimeTokens
  mail: Mail
  outbound: OutboundQueue
  payloads: Payloads
  startDeadline: StartDeadline
  requireVerifiedEmail: boolean
  auditSource: AuditSource
  store: IdentityStore
  profiles: Profiles
  signInStore: SignInStore
  factorDependencies: FactorDependencies
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
  contexts: ClientContexts
  screening: Screening
  limits: Pick<Limits, 'authenticationTo'>
}

/** Accounts, their sessions and the tokens of those, as one service. */
export const createIdentity = ({
  store,
  profiles,
  signInStore,
  factorDependencies,
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
  contexts,
  screening,
  limits,
  recoveryStore,
  oneTimeTokens,
  mail,
  outbound,
  payloads,
  startDeadline,
  requireVerifiedEmail,
  auditSource,
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
    contexts,
    screening,
  })
  const protection = createSignInProtection({ store: signInStore, hashOf, deviceTokens, clock, record })
  const requests = createFlowRequests({ changes, queue: outbound, payloads, mail, limits, hashOf })
  const shared = { store: recoveryStore, tokens: oneTimeTokens, mail, changes, record }
  const handler = createFlowHandler({
    ...shared,
    identityStore: store,
    payloads,
    startDeadline,
    registered: lifecycle.registered,
    auditSource,
  })
  if (mail.isConfigured) outbound.handle(flowKind, handler)
  const ownPassword = createOwnPassword({ passwords, protection, limits })
  const { secondStep, ...factors } = createFactors({
    ...factorDependencies,
    store,
    notices: createFactorNotices({ store: signInStore, mail }),
    ownPassword,
    sessions,
    protection,
    changes,
    clock,
    record,
    limits,
    requireVerifiedEmail,
    sendsMail: mail.isConfigured,
  })
  return {
    ...createAccounts({
      store,
      profiles,
      changes,
      passwords,
      passwordRules,
      ownPassword,
      sessions,
      protection,
      record,
      lifecycle,
      hashOf,
      limits,
      requests,
      requireVerifiedEmail,
      onPasswordChanged: async (tx, userId) => {
        await oneTimeTokens.revoke(tx, userId, ['password_reset'])
        const parameters = { time: timeText(clock.now()) }
        await mail.enqueue(tx, { template: 'password_changed', parameters, to: { userId } })
      },
    }),
    ...createConfirmations({ ...shared, clock, sessions, verified: lifecycle.verified }),
    ...createNewPasswords({
      ...shared,
      clock,
      passwords,
      passwordRules,
      sessions,
      failures: signInStore,
      hashOf,
      registered: lifecycle.registered,
      verified: lifecycle.verified,
    }),
    closeMe: createClosing({ store, changes, sessions, protection, lifecycle, erasure, clock, record }),
    enqueueFlow: requests.enqueue,
    requestMail: requests.request,
    requestEmailChange: requests.requestEmailChange,
    login: createSignIn({
      store,
      changes,
      passwords,
      sessions,
      protection,
      secondStep,
      record,
      limits,
      requireVerifiedEmail,
    }),
    completeSignIn: secondStep.complete,
    ...factors,
    claimsOf: tokens.claimsOf,
    refresh: sessions.refresh,
    endPresented: createReplacement({ store, changes, tokens, clock, record }),
    logout: sessions.logout,
    logoutAll: sessions.logoutAll,
    /** For sign-ins without a password. */
    opening: {
      open: sessions.open,
      openAnother: sessions.openAnother,
      reopen: sessions.reopen,
      recognize: protection.recognize,
      recognizeSource: protection.recognizeSource,
      secondStep,
    },
    listSessions: sessions.list,
    endSession: sessions.end,
    purgeSessions: sessions.purge,
    purgeSignIns: createSignInPurge({ store: signInStore, clock }),
    erasePending: erasure.erasePending,
    recordTokenUses: uses.flushOnSchedule,
  }
}

export type Identity = ReturnType<typeof createIdentity>
