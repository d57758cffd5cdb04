import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { Redis as Client } from 'ioredis'
import { createRedisCache, type RedisCache, redisTtlMs } from '../../src/access/cache/redis-cache.ts'
import { restrictionsId } from '../../src/access/policy/facts/mode.ts'
import { type Fact, type FactKey, type FactKind, factKey, partId } from '../../src/access/policy/facts/registry.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createLog } from '../../src/platform/log.ts'
import { createSecrets } from '../../src/platform/secrets.ts'
import { startRedis } from '../harness.ts'
import { idOf } from './random.ts'
import { connectOuter, startOuter, type TestOuter, testMacs } from './redis.ts'

const ada = idOf('user', 1)
/** All kinds but those that are `memoryOnly`. */
type StoredKind = Exclude<FactKind, 'profile' | 'feature_flags' | 'blocked_networks'>
const examples: { readonly [K in StoredKind]: { readonly key: FactKey; readonly fact: Fact[K] } } = {
  session: {
    key: factKey('session', idOf('session', 1)),
    fact: { userId: ada, ended: false, expiresAtMs: 1.5e12, authenticatedAtMs: 0 },
  },
  account: { key: factKey('account', ada), fact: { status: 'active', role: 'admin', plan: 'pro', limits: null } },
  project: {
    key: factKey('project', idOf('project', 1)),
    fact: { ownerId: ada, visibility: 'public', allowDerivatives: false },
  },
  generation: {
    key: factKey('generation', idOf('generation', 1)),
    fact: { ownerId: ada, projectId: null, status: 'queued' },
  },
  media: {
    key: factKey('media', idOf('media', 1)),
    fact: { ownerId: ada, generationId: null, sha256: 'ab'.repeat(32), contentType: 'image/png' },
  },
  grant: { key: factKey('grant', partId(ada, idOf('project', 1))), fact: 3 },
  grants: { key: factKey('grants', ada), fact: { granted: { [idOf('project', 1)]: 3, [idOf('project', 2)]: 127 } } },
  memberships: { key: factKey('memberships', ada), fact: { teams: [idOf('team', 1)] } },
  service_key: {
    key: factKey('service_key', idOf('service_key', 1)),
    fact: {
      secretHash: 'aGFzaA',
      scopes: ['authorization:check'],
      live: true,
      blocked: false,
      expiresAtMs: null,
      limitPerSecond: null,
      allowedNetworks: null,
    },
  },
  mode: { key: factKey('mode', restrictionsId), fact: { mode: 'read-only' } },
}
const { key, fact } = examples.project

const clock = manualClock()
let on: TestOuter
let redisCache: RedisCache

beforeAll(async () => {
  on = await startOuter({ clock })
  redisCache = on.redisCache
})
beforeEach(async () => {
  on.forgeries.length = 0
  await on.client.flushall()
})
afterAll(() => on?.close())

/** Looks a key up and returns the nonce of the miss. */
const miss = async (of: FactKey, from = redisCache): Promise<string> => {
  const [looked] = await from.lookup([of])
  if (looked === undefined || !('nonce' in looked)) throw new Error(`Not a miss: ${JSON.stringify(looked)}`)
  return looked.nonce
}
const factIn = async (of: FactKey, from = redisCache) => {
  const [looked] = await from.lookup([of])
  return looked !== undefined && 'fact' in looked ? looked.fact : undefined
}
const fill = async (of: FactKey, value: Fact[FactKind], from = redisCache) => {
  const [looked] = await from.lookup([of])
  if (looked === undefined || !('nonce' in looked)) throw new Error(`Not a miss: ${JSON.stringify(looked)}`)
  from.fill(of, value, looked.nonce, looked.missedAtMs)
}

