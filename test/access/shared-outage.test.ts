import { afterEach, beforeEach, describe, expect, mock, spyOn, test } from 'bun:test'
import fc from 'fast-check'
import { createSharedOutage, type SharedOutage, stateScript } from '../../src/access/cache/shared-outage.ts'
import { type FactKey, factKey } from '../../src/access/policy/facts/registry.ts'
import { manualClock, systemClock } from '../../src/kit/clock.ts'
import { createLog } from '../../src/platform/log.ts'
import { createRedis } from '../../src/platform/redis.ts'
import { createSecrets } from '../../src/platform/secrets.ts'
import { until } from '../faults/support.ts'
import { startRedis } from '../harness.ts'

const leaseMs = 1_000
const everyMs = 250
/** How long a writer waits for an instance that does not acknowledge. */
const waitMs = 1.25 * leaseMs

const secrets = { ours: 'a secret of ours, of a good length', next: 'the secret that comes after it' }
const ownMacs = createSecrets(secrets.ours).macs('redis-statement')

/** Runs all microtasks to their end. */
const settle = () => new Promise<void>((resolve) => setImmediate(resolve))

/** The keys of the event at a position. */
const keysOf = (position: number): FactKey[] => [factKey('account', `of-${position}`)]

/** Instances over a simulated Postgres, Redis and clock. */
const startWorld = () => {
  const clock = manualClock()
  const postgres = { position: 0, identity: 'one' }
  /** Ids of the events, by their positions. */
  const log: string[] = []
  const redis = { hash: new Map<string, string>(), isUp: true, aheadMs: 0, runId: 'r1' }
  const serverNow = () => 5_000_000 + clock.monotonic() + redis.aheadMs

  const forgeries = new Set<string>()

  const start = (name: string, { withRedis = true, macs = ownMacs } = {}) => {
    const lease = { untilMs: Number.NEGATIVE_INFINITY }
    const cut = { postgres: false, redis: false }
    let applied = postgres.position
    const invalidated = new Set<FactKey>()
    let isOpen = false
    let openedMs = 0
    let isDead = false
    let events = 0
    const members = new Map<string, number>()
    const waiting: { readonly position: number; readonly dueMs: number; done: boolean }[] = []
    const ticks: (() => void)[] = []
    const intervals = spyOn(globalThis, 'setInterval')
    intervals.mockImplementation(((call: () => void) => void ticks.push(call)) as never)
    const connection = {
      serverRunId: redis.runId,
      scripts: {
        state: async (_key: unknown, instance: unknown, statement: unknown) => {
          const known = redis.hash.has(String(instance)) ? 1 : 0
          redis.hash.set(String(instance), `${serverNow()} ${statement}`)
          return [serverNow(), known, [...redis.hash].flat()]
        },
      },
    }
    const client = {
      serverRunId: redis.runId,
      runBypassingBreaker: async (work: (given: never) => Promise<unknown>) => {
        if (!redis.isUp || cut.redis || isDead) return false
        await work({ ...connection, serverRunId: redis.runId } as never)
        return true
      },
    }
    const outage: SharedOutage = createSharedOutage({
      instance: name,
      redis: withRedis ? (client as never) : undefined,
      key: 'k',
      clock,
      leaseMs,
      everyMs,
      isReachable: async () => !cut.postgres,
      macs,
      onForged: ({ what, key }) => void forgeries.add(`${what} of ${key}`),
    })
    outage.start({
      lease,
      invalidate: (keys) => {
        for (const key of keys) invalidated.add(key)
      },
      members: () => [...members].filter(([, atMs]) => clock.monotonic() - atMs < 2 * leaseMs).map(([of]) => of),
    })
    intervals.mockRestore()
    return {
      name,
      outage,
      lease,
      cut,
      members,
      waiting,
      isDead: () => isDead,
      die: () => {
        isDead = true
      },
      applied: () => applied,
      invalidated,
      /** Whether it would not decide on facts that this event made untrue. */
      knows: (position: number) => applied >= position || keysOf(position).every((key) => invalidated.has(key)),
      tick: () => {
        if (!isDead) for (const call of ticks) call()
      },
      /** The bus: connects, hears everything up to now and renews the lease; or is lost. */
      beat: () => {
        if (isDead) return
        if (cut.postgres) {
          if (isOpen) outage.hooks.onConnection(false)
          isOpen = false
          return
        }
        if (!isOpen) {
          isOpen = true
          openedMs = clock.monotonic()
          outage.hooks.onConnection(true)
          outage.hooks.onReset({ ...postgres })
          applied = postgres.position
        }
        for (; applied < postgres.position; applied += 1)
          outage.hooks.onEvent(log[applied] ?? '', applied + 1, keysOf(applied + 1))
        lease.untilMs = clock.monotonic() + leaseMs
      },
      /** Commits a change, which is answered after the longest wait. */
      commit: (isNamed = true) => {
        if (isDead || cut.postgres) return
        log.push(`${name}${events}`)
        events += 1
        postgres.position += 1
        outage.hooks.onCommitting(log.at(-1) ?? '', isNamed ? keysOf(postgres.position) : 'everything')
        const sinceMs = isOpen ? Math.max(clock.monotonic(), openedMs) : clock.monotonic()
        waiting.push({ position: postgres.position, dueMs: sinceMs + waitMs, done: false })
      },
    }
  }
  return { clock, postgres, redis, forgeries, start }
}
type World = ReturnType<typeof startWorld>
type Instance = ReturnType<World['start']>

