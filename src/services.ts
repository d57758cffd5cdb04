import { randomInt } from 'node:crypto'
import { type Access, createAccess } from './access/access.ts'
import { createDecisionCounters, type DecisionCounters } from './access/cache/decision-counters.ts'
import { createEffectiveAccessCheck } from './access/cache/effective-access-check.ts'
import { findAccessDifferences } from './access/cache/effective-access-store.ts'
import { scripts } from './access/cache/redis-cache.ts'
import { staleCheckMs } from './access/cache/stale-detector.ts'
import { type StaleReads, withStaleReads } from './access/cache/stale-reads.ts'
import { type Caches, type CacheTiming, createCaches } from './access/caches.ts'
import { createGuard, type Guard } from './access/guard.ts'
import { createListing, type Listing } from './access/listing/listing.ts'
import { createListingStore } from './access/listing/listing-store.ts'
import { createPermissionRecheck } from './access/permission-recheck.ts'
import { createTransactionalAccess } from './access/transactional-access.ts'
import { createAccessFrequency, frequencyFlushMs } from './access/warm-up/access-frequency.ts'
import { createAccessFrequencyStore } from './access/warm-up/access-frequency-store.ts'
import { createViewStore } from './access/warm-up/materialized-view-store.ts'
import { createViewRefresh, viewCheckMs } from './access/warm-up/materialized-views.ts'
import { createWarmUp, type WarmUp } from './access/warm-up/warm-up.ts'
import { createWarmUpStore } from './access/warm-up/warm-up-store.ts'
import { prepareDatabase } from './boot/prepare-database.ts'
import { type Config, maxAccessTokenTtlMs } from './config.ts'
import { type Credits, createCredits } from './credits/service.ts'
import { createCreditStore } from './credits/store.ts'
import { createFlagService, type FlagService } from './flags/service.ts'
import { createFlagStore } from './flags/store.ts'
import { createGenerations, type Generations, toGeneration } from './generations/service.ts'
import { createGenerationStore } from './generations/store.ts'
import { createHub, factsPerStream, type Hub, maxPerInstance } from './generations/stream/hub.ts'
import { createGenerationStream, type GenerationStream } from './generations/stream/service.ts'
import { createIdempotency } from './idempotency/idempotency.ts'
import { createIdempotencyStore } from './idempotency/store.ts'
import { createPasswords } from './identity/passwords.ts'
import { createIdentity, type Identity } from './identity/service.ts'
import { createSessionTokens } from './identity/session-tokens.ts'
import { createSigningKeys, type SigningKeys } from './identity/signing-keys.ts'
import { createIdentityStore } from './identity/store.ts'
import { createOperators } from './identity/users/operators.ts'
import { createUsers, type Users } from './identity/users/service.ts'
import { createUserStore } from './identity/users/store.ts'
import { createCancellationStore } from './jobs/cancellation-store.ts'
import { createCancellations } from './jobs/cancellations.ts'
import { createRunner, type Runner } from './jobs/runner.ts'
import { createJobStore } from './jobs/store.ts'
import { createWork } from './jobs/work.ts'
import { type Clock, systemClock } from './kit/clock.ts'
import { createDeadline } from './kit/deadline.ts'
import { createImages } from './media/images/images.ts'
import { createLinks, type Links } from './media/links/service.ts'
import { createLinkTokens } from './media/links/token.ts'
import { createMediaStorage, type MediaStorage } from './media/media-storage.ts'
import { createMedia, type MediaService } from './media/service.ts'
import { createShareLinks, type ShareLinks } from './media/share-links/service.ts'
import { createShareLinkStore } from './media/share-links/store.ts'
import { createMediaStore } from './media/store.ts'
import { createUploads, type Uploads } from './media/uploads/service.ts'
import { createModels, type Models } from './models/service.ts'
import { createMonitoring, type Monitoring } from './monitoring/service.ts'
import { createDiskObjects } from './platform/disk-objects.ts'
import { createLog, type Log } from './platform/log.ts'
import { type Connection, createDatabase, type Database, type PoolName } from './platform/postgres.ts'
import { createRedis } from './platform/redis.ts'
import { createS3Objects } from './platform/s3-objects.ts'
import type { SafeFetch } from './platform/safe-fetch.ts'
import { createSecrets } from './platform/secrets.ts'
import { createProjects, type Projects } from './projects/service.ts'
import { createProjectStore } from './projects/store.ts'
import { createProviders } from './providers/providers.ts'
import { createRunnableModels } from './providers/runnable-models.ts'
import { createServiceKeys, type ServiceKeys } from './service-keys/service.ts'
import { createServiceKeyStore } from './service-keys/store.ts'
import { createKeyUsage, flushMs } from './service-keys/usage.ts'
import { createInvitations, type Invitations } from './teams/invitations/service.ts'
import { createInvitationStore } from './teams/invitations/store.ts'
import { createTeams, type Teams } from './teams/service.ts'
import { createTeamStore } from './teams/store.ts'

