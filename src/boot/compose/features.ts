import { randomInt } from 'node:crypto'
import { createGuard } from '../../access/guard/guard.ts'
import { commonChannel, encodeMessage } from '../../access/invalidation/topics.ts'
import { createAnomalyLayer } from '../../anomaly/layer.ts'
import { createBreakerService } from '../../breakers/service.ts'
import { createBreakerStore } from '../../breakers/store.ts'
import { createCredits } from '../../credits/service.ts'
import { createCreditStore, createWelcomeStore } from '../../credits/store.ts'
import { createWelcome } from '../../credits/welcome.ts'
import { createRestrictions } from '../../emergency/service.ts'
import { createRestrictionStore, removeBlocksOfUser } from '../../emergency/store.ts'
import { createFlagEvaluator } from '../../flags/features/evaluator.ts'
import { createFeatureFlags } from '../../flags/features/service.ts'
import { createFlagStore } from '../../flags/features/store.ts'
import { createTierFlagService } from '../../flags/tiers/service.ts'
import { createTierFlagStore } from '../../flags/tiers/store.ts'
import { toGeneration } from '../../generations/mapping.ts'
import { createGenerations } from '../../generations/service.ts'
import { createGenerationStore } from '../../generations/store.ts'
import { createHub, factsPerStream, maxPerInstance } from '../../generations/stream/hub.ts'
import { createGenerationStream } from '../../generations/stream/service.ts'
import { createTicketStore } from '../../generations/stream/ticket-store.ts'
import { createStreamTickets } from '../../generations/stream/tickets.ts'
import { createIdempotency } from '../../idempotency/idempotency.ts'
import { createIdempotencyStore } from '../../idempotency/store.ts'
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
import { createOneTimeTokenStore } from '../../identity/one-time-token-store.ts'
import { createOneTimeTokens } from '../../identity/one-time-tokens.ts'
import { createRecoveryStore } from '../../identity/recovery/store.ts'
import { createIdentity, type Identity } from '../../identity/service.ts'
import { createSessionTokens } from '../../identity/session-tokens.ts'
import { createSignInStore } from '../../identity/sign-in-store.ts'
import { createTokenUseStore } from '../../identity/token-use-store.ts'
import { createTokenUses } from '../../identity/token-uses.ts'
import { createAccountRecovery } from '../../identity/users/account-recovery.ts'
import { createOperators } from '../../identity/users/operators.ts'
import { createProfiles } from '../../identity/users/profiles.ts'
import { createUsers } from '../../identity/users/service.ts'
import { createSignInFailures } from '../../identity/users/sign-in-failures.ts'
import { createUserStore } from '../../identity/users/store.ts'
import { createWayInStore, type WayInStore } from '../../identity/way-in-store.ts'
import { createIncidents } from '../../incidents/service.ts'
import { createCancellationStore } from '../../jobs/cancellation-store.ts'
import { createCancellations } from '../../jobs/cancellations.ts'
import { createRunner } from '../../jobs/runner.ts'
import { createJobStore } from '../../jobs/store.ts'
import { createWork } from '../../jobs/work.ts'
import { createDeadlines } from '../../kit/deadline.ts'
import { createLimitOperations } from '../../limits/operations.ts'
import { createQuotaStore } from '../../limits/quota-store.ts'
import { createQuotas } from '../../limits/quotas.ts'
import { createSpendingOfRoutes } from '../../limits/spending.ts'
import { createLimitStore } from '../../limits/store.ts'
import { createMail, createPayloads } from '../../mail/service.ts'
import { createMailStore } from '../../mail/store.ts'
import { createIncludedMedia } from '../../media/included.ts'
import { createLinks } from '../../media/links/service.ts'
import { createLinkTokens } from '../../media/links/token.ts'
import { createMediaStorage } from '../../media/media-storage.ts'
import { createMedia } from '../../media/service.ts'
import { createShareLinks } from '../../media/share-links/service.ts'
import { createShareLinkStore } from '../../media/share-links/store.ts'
import { createMediaStore } from '../../media/store.ts'
import { createUploads } from '../../media/uploads/service.ts'
import { createModels } from '../../models/service.ts'
import { createMonitoring } from '../../monitoring/service.ts'
import { createMonitoringStore } from '../../monitoring/store.ts'
import { createOutboundQueue } from '../../outbound/queue.ts'
import { createOutboundStore } from '../../outbound/store.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import { createSpool } from '../../platform/spool.ts'
import { createWebauthn } from '../../platform/webauthn.ts'
import { createProjects } from '../../projects/service.ts'
import { createProjectStore } from '../../projects/store.ts'
import { createProviders } from '../../providers/providers.ts'
import { createRunnableModels } from '../../providers/runnable-models.ts'
import { createServiceKeys } from '../../service-keys/service.ts'
import { createInvitations } from '../../teams/invitations/service.ts'
import { createInvitationStore } from '../../teams/invitations/store.ts'
import { createTeams } from '../../teams/service.ts'
import { createTeamStore } from '../../teams/store.ts'
import type { AccessParts } from './access.ts'
import { composeAnomalies } from './anomalies.ts'
import { composeAudit } from './audit.ts'
import { composeIdentityProviders } from './identity-providers.ts'
import type { Infrastructure } from './infrastructure.ts'
import { composeLimits } from './limits.ts'
import { composeSiem } from './siem.ts'
import { composeWebhooks } from './webhooks.ts'