describe('a lookup', () => {
  test('misses under one nonce for all callers, and hits after the fill', async () => {
    const nonce = await miss(key)
    expect(nonce.length).toBeGreaterThan(12)
    expect(await miss(key)).toBe(nonce)
    redisCache.fill(key, fact, nonce, clock.now())
    clock.advance(700)
    expect(await redisCache.lookup([key])).toEqual([{ key, fact, ageMs: 700 }])
  })

  test('answers each of several keys separately, in one round trip', async () => {
    await fill(key, fact)
    await fill(examples.grant.key, 0)
    const looked = await redisCache.lookup([examples.account.key, key, examples.grant.key])
    expect(looked.map((one) => [one.key, 'fact' in one])).toEqual([
      [examples.account.key, false],
      [key, true],
      [examples.grant.key, true],
    ])
    expect(await redisCache.lookup([])).toEqual([])
  })

  test('returns a fact of every stored kind unchanged', async () => {
    for (const example of Object.values(examples)) await fill(example.key, example.fact)
    for (const example of Object.values(examples)) expect(await factIn(example.key)).toEqual(example.fact)
  })

  test('reports age 0 for an entry written by an instance whose clock is ahead', async () => {
    const entry = JSON.stringify({ at: clock.now() + 1_000, fact })
    await on.client.hset(on.nameOf(key), 'value', on.authentic(key, entry))
    expect(await redisCache.lookup([key])).toEqual([{ key, fact, ageMs: 0 }])
  })
})

describe('a fill', () => {
  test('is accepted under the nonce of the miss and under no other', async () => {
    const before = redisCache.counts.refusedFills
    await miss(key)
    redisCache.fill(key, fact, 'another', clock.now())
    redisCache.fill(examples.account.key, examples.account.fact, 'none was taken', clock.now())
    expect(await factIn(key)).toBeUndefined()
    expect(await factIn(examples.account.key)).toBeUndefined()
    expect(redisCache.counts.refusedFills).toBe(before + 2)
  })

  test('is refused after an invalidation since the miss', async () => {
    const taken = await miss(key)
    expect(await redisCache.invalidate([key])).toBeTrue()
    redisCache.fill(key, fact, taken, clock.now())
    expect(await factIn(key)).toBeUndefined()
  })

  test('is refused under a nonce from before an invalidation, and accepted under a later one', async () => {
    const taken = await miss(key)
    await redisCache.invalidate([key])
    const later = await miss(key)
    expect(later).not.toBe(taken)
    redisCache.fill(key, fact, taken, clock.now())
    expect(await factIn(key)).toBeUndefined()
    redisCache.fill(key, { ...fact, visibility: 'private' }, later, clock.now())
    redisCache.fill(key, fact, taken, clock.now())
    expect(await factIn(key)).toEqual({ ...fact, visibility: 'private' })
  })

  for (const [how, lose] of [
    ['the key was evicted', () => on.client.del(on.nameOf(key))],
    ['the server was flushed', () => on.client.flushall()],
    ['the nonce expired', () => on.client.pexpire(on.nameOf(key), 0)],
  ] as const) {
    test(`is refused when ${how} since the miss`, async () => {
      const taken = await miss(key)
      await lose()
      redisCache.fill(key, fact, taken, clock.now())
      expect(await factIn(key)).toBeUndefined()
    })
  }

  test('expires: a nonce after 10 s, a value after its time to live less at most a tenth', async () => {
    const nonce = await miss(key)
    const nonceLives = await on.client.pttl(on.nameOf(key))
    expect(nonceLives).toBeGreaterThan(1_000)
    expect(nonceLives).toBeLessThanOrEqual(10_000)
    redisCache.fill(key, fact, nonce, clock.now())
    await miss(examples.account.key)
    const lives = await on.client.pttl(on.nameOf(key))
    expect(lives).toBeGreaterThan(0.9 * redisTtlMs - 10_000)
    expect(lives).toBeLessThanOrEqual(redisTtlMs)
  })

  test('is stored under the prefix of the instance, and not at all where it has none', async () => {
    await fill(key, fact)
    expect(await on.client.keys('*')).toEqual([on.nameOf(key)])
    const registry = { placeFor: () => undefined, epoch: undefined }
    const onForged = () => {}
    const log = createLog('silent')
    const none = createRedisCache({ redis: on.redis, registry, macs: testMacs, onForged, clock, log })
    expect(await none.lookup([key])).toEqual([])
    none.fill(key, fact, 'any', clock.now())
    expect(await none.invalidate([key])).toBeTrue()
    expect(await factIn(key)).toEqual(fact)
  })

  test('is undone for more than 1,000 keys by one call of invalidate', async () => {
    const many = Array.from({ length: 2_500 }, (_, at) => factKey('account', idOf('user', at)))
    const looked = await redisCache.lookup(many)
    for (const one of looked)
      if ('nonce' in one) redisCache.fill(one.key, examples.account.fact, one.nonce, clock.now())
    expect((await redisCache.lookup(many)).filter((one) => 'fact' in one)).toHaveLength(2_500)
    expect(await redisCache.invalidate(many)).toBeTrue()
    expect(await on.client.dbsize()).toBe(0)
  })
})

