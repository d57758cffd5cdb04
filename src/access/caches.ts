import type { Clock } from '../kit/clock.ts'
import { createDeadlines } from '../kit/deadline.ts'
import { createTtlMap, type TtlMap } from '../kit/ttl-map.ts'
import type { Log } from '../platform/log.ts'
import type { Connection, Database, Route, Sql } from '../platform/postgres.ts'
import type { OnForged } from '../platform/redis.ts'
import type { Secrets } from '../platform/secrets.ts'
import { createFactCache, type FactCache } from './cache/fact-cache.ts'
import { createFactStore } from './cache/fact-store.ts'
import { type CacheRedis, createRedisCache, type RedisCache } from './cache/redis-cache.ts'
import { createRedisRegistry, type RedisRegistry } from './cache/redis-registry.ts'
import { registerRedis, unregisterRedis } from './cache/redis-registry-store.ts'
import { noOutageHooks, type OutageHooks } from './cache/shared-outage.ts'
import { createStaleDetector, type StaleDetector } from './cache/stale-detector.ts'
import { createFlags, type Flags, type FlagValues } from './cache/tier-switches.ts'
import { type LoadFacts, loadFromStore, loadThroughRedis } from './cache/tiered-loader.ts'
import { withTurns } from './cache/wide-loads.ts'
import type { Bus } from './invalidation/bus.ts'
import type { BusHandlers } from './invalidation/bus-handlers.ts'
import { type Changes, createChanges } from './invalidation/committed-change.ts'
import { createEventStore, noteInvalidation, sendEvents } from './invalidation/event-store.ts'
import type { InvalidationKeys } from './invalidation/model.ts'
import { createOutbox, type OutboxTiming } from './invalidation/outbox.ts'
import { createPendingInvalidations, type PendingInvalidations } from './invalidation/pending-invalidations.ts'
import { createThreadedBus } from './invalidation/threaded-bus.ts'
import type { LeaseTiming } from './invalidation/timing.ts'
import { definitionOf, type Fact, type FactKey, type FactKind, kindOf } from './policy/facts/registry.ts'

type Dependencies = {
  /** The random name of this instance; see `newInstanceName`. */
  readonly instance: string
  readonly database: Database
  /** For the connection of the bus that listens. Must not go through a pooler. */
  readonly busConnection: Connection
  /** The one that `database` uses, for what the bus sends. */
  readonly changesConnection: Connection
  readonly route?: Route | undefined
  /** The file that runs in the thread of the bus; see `createBusThread`. */
  readonly busThread: URL
  /** Undefined: no Redis is configured, so a miss in memory goes to Postgres. */
  readonly redis: CacheRedis | undefined
  /** What is in Redis is authenticated under it. */
  readonly secrets: Pick<Secrets, 'macs'>
  readonly onForged: OnForged
  readonly clock: Clock
  /** Waits bound what other processes do, so they are measured in real time, also where a test sets `clock`. */
  readonly realClock: Clock
  /** For leases alone: real time, which also advances while a virtual machine is paused; see createLeaseClock. */
  readonly leaseClock: Clock
  readonly log: Log
  readonly limits: { readonly maxEntries: number; readonly maxBytes: number; readonly ttlMs: number }
  /** False: changes do not wait for the other instances, and the promise is not kept. For tests. */
  readonly acknowledge: boolean
  /** Which tiers are on: as stored at the start, and how to read that again besides the bus. */
  readonly tierSwitches: { readonly stored: FlagValues; readonly read: (sql: Sql) => Promise<FlagValues> }
  /** Throws while Postgres does not answer. Default: never. */
  readonly requireAvailable?: () => void
  /** Called for each reading of facts from Redis, or by a request from the effective access rows in Postgres. */
  readonly onTierRead?: ((tier: 'l2' | 'l3', ms: number, failed: boolean) => void) | undefined
  /** Called for each change that was committed, with the time that it then waited for the other instances. */
  readonly onAcknowledged?: ((ms: number) => void) | undefined
  /** Learn of the connection of the bus and of events. */
  readonly hooks?: OutageHooks | undefined
  /** Default: a lease of 1,000 ms, a heartbeat each 250 ms, and the intervals of the outbox. */
  readonly timing?: CacheTiming | undefined
}

export type CacheTiming = { readonly lease?: LeaseTiming; readonly outbox?: Partial<OutboxTiming> }

/** Memory, Redis, the bus and `changes`, the only way to change cached facts. They keep one guarantee together. */
export type Caches = {
  readonly facts: FactCache
  readonly memory: Pick<TtlMap<unknown>, 'size' | 'bytes' | 'wouldEvict' | 'counts'>
  readonly redisCache: RedisCache | undefined
  /** Whether this instance uses Redis, or why it does not. */
  readonly redisUse: () => RedisRegistry['use']
  readonly changes: Changes
  readonly bus: Pick<
    Bus,
    'instance' | 'lease' | 'noLeaseReason' | 'on' | 'members' | 'membersOfOtherVersion' | 'counts' | 'waits'
  > & {
    /** Replaces its connections, which Postgres does not answer on. The lease runs out, if it is held. */
    restart(): void
  }
  /** Events received here that Redis has not confirmed yet. */
  readonly pendingInvalidations: Pick<PendingInvalidations, 'size'>
  readonly flags: Flags
  /**
   * Adds a listener for the keys of every event, from whichever instance. Called soon after they were removed from memory:
   * what depends on a permission must check it again by itself.
   */
  onInvalidated(listener: (keys: InvalidationKeys) => void): void
  readonly staleDetector: StaleDetector
  /** Ends the lease and leaves the bus, so that no other instance waits for this one. */
  close(): Promise<void>
}

