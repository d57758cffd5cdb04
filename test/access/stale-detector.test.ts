import { beforeEach, describe, expect, test } from 'bun:test'
import { createStaleDetector } from '../../src/access/cache/stale-detector.ts'
import { restrictionsId } from '../../src/access/policy/facts/mode.ts'
import type { ProjectFact } from '../../src/access/policy/facts/project.ts'
import type { FactQuery } from '../../src/access/policy/facts/queries.ts'
import { type Fact, type FactKey, type FactKind, factKey, partId } from '../../src/access/policy/facts/registry.ts'
import type { SessionFact } from '../../src/access/policy/facts/session.ts'
import { setOf } from '../../src/access/policy/matrix.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createTtlMap, type TtlMap } from '../../src/kit/ttl-map.ts'
import { createLog } from '../../src/platform/log.ts'
import { idOf } from './random.ts'

const ada = idOf('user', 1)
const open: ProjectFact = { ownerId: ada, visibility: 'public', allowDerivatives: true }
const shut: ProjectFact = { ...open, visibility: 'private' }
const lab = factKey('project', idOf('project', 1))
const grant = factKey('grant', partId(ada, idOf('project', 1)))

const keyOf = ({ kind, id, userId }: FactQuery): FactKey =>
  kind === 'grant' ? factKey(kind, partId(String(userId), id)) : factKey(kind, id)

