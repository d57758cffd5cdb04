import { createGuard } from '../../access/guard/guard.ts'
import { removeBlocksOfUser } from '../../emergency/store.ts'
import { createAccountHash } from '../../identity/account-hash.ts'
import { createDeviceTokens } from '../../identity/device-tokens.ts'
import { createErasure } from '../../identity/erasure/erasure.ts'
import { createErasureStore } from '../../identity/erasure/erasure-store.ts'
import { createAccountExport } from '../../identity/export/account-export.ts'
import { createExportStore } from '../../identity/export/export-store.ts'
import type { FactorDependencies } from '../../identity/factors/service.ts'
import { createFactorStore } from '../../identity/factors/store.ts'
import { createIdentityProviderStore } from '../../identity/identity-providers/store.ts'
import { createNoticeStore } from '../../identity/notice-store.ts'
import { createNoticeSender } from '../../identity/notices.ts'
import { createRecoveryStore } from '../../identity/recovery/store.ts'
import { createIdentity, type Identity } from '../../identity/service.ts'
import { createSessionTokens } from '../../identity/session-tokens.ts'
import { createSignInStore } from '../../identity/sign-in-store.ts'
import { createTokenUseStore } from '../../identity/token-use-store.ts'
import { createTokenUses } from '../../identity/token-uses.ts'
import { createAccountRecovery } from '../../identity/users/account-recovery.ts'
import { createProfiles } from '../../identity/users/profiles.ts'
import { createUsers } from '../../identity/users/service.ts'
import { createSignInFailures } from '../../identity/users/sign-in-failures.ts'
import { createWayInStore, type WayInStore } from '../../identity/way-in-store.ts'
import { createDeadlines } from '../../kit/deadline.ts'
import { createSpendingOfRoutes } from '../../limits/spending.ts'
import { createWebauthn } from '../../platform/webauthn.ts'
import { createInvitations } from '../../teams/invitations/service.ts'
import { createInvitationStore } from '../../teams/invitations/store.ts'
import { createTeams } from '../../teams/service.ts'
import { createTeamStore } from '../../teams/store.ts'
import type { AccessParts } from './access.ts'
import type { GenerationParts } from './generations.ts'
import { composeIdentityProviders } from './identity-providers.ts'
import type { Infrastructure } from './infrastructure.ts'
import type { Shared } from './shared.ts'

const composeWaysIn = ({ config }: Infrastructure): WayInStore =>
  createWayInStore({
    issuers: config.identityProviders.map(({ issuer }) => issuer),
    passkeys: config.passkeys !== undefined,
  })

const composeFactors = (
  { config, database, secrets }: Infrastructure,
  operators: Shared['operators'],
  waysIn: WayInStore,
): FactorDependencies => ({
  factorStore: createFactorStore(database.auth, database.batch),
  waysIn,
  operators,
  secrets,
  webauthn: config.passkeys && createWebauthn({ ...config.passkeys, name: config.serviceName }),
  issuer: config.serviceName,
})

const composeNotices = ({ database, clock, clientContexts: { countryOf } }: Infrastructure, mail: Shared['mail']) =>
  createNoticeSender({ store: createNoticeStore(database.batch), mail, clock, countryOf })

const composeGuard = (
  { clock, sessionCookies, screening }: Infrastructure,
  { access, barrier }: Pick<AccessParts, 'access' | 'barrier'>,
  {
    identity,
    limits,
    streamTickets,
  }: { identity: Identity; limits: Shared['limits']; streamTickets: GenerationParts['streamTickets'] },
) =>
  createGuard({
    access,
    claimsOf: identity.claimsOf,
    spending: createSpendingOfRoutes(limits),
    cookies: sessionCookies,
    tickets: streamTickets,
    clock,
    screen: screening.screen,
    barrier,
  })