afterEach(() => void mock.restore())

describe('a shared outage', () => {
  let world: World
  let all: Instance[]

  /** Lets time pass in steps of a tick; every instance that reaches Postgres hears the others. */
  const pass = async (ms: number, running = all) => {
    for (let passed = 0; passed < ms; passed += everyMs) {
      for (const instance of running) {
        instance.beat()
        for (const other of running) {
          if (other === instance || other.cut.postgres || instance.cut.postgres || other.isDead()) continue
          instance.members.set(other.name, world.clock.monotonic())
        }
      }
      for (const instance of running) instance.tick()
      await settle()
      world.clock.advance(everyMs)
    }
  }
  const cutAll = () => {
    for (const { cut } of all) cut.postgres = true
  }
  const shared = () => all.map(({ outage }) => outage.isShared())

  beforeEach(async () => {
    world = startWorld()
    all = ['a', 'b', 'c'].map((name) => world.start(name))
    await pass(5_000)
  })

  test('is agreed on while every instance states that it cannot reach Postgres', async () => {
    expect(shared()).toEqual([false, false, false])
    cutAll()
    await pass(3_000)
    expect(shared()).toEqual([true, true, true])
    for (const { cut } of all) cut.postgres = false
    await pass(everyMs)
    expect(shared()).toEqual([false, false, false])
  })

  test('is not agreed on by an instance that is cut off alone', async () => {
    const [a] = all as [Instance]
    a.cut.postgres = true
    for (let rounds = 0; rounds < 20; rounds += 1) {
      await pass(1_000)
      expect(a.outage.isShared()).toBeFalse()
    }
    expect(a.outage.refusal).toBe('others_unknown')
  })

  test('is not agreed on when a member is silent, because it died or cannot reach Redis', async () => {
    const [, b, c] = all as [Instance, Instance, Instance]
    cutAll()
    c.cut.redis = true
    await pass(5_000)
    expect(shared()).toEqual([false, false, false])
    expect(b.outage.refusal).toBe('others_unknown')
    expect(c.outage.refusal).toBe('redis_silent')
    c.cut.redis = false
    await pass(3_000)
    expect(shared()).toEqual([true, true, true])
    c.die()
    await pass(30_000)
    expect([all[0]?.outage.isShared(), b.outage.isShared()]).toEqual([false, false])
  })

  test('is not agreed on when an instance that started during it reaches Postgres, or did and is gone', async () => {
    cutAll()
    const late = world.start('late')
    await pass(3_000, [...all, late])
    expect(shared()).toEqual([false, false, false])
    late.die()
    await pass(20_000)
    expect(shared()).toEqual([false, false, false])
  })

  test('is agreed on by an instance that lacks an event which another has applied, once it has invalidated the facts of it', async () => {
    const [a, b, c] = all as [Instance, Instance, Instance]
    a.cut.postgres = true
    await pass(everyMs)
    b.commit()
    await pass(everyMs)
    b.cut.postgres = true
    c.cut.postgres = true
    expect([a.knows(1), b.knows(1)]).toEqual([false, true])
    await pass(5_000)
    expect(shared()).toEqual([true, true, true])
    expect(a.knows(1)).toBeTrue()
    // What an instance has applied it may have loaded again.
    expect([[...a.invalidated], b.invalidated.size]).toEqual([keysOf(1), 0])
  })

  test('is not agreed on by an instance that lacks more events than a statement has room for', async () => {
    const [a, b, c] = all as [Instance, Instance, Instance]
    a.cut.postgres = true
    await pass(everyMs)
    for (let commits = 0; commits < 70; commits += 1) b.commit()
    await pass(everyMs)
    b.cut.postgres = true
    c.cut.postgres = true
    await pass(5_000)
    expect(shared()).toEqual([false, true, true])
    expect(a.outage.refusal).toBe('events_missing')
  })

  test('is agreed on while a commit of an instance has not come back on its bus, once every instance has invalidated its facts', async () => {
    const [, b] = all as [Instance, Instance, Instance]
    b.commit()
    cutAll()
    await pass(everyMs)
    expect(shared()).toEqual([false, false, false])
    await pass(10_000)
    expect(shared()).toEqual([true, true, true])
    expect(all.map(({ knows }) => knows(1))).toEqual([true, true, true])
  })

  test('has an instance whose bus is connected invalidate nothing for what others state', async () => {
    const [a, b, c] = all as [Instance, Instance, Instance]
    b.commit()
    a.cut.postgres = true
    b.cut.postgres = true
    await pass(5_000)
    expect([c.invalidated.size, c.outage.isShared()]).toEqual([0, false])
    expect([...a.invalidated]).toEqual(keysOf(1))
    expect([...b.invalidated]).toEqual(keysOf(1))
  })

  test('is not agreed on while a commit that changed more than can be named has not come back', async () => {
    const [, b] = all as [Instance, Instance, Instance]
    b.commit(false)
    cutAll()
    await pass(10_000)
    expect(shared()).toEqual([false, false, false])
  })

  test('is not agreed on for two leases after Redis lost the statements, or its clock stepped', async () => {
    cutAll()
    await pass(4_000)
    expect(shared()).toEqual([true, true, true])
    world.redis.hash.clear()
    await pass(2 * everyMs)
    expect(shared()).toEqual([false, false, false])
    await pass(3_000)
    expect(shared()).toEqual([true, true, true])
    world.redis.aheadMs = -5_000
    await pass(2 * everyMs)
    expect(shared()).toEqual([false, false, false])
  })

  test('ends within a lease when Redis is silent', async () => {
    cutAll()
    await pass(4_000)
    world.redis.isUp = false
    await pass(leaseMs)
    expect(shared()).toEqual([false, false, false])
    expect(all[0]?.outage.refusal).toBe('redis_silent')
  })

  test('is agreed on after an instance left, which stated that it commits nothing any more', async () => {
    const [, , c] = all as [Instance, Instance, Instance]
    await c.outage.close()
    c.die()
    cutAll()
    await pass(4_000)
    expect(shared().slice(0, 2)).toEqual([true, true])
  })

  test('ignores statements that are no statements of ours by refusing, and reports them', async () => {
    cutAll()
    world.redis.hash.set('x', 'written by hand')
    await pass(4_000)
    expect(shared()).toEqual([false, false, false])
    expect([...world.forgeries]).toEqual(['statement of x'])
  })

  describe('by statements in Redis that were forged', () => {
    const serverNow = () => 5_000_000 + world.clock.monotonic()
    const [mac] = ownMacs
    /** Replaces the statement of the instance that reaches Postgres, before each look of the others. */
    const passForging = async (forge: (own: string) => string) => {
      const [a, b, c] = all as [Instance, Instance, Instance]
      for (let rounds = 0; rounds < 20; rounds += 1) {
        await pass(everyMs, [c])
        world.redis.hash.set('c', forge(world.redis.hash.get('c') ?? ''))
        for (const instance of [a, b]) instance.beat()
        for (const instance of [a, b]) instance.tick()
        await settle()
        expect(shared()).toEqual([false, false, false])
      }
      expect([...world.forgeries].sort()).toEqual(['statement of c'])
    }
    beforeEach(async () => {
      const [a, b] = all as [Instance, Instance]
      a.cut.postgres = true
      b.cut.postgres = true
      await pass(3_000)
      expect(shared()).toEqual([false, false, false])
    })

    test('is not agreed on: the word is exchanged in an authentic statement', async () => {
      await passForging((own) => own.replace('reachable', 'unreachable'))
    })

    test('is not agreed on: the statement has no tag, or one under another secret or for another instance', async () => {
      const [position] = /\d+ one \d+/.exec(world.redis.hash.get('a') ?? '') ?? []
      const text = () => `unreachable ${serverNow()} ${(position ?? '').slice(position?.indexOf(' ') ?? 0).trim()}`
      await passForging(() => `${serverNow()} ${text()}`)
      await passForging(() => `${serverNow()} ${text()} ${mac.keyId} ${mac.tag(`k a ${text()}`)}`)
      await passForging(() => world.redis.hash.get('a') ?? '')
      const [foreign] = createSecrets(secrets.next).macs('redis-statement')
      await passForging(() => `${serverNow()} ${text()} ${mac.keyId} ${foreign.tag(`k c ${text()}`)}`)
    })
  })

  test('ends within a lease when an authentic statement is put back that says Postgres is down', async () => {
    const [, , c] = all as [Instance, Instance, Instance]
    cutAll()
    await pass(3_000)
    expect(shared()).toEqual([true, true, true])
    const earlier = (world.redis.hash.get('c') ?? '').replace(/^\d+ /, '')
    c.cut.postgres = false
    for (let passedMs = 0; passedMs < 5_000; passedMs += everyMs) {
      await pass(everyMs, [c])
      world.redis.hash.set('c', `${5_000_000 + world.clock.monotonic()} ${earlier}`)
      for (const instance of all.slice(0, 2)) instance.tick()
      await settle()
      if (passedMs >= leaseMs) expect(shared()).toEqual([false, false, false])
    }
    expect([...world.forgeries]).toEqual([])
  })

  test('is agreed on while SECRET is replaced, by instances that know both secrets, and no statement is reported', async () => {
    const [ours, next] = [secrets.ours, secrets.next]
    const old = world.start('old', { macs: createSecrets(ours, next).macs('redis-statement') })
    const rotated = world.start('rotated', { macs: createSecrets(next, ours).macs('redis-statement') })
    all = [old, rotated]
    world.redis.hash.clear()
    await pass(5_000)
    cutAll()
    await pass(3_000)
    expect(shared()).toEqual([true, true])
    expect([...world.forgeries]).toEqual([])
  })

  test('is not agreed on with an instance whose secret is not known, which is not reported', async () => {
    const foreign = world.start('foreign', { macs: createSecrets(secrets.next).macs('redis-statement') })
    all = [...all, foreign]
    await pass(5_000)
    cutAll()
    await pass(5_000)
    expect(shared()).toEqual([false, false, false, false])
    expect([...world.forgeries]).toEqual([])
  })

  test('is agreed on a minute after the last instance ended that states without tags, and it is not reported', async () => {
    world.redis.hash.set('earlier', `${5_000_000 + world.clock.monotonic()} left 1 one 0`)
    await pass(2_000)
    cutAll()
    await pass(3_000)
    expect(shared()).toEqual([false, false, false])
    for (const { cut } of all) cut.postgres = false
    await pass(62_000)
    cutAll()
    await pass(3_000)
    expect(shared()).toEqual([true, true, true])
    expect([...world.forgeries]).toEqual([])
  })
})