describe('a fact with personal data', () => {
  const personal = {
    key: factKey('profile', ada),
    fact: {
      id: ada,
      email: 'ada@example.com',
      display_name: 'Ada',
      role: 'user',
      plan: 'free',
      status: 'active',
      email_verified: true,
      second_factor: false,
      created_at: '2026-01-01T00:00:00.000Z',
      updated_at: '2026-01-01T00:00:00.000Z',
    } as const,
  }

  test('is never stored, not even under a nonce that its key has', async () => {
    expect(await redisCache.lookup([personal.key])).toEqual([])
    expect(await on.client.dbsize()).toBe(0)
    await on.client.hset(on.nameOf(personal.key), 'nonce', 'known')
    redisCache.fill(personal.key, personal.fact, 'known', clock.now())
    // One connection: this lookup runs after the fill.
    await redisCache.lookup([examples.account.key])
    expect(await on.client.hget(on.nameOf(personal.key), 'value')).toBeNull()
  })

  test('is not served where its key has an entry, and other keys of the lookup are answered', async () => {
    const entry = JSON.stringify({ at: clock.now(), fact: personal.fact })
    await on.client.hset(on.nameOf(personal.key), 'value', on.authentic(personal.key, entry))
    await fill(key, fact)
    const looked = await redisCache.lookup([personal.key, key])
    expect(looked.map((one) => [one.key, 'fact' in one])).toEqual([[key, true]])
  })
})