/**
 * The bytes an entry takes in memory, an estimate measured with 10,000 entries of each kind. In the grants of a user each
 * project takes 30 to 165 bytes, the fewer the more users share it.
 */
export const sizeOf = (key: string, fact: Fact[FactKind] | undefined): number => {
  const extraBytes = fact === undefined ? undefined : definitionOf(kindOf(key as FactKey)).extraBytes?.(fact)
  return 200 + 2 * key.length + (extraBytes ?? 0)
}

/** The most of memory that is taken by ids that do not exist: a client can ask about any number of them. */
const maxAbsentShare = 0.1

/** The last part of the life of a fact in which a use of it has it renewed. */
const renewAheadShare = 0.2
/** How often facts are renewed, as a part of their life: several times before one that is due expires. */
const renewEveryShare = 1 / 60

/** How long a load for many decisions waits for its turn; as long as a request waits at most by default. */
const maxTurnMs = 5_000

/** Limit for invalidating a stale fact on every instance. */
const dropMs = 5_000

/** Passes every event that this instance is about to commit to the hooks, and times the wait for the other instances. */
const watchCommits = <B extends Pick<Bus, 'registerCommit'>>(
  bus: B,
  hooks: OutageHooks,
  { realClock, onAcknowledged }: Pick<Dependencies, 'realClock' | 'onAcknowledged'>,
): B => ({
  ...bus,
  registerCommit: (eventId, keys = 'everything') => {
    hooks.onCommitting(eventId, keys)
    const wait = bus.registerCommit(eventId)
    return {
      acknowledgedByAll: async () => {
        const startedMs = realClock.monotonic()
        await wait.acknowledgedByAll()
        onAcknowledged?.(realClock.monotonic() - startedMs)
      },
      abandon: () => {
        hooks.onAbandoned(eventId)
        wait.abandon()
      },
    }
  },
})

/** Times the loads by the effective access rows. */
const timeLoads = (load: LoadFacts, clock: Clock, onTierRead: Dependencies['onTierRead']): LoadFacts => {
  if (onTierRead === undefined) return load
  return async (queries, options) => {
    const startedMs = clock.monotonic()
    try {
      const loaded = await load(queries, options)
      if (loaded.tier === 'l3') onTierRead('l3', clock.monotonic() - startedMs, false)
      return loaded
    } catch (error) {
      onTierRead('l3', clock.monotonic() - startedMs, true)
      throw error
    }
  }
}

/** One renewal after the other. Returns how to end them. */
const renewRepeatedly = (facts: Pick<FactCache, 'renew'>, everyMs: number, log: Log): (() => void) => {
  let isRunning = false
  const renew = async () => {
    if (isRunning) return
    isRunning = true
    try {
      await facts.renew()
    } catch (error) {
      // They expire, and the next request loads them.
      log.debug({ error }, 'facts not renewed')
    } finally {
      isRunning = false
    }
  }
  const timer = setInterval(renew, everyMs)
  return () => clearInterval(timer)
}

/** Listeners for the keys of events. */
const createKeyListeners = () => {
  const listeners: ((keys: InvalidationKeys) => void)[] = []
  return {
    add: (listener: (keys: InvalidationKeys) => void) => void listeners.push(listener),
    /** Not in the middle of a decision, which may be what applies the event. */
    callSoon: (keys: InvalidationKeys) =>
      queueMicrotask(() => {
        for (const listener of listeners) listener(keys)
      }),
  }
}

/** How an instance registers its Redis server. */
const registrationOf = (
  sql: Sql,
  instance: string,
): Pick<Parameters<typeof createRedisRegistry>[0], 'register' | 'unregister'> => ({
  register: (server, outdatedEpoch) => registerRedis(sql, instance, server, outdatedEpoch),
  unregister: () => unregisterRedis(sql, instance),
})

/** What the outbox uses in place of Redis where none is configured. */
const withoutEntries = (registry: Pick<RedisRegistry, 'epoch'>): Pick<RedisCache, 'invalidate' | 'epoch'> => ({
  invalidate: async () => true,
  get epoch() {
    return registry.epoch
  },
})

