import { spyOn } from 'bun:test'
import { createFactCache, type FactCache } from '../../src/access/cache/fact-cache.ts'
import type { RedisCache, RedisLookup } from '../../src/access/cache/redis-cache.ts'
import { type Loaded, loadThroughRedis } from '../../src/access/cache/tiered-loader.ts'
import { type Changes, createChanges } from '../../src/access/invalidation/committed-change.ts'
import type { EventStore } from '../../src/access/invalidation/event-store.ts'
import { createLeaseKeeper } from '../../src/access/invalidation/lease-keeper.ts'
import type { InvalidationEvent } from '../../src/access/invalidation/model.ts'
import { createOutbox } from '../../src/access/invalidation/outbox.ts'
import { createPendingInvalidations } from '../../src/access/invalidation/pending-invalidations.ts'
import { createReceiver } from '../../src/access/invalidation/receiver.ts'
import {
  createJournalReader,
  createJournalWriter,
  createSharedJournal,
} from '../../src/access/invalidation/shared-journal.ts'
import { defaultLeaseTiming, deriveTiming } from '../../src/access/invalidation/timing.ts'
import { channelOf, commonChannel, encodeMessage } from '../../src/access/invalidation/topics.ts'
import { factQuery } from '../../src/access/policy/facts/queries.ts'
import { type Fact, type FactKey, type FactKind, factKey } from '../../src/access/policy/facts/registry.ts'
import { manualClock } from '../../src/kit/clock.ts'
import type { Deadline } from '../../src/kit/deadline.ts'
import { createTtlMap } from '../../src/kit/ttl-map.ts'
import { createLog } from '../../src/platform/log.ts'
import type { Sql } from '../../src/platform/postgres.ts'
import { idOf } from './random.ts'

/**
 * Several instances in one process, built from the real parts over a simulated Postgres, Redis and clock that advance step
 * by step. The threads of an instance that receive and decide take their steps apart. The only fact is a number that each
 * change increments.
 */
const id = idOf('service_key', 1)
const key: FactKey = factKey('service_key', id)
const factOf = (version: number): Fact['service_key'] => ({
  secretHash: 'x',
  scopes: ['authorization:check'],
  live: true,
  blocked: false,
  expiresAtMs: version,
  limitPerSecond: null,
  allowedNetworks: null,
})
const versionOf = (fact: Fact['service_key'] | undefined) => fact?.expiresAtMs ?? -1

/** Runs all microtasks to their end. */
const settle = () => new Promise<void>((resolve) => setImmediate(resolve))
const patient = { remainingMs: () => 1e9, check: () => {}, run: (work: unknown) => work } as unknown as Deadline
const names = ['a', 'b', 'c'] as const
const log = createLog('silent')
const database = 'simulated'

type Stale = { readonly instance: string; readonly returned: number; readonly answered: number }

