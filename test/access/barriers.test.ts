import { afterAll, beforeAll, beforeEach, describe, expect, mock, test } from 'bun:test'
import { createFactCache, type FactCache } from '../../src/access/cache/fact-cache.ts'
import { type LoadFacts, loadThroughRedis } from '../../src/access/cache/tiered-loader.ts'
import {
  createPendingInvalidations,
  type PendingInvalidations,
} from '../../src/access/invalidation/pending-invalidations.ts'
import { type FactQuery, factQuery, resourceQuery } from '../../src/access/policy/facts/queries.ts'
import { type Fact, type FactKey, type FactKind, factKey, partId } from '../../src/access/policy/facts/registry.ts'
import type { ResourceRef } from '../../src/access/policy/matrix.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { createTtlMap } from '../../src/kit/ttl-map.ts'
import { startInstances } from './instances.ts'
import { idOf } from './random.ts'
import { startOuter, type TestOuter } from './redis.ts'

const ada = idOf('user', 1)
const bob = idOf('user', 2)
const lab: ResourceRef = { type: 'project', id: idOf('project', 1) }
const work: ResourceRef = { type: 'generation', id: idOf('generation', 1) }
const ofLab = factKey('project', lab.id)
const ofWork = factKey('generation', work.id)
const ofBob = factKey('account', bob)
const allToBob = factKey('grants', bob)
const toBob = factKey('grant', partId(bob, lab.id))
const flags = { l1: true, l2: true, l3: true }

type World = Map<FactKey, Fact[FactKind]>

const begin = (): World =>
  new Map<FactKey, Fact[FactKind]>([
    [ofBob, { status: 'active', role: 'user', plan: 'free', limits: null }],
    [ofLab, { ownerId: ada, visibility: 'team-only', allowDerivatives: true }],
    [ofWork, { ownerId: ada, projectId: lab.id, status: 'completed' }],
    [toBob, 3],
  ])

/** A fake Postgres: the test decides when a statement takes its snapshot and when its result arrives. */
const createStore = (world: World) => {
  const statements: { wanted: readonly FactQuery[]; read: () => void; answer: () => void }[] = []
  const load: LoadFacts = (wanted) => {
    const { promise, resolve } = Promise.withResolvers<Awaited<ReturnType<LoadFacts>>>()
    let seen: World | undefined
    const read = () => {
      seen = new Map(world)
    }
    statements.push({
      wanted,
      read,
      answer: () => {
        if (seen === undefined) read()
        const facts = new Map<FactKey, Fact[FactKind] | null>()
        const see = (key: FactKey) => facts.set(key, seen?.get(key) ?? null)
        for (const { kind, id, userId } of wanted) {
          if (kind !== 'grants') see(factKey(kind, id))
          if (kind === 'grants' || userId !== null) {
            const granted = (seen?.get(toBob) as Fact['grant'] | undefined) ?? 0
            facts.set(allToBob, { granted: granted === 0 ? {} : { [lab.id]: granted } })
          }
          const projectId =
            kind === 'generation' ? (seen?.get(ofWork) as Fact['generation'] | undefined)?.projectId : id
          if (typeof projectId !== 'string') continue
          see(factKey('project', projectId))
        }
        resolve({ facts, tier: 'l3', redisAgesMs: new Map() })
      },
    })
    return promise
  }
  const statement = (at: number) => {
    const found = statements[at]
    if (found === undefined) throw new Error(`No statement ${at} was sent`)
    return found
  }
  return { statements, statement, load }
}

const settle = () => new Promise<void>((resolve) => setImmediate(resolve))

let clock: ReturnType<typeof manualClock>
let lease: { untilMs: number }
let world: World
let store: ReturnType<typeof createStore>
let facts: FactCache

const createCache = (load: LoadFacts) =>
  createFactCache({ load, memory: createTtlMap({ clock, ttlMs: 60_000 }), clock, lease, flags })

const askFrom = async (cache: FactCache, ref: ResourceRef = lab) =>
  (await cache.gather([factQuery('account', bob), resourceQuery(ref, bob)], createDeadlines(clock)(1e9))).resource(
    ref,
    bob,
  )
const ask = (ref?: ResourceRef) => askFrom(facts, ref)

