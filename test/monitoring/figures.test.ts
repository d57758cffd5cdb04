import { describe, expect, test } from 'bun:test'
import { type Clock, manualClock } from '../../src/kit/clock.ts'
import { DistinctSketch } from '../../src/kit/distinct-sketch.ts'
import { LogHistogram } from '../../src/kit/log-histogram.ts'
import { decodeFigures, encodeFigures } from '../../src/monitoring/encoded-figures.ts'
import { createFiguresExchange } from '../../src/monitoring/exchange.ts'
import { countNames, type InstanceFigures, mergeFigures, recordOf } from '../../src/monitoring/figures.ts'
import type { StoredFigures } from '../../src/monitoring/figures-store.ts'
import { createRecorder, timedMetrics, windowNames } from '../../src/monitoring/recorder.ts'
import { poolNames } from '../../src/platform/postgres.ts'
import { createSecrets } from '../../src/platform/secrets.ts'

const instances = ['one', 'two', 'three']
const quantiles = [0.5, 0.95, 0.99]

/** What an instance has measured: those of 30,000 requests, and 700 people of whom 300 ask the next instance too. */
const figuresOf = (instance: string, clock: Clock): { figures: InstanceFigures; times: number[]; people: string[] } => {
  const at = instances.indexOf(instance)
  const recorder = createRecorder({ clock })
  const times = Array.from({ length: 30_000 }, (_, n) => 0.5 + (((n + 1) * (at + 3) * 7_919) % 10_007) / (10 + 40 * at))
  for (const [n, ms] of times.entries()) recorder.record('api', ms, n % 3_000 === 0)
  const people = Array.from(
    { length: 700 },
    (_, n) => `01980000-0000-7000-8000-${String(400 * at + n).padStart(12, '0')}`,
  )
  for (const id of people) recorder.seen(id)
  const figures = {
    instance,
    takenAtMs: clock.now(),
    process: { supervisor: 'a supervisor', number: at },
    totals: {
      times: recordOf(timedMetrics, (metric) => recorder.total(metric)),
      counts: recordOf(countNames, (count) => countNames.indexOf(count) + at),
    },
    windows: recordOf(windowNames, (name) => ({
      times: recorder.window(name),
      counts: recordOf(countNames, (count) => countNames.indexOf(count) + at),
    })),
    users: recorder.users(),
    pools: recordOf(poolNames, () => ({ max: 4, idle: 1, busy: at, connecting: 0, waiting: 2 })),
    poolWaits: recorder.poolWaits(),
    workers: { hashing: { size: 2, busy: at, waiting: 1 }, rendering: { size: 1, busy: 0, waiting: 0 } },
    jobs: at,
  }
  return { figures, times, people }
}

describe('the figures of three instances', () => {
  const clock = manualClock()
  const each = instances.map((instance) => figuresOf(instance, clock))
  const merged = mergeFigures(each.map(({ figures }) => figures))

  test('equal one histogram that was given the times of all', () => {
    const all = new LogHistogram()
    const times = each.flatMap((instance) => instance.times)
    for (const ms of times) all.record(ms)
    const { sum, ...whole } = all.freeze()
    const sorted = times.toSorted((one, other) => one - other)
    for (const name of windowNames) {
      const { slice, failed } = merged.windows[name].times.api
      const { sum: mergedSum, ...rest } = slice
      expect(rest).toEqual(whole)
      expect(mergedSum).toBeCloseTo(sum, 3)
      expect(failed).toBe(30)
    }
    for (const q of quantiles) {
      const exact = sorted[Math.ceil(q * sorted.length) - 1] as number
      expect(Math.abs((all.quantile(q) as number) - exact) / exact).toBeLessThan(0.01)
    }
  })

  test('count a person of several instances once', () => {
    const union = new DistinctSketch()
    for (const { people } of each) for (const id of people) union.add(id)
    expect(merged.users.encode()).toEqual(union.encode())
    expect(Math.abs(merged.users.estimate() - 1_500)).toBeLessThan(40)
  })

  test('add up counts, connections and threads', () => {
    expect(merged.windows['1m'].counts.decisions_l2).toBe(1 + 2 + 3)
    expect(merged.pools.read).toEqual({ max: 12, idle: 3, busy: 3, connecting: 0, waiting: 6 })
    expect(merged.workers.hashing).toEqual({ size: 6, busy: 3, waiting: 3 })
    expect(merged.jobs).toBe(3)
  })

  test('are the same after they were encoded and decoded', () => {
    for (const { figures } of each) {
      const decoded = decodeFigures(encodeFigures(figures)) as InstanceFigures
      expect({ ...decoded, users: decoded.users.encode() }).toEqual({ ...figures, users: figures.users.encode() })
    }
  })

  test('are not decoded from anything else', () => {
    const [{ figures }] = each as [(typeof each)[0]]
    const given = JSON.parse(encodeFigures(figures))
    const broken: unknown[] = [
      null,
      [],
      'x',
      { ...given, version: given.version + 1 },
      { ...given, process: undefined },
      { ...given, totals: { ...given.totals, times: {} } },
      { ...given, takenAtMs: '1' },
      { ...given, jobs: -1 },
      { ...given, users: 'AA==' },
      { ...given, windows: { ...given.windows, '1h': undefined } },
      { ...given, poolWaits: { ...given.poolWaits, auth: ['', 0] } },
      { ...given, poolWaits: { ...given.poolWaits, auth: [given.poolWaits.auth[0], null] } },
    ]
    for (const each of broken) expect(decodeFigures(JSON.stringify(each))).toBeUndefined()
    for (const text of ['', '{', 'null']) expect(decodeFigures(text)).toBeUndefined()
    expect(timedMetrics.length).toBeGreaterThan(0)
  })
})