describe('an entry that does not match its schema', () => {
  const entry = (of: unknown) => JSON.stringify({ at: clock.now(), fact: of })
  const kinds = Object.keys(examples) as StoredKind[]
  /** Invalid values, by field. */
  const wrongFields: Readonly<Record<string, readonly unknown[]>> = {
    userId: [null, 1, 'short', `${ada}1`],
    ownerId: [null, 1, 'short', 'a'.repeat(1_000_000)],
    projectId: [undefined, 1, 'short'],
    ended: [null, 0, 'true', []],
    live: [null, 1, 'true'],
    allowDerivatives: [null, 1, 'true'],
    expiresAtMs: [undefined, '1', [], {}],
    secretHash: [null, 1, []],
    scopes: [null, 'authorization:check', ['authorization:check', 'root'], [1]],
    status: [null, 'Active', '', 1],
    role: [null, 'root', 'user '],
    plan: [null, 'gold', 0],
    visibility: [null, 'PUBLIC', true],
  }
  const project = idOf('project', 1)
  const tooMany = Array.from({ length: 201 }, (_, at) => [idOf('project', at), 3])
  const wrongGrants = [
    ...[0, -1, 128, 1.5, '3', null, {}].map((wrong) => ({ [idOf('project', 2)]: 127, [project]: wrong })),
    ...[
      '',
      'x',
      project.slice(1),
      `${project}0`,
      project.toUpperCase().replace('0', 'A'),
      ` ${project}`,
      '__proto__',
    ].map((id) => Object.fromEntries([[id, 3]])),
    Object.fromEntries(tooMany),
    null,
    [1],
    'many',
  ]
  const brokenOf = (kind: StoredKind): unknown[] => {
    if (kind === 'grant') return [{}, -1, 128, 1.5, 1e300, '3', true]
    if (kind === 'grants') {
      const good = { granted: {} }
      return [
        'Many',
        {},
        { ...good, more: 1 },
        { ...good, except: [project] },
        ...wrongGrants.map((granted) => ({ granted })),
      ]
    }
    const good: object = examples[kind].fact
    const broken = Object.keys(good).flatMap((field) =>
      [undefined, ...(wrongFields[field] ?? [])].map((wrong) => ({ ...good, [field]: wrong })),
    )
    return [{}, ...broken, { ...good, more: 1 }]
  }
  const wrongFacts = (kind: StoredKind): unknown[] => {
    const foreign = kinds.filter((other) => other !== kind).map((other) => examples[other].fact)
    return [null, [], 'x', ...foreign, ...brokenOf(kind)]
  }
  const junk: [StoredKind, string][] = kinds.flatMap((kind) =>
    wrongFacts(kind).map((of): [StoredKind, string] => [kind, entry(of)]),
  )
  for (const text of [
    '',
    'x',
    'null',
    '{}',
    '[]',
    '1',
    JSON.stringify({ fact }),
    JSON.stringify({ at: 'now', fact }),
    JSON.stringify({ at: clock.now(), fact, more: 1 }),
    `{"at":1,"fact":${'['.repeat(100_000)}`,
    `{"at":1,"fact":${JSON.stringify(fact)},"__proto__":{"x":1}}`,
    JSON.stringify({ at: clock.now(), fact }).repeat(2),
  ]) {
    junk.push(['project', text])
  }

  test(`is a miss and is deleted: ${junk.length} values`, async () => {
    for (const [kind, text] of junk) {
      const { key: place } = examples[kind]
      const before = redisCache.counts.invalidEntries
      await on.client.hset(on.nameOf(place), 'value', on.authentic(place, text), 'nonce', 'known')
      expect([text.slice(0, 200), await redisCache.lookup([place])]).toEqual([text.slice(0, 200), []])
      expect(redisCache.counts.invalidEntries).toBe(before + 1)
      // One connection: this command runs after the deletion.
      expect(await miss(place)).not.toBe('known')
    }
    expect(junk.length).toBeGreaterThan(80)
  })

  test('is deleted and reported when its key holds another type, and other keys of the batch are answered', async () => {
    await fill(examples.account.key, examples.account.fact)
    await on.client.set(on.nameOf(key), 'written by hand')
    const looked = await redisCache.lookup([key, examples.account.key])
    expect(looked).toContainEqual({ key: examples.account.key, fact: examples.account.fact, ageMs: 0 })
    expect(on.forgeries).toEqual([{ what: 'fact', key }])
    await fill(key, fact)
    expect(await factIn(key)).toEqual(fact)
  })

  test('is a miss when the hash has neither value nor nonce', async () => {
    await on.client.hset(on.nameOf(key), 'other', 'x')
    await miss(key)
  })
})