/** After this long without an instance that has its model, a job may be leased by any instance, which fails it. */
const strandedMs = 86_400_000
/** For the transaction that leases jobs; no request waits for it. */
const leasingMs = 10_000
/** For the transaction that ends expired modes and blocks. */
const expiryMs = 5_000
const seeds = 2 ** 32

/** The queue of outbound work, mails, and the tokens that they carry. */
const composeMail = (
  { config, clock, log, database, secrets, keyedHash, sendMail }: Infrastructure,
  stack: AsyncDisposableStack,
) => {
  const outbound = createOutboundQueue({ store: createOutboundStore(database.batch), clock, log })
  stack.defer(outbound.close)
  const subject = 'outbound task'
  const payloads = createPayloads({
    seal: (text) => secrets.seal('mail', text, subject),
    open: (sealed) => secrets.unseal('mail', sealed, subject).toString(),
  })
  const mail = createMail({
    settings: config.mail,
    send: sendMail,
    store: createMailStore(database.batch),
    queue: outbound,
    payloads,
    hashOf: createAccountHash(keyedHash, 'sign-in-failures'),
    clock,
    log,
  })
  const oneTimeTokens = createOneTimeTokens({ store: createOneTimeTokenStore(database.batch), clock })
  return { outbound, payloads, mail, oneTimeTokens }
}

/** Used by more than one feature. */
const composeShared = (infrastructure: Infrastructure, access: AccessParts, stack: AsyncDisposableStack) => {
  const { config, clock, log, database, keyedHash } = infrastructure
  const { changes } = access.caches
  const userStore = createUserStore(database.admin)
  const operators = createOperators(userStore)
  const anomalies = composeAnomalies(infrastructure, access, stack)
  const idempotency = createIdempotency({ store: createIdempotencyStore(database.batch), clock })
  const credits = createCredits({
    store: createCreditStore(database.read),
    operators,
    changes,
    idempotency,
  })
  const welcome = createWelcome({
    store: createWelcomeStore(database.batch),
    policy: {
      credits: config.welcomeCredits,
      after: config.welcomeAfter,
      accountsPerAddress: config.welcomeAccountsPerAddress,
    },
    grant: credits.welcome,
    hashOf: createAccountHash(keyedHash, 'welcome-credits'),
    log,
  })
  const flagStore = createFlagStore(database.admin, database.batch)
  const quotas = createQuotas({
    store: createQuotaStore(database.read),
    policy: config.policy,
    mode: config.limits,
    log,
  })
  return {
    userStore,
    operators,
    idempotency,
    credits,
    welcome,
    quotas,
    anomalies,
    anomalyFindingOf: createAnomalyLayer(anomalies),
    limits: composeLimits(infrastructure, access, anomalies, stack),
    flagStore,
    /** What operators have written about an account goes with it. */
    forgetUser: async (tx: TransactionSql, userId: string): Promise<void> => {
      await flagStore.forgetUser(tx, userId)
      await infrastructure.incidentStore.forgetUser(tx, userId)
    },
    ...composeMail(infrastructure, stack),
  }
}