export type Services = {
  readonly config: Config
  readonly clock: Clock
  readonly log: Log
  readonly database: Database
  readonly keys: SigningKeys
  readonly identity: Identity
  readonly caches: Caches
  readonly decisionCounters: DecisionCounters
  readonly staleReads: Pick<StaleReads, 'isDegraded'>
  readonly users: Users
  readonly access: Access
  readonly warmUp: WarmUp
  readonly listing: Listing
  readonly guard: Guard
  readonly serviceKeys: ServiceKeys
  readonly flags: FlagService
  readonly monitoring: Monitoring
  readonly teams: Teams
  readonly invitations: Invitations
  readonly projects: Projects
  readonly generations: Generations
  readonly generationStream: GenerationStream
  readonly streams: Pick<Hub, 'size' | 'close'>
  readonly media: MediaService
  readonly mediaStorage: MediaStorage
  readonly links: Links
  readonly shareLinks: ShareLinks
  readonly uploads: Uploads
  readonly runner: Runner
  readonly models: Models
  readonly credits: Credits
  /** Turned on when the process is told to end: it is no longer ready, and new work goes elsewhere. */
  readonly lifecycle: { stopping: boolean }
  close(): Promise<void>
}

export type Overrides = {
  clock?: Clock
  log?: Log
  onStatement?: (text: string, pool: PoolName) => void
  /** Fetches what providers made. */
  safeFetch?: SafeFetch
  /** Shortens leases and the intervals of the outbox, for tests. */
  cacheTiming?: CacheTiming
}

const keyRefreshMs = 60_000
const purgeMs = 3_600_000
const accessCheckMs = 3_600_000
const sweepMs = 600_000
/** A job that nobody has made for so long is taken by who cannot, and fails. */
const strandedMs = 86_400_000
/** For taking jobs; nobody waits for it. */
const takingMs = 10_000
const seeds = 2 ** 32
/** How full memory may be made before anybody has asked; the rest is for those who do. */
const warmUpShare = 0.8
/** For statements that nobody waits for any more. */
const closingMs = 500

/**
 * The composition root: everything is made here, in order, and closed in reverse. Throws when the database cannot be
 * reached, a migration is refused or the signing keys cannot be opened; then nothing is left open.
 */