describe('a forged entry', () => {
  const operator = examples.account
  const victim = { key: factKey('account', idOf('user', 2)), fact: { ...operator.fact, role: 'user' as const } }
  const storedAt = async (of: FactKey) => (await on.client.hget(on.nameOf(of), 'value')) ?? ''
  const textOf = (value: unknown, at = clock.now()) => JSON.stringify({ at, fact: value })
  /** Under other secrets, for other purposes, and for other names. */
  const others = createSecrets('the secret of someone else, as long as ours')
  const [foreign] = others.macs('redis-fact')
  const [own] = testMacs
  const cases: Readonly<Record<string, () => string | Promise<string>>> = {
    'without a tag': () => textOf(operator.fact),
    'with spaces for a tag': () => ' '.repeat(22) + textOf(operator.fact),
    'with the tag of its own earlier value': async () =>
      (await storedAt(victim.key)).slice(0, 22) + textOf(operator.fact),
    'with the whole value of an operator': () => storedAt(operator.key),
    'with a tag under another secret': () =>
      foreign.tag(`${on.nameOf(victim.key)} ${textOf(operator.fact)}`) + textOf(operator.fact),
    'with a tag for another prefix': () =>
      own.tag(`velro:3:other:${victim.key} ${textOf(operator.fact)}`) + textOf(operator.fact),
    'with a tag of another purpose': () => {
      const [mac] = createSecrets('one secret for every instance of it').macs('redis-newest-event')
      return mac.tag(`${on.nameOf(victim.key)} ${textOf(operator.fact)}`) + textOf(operator.fact)
    },
    'with a later time': async () => {
      const stored = await storedAt(victim.key)
      return stored.replace(String(clock.now()), String(clock.now() + 1))
    },
    'with one bit of its tag changed': async () => {
      const stored = await storedAt(victim.key)
      return (stored[0] === 'A' ? 'B' : 'A') + stored.slice(1)
    },
    'with a space at its end': async () => `${await storedAt(victim.key)} `,
    'cut off': async () => (await storedAt(victim.key)).slice(0, -1),
    empty: () => '',
  }
  for (const [how, forge] of Object.entries(cases)) {
    test(`${how} is a miss, is reported and is deleted`, async () => {
      await fill(operator.key, operator.fact)
      await fill(victim.key, victim.fact)
      expect(await factIn(victim.key)).toEqual(victim.fact)
      await on.client.hset(on.nameOf(victim.key), 'value', await forge())
      expect(await redisCache.lookup([victim.key, operator.key])).toEqual([
        { key: operator.key, fact: operator.fact, ageMs: 0 },
      ])
      expect(on.forgeries).toEqual([{ what: 'fact', key: victim.key }])
      // One connection: this command runs after the deletion.
      await miss(victim.key)
    })
  }

  for (const kind of Object.keys(examples) as StoredKind[]) {
    test(`of the kind ${kind} is never believed, with any byte of its value changed`, async () => {
      const { key: place, fact: of } = examples[kind]
      await fill(place, of as Fact[FactKind])
      const stored = await storedAt(place)
      for (let at = 0; at < stored.length; at += 1) {
        const changed = stored.slice(0, at) + (stored[at] === '1' ? '2' : '1') + stored.slice(at + 1)
        await on.client.hset(on.nameOf(place), 'value', changed)
        expect([at, await factIn(place)]).toEqual([at, undefined])
      }
      expect(on.forgeries).toHaveLength(stored.length)
    })
  }

  test('that puts an earlier value back is believed only within the time to live after it was missed', async () => {
    const nonce = await miss(key)
    const missedAtMs = clock.now()
    // The load took a minute: the age counts from before it.
    clock.advance(60_000)
    redisCache.fill(key, fact, nonce, missedAtMs)
    const stored = await storedAt(key)
    const putBack = async () => {
      await redisCache.invalidate([key])
      await on.client.hset(on.nameOf(key), 'value', stored, 'nonce', nonce)
      return redisCache.lookup([key])
    }
    clock.advance(redisTtlMs - 60_000)
    expect(await putBack()).toEqual([{ key, fact, ageMs: redisTtlMs }])
    clock.advance(1)
    const before = redisCache.counts.outdatedEntries
    expect(await putBack()).toEqual([])
    expect(redisCache.counts.outdatedEntries).toBe(before + 1)
    expect(on.forgeries).toEqual([])
    await miss(key)
  })

  test('from the future is no hit: an authentic entry of a clock that is ahead by more than 2 s', async () => {
    for (const [aheadMs, hits] of [
      [2_000, 1],
      [2_001, 0],
    ] as const) {
      await on.client.hset(on.nameOf(key), 'value', on.authentic(key, textOf(fact, clock.now() + aheadMs)))
      expect(await redisCache.lookup([key])).toHaveLength(hits)
    }
    expect(on.forgeries).toEqual([])
  })
})