/** Asks and lets the load complete, so that the facts are in memory. */
const know = async (ref: ResourceRef = lab) => {
  const asked = ask(ref)
  store.statements.at(-1)?.answer()
  await asked
}
const isInMemory = () => facts.peekResource(lab, bob) !== undefined
const expire = () => clock.advance(1_000)
const renew = () => {
  lease.untilMs = clock.monotonic() + 1_000
}

beforeEach(() => {
  clock = manualClock()
  lease = { untilMs: 1_000 }
  world = begin()
  store = createStore(world)
  facts = createCache(store.load)
})

describe('a change between a read of memory and its use', () => {
  test('makes the instance that receives its invalidation load the fact again', async () => {
    await know()
    facts.invalidate([ofBob])
    const asked = ask()
    expect(store.statement(1).wanted.map(({ kind }) => kind)).toEqual(['account'])
    store.statement(1).read()
    world.delete(toBob)
    facts.invalidate([toBob])
    store.statement(1).answer()
    await settle()
    store.statement(2).answer()
    expect((await asked).grant).toBe(0)
  })

  test('that may have been missed is covered: without a lease at the end, one statement loads everything', async () => {
    await know(work)
    facts.invalidate([ofBob])
    const asked = ask(work)
    // The instance is frozen here. The generation leaves the project, and then the project becomes public.
    world.set(ofWork, { ownerId: ada, projectId: null, status: 'completed' })
    expire()
    store.statement(1).answer()
    await settle()
    expect(
      store
        .statement(2)
        .wanted.map(({ kind }) => kind)
        .sort(),
    ).toEqual(['account', 'generation'])
    store.statement(2).answer()
    expect((await asked).generation?.projectId).toBeNull()
  })

  test('needs no second statement when all facts came from one, with or without a lease', async () => {
    expire()
    const asked = ask(work)
    store.statement(0).answer()
    expect((await asked).grant).toBe(3)
    expect(store.statements).toHaveLength(1)
  })
})

describe('an instance without a lease', () => {
  test('does not read its memory', async () => {
    await know()
    expect(isInMemory()).toBeTrue()
    expire()
    world.delete(toBob)
    expect(isInMemory()).toBeFalse()
    expect(facts.peek('account', bob).kind).toBe('miss')
    expect(facts.peekPrincipal(idOf('session', 1), bob)).toBeUndefined()
    expect(facts.peek('service_key', idOf('service_key', 1)).kind).toBe('miss')
    const asked = ask()
    store.statement(1).answer()
    expect((await asked).grant).toBe(0)
  })

  test('joins no load that began under a lease', async () => {
    const early = ask()
    store.statement(0).read()
    expire()
    world.delete(toBob)
    const late = ask()
    expect(store.statements).toHaveLength(2)
    store.statement(1).answer()
    store.statement(0).answer()
    expect((await late).grant).toBe(0)
    // A question from before the change may get the answer from before it.
    expect((await early).grant).toBe(3)
  })

  test('joins no load that another question began without a lease', async () => {
    expire()
    void ask()
    store.statement(0).read()
    world.delete(toBob)
    const late = ask()
    store.statement(1).answer()
    expect((await late).grant).toBe(0)
  })

  test('joins loads again once it has a lease', async () => {
    void ask()
    void ask()
    expect(store.statements).toHaveLength(1)
  })
})

describe('when invalidations may have been missed', () => {
  test('a load under way reaches neither its callers nor memory, and is not joined', async () => {
    const early = ask()
    store.statement(0).read()
    world.delete(toBob)
    facts.invalidate('everything')
    const late = ask()
    expect(store.statements).toHaveLength(2)
    store.statement(0).answer()
    await settle()
    expect(isInMemory()).toBeFalse()
    for (const statement of store.statements.slice(1)) statement.answer()
    await settle()
    for (const statement of store.statements.slice(1)) statement.answer()
    expect((await early).grant).toBe(0)
    expect((await late).grant).toBe(0)
    expect(facts.peekResource(lab, bob)?.grant).toBe(0)
  })

  test('a load from before the connection was lost that arrives after it is back is not cached', async () => {
    const early = ask()
    store.statement(0).read()
    expire()
    world.delete(toBob)
    facts.invalidate('everything')
    renew()
    store.statement(0).answer()
    await settle()
    expect(isInMemory()).toBeFalse()
    store.statement(1).answer()
    expect((await early).grant).toBe(0)
  })

  test('a load that arrives while the connection is lost is trusted neither then nor afterwards', async () => {
    const early = ask()
    store.statement(0).read()
    expire()
    world.delete(toBob)
    store.statement(0).answer()
    await early
    expect(isInMemory()).toBeFalse()
    facts.invalidate('everything')
    renew()
    expect(isInMemory()).toBeFalse()
  })
})