describe('the stale detector', () => {
  let clock: ReturnType<typeof manualClock>
  let memory: TtlMap<Fact[FactKind]>
  let world: Map<FactKey, Fact[FactKind]>
  let lease: { untilMs: number }
  let flags: { l1: boolean }
  let asked: FactKey[][]
  let dropped: FactKey[]
  let written: string
  let meanwhile: () => void
  let failing: boolean
  let check: ReturnType<typeof createStaleDetector>

  beforeEach(() => {
    clock = manualClock()
    memory = createTtlMap({ clock, ttlMs: 60_000, jitter: 0 })
    world = new Map()
    lease = { untilMs: Number.POSITIVE_INFINITY }
    flags = { l1: true }
    asked = []
    dropped = []
    written = ''
    meanwhile = () => {}
    failing = false
    check = createStaleDetector({
      memory,
      clock,
      lease,
      flags,
      load: async (wanted) => {
        const keys = wanted.map(keyOf)
        asked.push(keys)
        return { tier: 'l3', redisAgesMs: new Map(), facts: new Map(keys.map((key) => [key, world.get(key) ?? null])) }
      },
      drop: async (key) => {
        dropped.push(key)
        memory.delete(key)
        if (failing) throw new Error('no database')
      },
      log: createLog('trace', {
        write: (line: string) => {
          written += line
        },
      }),
      pause: async (ms) => {
        clock.advance(ms)
        meanwhile()
      },
    })
  })

  const hold = (key: FactKey, fact: Fact[FactKind]) => {
    world.set(key, fact)
    memory.set(key, fact)
  }

  test('counts equal facts as compared and reports nothing', async () => {
    hold(lab, open)
    hold(grant, setOf('read'))
    memory.setAbsent(factKey('generation', idOf('generation', 1)))
    await check.run()
    expect([check.counts, dropped, written]).toEqual([{ compared: 3, stale: 0 }, [], ''])
  })

  test('compares all grants of a user as one fact', async () => {
    const [all, other] = [ada, idOf('user', 2)].map((id) => factKey('grants', id)) as [FactKey, FactKey]
    const [one, two] = [1, 2].map((at) => idOf('project', at)) as [string, string]
    hold(other, 'many')
    memory.set(all, { granted: { [one]: 3, [two]: 1 } })
    world.set(all, { granted: { [two]: 1, [one]: 3 } })
    await check.run()
    expect(check.counts).toEqual({ compared: 2, stale: 0 })
    // `many` and `except` say how grants are cached, not which.
    world.set(other, { granted: {} })
    memory.set(all, { granted: { [one]: 3, [two]: 7 }, except: [two] })
    await check.run()
    world.set(all, 'many')
    await check.run()
    expect(check.counts.stale).toBe(0)
    world.set(all, { granted: { [two]: 7 } })
    await check.run()
    expect([check.counts.stale, dropped]).toEqual([1, [all]])
  })

  test('counts, logs as an error and drops a fact that differs without an invalidation', async () => {
    hold(lab, open)
    hold(grant, setOf('read'))
    world.set(lab, shut)
    world.delete(grant)
    await check.run()
    expect([check.counts.stale, dropped]).toEqual([2, [lab, grant]])
    const lines = written
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(lines[0]).toMatchObject({ level: 'error', event: 'cache.stale_fact', key: lab, held: open, actual: shut })
    expect(lines[1]).toMatchObject({ key: grant, held: setOf('read'), actual: null, age_ms: 1_500 })
  })

  test('reports the other facts of a round too when one could not be invalidated, and that one again when it is back', async () => {
    hold(lab, open)
    hold(grant, setOf('read'))
    world.set(lab, shut)
    world.delete(grant)
    failing = true
    await check.run()
    expect([check.counts.stale, dropped]).toEqual([2, [lab, grant]])
    expect(written.match(/cache\.stale_fact_not_invalidated/g)).toHaveLength(2)
    failing = false
    memory.set(lab, open)
    await check.run()
    expect([check.counts.stale, dropped]).toEqual([3, [lab, grant, lab]])
  })

  test('reports a fact that exists but is cached as absent', async () => {
    memory.setAbsent(lab)
    world.set(lab, open)
    await check.run()
    expect(check.counts.stale).toBe(1)
  })

  test('does not log the hash of a secret', async () => {
    const key = factKey('service_key', idOf('project', 7))
    const fact = {
      secretHash: 'the hash',
      scopes: [],
      live: true,
      blocked: false,
      expiresAtMs: null,
      limitPerSecond: null,
      allowedNetworks: null,
    }
    hold(key, fact)
    world.set(key, { ...fact, live: false })
    await check.run()
    expect(check.counts.stale).toBe(1)
    expect(written).toContain(key)
    expect(written).not.toContain('the hash')
  })

  test('does not log the name and the address of a person', async () => {
    const key = factKey('profile', idOf('user', 7))
    const fact = {
      id: idOf('user', 7),
      email: 'ada@example.com',
      display_name: 'Ada',
      role: 'user',
      plan: 'free',
      status: 'active',
      email_verified: true,
      second_factor: false,
      created_at: '2026-01-01T00:00:00.000Z',
      updated_at: '2026-01-01T00:00:00.000Z',
    } as const
    hold(key, fact)
    world.set(key, { ...fact, display_name: 'Countess' })
    await check.run()
    expect(check.counts.stale).toBe(1)
    expect(written).toContain(key)
    expect(written).not.toMatch(/ada@example|Ada|Countess/)
  })

  test('does not report a fact that was invalidated or reloaded before the second check of memory', async () => {
    for (const done of [
      () => memory.delete(lab),
      () => memory.set(lab, shut),
      // An equal value in a new entry, as after a change and its reversal.
      () => memory.set(lab, open),
    ]) {
      memory.set(lab, open)
      world.set(lab, shut)
      meanwhile = done
      await check.run()
      expect(check.counts.stale).toBe(0)
    }
  })

  test('reports nothing without a lease, with the tier off, and after stop', async () => {
    for (const lost of [
      () => {
        lease.untilMs = clock.monotonic()
      },
      () => {
        flags.l1 = false
      },
      () => check.stop(),
    ]) {
      lease.untilMs = Number.POSITIVE_INFINITY
      flags.l1 = true
      memory.set(lab, open)
      world.set(lab, shut)
      meanwhile = lost
      await check.run()
      meanwhile = () => {}
      const looks = asked.length
      await check.run()
      expect([check.counts.stale, asked.length]).toEqual([0, looks])
    }
  })

  test('compares mode and blocked networks with the tier off too, because memory serves them, and nothing else', async () => {
    const [mode, networks] = [factKey('mode', restrictionsId), factKey('blocked_networks', restrictionsId)]
    flags.l1 = false
    memory.set(lab, open)
    world.set(lab, shut)
    hold(mode, { mode: 'normal' })
    hold(networks, { networks: [] })
    world.set(networks, { networks: ['203.0.113.0/24'] })
    await check.run()
    expect(asked).toEqual([[mode, networks]])
    expect(dropped).toEqual([networks])
    expect(written).not.toContain('203.0.113')
  })

  test('accepts that an ended session was deleted without an invalidation', async () => {
    const over: SessionFact = { userId: ada, ended: false, expiresAtMs: clock.now() - 1, authenticatedAtMs: 0 }
    const ended: SessionFact = { userId: ada, ended: true, expiresAtMs: clock.now() + 99_999, authenticatedAtMs: 0 }
    const live: SessionFact = { ...ended, ended: false }
    const key = (n: number) => factKey('session', idOf('session', n))
    for (const [n, fact] of [over, ended, live].entries()) memory.set(key(n), fact)
    await check.run()
    expect([check.counts.stale, dropped]).toEqual([1, [key(2)]])
  })

  test('compares 50 entries a round, every entry in turn, and skips expired ones', async () => {
    const keys = Array.from({ length: 120 }, (_, n) => factKey('project', idOf('project', n)))
    for (const key of keys) hold(key, open)
    for (let round = 0; round < 3; round += 1) await check.run()
    expect(asked.map((some) => some.length)).toEqual([50, 50, 50])
    expect(new Set(asked.flat()).size).toBe(120)
    clock.advance(60_000)
    await check.run()
    expect(asked).toHaveLength(3)
  })

  test('runs one round at a time, and runs again after a failed one', async () => {
    hold(lab, open)
    await Promise.all([check.run(), check.run(), check.run()])
    expect(asked).toHaveLength(1)
    const broken = world.get.bind(world)
    world.get = () => {
      throw new Error('no database')
    }
    expect(await check.run().catch(String)).toContain('no database')
    world.get = broken
    await check.run()
    expect(check.counts).toEqual({ compared: 2, stale: 0 })
  })
})