test('in any order of lookups, fills, changes and losses, a hit equals the value in Postgres', async () => {
  const keys = [0, 1].map((at) => factKey('session', idOf('session', at)))
  const filler = fc.nat(1)
  const which = fc.constantFrom(...keys)
  const step = fc.oneof(
    { weight: 9, arbitrary: fc.record({ does: fc.constant('look' as const), filler, which }) },
    { weight: 5, arbitrary: fc.record({ does: fc.constant('read' as const), filler, which }) },
    { weight: 5, arbitrary: fc.record({ does: fc.constant('keep' as const), filler, which }) },
    { weight: 2, arbitrary: fc.record({ does: fc.constant('change' as const), filler, which }) },
    { weight: 1, arbitrary: fc.record({ does: fc.constant('evict' as const), filler, which }) },
    { weight: 1, arbitrary: fc.record({ does: fc.constant('flush' as const), filler, which }) },
  )
  let hits = 0
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 40, maxLength: 80, size: 'max' }), async (steps) => {
      await on.client.flushall()
      const truth = new Map(keys.map((each) => [each, 0]))
      const held = new Map<string, { nonce: string; version?: number }>()
      for (const { does, filler: who, which: of } of steps) {
        const place = `${who} ${of}`
        const mine = held.get(place)
        if (does === 'look') {
          const [looked] = await redisCache.lookup([of])
          if (looked !== undefined && 'fact' in looked) {
            hits += 1
            expect((looked.fact as Fact['session']).expiresAtMs).toBe(truth.get(of) as number)
          } else if (looked !== undefined) held.set(place, { nonce: looked.nonce })
        } else if (does === 'read' && mine !== undefined) mine.version = truth.get(of) as number
        else if (does === 'keep' && mine?.version !== undefined) {
          redisCache.fill(
            of,
            { userId: ada, ended: false, expiresAtMs: mine.version, authenticatedAtMs: 0 },
            mine.nonce,
            clock.now(),
          )
        } else if (does === 'change') {
          truth.set(of, (truth.get(of) as number) + 1)
          await redisCache.invalidate([of])
        } else if (does === 'evict') await on.client.unlink(on.nameOf(of))
        else if (does === 'flush') await on.client.flushall()
      }
    }),
    { numRuns: 300 },
  )
  expect(hits).toBeGreaterThan(50)
})

test('with ten times more keys than memory for them, there are misses but no wrong values', async () => {
  const crowded = await startOuter({ flags: ['--maxmemory', '6mb', '--maxmemory-policy', 'allkeys-lru'] })
  const count = 100_000
  const keyAt = (at: number) => factKey('session', idOf('session', at))
  const factAt = (at: number): Fact['session'] => ({ userId: ada, ended: false, expiresAtMs: at, authenticatedAtMs: 0 })
  const starts = Array.from({ length: count / 1_000 }, (_, batch) => 1_000 * batch)
  const inBatches = async (order: readonly number[], work: (from: number, keys: FactKey[]) => Promise<void>) => {
    for (const from of order) {
      await work(
        from,
        Array.from({ length: 1_000 }, (_, at) => keyAt(from + at)),
      )
    }
  }
  try {
    await inBatches(starts, async (from, keys) => {
      for (const [at, looked] of (await crowded.redisCache.lookup(keys)).entries()) {
        if ('nonce' in looked) crowded.redisCache.fill(looked.key, factAt(from + at), looked.nonce, Date.now())
      }
    })
    let hits = 0
    let answers = 0
    // In reverse order, because each lookup evicts entries to store its nonce.
    await inBatches(starts.toReversed(), async (from, keys) => {
      for (const [at, looked] of (await crowded.redisCache.lookup(keys)).entries()) {
        answers += 1
        expect(looked.key).toBe(keys[at] as FactKey)
        if (!('fact' in looked)) continue
        hits += 1
        expect(looked.fact).toEqual(factAt(from + at))
      }
    })
    expect(answers).toBe(count)
    expect(hits).toBeGreaterThan(0)
    expect(hits).toBeLessThan(count / 2)
    expect(/evicted_keys:(\d+)/.exec(await crowded.client.info('stats'))?.[1]).not.toBe('0')
  } finally {
    await crowded.close()
  }
}, 60_000)

