import { Buffer } from 'node:buffer'
import { randomBytes } from 'node:crypto'
import { createAccess } from '../../access/access.ts'
import { createDecisionCounters } from '../../access/cache/decision-counters.ts'
import { createPostgresWatch } from '../../access/cache/postgres-watch.ts'
import { createSharedOutage } from '../../access/cache/shared-outage.ts'
import { withStaleReads } from '../../access/cache/stale-reads.ts'
import { createCaches } from '../../access/caches.ts'
import { createNotificationQueue } from '../../access/invalidation/notification-queue.ts'
import { createNotificationQueueStore } from '../../access/invalidation/notification-queue-store.ts'
import { defaultLeaseTiming } from '../../access/invalidation/timing.ts'
import { createListing } from '../../access/listing/listing.ts'
import { createListingStore } from '../../access/listing/listing-store.ts'
import { createPermissionRecheck } from '../../access/permission-recheck.ts'
import { createTransactionalAccess } from '../../access/transactional-access.ts'
import { createAccessFrequency } from '../../access/warm-up/access-frequency.ts'
import { createAccessFrequencyStore } from '../../access/warm-up/access-frequency-store.ts'
import { createWarmUp } from '../../access/warm-up/warm-up.ts'
import { createWarmUpStore } from '../../access/warm-up/warm-up-store.ts'
import { createDecisionAudit, deniedOnly } from '../../audit/decisions.ts'
import { taskContext } from '../../audit/event.ts'
import { createBarrier } from '../../emergency/barrier.ts'
import { createOwnMode, followBreakers } from '../../emergency/own-mode.ts'
import { createTierFlagStore } from '../../flags/tiers/store.ts'
import { createDeadlines } from '../../kit/deadline.ts'
import { createServiceKeyStore } from '../../service-keys/store.ts'
import { createKeyUsage } from '../../service-keys/usage.ts'
import type { Infrastructure } from './infrastructure.ts'

/** The share of memory that the warm-up may fill; the rest is for the facts of requests. */
const warmUpShare = 0.8