describe('without Redis', () => {
  test('one instance that knows no other agrees with itself, and one that knows another does not', async () => {
    const world = startWorld()
    const alone = world.start('alone', { withRedis: false })
    const pass = async (ms: number) => {
      for (let passed = 0; passed < ms; passed += everyMs) {
        alone.beat()
        alone.tick()
        await settle()
        world.clock.advance(everyMs)
      }
    }
    await pass(everyMs)
    alone.cut.postgres = true
    await pass(3_000)
    // It was not connected for long enough to have received the heartbeats of all others.
    expect(alone.outage.refusal).toBe('others_unknown')
    alone.cut.postgres = false
    await pass(4_000)
    alone.cut.postgres = true
    await pass(3_000)
    expect(alone.outage.isShared()).toBeTrue()
    alone.cut.postgres = false
    await pass(1_000)
    alone.members.set('other', world.clock.monotonic())
    await pass(everyMs)
    alone.cut.postgres = true
    await pass(10_000)
    expect([alone.outage.isShared(), alone.outage.refusal]).toEqual([false, 'no_redis'])
  })
})

test('in any order of cuts, commits, deaths and losses, no instance serves stale facts that an answered change made untrue', async () => {
  const step = fc.record({
    does: fc.constantFrom(
      'cut',
      'mend',
      'commit',
      'commit',
      'commitUnnamed',
      'cutRedis',
      'mendRedis',
      'die',
      'lose',
      'wait',
      'wait',
      'cutAll',
      'mendAll',
    ),
    which: fc.nat(2),
    steps: fc.nat(8),
  })
  let allowed = 0
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 40 }), fc.boolean(), async (steps, deaths) => {
      const world = startWorld()
      const all = ['a', 'b', 'c'].map((name) => world.start(name))
      const answered: number[] = []
      const silentSince = new Map<string, number>()
      const stepMs = 50
      const pass = async (count: number) => {
        for (let passed = 0; passed < count; passed += 1) {
          for (const [at, instance] of all.entries()) {
            if ((world.clock.monotonic() / stepMs) % 5 === at) {
              instance.beat()
              instance.tick()
            }
            for (const other of all) {
              if (other !== instance && !other.cut.postgres && !instance.cut.postgres && !other.isDead()) {
                instance.members.set(other.name, world.clock.monotonic())
              }
            }
          }
          await settle()
          world.clock.advance(stepMs)
          for (const instance of all) {
            for (const wait of instance.waiting) {
              // Answered without a wait where every live instance has applied the event.
              const applied = all.every((other) => other.isDead() || other.applied() >= wait.position)
              const due = world.clock.monotonic() >= wait.dueMs
              if (!instance.isDead() && !wait.done && (due || applied)) {
                wait.done = true
                answered.push(wait.position)
              }
            }
          }
          for (const { outage, knows, lease, isDead } of all) {
            if (isDead() || world.clock.monotonic() < lease.untilMs || !outage.isShared()) continue
            allowed += 1
            expect(answered.every(knows)).toBeTrue()
          }
        }
      }
      await pass(60)
      for (const { does, which, steps: count } of steps) {
        const one = all[which] as Instance
        if (does === 'cut') one.cut.postgres = true
        else if (does === 'mend') one.cut.postgres = false
        else if (does === 'commit') one.commit()
        else if (does === 'commitUnnamed') one.commit(false)
        else if (does === 'cutRedis') one.cut.redis = true
        else if (does === 'mendRedis') one.cut.redis = false
        else if (does === 'die' && deaths) one.die()
        // Redis that loses the statement of an instance which cannot repeat it is not covered.
        else if (does === 'lose' && !all.some(({ cut }) => cut.redis)) world.redis.hash.clear()
        else if (does === 'cutAll') for (const { cut } of all) cut.postgres = true
        else if (does === 'mendAll') for (const { cut } of all) cut.postgres = false
        await pass(count * count)
        for (const { cut, name } of all) {
          const sinceMs = cut.redis ? (silentSince.get(name) ?? world.clock.monotonic()) : undefined
          if (sinceMs === undefined) silentSince.delete(name)
          else silentSince.set(name, sinceMs)
          // Nor is an instance that is silent for a minute.
          if (sinceMs !== undefined && world.clock.monotonic() - sinceMs > 45_000) cut.redis = false
        }
      }
    }),
    { numRuns: Number(process.env['OUTAGES'] ?? 100) },
  )
  expect(allowed).toBeGreaterThan(100)
}, 60_000)

test('the script records a statement and returns all that are young enough, on a real Redis', async () => {
  const server = await startRedis()
  const redis = createRedis({
    url: server.url,
    clock: systemClock,
    log: createLog('silent'),
    scripts: { state: stateScript },
    deadlineMs: 5_000,
  })
  try {
    await until(() => redis.serverRunId !== undefined, 'connected')
    const state = (instance: string, text: string, keptMs = 60_000) =>
      redis.run(({ scripts }) => scripts.state('k', instance, text, keptMs)) as Promise<[number, number, string[]]>
    const [now, known, all] = await state('a', 'reachable 0 - -1')
    expect([known, all]).toEqual([0, ['a', `${now} reachable 0 - -1`]])
    expect(Math.abs(now - Date.now())).toBeLessThan(5_000)
    await redis.run(({ client }) => client.hset('k', 'old', '1 left 0 - 0'))
    const [, again, both] = await state('a', 'unreachable 7 one 3')
    expect([again, both.length]).toEqual([1, 4])
    expect((await state('a', 'unreachable 7 one 3'))[2]).toHaveLength(2)
    expect(await redis.run(({ client }) => client.pttl('k'))).toBeGreaterThan(50_000)
  } finally {
    await redis.close()
    await server.stop()
  }
})
