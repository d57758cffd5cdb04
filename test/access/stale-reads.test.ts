import { heapStats } from 'bun:jsc'
import { beforeEach, describe, expect, test } from 'bun:test'
import { createFactCache, type FactCache } from '../../src/access/cache/fact-cache.ts'
import { withStaleReads } from '../../src/access/cache/stale-reads.ts'
import type { Loaded, LoadFacts } from '../../src/access/cache/tiered-loader.ts'
import { factQuery } from '../../src/access/policy/facts/queries.ts'
import { type Fact, type FactKey, type FactKind, factKey } from '../../src/access/policy/facts/registry.ts'
import { manualClock, systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { createTtlMap } from '../../src/kit/ttl-map.ts'
import { databaseFault } from '../../src/platform/postgres.ts'
import { createFixedWatch } from './fixed-watch.ts'
import { idOf } from './random.ts'

const startDeadline = createDeadlines(systemClock)

const ada = idOf('user', 1)
const bob = idOf('user', 2)
const flags = { l1: true }
const account: Fact['account'] = { status: 'active', role: 'user', plan: 'free', limits: null }
const failure = (code: string, more = {}) => Object.assign(new Error(code), { code, ...more })
const codeOf = (error: unknown) => databaseFault(error)?.code ?? (error as { code?: string }).code

const found = (wanted: Parameters<LoadFacts>[0]): Loaded => ({
  facts: new Map(wanted.map(({ kind, id }) => [factKey(kind, id), account])) as Map<FactKey, Fact[FactKind]>,
  tier: 'l3',
  redisAgesMs: new Map(),
})

test('an answered gather leaves nothing in memory', async () => {
  const memory = createTtlMap<Fact[FactKind]>({ clock: systemClock, ttlMs: 60_000, maxEntries: 100 })
  const lease = { untilMs: Number.POSITIVE_INFINITY }
  const load: LoadFacts = async (wanted) => found(wanted)
  const { facts } = withStaleReads({
    facts: createFactCache({ load, memory, clock: systemClock, lease, flags }),
    watch: createFixedWatch(async () => true).watch,
    isShared: () => true,
    clock: systemClock,
    lease,
    limitMs: 0,
  })
  const ask = async (from: number, count: number) => {
    for (let index = from; index < from + count; index += 1) {
      await facts.gather([factQuery('account', idOf('user', index))], startDeadline(60_000))
    }
  }
  const objects = () => {
    Bun.gc(true)
    return heapStats().objectCount
  }
  await ask(0, 1_000)
  const before = objects()
  await ask(1_000, 20_000)
  expect(objects() - before).toBeLessThan(5_000)
})

describe('without a lease', () => {
  type Statement = PromiseWithResolvers<Loaded> & { wanted: Parameters<LoadFacts>[0] }
  let clock: ReturnType<typeof manualClock>
  let statements: Statement[]
  let probes: PromiseWithResolvers<boolean>[]
  let staleReads: ReturnType<typeof withStaleReads>
  let lease: { untilMs: number }
  let isShared: boolean
  let fixed: ReturnType<typeof createFixedWatch>
  /** Makes `staleReads` anew, which wait so long for the other instances to agree. */
  let useAgreementMs: (agreementMs: number) => void

  const flushPromises = () => new Promise<void>((resolve) => setImmediate(resolve))
  const ask = (id: string) => {
    const deadline = createDeadlines(clock)(1e9)
    const answer = staleReads.facts.gather([factQuery('account', id)], deadline).then(
      (facts) => ({
        account: facts.find('account', id),
        stale: facts.stale,
        recorded: staleReads.isUsedBy(deadline),
      }),
      codeOf,
    )
    return answer
  }
  const answer = (at: number) => statements[at]?.resolve(found(statements[at]?.wanted ?? []))
  const lose = async (at: number, code = 'CONNECTION_CLOSED') => {
    statements[at]?.reject(failure(code))
    await flushPromises()
  }
  const asRead = { account, stale: false, recorded: false }
  const asStale = { account, stale: true, recorded: true }

  /** Ada is in memory, Bob is not. */
  beforeEach(async () => {
    clock = manualClock()
    lease = { untilMs: 1_000 }
    isShared = true
    statements = []
    probes = []
    const load: LoadFacts = (wanted) => {
      const statement = { ...Promise.withResolvers<Loaded>(), wanted }
      statements.push(statement)
      return statement.promise
    }
    const facts: FactCache = createFactCache({
      load,
      memory: createTtlMap({ clock, ttlMs: 60_000 }),
      clock,
      lease,
      flags,
    })
    const isReachable = () => {
      const probe = Promise.withResolvers<boolean>()
      probes.push(probe)
      return probe.promise
    }
    fixed = createFixedWatch(isReachable)
    useAgreementMs = (agreementMs) => {
      const rest = { facts, clock, lease, watch: fixed.watch, isShared: () => isShared }
      staleReads = withStaleReads({ ...rest, limitMs: 60_000, agreementMs })
    }
    useAgreementMs(0)
    const known = ask(ada)
    answer(0)
    expect(await known).toEqual(asRead)
    clock.advance(1_000)
  })

  describe('while the other instances have not agreed yet', () => {
    beforeEach(() => {
      isShared = false
      useAgreementMs(1_000)
    })
    const fail = async () => {
      await lose(1, 'CONNECT_TIMEOUT')
      return new Promise((resolve) => setTimeout(resolve, 30))
    }

    test('a gather whose facts are in memory waits for the agreement, and is then answered by stale facts', async () => {
      const adas = ask(ada)
      await fail()
      isShared = true
      expect(await adas).toEqual(asStale)
    })

    test('a gather whose facts are not in memory fails at once', async () => {
      expect(await Promise.race([ask(bob), fail().then(() => 'waits')])).toBe('database.unavailable')
    })

    test('a gather fails when the time for an agreement is over, and later ones fail at once', async () => {
      const adas = ask(ada)
      await fail()
      clock.advance(1_000)
      expect(await adas).toBe('database.unavailable')
      const next = ask(ada)
      await lose(2, 'CONNECT_TIMEOUT')
      const waits = new Promise((resolve) => setTimeout(resolve, 20, 'waits'))
      expect(await Promise.race([next, waits])).toBe('database.unavailable')
    })

    test('a gather is answered by Postgres where that answers before the others agree', async () => {
      const adas = ask(ada)
      await fail()
      lease.untilMs = clock.monotonic() + 1_000
      expect(await adas).toEqual(asRead)
    })
  })

  for (const code of ['CONNECTION_CLOSED', 'CONNECTION_ENDED', '57P01', 'ECONNRESET', '40P01', '53200']) {
    test(`a gather that fails with ${code} is retried once if Postgres is reachable, and other gathers continue`, async () => {
      const [adas, bobs] = [ask(ada), ask(bob)]
      await lose(1, code)
      probes[0]?.resolve(true)
      await flushPromises()
      expect(statements.length).toBe(4)
      answer(3)
      expect(await adas).toEqual(asRead)
      answer(2)
      expect(await bobs).toEqual(asRead)
      const next = ask(ada)
      expect(statements.length).toBe(5)
      answer(4)
      expect(await next).toEqual(asRead)
    })
  }

  test('a gather that loses its connection twice fails alone if Postgres is reachable, and gets no stale facts', async () => {
    const [adas, bobs] = [ask(ada), ask(bob)]
    await lose(1)
    probes[0]?.resolve(true)
    await flushPromises()
    await lose(3)
    expect(await adas).toBe('database.unavailable')
    expect([statements.length, probes.length]).toEqual([4, 1])
    answer(2)
    expect(await bobs).toEqual(asRead)
  })

  test('a lost connection to an unreachable Postgres ends every gather, and for 500 ms none is sent', async () => {
    const [adas, bobs] = [ask(ada), ask(bob)]
    const others = [ask(ada), ask(ada)]
    await lose(1)
    await lose(3)
    expect(probes.length).toBe(1)
    probes[0]?.resolve(false)
    expect(await adas).toEqual(asStale)
    expect(await bobs).toBe('database.unavailable')
    expect(await Promise.all(others)).toEqual([asStale, asStale])
    expect(await ask(ada)).toEqual(asStale)
    expect(statements.length).toBe(5)
    clock.advance(500)
    const next = ask(ada)
    answer(5)
    expect(await next).toEqual(asRead)
  })

  for (const error of [
    failure('ECONNREFUSED', { syscall: 'connect' }),
    failure('ENOENT', { syscall: 'connect' }),
    failure('CONNECT_TIMEOUT'),
    failure('57P03'),
  ]) {
    test(`${error.code} counts as unreachable at once, also for a gather that waits for the probe`, async () => {
      const [adas, bobs] = [ask(ada), ask(bob)]
      await lose(1)
      expect(probes.length).toBe(1)
      statements[2]?.reject(error)
      expect(await bobs).toBe('database.unavailable')
      expect(await adas).toEqual(asStale)
    })
  }

  test('a breaker that opens ends every gather, none is sent while it is open, and the next one is when it closes', async () => {
    const [adas, bobs] = [ask(ada), ask(bob)]
    fixed.setOpen(true)
    expect([await adas, await bobs]).toEqual([asStale, 'database.unavailable'])
    clock.advance(10_000)
    expect([await ask(ada), await ask(bob)]).toEqual([asStale, 'database.unavailable'])
    expect(statements.length).toBe(3)
    expect(staleReads.areAllowed()).toBeTrue()
    fixed.setOpen(false)
    const next = ask(ada)
    expect(statements.length).toBe(4)
    answer(3)
    expect(await next).toEqual(asRead)
  })

  test('while another instance may reach Postgres no facts are read stale', async () => {
    isShared = false
    const adas = ask(ada)
    statements[1]?.reject(failure('ECONNREFUSED', { syscall: 'connect' }))
    expect(await adas).toBe('database.unavailable')
    expect(await ask(ada)).toBe('database.unavailable')
    isShared = true
    expect(await ask(ada)).toEqual(asStale)
  })

  test('with a lease no facts are read stale, and waiting gathers fail', async () => {
    lease.untilMs = Number.POSITIVE_INFINITY
    const bobs = ask(bob)
    const others = ask(idOf('user', 3))
    await lose(1)
    probes[0]?.resolve(false)
    expect(await Promise.all([bobs, others])).toEqual(['database.unavailable', 'database.unavailable'])
  })
})
