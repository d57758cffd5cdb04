import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { createAccess } from '../../src/access/access.ts'
import { createDecisionCounters } from '../../src/access/cache/decision-counters.ts'
import { syncAccessRules } from '../../src/access/cache/effective-access-store.ts'
import { createFactCache } from '../../src/access/cache/fact-cache.ts'
import { createFactStore, type FactStore } from '../../src/access/cache/fact-store.ts'
import {
  deeper,
  type LoadFacts,
  loadFromStore,
  loadThroughRedis,
  type TierFlags,
} from '../../src/access/cache/tiered-loader.ts'
import {
  createPendingInvalidations,
  type PendingInvalidations,
} from '../../src/access/invalidation/pending-invalidations.ts'
import { type FactQuery, factQuery } from '../../src/access/policy/facts/queries.ts'
import { type Fact, type FactKey, type FactKind, factKey, partId } from '../../src/access/policy/facts/registry.ts'
import { actions } from '../../src/access/policy/matrix.ts'
import { manualClock, systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { createTtlMap } from '../../src/kit/ttl-map.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'
import { idOf } from './random.ts'
import { startOuter, type TestOuter } from './redis.ts'
import { may } from './reference-model.ts'
import { clear, store as storeWorld } from './world.ts'
import { anyWorld, resources, users } from './worlds.ts'

const startDeadline = createDeadlines(systemClock)

const bob = idOf('user', 2)
const lab = idOf('project', 1)
const work = idOf('generation', 1)
const ofBob = factKey('account', bob)
const ofLab = factKey('project', lab)
const ofWork = factKey('generation', work)
const allToBob = factKey('grants', bob)
const toBob = factKey('grant', partId(bob, lab))
const world = new Map<FactKey, Fact[FactKind]>([
  [ofBob, { status: 'active', role: 'user', plan: 'free', limits: null }],
  [ofLab, { ownerId: idOf('user', 1), visibility: 'team-only', allowDerivatives: true }],
  [ofWork, { ownerId: idOf('user', 1), projectId: lab, status: 'queued' }],
  [allToBob, { granted: { [lab]: 3 } }],
])
const asked: readonly FactQuery[] = [
  { kind: 'account', id: bob, userId: null },
  { kind: 'generation', id: work, userId: bob },
]

let on: TestOuter
beforeAll(async () => {
  on = await startOuter()
})
afterAll(() => on?.close())

describe('a load through Redis', () => {
  let clock: ReturnType<typeof manualClock>
  let lease: { untilMs: number }
  let flags: { l2: boolean; l3: boolean }
  let pendingInvalidations: PendingInvalidations
  let looks: FactKey[][]
  let statements: string[][]
  let many: boolean
  let load: LoadFacts

  /** As the real store: with a generation comes its project, with a resource the grants of the user. */
  const store: FactStore = {
    load: async (wanted) => {
      statements.push(wanted.map(({ kind }) => kind).sort())
      const facts = new Map<FactKey, Fact[FactKind] | null>()
      const see = (key: FactKey) => facts.set(key, world.get(key) ?? null)
      for (const { kind, id, userId } of wanted) {
        if (kind !== 'grant') see(factKey(kind, id))
        if (kind === 'generation' && id === work) see(ofLab)
        if (userId === null) continue
        if (kind !== 'grant') facts.set(allToBob, many ? 'many' : { granted: { [lab]: 3 } })
        if (many && id !== idOf('generation', 9)) facts.set(toBob, 3)
      }
      return facts
    },
  }
  const redisCache = {
    invalidate: (keys: readonly FactKey[]) => on.redisCache.invalidate(keys),
    fill: (...entry: [FactKey, Fact[FactKind], string, number]) => on.redisCache.fill(...entry),
    lookup: (keys: readonly FactKey[]) => {
      looks.push([...keys].sort())
      return on.redisCache.lookup(keys)
    },
    counts: { hits: 0, misses: 0, invalidEntries: 0, outdatedEntries: 0, refusedFills: 0, fullServer: 0 },
    epoch: 'x',
  }
  const again = async (wanted = asked, options?: { bypassRedis: true }) => {
    looks = []
    statements = []
    return load(wanted, options)
  }
  /** Waits until the fills have arrived. */
  const fill = async () => {
    await again()
    while ((await again()).tier !== 'l2') await Bun.sleep(1)
  }

  beforeEach(async () => {
    await on.client.flushall()
    clock = manualClock()
    lease = { untilMs: 1_000 }
    flags = { l2: true, l3: true }
    pendingInvalidations = createPendingInvalidations(clock)
    many = false
    load = loadThroughRedis({
      redisCache,
      fromStore: loadFromStore(store, flags),
      flags,
      clock,
      lease,
      pendingInvalidations,
    })
  })

  test('takes at most two rounds of lookups and returns the facts that Postgres returns', async () => {
    const first = await again()
    expect([first.tier, looks, statements]).toEqual([
      'l3',
      [[ofBob, ofWork, allToBob].sort()],
      [['account', 'generation']],
    ])
    await fill()
    const second = await again()
    expect([second.tier, statements]).toEqual(['l2', []])
    expect(looks).toEqual([[ofBob, ofWork, allToBob].sort(), [ofLab]])
    expect(new Map(second.facts)).toEqual(new Map(first.facts))
    expect([...second.redisAgesMs.keys()].sort()).toEqual([...world.keys()].sort())
  })

  test('takes two rounds for a user with many grants, and looks the grant up together with the project', async () => {
    many = true
    await fill()
    const loaded = await again()
    expect([loaded.tier, statements]).toEqual(['l2', []])
    expect(looks).toEqual([[ofBob, ofWork, allToBob].sort(), [toBob, ofLab].sort()])
    expect([loaded.facts.get(allToBob), loaded.facts.get(toBob)]).toEqual(['many', 3])
  })

  test('of a resource without a user looks up no grants', async () => {
    const bare: FactQuery[] = [{ kind: 'generation', id: work, userId: null }]
    await fill()
    const loaded = await again(bare)
    expect([loaded.tier, looks]).toEqual(['l2', [[ofWork], [ofLab]]])
    await on.redisCache.invalidate([ofLab])
    expect((await again(bare)).tier).toBe('l3')
  })

  test('reads only the missing facts from Postgres, and those have no age', async () => {
    await fill()
    await on.redisCache.invalidate([ofBob])
    const loaded = await again()
    expect([loaded.tier, statements]).toEqual(['l3', [['account']]])
    expect(loaded.facts).toEqual(world)
    expect(loaded.redisAgesMs.has(ofBob)).toBeFalse()
    expect(loaded.redisAgesMs.has(ofWork)).toBeTrue()
    while ((await again()).tier !== 'l2') await Bun.sleep(1)
  })

  test('reads a generation from Postgres when Redis lacks its project', async () => {
    await fill()
    await on.redisCache.invalidate([ofLab])
    const loaded = await again()
    expect([statements, loaded.facts.get(ofLab)]).toEqual([[['generation']], world.get(ofLab) as Fact['project']])
    expect([...loaded.redisAgesMs.keys()]).toEqual([ofBob])
  })

  test('skips Redis for the grants of a user while their invalidation is pending', async () => {
    many = true
    await fill()
    pendingInvalidations.add({ id: '1', keys: [allToBob] })
    expect(
      [toBob, allToBob, factKey('grant', partId(idOf('user', 1), lab)), ofBob].map(pendingInvalidations.has),
    ).toEqual([true, true, false, false])
    const loaded = await again()
    expect([loaded.tier, looks.flat().filter((key) => key === toBob || key === allToBob)]).toEqual(['l3', []])
    pendingInvalidations.remove(['1'])
    expect(pendingInvalidations.has(toBob)).toBeFalse()
    // An invalidated part does not invalidate the other parts.
    pendingInvalidations.add({ id: '2', keys: [factKey('grant', partId(bob, work))] })
    expect([pendingInvalidations.has(toBob), pendingInvalidations.has(allToBob)]).toEqual([false, true])
  })

  test('neither reads nor writes keys in Redis while their invalidation is pending', async () => {
    await fill()
    pendingInvalidations.add({ id: '1', keys: [toBob] })
    const loaded = await again()
    expect([loaded.tier, looks.flat().includes(allToBob)]).toEqual(['l3', false])
    await on.redisCache.invalidate([allToBob])
    await again()
    expect(await on.client.exists(on.nameOf(allToBob))).toBe(0)
    pendingInvalidations.add({ id: '2', keys: 'everything' })
    expect((await again()).tier).toBe('l3')
    expect(looks).toEqual([])
    pendingInvalidations.remove(['1', '2', 'unknown'])
    while ((await again()).tier !== 'l2') await Bun.sleep(1)
  })

  test('goes to Postgres alone without a lease, with the tier off, and for a caller that bypasses Redis', async () => {
    await fill()
    expect([(await again(asked, { bypassRedis: true })).tier, looks]).toEqual(['l3', []])
    flags.l2 = false
    expect([(await again()).tier, looks]).toEqual(['l3', []])
    flags.l2 = true
    clock.advance(1_000)
    expect([(await again()).tier, looks]).toEqual(['l3', []])
    lease.untilMs = 2_000
    expect((await again()).tier).toBe('l2')
    flags.l3 = false
    await on.redisCache.invalidate([ofBob])
    expect((await again()).tier).toBe('database')
  })

  test('does not write absent facts to Redis', async () => {
    const nothing: FactQuery[] = [{ kind: 'generation', id: idOf('generation', 9), userId: bob }]
    await again(nothing)
    await again(nothing)
    expect(statements).toHaveLength(1)
    expect(await on.client.hexists(on.nameOf(factKey('generation', idOf('generation', 9))), 'value')).toBe(0)
    expect((await again(nothing)).facts.get(factKey('generation', idOf('generation', 9)))).toBeNull()
  })
})

test('the deeper of two tiers is the one that is read later', () => {
  expect([deeper('l1', 'l3'), deeper('l3', 'l2'), deeper('database', 'l3')]).toEqual(['l3', 'l3', 'database'])
})

describe('in any world', () => {
  let database: TestDatabase
  let sql: Sql
  beforeAll(async () => {
    database = await createDatabase()
    sql = connectOnce(database.connection)
    await syncAccessRules(sql)
  })
  afterAll(async () => {
    await sql?.end()
    await database?.drop()
  })

  test('the effective rows equal the access derived from the base tables', async () => {
    const wanted: FactQuery[] = users.flatMap((userId) => [
      { kind: 'account' as const, id: userId, userId: null },
      ...resources.map(({ type, id }): FactQuery => ({ kind: type, id, userId })),
    ])
    await fc.assert(
      fc.asyncProperty(anyWorld, async (drawn) => {
        await clear(sql)
        await storeWorld(sql, drawn)
        for (const maxGrants of [-1, 0, 1, 2, 200]) {
          const facts = createFactStore(sql, { maxGrants })
          expect(await facts.load(wanted, { effective: false })).toEqual(await facts.load(wanted))
        }
      }),
      { numRuns: 40 },
    )
  }, 60_000)

  test('with the tier of effective rows off, the base tables decide even if the rows are wrong', async () => {
    const [owner = '', other = ''] = users
    await clear(sql)
    await storeWorld(sql, {
      users: users.map((id) => ({ id, status: 'active', role: 'user' })),
      teams: [],
      members: [],
      projects: [{ id: lab, owner_id: owner, visibility: 'team-only', allow_derivatives: true }],
      grants: [],
      generations: [],
    })
    await sql`update project_access set user_id = ${other}, owned = false`
    const granted = async (l3: boolean) => {
      const load = loadFromStore(createFactStore(sql), { l3 })
      const { facts } = await load([{ kind: 'project', id: lab, userId: other }])
      const grants = facts.get(factKey('grants', other)) as Exclude<Fact['grants'], 'many'>
      return Object.keys(grants.granted)
    }
    expect(await granted(true)).toEqual([lab])
    expect(await granted(false)).toEqual([])
    await sql`delete from project_access`
  })

  const switchings: TierFlags[] = [0, 1, 2, 3, 4, 5, 6, 7].map((bits) => ({
    l1: (bits & 1) === 0,
    l2: (bits & 2) === 0,
    l3: (bits & 4) === 0,
  }))

  test('decisions are the same with every tier, without any one, and without all', async () => {
    const questions = users.flatMap((userId) =>
      resources.flatMap((resource) => actions.map((action) => ({ userId, action, resource }))),
    )
    const met = new Set<string>()
    const grants = { many: 0, few: 0 }
    await fc.assert(
      fc.asyncProperty(anyWorld, fc.constantFrom(0, 1, 200), async (drawn, maxGrants) => {
        await clear(sql)
        await storeWorld(sql, drawn)
        await on.client.flushall()
        const truth = questions.map(({ userId, action, resource }) => may(drawn, userId, action, resource))
        const lease = { untilMs: Number.POSITIVE_INFINITY }
        for (const flags of switchings) {
          const fromStore = loadFromStore(createFactStore(sql, { maxGrants }), flags)
          const pendingInvalidations = createPendingInvalidations(systemClock)
          const load = loadThroughRedis({
            redisCache: on.redisCache,
            fromStore,
            flags,
            clock: systemClock,
            lease,
            pendingInvalidations,
          })
          const memory = createTtlMap<Fact[FactKind]>({ clock: systemClock, ttlMs: 60_000 })
          const facts = createFactCache({ load, memory, clock: systemClock, lease, flags })
          const decisionCounters = createDecisionCounters()
          const access = createAccess({ facts, clock: systemClock, decisionCounters })
          for (let times = 0; times < 2; times += 1) {
            const verdicts = await access.decideMany(questions, startDeadline(30_000))
            expect([flags, verdicts.map(({ allowed }) => allowed)]).toEqual([flags, truth])
            const view = await facts.gather([factQuery('account', users[0] as string)], startDeadline(30_000))
            met.add(view.tier)
            for (const id of users) {
              const held = memory.peek(factKey('grants', id))
              if (held.kind !== 'hit') continue
              if (held.value === 'many') grants.many += 1
              else if (Object.keys((held.value as { granted: object }).granted).length > 0) grants.few += 1
            }
            if (!flags.l1) expect(view.tier).not.toBe('l1')
            if (!flags.l2) expect(view.tier).not.toBe('l2')
            if (!flags.l3) expect(view.tier).not.toBe('l3')
          }
        }
      }),
      { numRuns: 30 },
    )
    expect([...met].sort()).toEqual(['database', 'l1', 'l2', 'l3'])
    expect([grants.many > 10, grants.few > 10]).toEqual([true, true])
  }, 60_000)
})
