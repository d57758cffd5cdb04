import { beforeEach, describe, expect, test } from 'bun:test'
import { createCollectedLoads } from '../../src/access/cache/collected-loads.ts'
import { createFactCache } from '../../src/access/cache/fact-cache.ts'
import type { Loaded } from '../../src/access/cache/tiered-loader.ts'
import { type FactQuery, factQuery, type NamedQueries } from '../../src/access/policy/facts/queries.ts'
import type { Fact, FactKey, FactKind } from '../../src/access/policy/facts/registry.ts'
import { Overloaded } from '../../src/kit/admission.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createDeadlines, type Deadline, DeadlinePassed } from '../../src/kit/deadline.ts'
import { createTtlMap } from '../../src/kit/ttl-map.ts'
import { idOf } from './random.ts'

const account = (number: number): FactQuery => factQuery('account', idOf('user', number))
const settle = () => new Promise<void>((resolve) => setImmediate(resolve))
const loaded: Loaded = { facts: new Map(), tier: 'l3', redisAgesMs: new Map() }

let clock: ReturnType<typeof manualClock>
let sent: { names: string[]; answer: () => void; fail: (error: Error) => void }[]
const send = (queries: NamedQueries) => {
  const { promise, resolve, reject } = Promise.withResolvers<Loaded>()
  sent.push({ names: [...queries.keys()], answer: () => resolve(loaded), fail: reject })
  return promise
}
const within = (ms: number): Deadline => createDeadlines(clock)(ms)
const underWay = 4

beforeEach(() => {
  clock = manualClock()
  sent = []
})

describe('collected loads', () => {
  test('are sent at once while few are under way, and then wait for one statement that answers all', async () => {
    const { load } = createCollectedLoads(send)
    const first = Array.from({ length: underWay }, (_, number) => load([account(number)], within(5_000)))
    expect(sent.map(({ names }) => names.length)).toEqual([1, 1, 1, 1])
    const waiting = Array.from({ length: 50 }, (_, number) => load([account(number % 10)], within(5_000)))
    expect(sent.length).toBe(underWay)
    sent[0]?.answer()
    await settle()
    expect(sent.length).toBe(underWay + 1)
    expect(sent[underWay]?.names.length).toBe(10)
    for (const { answer } of sent) answer()
    expect((await Promise.all([...first, ...waiting])).every((result) => result === loaded)).toBe(true)
  })

  test('join no statement that was sent before', async () => {
    const { load } = createCollectedLoads(send)
    const early = load([account(1)], within(5_000))
    const late = load([account(1)], within(5_000))
    sent[0]?.answer()
    expect(await early).toBe(loaded)
    expect(sent.length).toBe(2)
    let isDone = false
    void late.then(() => {
      isDone = true
    })
    await settle()
    expect(isDone).toBe(false)
    sent[1]?.answer()
    await late
  })

  test('are divided among statements of a bounded number of facts, in the order in which they came', async () => {
    const { load } = createCollectedLoads(send)
    for (let number = 0; number < underWay; number += 1) void load([account(0)], within(5_000))
    for (let number = 0; number < 600; number += 1) void load([account(number)], within(5_000))
    for (let at = 0; at < sent.length; at += 1) {
      sent[at]?.answer()
      await settle()
    }
    expect(sent.slice(underWay).map(({ names }) => names.length)).toEqual([256, 256, 88])
    expect(sent[underWay]?.names[0]).toBe(`account:${idOf('user', 0)}`)
  })

  test('fail together where their statement fails, and later ones do not', async () => {
    const { load } = createCollectedLoads(send)
    const one = load([account(1)], within(5_000))
    sent[0]?.fail(new Error('gone'))
    expect(one).rejects.toThrow('gone')
    await settle()
    const next = load([account(1)], within(5_000))
    sent[1]?.answer()
    expect(await next).toBe(loaded)
  })

  test('whose deadline passed while they waited are not sent, and do not hold up others', async () => {
    const { load } = createCollectedLoads(send)
    for (let number = 0; number < underWay; number += 1) void load([account(number)], within(5_000))
    const late = load([account(8)], within(10)).catch((error) => error)
    const patient = load([account(9)], within(5_000))
    clock.advance(20)
    sent[0]?.answer()
    await settle()
    expect(sent[underWay]?.names).toEqual([`account:${idOf('user', 9)}`])
    sent[underWay]?.answer()
    expect(await patient).toBe(loaded)
    expect(await late).toBeInstanceOf(DeadlinePassed)
  })

  test('are refused once they have waited as long as the deadline allows for a wait', async () => {
    const { load } = createCollectedLoads(send)
    for (let number = 0; number < underWay; number += 1) void load([account(number)], within(60_000)).catch(() => {})
    const short = Object.assign(within(10_000), { maxWaitMs: () => 5_000 })
    const refused = load([account(8)], short).catch((error) => error)
    clock.advance(5_001)
    expect(await refused).toBeInstanceOf(Overloaded)
    expect(sent.length).toBe(underWay)
  })

  test('whose statement has no answer make room for the next at their deadline', async () => {
    const { load } = createCollectedLoads(send)
    const lost = Array.from({ length: underWay }, (_, number) =>
      load([account(number)], within(1_000)).catch((error) => error),
    )
    const next = load([account(9)], within(60_000))
    clock.advance(1_001)
    for (const each of lost) expect(await each).toBeInstanceOf(DeadlinePassed)
    await settle()
    sent[underWay]?.answer()
    expect(await next).toBe(loaded)
  })
})

describe('a gather without a lease', () => {
  const status = async (gathering: Promise<{ find: (kind: 'account', id: string) => unknown }>) =>
    (await gathering).find('account', idOf('user', 1))
  const factOf = (plan: 'free' | 'pro'): Fact['account'] => ({ status: 'active', role: 'user', plan, limits: null })
  const key = `account:${idOf('user', 1)}` as FactKey

  test('takes its facts from one statement that was sent after it began, and fills memory but for what was invalidated', async () => {
    let plan: 'free' | 'pro' = 'free'
    const answers: (() => void)[] = []
    const memory = createTtlMap<Fact[FactKind]>({ clock, ttlMs: 60_000 })
    const lease = { untilMs: 0 }
    const facts = createFactCache({
      clock,
      lease,
      memory,
      flags: { l1: true },
      load: () => {
        // The snapshot.
        const found = new Map<FactKey, Fact[FactKind]>([[key, factOf(plan)]])
        const { promise, resolve } = Promise.withResolvers<Loaded>()
        answers.push(() => resolve({ ...loaded, facts: found }))
        return promise
      },
    })
    const ask = () => status(facts.gather([account(1)], within(5_000)))
    const early = Array.from({ length: underWay }, ask)
    plan = 'pro'
    facts.invalidate([key])
    // Answered after the change, so it may not join the statements under way.
    const late = ask()
    for (const answer of answers) answer()
    expect(await Promise.all(early)).toEqual(Array.from({ length: underWay }, () => factOf('free')))
    await settle()
    lease.untilMs = 1_000
    expect(facts.peek('account', idOf('user', 1)).kind).toBe('miss')
    lease.untilMs = 0
    answers[underWay]?.()
    expect(await late).toEqual(factOf('pro'))
    lease.untilMs = 1_000
    expect(facts.peek('account', idOf('user', 1))).toMatchObject({ kind: 'hit', value: factOf('pro') })
    expect(answers.length).toBe(underWay + 1)
  })
})