export const createCaches = (dependencies: Dependencies): Caches => {
  const { database, redis, secrets, onForged, clock, realClock, leaseClock, log, limits, tierSwitches, timing } =
    dependencies
  const { hooks = noOutageHooks, requireAvailable, onTierRead } = dependencies
  const onRedisRead = onTierRead && ((ms: number, failed: boolean) => onTierRead('l2', ms, failed))
  const maxAbsent = Math.ceil(limits.maxEntries * maxAbsentShare)
  const renewAheadMs = limits.ttlMs * renewAheadShare
  const memory = createTtlMap<Fact[FactKind]>({ clock, grouped: true, sizeOf, ...limits, maxAbsent, renewAheadMs })
  const flags = createFlags(() => tierSwitches.read(database.admin), tierSwitches.stored)
  const pendingInvalidations = createPendingInvalidations(realClock)
  const registry = createRedisRegistry({
    redis,
    ...registrationOf(database.batch, dependencies.instance),
    macs: secrets.macs('redis-newest-event'),
    onForged,
    clock: realClock,
    log,
  })
  const redisCache =
    redis &&
    createRedisCache({
      redis,
      registry,
      macs: secrets.macs('redis-fact'),
      onForged,
      clock,
      log,
      onAnswered: onRedisRead,
    })
  const outbox = createOutbox({
    redisCache: redisCache ?? withoutEntries(registry),
    pendingInvalidations,
    store: createEventStore(database.batch),
    clock: realClock,
    log,
    timing: timing?.outbox,
  })

  const listeners = createKeyListeners()
  const invalidate = (keys: InvalidationKeys) => {
    facts.invalidate(keys)
    listeners.callSoon(keys)
  }
  const handlers: BusHandlers = {
    onConnection: hooks.onConnection,
    // The other instances stop waiting for one without a lease, so a switch they turned must be known before it has one.
    beforeLease: async ({ isOther, identity, switches }) => {
      registry.onBusOpen()
      // A fact must not be read from the earlier database under a lease of the new one.
      if (isOther) database.retireConnections()
      registry.onBusIdentity(identity)
      if (switches !== undefined) await flags.reload(async () => switches)
    },
    onEvent: (event, position) => {
      hooks.onEvent(event.id, position, event.keys)
      pendingInvalidations.add(event)
      flags.onInvalidated(event.keys)
      invalidate(event.keys)
    },
    onReset: ({ pendingInvalidations: events, isContinued, identity, position }) => {
      hooks.onReset({ identity, position })
      if (!isContinued) {
        pendingInvalidations.renumber()
        outbox.onOtherDatabase()
      }
      // Events that were pending here and no longer are may have been confirmed by a Redis server other than ours: they
      // stay, and the outbox deletes their keys here too.
      for (const event of events) pendingInvalidations.add(event)
      invalidate('everything')
    },
    onGap: () => invalidate('everything'),
    onConfirmed: outbox.onConfirmed,
  }
  const { bus, restart, disconnect } = createThreadedBus({
    instance: dependencies.instance,
    threadUrl: dependencies.busThread,
    connection: dependencies.busConnection,
    changesConnection: dependencies.changesConnection,
    route: dependencies.route,
    clock: realClock,
    leaseClock,
    log,
    handlers,
    acknowledge: dependencies.acknowledge,
    timing: timing?.lease,
  })

  const storeLoader = (sql: Sql): LoadFacts => loadFromStore(createFactStore(sql), flags.current, requireAvailable)
  const requestLoader = timeLoads(storeLoader(database.auth), clock, onTierRead)
  const loader = (fromStore: LoadFacts): LoadFacts => {
    if (redisCache === undefined) return fromStore
    const shared = { flags: flags.current, clock: leaseClock, lease: bus.lease, pendingInvalidations }
    return loadThroughRedis({ redisCache, fromStore, ...shared })
  }
  const facts = createFactCache({
    load: withTurns(loader(requestLoader), createDeadlines(realClock), maxTurnMs),
    snapshotLoad: requestLoader,
    prefetchLoad: loader(storeLoader(database.batch)),
    memory,
    clock,
    leaseClock,
    lease: bus.lease,
    flags: flags.current,
  })
  const changes = createChanges({
    sql: database.write,
    clock: realClock,
    bus: watchCommits(bus, hooks, dependencies),
    facts,
    sendEvents: () => sendEvents(database.write),
    onCommitted: outbox.enqueue,
  })
  const staleDetector = createStaleDetector({
    memory,
    load: storeLoader(database.batch),
    drop: async (key) => {
      facts.invalidate([key])
      await changes.commitAndInvalidate(createDeadlines(realClock)(dropMs), (tx) => noteInvalidation(tx, key))
    },
    lease: bus.lease,
    flags: flags.current,
    clock: { now: clock.now, monotonic: leaseClock.monotonic },
    log,
    timing: timing?.lease,
  })

  const stopRenewing = renewRepeatedly(facts, limits.ttlMs * renewEveryShare, log)

  return {
    facts,
    memory,
    redisCache,
    redisUse: () => registry.use,
    changes,
    bus: { ...bus, restart },
    pendingInvalidations,
    flags,
    onInvalidated: listeners.add,
    staleDetector,
    close: async () => {
      staleDetector.stop()
      stopRenewing()
      await bus.close()
      await outbox.close()
      await registry.close()
      await disconnect()
    },
  }
}