type Shared = ReturnType<typeof composeShared>

const composeMedia = (
  infrastructure: Infrastructure,
  access: AccessParts,
  { quotas }: Shared,
  stack: AsyncDisposableStack,
) => {
  const { config, clock, log, database, secrets, images, objects } = infrastructure
  const { changes } = access.caches
  const store = createMediaStore(database.read, database.batch)
  const mediaStorage = createMediaStorage({ store, images, objects, clock, log })
  stack.defer(mediaStorage.close)
  access.caches.bus.on('orphans', mediaStorage.scheduleSweep)
  const media = createMedia({
    store,
    access: access.access,
    transactionalAccess: access.transactionalAccess,
    changes,
    objects,
    spool: createSpool(),
  })
  const links = createLinks({ tokens: createLinkTokens({ secrets, clock }), media, access: access.access, clock })
  return {
    media,
    mediaStorage,
    links,
    includedMedia: createIncludedMedia({ store, links }),
    shareLinks: createShareLinks({
      store: createShareLinkStore(database.read, database.batch),
      transactionalAccess: access.transactionalAccess,
      changes,
      clock,
    }),
    uploads: createUploads({
      store,
      mediaStorage,
      access: access.access,
      changes,
      quotas,
      clock,
      requestMs: config.requestTimeoutMs,
    }),
  }
}

type MediaParts = ReturnType<typeof composeMedia>

const composeGenerations = (
  { config, clock, log, database, secrets, images, safeFetch, breakers }: Infrastructure,
  { caches, access, transactionalAccess, permissionRecheck, listingStore }: AccessParts,
  { idempotency, credits, quotas }: Shared,
  { media, mediaStorage }: MediaParts,
  stack: AsyncDisposableStack,
) => {
  const { changes, bus } = caches
  const startDeadline = createDeadlines(clock)
  const providers = createProviders({ config, images, clock, log, safeFetch, breakers })
  const models = createModels({ providers: new Set(providers.keys()) })
  const runnableModels = createRunnableModels(models.list(), providers)
  const store = createGenerationStore(database.read, listingStore)
  const jobStore = createJobStore(database.batch, bus.instance, {
    models: runnableModels.list().map(({ model }) => model.id),
    strandedMs,
  })
  const runner = createRunner({
    store: jobStore,
    lease: (limit, leaseMs) =>
      changes.commitAndInvalidate(startDeadline(leasingMs), (tx) => jobStore.lease(tx, limit, leaseMs)),
    work: createWork({
      store: jobStore,
      changes,
      clock,
      models: runnableModels,
      mediaStorage,
      generations: store,
      credits,
    }),
    log,
    concurrency: config.jobConcurrency,
    timeLimitMs: config.generationTimeoutMs,
  })
  stack.defer(runner.close)
  const cancellations = createCancellations({
    store: createCancellationStore(database.batch),
    models: runnableModels,
    log,
  })
  stack.defer(cancellations.stop)
  const streams = createHub({
    findStates: store.findStates,
    findPositions: jobStore.findPositions,
    findEach: async (deadline, wanted) =>
      (await store.findEach(deadline, wanted)).map((row) => row && toGeneration(row)),
    permissions: permissionRecheck,
    caps: config.policy.streams,
    mode: config.limits,
    perInstance: Math.min(maxPerInstance, Math.floor(config.l1MaxEntries / (2 * factsPerStream))),
    clock,
    log,
  })
  stack.defer(streams.close)
  caches.onInvalidated(streams.onInvalidated)
  bus.on('progress', streams.onProgress)
  bus.on('job', () => {
    runner.wake()
    streams.onQueueMoved()
  })
  bus.on('cancelled', ({ generationId }) => {
    runner.abort(generationId)
    cancellations.wake()
  })
  const generations = createGenerations({
    store,
    access,
    transactionalAccess,
    changes,
    idempotency,
    models,
    media,
    credits,
    jobs: jobStore,
    quotas,
    newSeed: () => randomInt(seeds),
  })
  const generationStream = createGenerationStream({ hub: streams, get: generations.get })
  const streamTickets = createStreamTickets({
    secrets,
    store: createTicketStore(database.write, database.batch),
    clock,
  })
  return { models, runner, cancellations, streams, generations, generationStream, streamTickets }
}