export const createServices = async (
  config: Config & { readonly secret: string },
  connection: Connection,
  overrides: Overrides = {},
): Promise<Services> => {
  const clock = overrides.clock ?? systemClock
  const log = overrides.log ?? createLog(config.logLevel)
  const { budget, flags: storedFlags } = await prepareDatabase(connection, config, log)
  const database = createDatabase({ connection, budget, onStatement: overrides.onStatement })
  const secrets = createSecrets(config.secret)

  const identityStore = createIdentityStore(database.auth)
  const keys = createSigningKeys({ store: identityStore, secrets, clock, maxTokenTtlMs: maxAccessTokenTtlMs })
  try {
    await keys.refresh()
  } catch (error) {
    await database.close(0)
    throw error
  }

  const leaseClock = systemClock
  const redis = config.redisUrl === undefined ? undefined : createRedis({ url: config.redisUrl, clock, log, scripts })
  const caches = createCaches({
    database,
    busConnection: config.databaseBusUrl ?? connection,
    redis,
    clock,
    leaseClock,
    log,
    limits: { maxEntries: config.l1MaxEntries, maxBytes: config.l1MaxBytes, ttlMs: config.l1TtlMs },
    acknowledge: config.acknowledgements === 'on',
    tierSwitches: { stored: storedFlags, read: (sql) => createFlagStore(sql).list() },
    timing: overrides.cacheTiming,
  })
  const { facts, changes, flags } = caches
  const decisionCounters = createDecisionCounters()
  const serviceKeyStore = createServiceKeyStore(database.admin, database.batch)
  const keyUsage = createKeyUsage({ store: serviceKeyStore, clock })
  const staleReads = withStaleReads({
    facts,
    isReachable: database.isReachable,
    clock: leaseClock,
    lease: caches.bus.lease,
    limitMs: config.emergencyReadMs,
  })
  const heatStore = createAccessFrequencyStore(database.batch)
  const accessFrequency = createAccessFrequency({ store: heatStore, flags: flags.current })
  const access = createAccess({
    facts: staleReads.facts,
    clock,
    decisionCounters,
    onServiceKeyUsed: keyUsage.note,
    onDecision: accessFrequency.record,
  })
  const warmUp = createWarmUp({
    store: createWarmUpStore(database.batch),
    facts,
    memory: caches.memory,
    hasRoom: () =>
      caches.memory.size < warmUpShare * config.l1MaxEntries && caches.memory.bytes < warmUpShare * config.l1MaxBytes,
    lease: caches.bus.lease,
    flags,
    clock: leaseClock,
    log,
  })
  const listingStore = createListingStore(database.read)
  const transactionalAccess = createTransactionalAccess(clock, flags.current)
  const passwords = createPasswords({ workers: config.hashWorkers, maxQueued: config.hashQueue })
  const teamStore = createTeamStore(database.read, database.analytics)
  const idempotency = createIdempotency({ store: createIdempotencyStore(database.batch), clock })
  const userStore = createUserStore(database.admin)
  const operators = createOperators(userStore)
  const credits = createCredits({
    store: createCreditStore(database.read),
    operators,
    changes,
    idempotency,
    welcomeCredits: config.welcomeCredits,
  })
  const identity = createIdentity({
    store: identityStore,
    changes,
    passwords,
    tokens: createSessionTokens({
      keys,
      secrets,
      policy: { issuer: config.issuer, audience: config.audience, ttlMs: config.accessTokenTtlMs },
      clock,
      maxCachedTokens: 2 * config.l1MaxEntries,
      onIssued: warmUp.signedIn,
    }),
    lifecycle: {
      welcome: credits.welcome,
      cancelGenerations: (tx, userId) => generations.cancelSome(tx, userId),
      leaveTeams: teamStore.leaveAll,
    },
    clock,
    log,
  })
  const objects =
    config.s3 === undefined ? createDiskObjects({ directory: config.mediaDirectory }) : createS3Objects(config.s3)
  const images = createImages({ workers: config.renderWorkers, maxQueued: config.renderQueue })
  const providers = createProviders({ config, images, clock, log, safeFetch: overrides.safeFetch })
  const models = createModels({ providers: new Set(providers.keys()) })
  const runnableModels = createRunnableModels(models.list(), providers)
  const mediaStore = createMediaStore(database.read, database.batch)
  const mediaStorage = createMediaStorage({ store: mediaStore, images, objects, clock, log })
  const media = createMedia({ store: mediaStore, access, transactionalAccess, changes, objects })
  const links = createLinks({ tokens: createLinkTokens({ secrets, clock }), media, access, clock })
  const shareLinkStore = createShareLinkStore(database.read, database.batch)
  const shareLinks = createShareLinks({ store: shareLinkStore, changes, clock })
  const jobStore = createJobStore(database.batch, caches.bus.instance, {
    models: runnableModels.list().map(({ model }) => model.id),
    strandedMs,
  })
  const generationStore = createGenerationStore(database.read, listingStore)
  const runner = createRunner({
    store: jobStore,
    lease: (limit, leaseMs) =>
      changes.commitAndInvalidate(createDeadline(clock, takingMs), (tx) => jobStore.lease(tx, limit, leaseMs)),
    work: createWork({
      store: jobStore,
      changes,
      clock,
      models: runnableModels,
      mediaStorage,
      generations: generationStore,
      credits,
    }),
    log,
    concurrency: config.jobConcurrency,
    timeLimitMs: config.generationTimeoutMs,
  })
  const cancellations = createCancellations({
    store: createCancellationStore(database.batch),
    models: runnableModels,
    log,
  })
  const streams = createHub({
    findStates: generationStore.findStates,
    findPositions: jobStore.findPositions,
    findEach: async (deadline, wanted) =>
      (await generationStore.findEach(deadline, wanted)).map((row) => row && toGeneration(row)),
    permissions: createPermissionRecheck({ facts, clock }),
    perInstance: Math.min(maxPerInstance, Math.floor(config.l1MaxEntries / (2 * factsPerStream))),
    clock,
    log,
  })
  caches.onInvalidated(streams.onInvalidated)
  caches.bus.on('progress', streams.onProgress)
  caches.bus.on('job', () => {
    runner.wake()
    streams.onQueueMoved()
  })
  caches.bus.on('cancelled', ({ generationId }) => {
    runner.abort(generationId)
    cancellations.wake()
  })
  caches.bus.on('orphans', mediaStorage.scheduleSweep)
  const generations = createGenerations({
    store: generationStore,
    access,
    transactionalAccess,
    changes,
    idempotency,
    models,
    media,
    credits,
    jobs: jobStore,
    newSeed: () => randomInt(seeds),
  })
  const guard = createGuard({ access, claimsOf: identity.claimsOf })

  const every = (ms: number, name: string, work: () => Promise<unknown>) =>
    setInterval(() => void work().catch((error) => log.warn({ task: name, error }, 'a scheduled task failed')), ms)
  const checkAccess = createEffectiveAccessCheck({ findDifferences: () => findAccessDifferences(database.batch), log })
  const timers = [
    every(keyRefreshMs, 'signing keys', keys.refresh),
    every(purgeMs, 'session purge', identity.purgeSessions),
    every(purgeMs, 'purge of idempotency keys', idempotency.purge),
    every(purgeMs, 'purge of share links', shareLinks.purge),
    every(purgeMs, 'purge of cancellations', cancellations.purge),
    every(flushMs, 'use of service keys', keyUsage.flush),
    every(accessCheckMs, 'check of access rows', checkAccess),
    every(staleCheckMs, 'check of memory', caches.staleDetector.run),
    every(frequencyFlushMs, 'heat', accessFrequency.flush),
    every(sweepMs, 'sweep of objects', mediaStorage.sweep),
    every(viewCheckMs, 'views', createViewRefresh({ store: createViewStore(database.batch), heat: heatStore })),
  ]

  return {
    config,
    clock,
    log,
    database,
    keys,
    identity,
    caches,
    decisionCounters,
    staleReads,
    users: createUsers({ store: userStore, operators, sessions: identityStore, changes, clock, log }),
    access,
    warmUp,
    listing: createListing(listingStore),
    guard,
    serviceKeys: createServiceKeys({ store: serviceKeyStore, operators, changes, clock }),
    flags: createFlagService({ store: createFlagStore(database.admin), operators, changes }),
    monitoring: createMonitoring({
      caches,
      decisionCounters,
      redis,
      clock: leaseClock,
      l1: { maxEntries: config.l1MaxEntries, maxBytes: config.l1MaxBytes },
    }),
    teams: createTeams({ store: teamStore, changes, clock }),
    invitations: createInvitations({
      store: createInvitationStore(database.read),
      teams: teamStore,
      changes,
      clock,
    }),
    projects: createProjects({
      store: createProjectStore(database.read, listingStore),
      access,
      transactionalAccess,
      changes,
    }),
    generations,
    generationStream: createGenerationStream({ hub: streams, get: generations.get }),
    streams,
    media,
    links,
    shareLinks,
    mediaStorage,
    uploads: createUploads({
      store: mediaStore,
      mediaStorage,
      access,
      changes,
      clock,
      requestMs: config.requestTimeoutMs,
    }),
    runner,
    models,
    credits,
    lifecycle: { stopping: false },
    close: async () => {
      for (const timer of timers) clearInterval(timer)
      streams.close()
      warmUp.stop()
      cancellations.stop()
      await runner.close()
      await images.close()
      await mediaStorage.close()
      await passwords.close()
      await keyUsage.flush().catch((error) => log.warn({ error }, 'the last use of service keys is lost'))
      await accessFrequency.flush().catch((error) => log.debug({ error }, 'the last heat is lost'))
      await caches.close()
      await redis?.close()
      await database.close(closingMs)
    },
  }
}