export const startInstances = ({
  acknowledge = true,
  heartbeatsSend = true,
}: {
  acknowledge?: boolean
  /** Whether a heartbeat sends first what is committed and unsent. */
  heartbeatsSend?: boolean
} = {}) => {
  const clock = manualClock()
  const postgres = {
    version: 0,
    /** The newest version whose writer was answered. */
    answered: 0,
    events: 0,
    /** Of the newest event that was sent. */
    position: 0,
    rows: new Map<string, InvalidationEvent>(),
    /** Committed events, and how to send each. */
    unsent: new Map<string, (position: number) => void>(),
    sendEvents: () => {
      for (const [eventId, send] of postgres.unsent) {
        postgres.unsent.delete(eventId)
        postgres.position += 1
        send(postgres.position)
      }
    },
    messages: [] as { channel: string; payload: string }[],
  }
  const redis = {
    isUp: true,
    incarnation: 1,
    places: new Map<string, { nonce: string; version?: number }>(),
    nonces: 0,
  }
  const stale: Stale[] = []
  const counts = { checks: 0, fromL1: 0, fromL2: 0, changes: 0, lost: 0 }
  let started = 0

  const start = () => {
    started += 1
    const name = `i${started}`
    let isConnected = false
    let isFrozen = false
    let isDead = false
    let receivedTo = 0
    let losesNextEvent = false
    const timers = new Set<{ dueMs: number; call: () => void }>()
    const repeated = new Map<number, () => void>()
    const statements: { version?: number; resolve: (version: number) => void }[] = []
    const commits: (() => void)[] = []
    const sends: (() => void)[] = []
    const toRedis: (() => void)[] = []

    /** Intervals started meanwhile run only when a step runs them. */
    const made = <T>(make: () => T): T => {
      const intervals = spyOn(globalThis, 'setInterval')
      intervals.mockImplementation(((call: () => void, ms: number) => void repeated.set(ms, call)) as never)
      return make()
    }

    /** A Redis command, executed by a later step; undefined where the server was down or restarted before. */
    const command = <T>(work: () => T): Promise<T | undefined> => {
      if (!redis.isUp) return Promise.resolve(undefined)
      const at = redis.incarnation
      return new Promise((resolve) =>
        toRedis.push(() => resolve(redis.isUp && redis.incarnation === at ? work() : undefined)),
      )
    }
    const redisCache: RedisCache = {
      counts: { hits: 0, misses: 0, invalidEntries: 0, outdatedEntries: 0, refusedFills: 0, fullServer: 0 },
      lookup: async (keys) =>
        (await command(() =>
          keys.map((of): RedisLookup => {
            redis.nonces += 1
            const place = redis.places.get(of) ?? { nonce: `n${redis.nonces}` }
            redis.places.set(of, place)
            return place.version === undefined
              ? { key: of, nonce: place.nonce, missedAtMs: clock.now() }
              : { key: of, fact: factOf(place.version), ageMs: 0 }
          }),
        )) ?? [],
      fill: (of, fact, nonce) =>
        void command(() => {
          const place = redis.places.get(of)
          if (place?.nonce === nonce) place.version = versionOf(fact as Fact['service_key'])
        }),
      invalidate: async (keys) =>
        (await command(() => {
          for (const of of keys) redis.places.delete(of)
          return true
        })) ?? false,
      get epoch() {
        return redis.isUp ? String(redis.incarnation) : undefined
      },
    }

    const store: EventStore = {
      listPending: async (ids) => new Set(ids.filter((of) => postgres.rows.has(of))),
      remove: async (eventIds, epoch) => {
        const sent = eventIds.filter((each) => !postgres.unsent.has(each))
        for (const each of sent) postgres.rows.delete(each)
        postgres.messages.push({
          channel: commonChannel,
          payload: encodeMessage('confirmed', { epoch, eventIds: sent }),
        })
      },
    }

    const flags = { l1: true, l2: true, l3: true }
    const pendingInvalidations = createPendingInvalidations(clock)
    const outbox = made(() => createOutbox({ redisCache, pendingInvalidations, store, clock, log }))
    const timing = deriveTiming(defaultLeaseTiming)
    /** Between the thread that receives and the one that decides. */
    const journal = createSharedJournal(2 ** 14)
    const writer = createJournalWriter({ journal, clock, leaseClock: clock })
    const receiver = createReceiver({
      instance: name,
      clock,
      timing,
      acknowledge,
      after: (ms, call) => {
        const timer = { dueMs: clock.monotonic() + ms, call }
        timers.add(timer)
        return () => timers.delete(timer)
      },
      handlers: {
        onEvent: (event) => {
          pendingInvalidations.add(event)
          facts.invalidate(event.keys)
        },
        beforeLease: async () => {},
        onReset: ({ pendingInvalidations: events }) => {
          for (const event of events) pendingInvalidations.add(event)
          facts.invalidate('everything')
        },
        onGap: () => facts.invalidate('everything'),
        onConfirmed: outbox.onConfirmed,
      },
    })
    const { apply } = receiver
    const reader = createJournalReader({ journal, clock, leaseClock: clock, timing, apply })
    reader.onClock(clock.monotonic(), clock.monotonic())
    const keeper = createLeaseKeeper({
      instance: name,
      clock,
      leaseClock: clock,
      timing,
      append: writer.append,
      isDrained: writer.isDrained,
      prepare: (opening) => receiver.prepare({ ...opening, switches: undefined }),
      onLease: writer.setLease,
      onReason: writer.setReason,
      onProblem: () => {},
      connection: {
        send: async (channel, payload) => {
          if (!isConnected || isDead) throw new Error('Not connected')
          postgres.messages.push({ channel, payload })
        },
        sendHeartbeat: async (heartbeatId) => {
          if (!isConnected || isDead) throw new Error('Not connected')
          if (heartbeatsSend) postgres.sendEvents()
          const seen = { identity: database, position: postgres.position }
          postgres.messages.push({
            channel: commonChannel,
            payload: encodeMessage('heartbeat', { instance: name, heartbeatId, seen }),
          })
        },
        readEvent: async (of) => postgres.rows.get(of),
        readSnapshot: async () => ({
          identity: database,
          position: postgres.position + postgres.unsent.size,
          pendingInvalidations: [...postgres.rows.values()],
        }),
        restart: () => lose(),
      },
    })
    const bus = {
      instance: name,
      lease: {
        get untilMs() {
          return reader.sync()
        },
      },
      registerCommit: receiver.registerCommit,
      databaseIdentity: receiver.databaseIdentity,
    }
    const fromStore = async (): Promise<Loaded> => {
      const version = await new Promise<number>((resolve) => statements.push({ resolve }))
      return { facts: new Map<FactKey, Fact[FactKind]>([[key, factOf(version)]]), tier: 'l3', redisAgesMs: new Map() }
    }
    const load = loadThroughRedis({ redisCache, fromStore, flags, clock, lease: bus.lease, pendingInvalidations })
    const memory = createTtlMap<Fact[FactKind]>({ clock, ttlMs: 60_000 })
    const facts: FactCache = createFactCache({ load, memory, clock, lease: bus.lease, flags })

    const sql = {
      begin: async (work: (tx: unknown) => Promise<unknown>) => {
        postgres.events += 1
        const event: InvalidationEvent = { id: String(postgres.events), keys: [key] }
        await work(async () => [{ id: event.id, keys: event.keys, identity: database }])
        postgres.version += 1
        postgres.rows.set(event.id, event)
        const isLarge = Number(event.id) % 3 === 0
        const keys = isLarge ? 'stored' : [key]
        postgres.unsent.set(event.id, (position) => {
          const payload = encodeMessage('event', { id: event.id, writer: name, position, keys })
          postgres.messages.push({ channel: commonChannel, payload })
        })
        const { version } = postgres
        await new Promise<void>((resolve) => commits.push(resolve))
        return version
      },
    } as unknown as Sql
    const changes: Changes = createChanges({
      sql,
      // Commits of this simulation take any time.
      clock: { now: () => 0, monotonic: () => 0 },
      bus,
      facts,
      sendEvents: () =>
        new Promise<void>((resolve) =>
          sends.push(() => {
            postgres.sendEvents()
            resolve()
          }),
        ),
      onCommitted: outbox.enqueue,
    })

    const lose = () => {
      if (!isConnected) return
      isConnected = false
      keeper.onLost()
    }

    const steps = {
      open: () => {
        if (isConnected) return
        isConnected = true
        losesNextEvent = false
        receivedTo = postgres.messages.length
        made(() => keeper.onOpen(database))
      },
      lose,
      /** Its next event is lost without an error. */
      drop: () => {
        losesNextEvent = isConnected
      },
      /** Receives the next message. */
      receive: () => {
        if (!isConnected) return
        for (;;) {
          const message = postgres.messages[receivedTo]
          if (message === undefined) return
          receivedTo += 1
          if (losesNextEvent && message.payload.startsWith('event ')) {
            losesNextEvent = false
            counts.lost += 1
            continue
          }
          if (message.channel !== commonChannel && message.channel !== channelOf(name)) continue
          return keeper.onMessage(message.payload)
        }
      },
      /** The thread that decides is busy. */
      receiveUnapplied: async () => {
        while (isConnected && receivedTo < postgres.messages.length) {
          steps.receive()
          await settle()
        }
      },
      /** The thread that decides is woken, as it is after each message unless it is busy. */
      apply: () => void reader.sync(),
      receiveAll: async () => {
        while (isConnected && receivedTo < postgres.messages.length) {
          steps.receive()
          await settle()
          steps.apply()
          await settle()
        }
      },
      sendHeartbeat: () => {
        if (isConnected) repeated.get(defaultLeaseTiming.heartbeatMs)?.()
      },
      check: () => {
        const answeredVersion = postgres.answered
        const known = facts.peek('service_key', id)
        const judge = (returned: number) => {
          counts.checks += 1
          if (returned < answeredVersion && !isDead) stale.push({ instance: name, returned, answered: answeredVersion })
        }
        if (known.kind === 'hit') {
          counts.fromL1 += 1
          judge(versionOf(known.value))
        } else {
          void facts.gather([factQuery('service_key', id)], patient).then((view) => {
            if (view.tier === 'l2') counts.fromL2 += 1
            judge(versionOf(view.find('service_key', id)))
          })
        }
      },
      change: () => {
        void changes
          .commitAndInvalidate(patient, async () => 0)
          .then((version) => {
            if (isDead) return
            counts.changes += 1
            postgres.answered = Math.max(postgres.answered, version)
          })
      },
      /** Receives the confirmation of its commit. */
      commit: () => commits.shift()?.(),
      /** Its statement that sends the committed events is executed. */
      send: () => sends.shift()?.(),
      /** Postgres takes the snapshot of the next statement; `answer` returns its result. */
      read: () => {
        const next = statements.find(({ version }) => version === undefined)
        if (next !== undefined) next.version = postgres.version
      },
      answer: () => {
        const next = statements.shift()
        next?.resolve(next.version ?? postgres.version)
      },
      redis: () => toRedis.shift()?.(),
      redisAll: async () => {
        while (toRedis.length > 0) {
          toRedis.shift()?.()
          await settle()
        }
      },
      flush: () => repeated.get(100)?.(),
      sweep: () => repeated.get(2_000)?.(),
    }
    return {
      name,
      steps,
      bus,
      freeze: () => {
        isFrozen = !isFrozen
      },
      /** Runs the timers that are due, unless it is frozen. */
      wake: () => {
        if (isFrozen) return
        for (const timer of timers) {
          if (timer.dueMs > clock.monotonic()) continue
          timers.delete(timer)
          timer.call()
        }
      },
      isFrozen: () => isFrozen,
      end: (politely: boolean) => {
        if (politely && !isFrozen) void keeper.close()
        isDead = true
        isConnected = false
        commits.length = 0
        sends.length = 0
      },
    }
  }

  type Instance = ReturnType<typeof start>
  const instances = new Map<string, Instance>(names.map((place) => [place, start()]))
  const at = (place: string) => instances.get(place) as Instance

  return {
    clock,
    postgres,
    redis,
    stale,
    counts,
    at,
    settle,
    pass: async (ms: number) => {
      clock.advance(ms)
      for (const instance of instances.values()) instance.wake()
      await settle()
    },
    step: async (place: string, does: keyof Instance['steps']) => {
      const instance = at(place)
      if (instance.isFrozen()) return
      await instance.steps[does]()
      await settle()
    },
    freeze: async (place: string) => {
      at(place).freeze()
      at(place).wake()
      await settle()
    },
    /** An instance ends, leaving the bus or not, and a new one takes its place. */
    replace: async (place: string, politely: boolean) => {
      at(place).end(politely)
      await settle()
      instances.set(place, start())
    },
    loseRedis: (how: 'down' | 'up' | 'restart' | 'evict') => {
      if (how === 'down') redis.isUp = false
      else if (how === 'up') redis.isUp = true
      else redis.places.clear()
      if (how === 'restart') redis.incarnation += 1
    },
  }
}

export type Instances = ReturnType<typeof startInstances>
export const places = names