type GenerationParts = ReturnType<typeof composeGenerations>

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

const composeAccounts = (
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

/** Third step: what the routes call. */
export const composeFeatures = (
  infrastructure: Infrastructure,
  accessParts: AccessParts,
  stack: AsyncDisposableStack,
) => {
  const { config, clock, database, redis, admissions, passwords, recordSecurityEvent: record } = infrastructure
  const { caches, access, outage, transactionalAccess, decisionCounters, listingStore, serviceKeyStore } = accessParts
  const { changes } = caches
  const shared = composeShared(infrastructure, accessParts, stack)
  const media = composeMedia(infrastructure, accessParts, shared, stack)
  const generations = composeGenerations(infrastructure, accessParts, shared, media, stack)
  const accounts = composeAccounts(infrastructure, accessParts, shared, generations, stack)
  const { operators } = shared
  const breakerService = createBreakerService({
    breakers: infrastructure.breakers,
    store: createBreakerStore(database.admin),
    instance: caches.bus.instance,
    operators,
    changes,
    record,
  })
  caches.onInvalidated(breakerService.onInvalidated)
  const siem = composeSiem(infrastructure, caches.bus.instance, stack)
  return {
    ...shared,
    ...media,
    ...generations,
    ...accounts,
    ...composeWebhooks(infrastructure, accessParts, operators, stack),
    ...composeAudit(infrastructure),
    projects: createProjects({
      store: createProjectStore(database.read, listingStore),
      access,
      transactionalAccess,
      changes,
      quotas: shared.quotas,
      record,
    }),
    serviceKeys: createServiceKeys({ store: serviceKeyStore, operators, changes, clock, record }),
    breakerService,
    featureFlags: createFeatureFlags({ store: shared.flagStore, operators, changes, clock, record }),
    flagEvaluator: createFlagEvaluator({ facts: caches.facts }),
    tierFlags: createTierFlagService({ store: createTierFlagStore(database.admin), operators, changes }),
    incidents: createIncidents({ store: infrastructure.incidentStore, operators, changes, clock, record }),
    restrictions: createRestrictions({
      store: createRestrictionStore(database.admin, database.batch),
      operators,
      changes,
      ownMode: accessParts.ownMode,
      auditSource: infrastructure.auditSource,
      startDeadline: () => createDeadlines(infrastructure.realClock)(expiryMs),
      record,
      log: infrastructure.log,
    }),
    limitOperations: createLimitOperations({
      limits: shared.limits,
      announceLifted: (deadline, lifted, recordIn) =>
        createLimitStore(database.admin).announce(
          deadline,
          { channel: commonChannel, payload: encodeMessage('limit_lifted', lifted) },
          recordIn,
        ),
      record,
    }),
    monitoring: createMonitoring({
      caches,
      limits: shared.limits,
      decisionCounters,
      redis,
      forgeries: infrastructure.forgeries,
      outage,
      admissions,
      uploads: media.uploads,
      passwords,
      store: createMonitoringStore(database.batch),
      notificationQueue: accessParts.notificationQueue,
      readers: infrastructure.readers,
      siem,
      screening: infrastructure.screening,
      l1: { maxEntries: config.l1MaxEntries, maxBytes: config.l1MaxBytes },
    }),
  }
}

export type Features = ReturnType<typeof composeFeatures>