test('a cluster of one node works as a single server does', async () => {
  const folder = ['--dir', '/tmp', '--cluster-config-file', `velro-test-${process.pid}.conf`]
  const server = await startRedis({ flags: ['--cluster-enabled', 'yes', ...folder] })
  const client = new Client(server.url)
  await client.cluster('ADDSLOTSRANGE' as 'ADDSLOTS', 0, 16_383)
  while (!String(await client.cluster('INFO')).includes('cluster_state:ok')) await Bun.sleep(20)
  const one = await connectOuter(server.url)
  try {
    const many = Array.from({ length: 50 }, (_, at) => factKey('account', idOf('user', at)))
    for (const each of many) await fill(each, examples.account.fact, one.redisCache)
    expect((await one.redisCache.lookup(many)).filter((looked) => 'fact' in looked)).toHaveLength(50)
    expect(await one.redisCache.invalidate(many)).toBeTrue()
    expect((await one.redisCache.lookup(many)).filter((looked) => 'fact' in looked)).toHaveLength(0)
  } finally {
    await one.close()
    client.disconnect()
    await server.stop()
    await Bun.file(`/tmp/velro-test-${process.pid}.conf`).unlink()
  }
})

test('the invalidation of one grant deletes all grants of the user, and refuses fills that began before', async () => {
  await fill(examples.grants.key, examples.grants.fact)
  expect(await redisCache.invalidate([factKey('grant', partId(ada, idOf('project', 7)))])).toBeTrue()
  const nonce = await miss(examples.grants.key)
  await redisCache.invalidate([examples.grant.key])
  redisCache.fill(examples.grants.key, examples.grants.fact, nonce, clock.now())
  expect(await factIn(examples.grants.key)).toBeUndefined()
})

test('the grants of a user are returned as written: none, the maximum, or `many`', async () => {
  const most = Object.fromEntries(Array.from({ length: 200 }, (_, at) => [idOf('project', at), 1 + (at % 127)]))
  for (const granted of [{ granted: {} }, { granted: most }, 'many'] as const) {
    await redisCache.invalidate([examples.grants.key])
    await fill(examples.grants.key, granted)
    expect(await factIn(examples.grants.key)).toEqual(granted)
  }
})

test('a full server that evicts nothing serves what it holds, refuses the rest, and can delete', async () => {
  const full = await startOuter({ flags: ['--maxmemory-policy', 'noeviction'] })
  try {
    await fill(key, fact, full.redisCache)
    expect(await factIn(key, full.redisCache)).toEqual(fact)
    // Less than an empty server takes.
    await full.client.config('SET', 'maxmemory', '100kb')
    expect(await factIn(key, full.redisCache)).toEqual(fact)
    expect(await full.redisCache.lookup([examples.account.key])).toEqual([])
    expect(full.redisCache.counts).toMatchObject({ fullServer: 1, invalidEntries: 0 })
    expect([full.redis.state(), full.redis.counts.errors]).toEqual(['up', 0])
    expect(await full.redisCache.invalidate([key])).toBeTrue()
    expect(await factIn(key, full.redisCache)).toBeUndefined()
  } finally {
    await full.close()
  }
})

test('an invalidation also deletes the entries of instances of version 1', async () => {
  const old = `velro:1:${on.redis.serverRunId?.slice(0, 12)}:${key}`
  await on.client.hset(old, 'nonce', 'n')
  await redisCache.invalidate([key])
  expect(await on.client.exists(old)).toBe(0)
})

describe('an unreachable server', () => {
  test('misses at once without a nonce, and invalidate reports that nothing was deleted', async () => {
    const other = await startOuter()
    await fill(key, fact, other.redisCache)
    await other.server.stop()
    while (other.redis.serverRunId !== undefined) await Bun.sleep(2)
    expect(await other.redisCache.lookup([key])).toEqual([])
    other.redisCache.fill(key, fact, 'any', clock.now())
    expect(await other.redisCache.invalidate([key])).toBeFalse()
    await other.close()
  })
})

test('no command scans the keys of the server', async () => {
  await on.client.config('RESETSTAT')
  await fill(key, fact)
  await factIn(key)
  await redisCache.invalidate([key])
  const commands = [...(await on.client.info('commandstats')).matchAll(/^cmdstat_([^:]+)/gm)].map(([, name]) => name)
  expect(commands).toContain('evalsha')
  expect(commands.filter((name) => /keys|scan|flush|randomkey|dbsize/i.test(name ?? ''))).toEqual([])
})