/** Second step: caches, the bus between instances, and decisions. */
export const composeAccess = async (infrastructure: Infrastructure, stack: AsyncDisposableStack) => {
  const { config, clock, realClock, leaseClock, log, database, redis, keyedHash, secrets, forgeries, signals } =
    infrastructure
  const instance = randomBytes(9).toString('hex')
  const { leaseMs, heartbeatMs } = infrastructure.cacheTiming?.lease ?? defaultLeaseTiming
  const watch = createPostgresWatch({ breakers: infrastructure.breakers, database, clock: leaseClock, leaseMs })
  stack.defer(watch.close)
  const outage = createSharedOutage({
    instance,
    redis,
    // The same for all instances of a deployment. Others that share it as well only make it stricter.
    key: `velro:state:${Buffer.from(keyedHash('outage', new Uint8Array())).toString('base64url')}`,
    clock: leaseClock,
    leaseMs,
    everyMs: heartbeatMs,
    isReachable: watch.probe,
    macs: secrets.macs('redis-statement'),
    onForged: forgeries.onForged,
  })
  await outage.announce()
  const caches = createCaches({
    instance,
    hooks: outage.hooks,
    requireAvailable: watch.requireAvailable,
    database,
    busThread: new URL('./bus-thread.ts', import.meta.url),
    busConnection: infrastructure.busConnection,
    changesConnection: infrastructure.changesConnection,
    route: infrastructure.route,
    redis,
    secrets,
    onForged: forgeries.onForged,
    clock,
    realClock,
    leaseClock,
    log,
    limits: { maxEntries: config.l1MaxEntries, maxBytes: config.l1MaxBytes, ttlMs: config.l1TtlMs },
    acknowledge: config.acknowledgements === 'on',
    tierSwitches: { stored: infrastructure.storedFlags, read: (sql) => createTierFlagStore(sql).list() },
    timing: infrastructure.cacheTiming,
    onTierRead: infrastructure.recorder.record,
    onAcknowledged: (ms) => infrastructure.recorder.record('acknowledgement', ms, false),
  })
  stack.defer(caches.close)
  outage.start({ lease: caches.bus.lease, members: caches.bus.members, invalidate: caches.facts.invalidate })
  watch.onOpen(caches.bus.restart)
  watch.start(caches.bus)
  stack.defer(outage.close)
  const { facts, flags, memory, bus } = caches

  const frequencyStore = createAccessFrequencyStore(database.batch)
  const accessFrequency = createAccessFrequency({ store: frequencyStore, flags: flags.current })
  stack.defer(() => accessFrequency.flush().catch((error) => log.debug({ error }, 'access frequencies not stored')))
  const serviceKeyStore = createServiceKeyStore(database.admin, database.batch)
  const keyUsage = createKeyUsage({ store: serviceKeyStore, clock })
  stack.defer(() => keyUsage.flush().catch((error) => log.warn({ error }, 'usage of service keys not stored')))

  const ownMode = createOwnMode(({ before, after, cause }) => {
    log.warn({ event: 'mode.of_instance_changed', before, after, cause }, 'this instance changed its own mode')
    const { auditSink, auditSource } = infrastructure
    auditSink.event({
      action: 'mode.of_instance_changed',
      actor: 'system',
      target: { type: 'mode', id: null },
      before: { mode: before },
      after: { mode: after, instance: bus.instance, cause, seen_at: new Date(clock.now()).toISOString() },
      context: taskContext(auditSource, 'breaker'),
    })
  })
  followBreakers(ownMode, infrastructure.breakers)
  const decisionCounters = createDecisionCounters()
  const decisionAudit = createDecisionAudit(infrastructure.auditSink)
  const staleReads = withStaleReads({
    facts,
    watch,
    isShared: outage.isShared,
    clock: leaseClock,
    lease: bus.lease,
    limitMs: config.staleReadMs,
    mayAgree: () => outage.refusal !== 'no_redis',
    agreementMs: 1.5 * (infrastructure.cacheTiming?.lease ?? defaultLeaseTiming).leaseMs,
  })
  const access = createAccess({
    // Only decisions of requests may be made on stale facts; everything below gets `facts`.
    facts: staleReads.facts,
    clock,
    decisionCounters,
    ownMode,
    verifiedOnly: config.requireVerifiedEmail,
    onServiceKeyUsed: keyUsage.record,
    onDecision: (userId, ref, resource) => {
      accessFrequency.record(userId, ref, resource)
      signals?.decided(userId, ref, resource)
    },
    onMemoryRead: infrastructure.recorder.memoryRead,
    decisionAudit,
  })
  const warmUp = createWarmUp({
    store: createWarmUpStore(database.batch),
    facts,
    memory,
    hasRoom: () => memory.size < warmUpShare * config.l1MaxEntries && memory.bytes < warmUpShare * config.l1MaxBytes,
    lease: bus.lease,
    flags,
    clock: leaseClock,
    log,
  })
  stack.defer(warmUp.stop)
  const listingStore = createListingStore(database.read)

  return {
    caches,
    watch,
    notificationQueue: createNotificationQueue({
      store: createNotificationQueueStore(database.batch),
      log,
      onFilling: (usage) =>
        infrastructure.incidentReports.open({
          kind: 'bus.queue_filling',
          severity: 'critical',
          subject: { type: 'deployment', id: 'postgres' },
          evidence: { usage },
        }),
    }),
    outage,
    decisionCounters,
    decisionAudit,
    staleReads,
    access,
    ownMode,
    barrier: createBarrier({
      access,
      ownMode,
      startDeadline: () => createDeadlines(realClock)(config.requestTimeoutMs),
    }),
    transactionalAccess: createTransactionalAccess(clock, flags.current, deniedOnly(decisionAudit), ownMode),
    permissionRecheck: createPermissionRecheck({ facts, clock, ownMode }),
    accessFrequency,
    frequencyStore,
    warmUp,
    listing: createListing(listingStore),
    listingStore,
    serviceKeyStore,
    keyUsage,
  }
}

export type AccessParts = Awaited<ReturnType<typeof composeAccess>>