describe('with Redis', () => {
  let on: TestOuter
  let pendingInvalidations: PendingInvalidations
  beforeAll(async () => {
    on = await startOuter()
  })
  afterAll(() => on?.close())
  beforeEach(async () => {
    await on.client.flushall()
    pendingInvalidations = createPendingInvalidations(clock)
    facts = createCache(
      loadThroughRedis({ redisCache: on.redisCache, fromStore: store.load, flags, clock, lease, pendingInvalidations }),
    )
  })
  const sent = async (count: number) => {
    while (store.statements.length < count) await Bun.sleep(1)
  }

  test('a change between the read of Postgres and the fill of Redis leaves no stale entry', async () => {
    const asked = ask()
    await sent(1)
    store.statement(0).read()
    world.delete(toBob)
    // The event is received and the keys are deleted from Redis. Confirmed keys are read from Redis again.
    facts.invalidate([toBob])
    await on.redisCache.invalidate([toBob])
    store.statement(0).answer()
    await sent(2)
    store.statement(1).answer()
    expect((await asked).grant).toBe(0)
    await settle()
    const another = createCache(
      loadThroughRedis({ redisCache: on.redisCache, fromStore: store.load, flags, clock, lease, pendingInvalidations }),
    )
    const later = askFrom(another)
    await Promise.race([later, sent(3).then(() => store.statement(2).answer())])
    expect((await later).grant).toBe(0)
  })

  test('a change between a read of Redis and its use makes the fact load again', async () => {
    const filled = ask()
    await sent(1)
    store.statement(0).answer()
    await filled
    while ((await on.client.keys('*')).length < 3) await Bun.sleep(1)
    facts.invalidate('everything')
    const asked = ask()
    world.delete(toBob)
    pendingInvalidations.add({ id: '1', keys: [toBob] })
    facts.invalidate([toBob])
    await sent(2)
    expect(store.statement(1).wanted.map(({ kind }) => kind)).toEqual(['grants'])
    store.statement(1).answer()
    expect((await asked).grant).toBe(0)
  })
})

describe('between a commit and its notification', () => {
  test('an instance that has not received the event may answer from before the change, and until its lease ends the writer waits', async () => {
    const all = startInstances()
    const both = ['a', 'b'] as const
    for (const at of both) await all.step(at, 'open')
    const live = async (ms: number) => {
      for (let passed = 0; passed < ms; passed += 250) {
        await all.pass(250)
        for (const at of both) await all.step(at, 'sendHeartbeat')
        for (const at of both) await all.step(at, 'receiveAll')
      }
    }
    await live(2_000)
    const check = async (at: 'a' | 'b') => {
      await all.step(at, 'check')
      for (let times = 0; times < 4; times += 1) {
        await all.step(at, 'redis')
        await all.step(at, 'answer')
      }
    }
    await check('b')
    const { fromL1 } = all.counts
    await all.step('a', 'change')
    await all.step('a', 'commit')
    await all.step('a', 'send')
    await all.step('a', 'receiveAll')
    await check('b')
    expect(all.counts.fromL1).toBe(fromL1 + 1)
    expect(all.postgres.answered).toBe(0)
    await all.step('b', 'receiveAll')
    await check('b')
    expect(all.counts.fromL1).toBe(fromL1 + 1)
    expect(all.postgres.answered).toBe(0)
    await all.step('a', 'receiveAll')
    expect(all.postgres.answered).toBe(1)
    // An instance cut off from the bus: the writer is answered once that instance’s lease is over.
    await check('b')
    await all.step('a', 'change')
    await all.step('a', 'commit')
    await all.step('a', 'send')
    await all.step('a', 'receiveAll')
    await all.pass(900)
    expect(all.postgres.answered).toBe(1)
    await all.pass(350)
    expect(all.postgres.answered).toBe(2)
    await check('b')
    expect(all.stale).toEqual([])
    mock.restore()
  })
})
