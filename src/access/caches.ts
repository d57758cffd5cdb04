import { randomBytes } from 'node:crypto'
import type { Clock } from '../kit/clock.ts'
import { createTtlMap, type TtlMap } from '../kit/ttl-map.ts'
import type { Log } from '../platform/log.ts'
import { listen } from '../platform/notifications.ts'
import type { Connection, Database, Sql } from '../platform/postgres.ts'
import { createFactCache, type FactCache } from './cache/fact-cache.ts'
import { createFactStore } from './cache/fact-store.ts'
import { type CacheRedis, createRedisCache, type RedisCache } from './cache/redis-cache.ts'
import { createStaleDetector, type StaleDetector } from './cache/stale-detector.ts'
import { createFlags, type Flags, type FlagValues } from './cache/tier-switches.ts'
import { type LoadFacts, loadFromStore, loadThroughRedis } from './cache/tiered-loader.ts'
import {
  type Bus,
  type BusHandlers,
  channelOf,
  commonChannel,
  createBus,
  type InvalidationKeys,
} from './invalidation/bus.ts'
import { type Changes, createChanges } from './invalidation/committed-change.ts'
import { createEventStore, readEvent, readPendingEvents } from './invalidation/event-store.ts'
import { createOutbox, type Outbox } from './invalidation/outbox.ts'
import { createPendingInvalidations, type PendingInvalidations } from './invalidation/pending-invalidations.ts'
import type { Fact, FactKind } from './policy/facts/model.ts'

type Dependencies = {
  readonly database: Database
  /** For the one connection that listens; not through a pooler. */
  readonly busConnection: Connection
  readonly redis: CacheRedis | undefined
  readonly clock: Clock
  /** Leases are about what other processes do, so they go by the real time, whatever `clock` says. */
  readonly leaseClock: Clock
  readonly log: Log
  readonly maxEntries: number
  readonly maxBytes: number
  readonly ttlMs: number
  readonly acknowledge: boolean
  /** As they are stored. */
  readonly flags: FlagValues
  readonly readFlags: (sql: Sql) => Promise<FlagValues>
}

/** The tiers, the bus between instances, and the one way to change what they hold: made together, because they keep one promise. */
export type Caches = {
  readonly facts: FactCache
  readonly memory: Pick<TtlMap<unknown>, 'size' | 'bytes' | 'isCrowded'>
  readonly redisCache: RedisCache | undefined
  readonly changes: Changes
  readonly bus: Pick<Bus, 'instance' | 'lease' | 'on' | 'members' | 'counts' | 'waits'>
  /** The changes that the outer cache has not confirmed yet, as far as this instance has heard. */
  readonly pendingInvalidations: Pick<PendingInvalidations, 'size'>
  readonly flags: Flags
  /** Hears, from now on, what every change touched, of whichever instance: memory has forgotten it by then. May not wait. */
  onInvalidated(hear: (touched: InvalidationKeys) => void): void
  readonly staleDetector: StaleDetector
  /** Gives up the lease and tells the others, so that nobody waits for this instance. */
  close(): Promise<void>
}

/**
 * What an entry takes in memory: measured with 10,000 of each kind. Of all that was granted to a person each
 * project takes 30 to 165 bytes, the more the fewer others have it too.
 */
export const sizeOf = (key: string, fact: Fact[FactKind] | undefined): number => {
  const entries = typeof fact === 'object' && 'granted' in fact ? Object.keys(fact.granted).length : 0
  return 200 + 2 * key.length + 160 * entries
}

export const createCaches = ({
  database,
  busConnection,
  redis,
  clock,
  leaseClock,
  log,
  ...options
}: Dependencies): Caches => {
  const memory = createTtlMap<Fact[FactKind]>({
    clock,
    sizeOf,
    maxEntries: options.maxEntries,
    maxBytes: options.maxBytes,
    ttlMs: options.ttlMs,
  })
  const flags = createFlags(() => options.readFlags(database.admin), options.flags)
  const pendingInvalidations = createPendingInvalidations(leaseClock)
  const redisCache = redis && createRedisCache({ redis, clock })
  const outbox: Outbox = createOutbox({
    redisCache,
    pendingInvalidations,
    store: createEventStore(database.batch),
    clock: leaseClock,
    log,
  })

  const listeners: ((touched: InvalidationKeys) => void)[] = []
  const forget = (touched: InvalidationKeys) => {
    facts.invalidate(touched)
    for (const hear of listeners) hear(touched)
  }

  // Facts are made after the bus whose lease they need, and are told by it.
  const ears: BusHandlers = {
    onEvent: (event) => {
      pendingInvalidations.add(event)
      flags.onInvalidated(event.keys)
      forget(event.keys)
    },
    onReset: (events) => {
      // Those that stood before and do not any more may have been confirmed by another server than the one asked here;
      // the outbox sees to them.
      for (const event of events) pendingInvalidations.add(event)
      forget('everything')
    },
    onConfirmed: outbox.onConfirmed,
  }

  const instance = randomBytes(9).toString('hex')
  let listening: Sql | undefined
  const connected = (): Sql => {
    if (listening === undefined) throw new Error('Not listening')
    return listening
  }
  const bus = createBus({
    instance,
    clock: leaseClock,
    handlers: ears,
    acknowledge: options.acknowledge,
    connection: {
      send: (channel, payload) => notifications.send(channel, payload),
      readEvent: (id) => readEvent(connected(), id),
      readPendingEvents: async () => {
        const sql = connected()
        // Before there is a lease, which is when others stop waiting for us: what was switched meanwhile is felt with it.
        await flags.reload(() => options.readFlags(sql))
        return readPendingEvents(sql)
      },
      restart: () => notifications.restart(),
    },
  })
  const notifications = listen({
    connection: busConnection,
    channels: [commonChannel, channelOf(instance)],
    onMessage: bus.connection.onMessage,
    onOpen: (sql) => {
      listening = sql
      bus.connection.onOpen()
    },
    onLost: () => {
      listening = undefined
      bus.connection.onLost()
    },
    log,
  })

  const loadBy = (sql: Sql): LoadFacts => {
    const fromStore = loadFromStore(createFactStore(sql), flags.current)
    return redisCache === undefined
      ? fromStore
      : loadThroughRedis({
          redisCache,
          fromStore,
          flags: flags.current,
          clock: leaseClock,
          lease: bus.lease,
          pendingInvalidations,
        })
  }
  const load = loadBy(database.auth)
  const loadAhead = loadBy(database.batch)
  const facts = createFactCache({
    load,
    loadAhead,
    memory,
    clock,
    leaseClock,
    lease: bus.lease,
    flags: flags.current,
  })
  const changes = createChanges({ sql: database.write, bus, facts, onCommitted: outbox.enqueue })
  const check = createStaleDetector({
    memory,
    load: loadFromStore(createFactStore(database.batch), flags.current),
    drop: async (key) => {
      await redisCache?.invalidate([key])
      facts.invalidate([key])
    },
    lease: bus.lease,
    flags: flags.current,
    clock: { now: clock.now, monotonic: leaseClock.monotonic },
    log,
  })

  return {
    facts,
    memory,
    redisCache: redisCache,
    changes,
    bus,
    pendingInvalidations: pendingInvalidations,
    flags,
    onInvalidated: (hear) => void listeners.push(hear),
    staleDetector: check,
    close: async () => {
      check.stop()
      await bus.close()
      await outbox.close()
      await notifications.close()
    },
  }
}