describe('an exchange of figures', () => {
  const secrets = createSecrets('a secret of at least 32 characters, for tests')
  /** Instances that share a Redis and a table, either of which may be gone. */
  const start = () => {
    const clock = manualClock()
    const redis = new Map<string, string>()
    const table = new Map<string, string>()
    /** Those that are no members. */
    const away = new Set<string>()
    const gone = new Set<'redis' | 'table'>()
    const forged: string[] = []
    const reads = { redis: 0, table: 0 }
    const exchangeOf = (instance: string, { hasRedis = true, secret = secrets, lease = true } = {}) =>
      createFiguresExchange({
        instance,
        collect: () => ({ ...figuresOf(instance, clock).figures, takenAtMs: clock.now() }),
        bus: {
          members: () => instances.filter((other) => other !== instance && !away.has(other)),
          noLeaseReason: () => (lease ? undefined : 'connecting'),
        },
        redis: hasRedis
          ? {
              run: async (work) => {
                if (gone.has('redis')) return undefined
                const client = {
                  get: async (key: string) => {
                    reads.redis += 1
                    return redis.get(key) ?? null
                  },
                  set: async (key: string, value: string) => {
                    redis.set(key, value)
                    return 'OK'
                  },
                }
                return work({ client } as never)
              },
            }
          : undefined,
        prefix: 'p:',
        macs: secret.macs('redis-figures'),
        onForged: ({ key }) => forged.push(key),
        store: {
          write: ((instance: string, content: string) => {
            if (gone.has('table')) return Promise.reject(new Error('gone'))
            return Promise.resolve(table.set(instance, content))
          }) as never,
          read: ((wanted: readonly string[]) => {
            reads.table += 1
            if (gone.has('table')) return Promise.reject(new Error('gone'))
            const found = wanted.flatMap((instance): StoredFigures[] => {
              const content = table.get(instance)
              return content === undefined ? [] : [{ instance, content }]
            })
            return Promise.resolve(found)
          }) as never,
        },
        requireAvailable: () => {},
        clock,
        realClock: clock,
      })
    return { clock, redis, table, away, gone, forged, reads, exchangeOf }
  }
  const publishAll = async (world: ReturnType<typeof start>) => {
    const all = instances.map((instance) => world.exchangeOf(instance))
    for (const each of all) await each.publish()
    return all[0] as (typeof all)[0]
  }
  const counted = (aggregate: { windows: InstanceFigures['windows'] }) => aggregate.windows['1m'].times.api.slice.count

  test('reads those of every member from Redis, without a statement', async () => {
    const world = start()
    const one = await publishAll(world)
    const aggregate = await one.read()
    expect([counted(aggregate), aggregate.included, aggregate.missing]).toEqual([90_000, instances, []])
    expect([world.table.size, world.reads.table]).toEqual([0, 0])
  })

  test('uses the table where Redis is gone, and for an instance that does not reach it', async () => {
    const world = start()
    const one = world.exchangeOf('one')
    await world.exchangeOf('two').publish()
    await world.exchangeOf('three', { hasRedis: false }).publish()
    expect([[...world.redis.keys()], [...world.table.keys()]]).toEqual([['p:two'], ['three']])
    expect((await one.read()).missing).toEqual([])
    world.gone.add('redis')
    await world.exchangeOf('two').publish()
    world.clock.advance(1_000)
    expect((await one.read()).included).toEqual(instances)
  })

  test('names members whose figures are missing or older than 5 s', async () => {
    const world = start()
    const one = world.exchangeOf('one')
    await world.exchangeOf('two').publish()
    expect((await one.read()).missing).toEqual(['three'])
    world.clock.advance(5_000)
    await world.exchangeOf('three').publish()
    const { included, missing } = await one.read()
    expect([included, missing]).toEqual([['one', 'three'], ['two']])
  })

  test('names an instance that is no member any more as missing for a minute, and includes it while it writes figures', async () => {
    const world = start()
    const one = await publishAll(world)
    await one.read()
    world.away.add('three')
    const seen: [number, string[], string[]][] = []
    for (const afterMs of [4_000, 5_000, 30_000, 59_000, 60_000]) {
      world.clock.advance(afterMs - world.clock.monotonic())
      await world.exchangeOf('two').publish()
      if (afterMs === 30_000) await world.exchangeOf('three').publish()
      const { included, missing } = await one.read()
      seen.push([afterMs, [...included], [...missing]])
    }
    expect(seen).toEqual([
      [4_000, instances, []],
      [5_000, ['one', 'two'], ['three']],
      [30_000, instances, []],
      [59_000, ['one', 'two'], ['three']],
      [60_000, ['one', 'two'], []],
    ])
  })

  test.each(['redis', 'table'] as const)(
    'does not miss an instance that has ended in good order, by the %s',
    async (by) => {
      const world = start()
      const one = await publishAll(world)
      await one.read()
      if (by === 'table') world.gone.add('redis')
      await world.exchangeOf('three').leave()
      world.away.add('three')
      world.clock.advance(1_000)
      await world.exchangeOf('two').publish()
      const { included, missing } = await one.read()
      expect([included, missing]).toEqual([['one', 'two'], []])
    },
  )

  test('has its own figures alone where Redis and Postgres are gone, and says so', async () => {
    const world = start()
    const one = await publishAll(world)
    world.gone.add('redis').add('table')
    const aggregate = await one.read()
    expect([counted(aggregate), aggregate.missing]).toEqual([30_000, ['two', 'three']])
    await expect(one.publish()).rejects.toThrow('gone')
    const unsure = await world.exchangeOf('one', { lease: false }).read()
    expect([aggregate.membersKnown, unsure.membersKnown]).toEqual([true, false])
  })

  test('reads at most once in 0.9 s, for any number of callers', async () => {
    const world = start()
    const one = await publishAll(world)
    const all = await Promise.all([one.read(), one.read(), one.read()])
    expect([new Set(all).size, world.reads.redis]).toEqual([1, 2])
    world.clock.advance(899)
    await one.read()
    expect(world.reads.redis).toBe(2)
    world.clock.advance(1)
    await one.read()
    expect(world.reads.redis).toBe(4)
  })

  test('believes no figures that were changed, or that are those of another instance, and reports them', async () => {
    const world = start()
    const one = await publishAll(world)
    const [two = '', three = ''] = ['p:two', 'p:three'].map((key) => world.redis.get(key))
    world.redis.set('p:two', three)
    world.redis.set('p:three', three.replace('"jobs":2', '"jobs":9'))
    expect((await one.read()).missing).toEqual(['two', 'three'])
    expect(world.forged).toEqual(['p:two', 'p:three'])
    expect(two).not.toBe(three)
  })

  test('believes none under a secret that it does not know, which is no forgery', async () => {
    const world = start()
    await world
      .exchangeOf('two', { secret: createSecrets('another secret of at least 32 characters, for tests') })
      .publish()
    expect((await world.exchangeOf('one').read()).missing).toEqual(['two', 'three'])
    expect(world.forged).toEqual([])
  })
})