/** Accounts, their ways to sign in, and what is closed with them. */
export const composeAccounts = (
  infrastructure: Infrastructure,
  { caches: { changes, facts }, access, barrier, warmUp }: AccessParts,
  { userStore, operators, welcome, quotas, limits, outbound, payloads, mail, oneTimeTokens, forgetUser }: Shared,
  { generations, streamTickets }: GenerationParts,
  stack: AsyncDisposableStack,
) => {
  const {
    config,
    clock,
    realClock,
    log,
    database,
    secrets,
    keyedHash,
    passwords,
    passwordRules,
    identityStore,
    keys,
    recordSecurityEvent: record,
    clientContexts: contexts,
    screening,
  } = infrastructure
  const teamStore = createTeamStore(database.read, database.analytics)
  const uses = createTokenUses(createTokenUseStore(database.batch))
  stack.defer(() => uses.flush().catch((error) => log.warn({ error }, 'first uses of access tokens not stored')))
  const identityProviderStore = createIdentityProviderStore(database.auth, database.batch)
  const signInStore = createSignInStore(database.auth, database.batch)
  const hashOf = createAccountHash(keyedHash, 'sign-in-failures')
  const recoveryStore = createRecoveryStore(database.batch)
  const waysIn = composeWaysIn(infrastructure)
  const identity = createIdentity({
    store: identityStore,
    profiles: createProfiles({ facts }),
    signInStore,
    factorDependencies: composeFactors(infrastructure, operators, waysIn),
    hashOf,
    deviceTokens: createDeviceTokens(secrets),
    changes,
    passwords,
    passwordRules,
    tokens: createSessionTokens({
      keys,
      secrets,
      policy: { issuer: config.issuer, audience: config.audience, ttlMs: config.accessTokenTtlMs },
      clock,
      maxCachedTokens: 2 * config.l1MaxEntries,
      onIssued: warmUp.signedIn,
      onFirstUse: uses.record,
    }),
    uses,
    lifecycle: {
      registered: welcome.registered,
      closing: welcome.closing,
      verified: welcome.verified,
      closed: async (tx, userId) => {
        await welcome.closed(tx, userId)
        await oneTimeTokens.forgetUser(tx, userId)
        await recoveryStore.deleteOfUser(tx, userId)
        await outbound.forgetUser(tx, userId)
        await identityProviderStore.unlinkAll(tx, userId)
        await forgetUser(tx, userId)
        await removeBlocksOfUser(tx, userId)
      },
      cancelGenerations: generations.cancelUnfinished,
      teamsToHandOver: teamStore.findTeamsToHandOver,
      lockTeams: teamStore.lockForClosing,
    },
    erasure: createErasure({
      store: createErasureStore(database.batch),
      changes,
      startDeadline: createDeadlines(clock),
      log,
    }),
    clock,
    record,
    maxSessions: quotas.maxSessions,
    contexts,
    screening,
    limits,
    recoveryStore,
    oneTimeTokens,
    mail,
    outbound,
    payloads,
    startDeadline: createDeadlines(realClock),
    requireVerifiedEmail: config.requireVerifiedEmail,
    auditSource: infrastructure.auditSource,
  })
  return {
    identity,
    accountExport: createAccountExport({
      store: createExportStore(database.batch),
      objects: infrastructure.objects,
      access,
      clock,
      startDeadline: createDeadlines(clock),
      record,
    }),
    purgeFormerAddresses: () => recoveryStore.purge(new Date(clock.now())),
    sendNotices: composeNotices(infrastructure, mail),
    identityProviders: composeIdentityProviders(infrastructure, {
      identity,
      store: identityProviderStore,
      notices: signInStore,
      waysIn,
      mail,
      changes,
      welcome,
    }),
    guard: composeGuard(infrastructure, { access, barrier }, { identity, limits, streamTickets }),
    users: createUsers({
      store: userStore,
      operators,
      sessions: identityStore,
      changes,
      verified: welcome.verified,
      clock,
      record,
    }),
    accountRecovery: createAccountRecovery({
      store: identityStore,
      users: userStore,
      operators,
      sessions: identityStore,
      tokens: oneTimeTokens,
      mail,
      requests: { enqueue: identity.enqueueFlow },
      changes,
      clock,
      record,
    }),
    signInFailures: createSignInFailures({ store: signInStore, users: userStore, hashOf, operators, changes, record }),
    teams: createTeams({ store: teamStore, changes, quotas, clock, record }),
    invitations: createInvitations({
      store: createInvitationStore(database.read),
      teams: teamStore,
      changes,
      quotas,
      limits,
      mail,
      hashOf,
      clock,
      record,
    }),
  }
}
