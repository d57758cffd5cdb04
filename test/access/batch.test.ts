import { beforeEach, describe, expect, test } from 'bun:test'
import { type Access, createAccess } from '../../src/access/access.ts'
import { createDecisionCounters } from '../../src/access/cache/decision-counters.ts'
import { createFactCache, type FactCache } from '../../src/access/cache/fact-cache.ts'
import type { LoadFacts } from '../../src/access/cache/tiered-loader.ts'
import { toFactKey } from '../../src/access/policy/facts/queries.ts'
import { type Fact, type FactKey, type FactKind, factKey } from '../../src/access/policy/facts/registry.ts'
import type { ResourceRef } from '../../src/access/policy/matrix.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { createTtlMap } from '../../src/kit/ttl-map.ts'
import { idOf } from './random.ts'
import { unrestricted } from './restrictions.ts'

const ada = idOf('user', 1)
const bob = idOf('user', 2)
const lab: ResourceRef = { type: 'project', id: idOf('project', 1) }
const den: ResourceRef = { type: 'project', id: idOf('project', 2) }
const project = (visibility: 'public' | 'private') => ({ ownerId: ada, visibility, allowDerivatives: true })

const clock = manualClock()
let world: Map<FactKey, Fact[FactKind]>
let lease: { untilMs: number }
/** The statements that were sent and wait for their answer. */
let waiting: { readonly keys: readonly FactKey[]; readonly answer: () => void }[]
let facts: FactCache
let access: Access

/** Reads the world when it is answered. */
const load: LoadFacts = (queries) =>
  new Promise((resolve) => {
    const keys = queries.flatMap((query) => [
      toFactKey(query),
      ...(query.userId === null ? [] : [factKey('grants', query.userId)]),
    ])
    const answer = () =>
      resolve({ facts: new Map(keys.map((key) => [key, world.get(key) ?? null])), tier: 'l3', redisAgesMs: new Map() })
    waiting.push({ keys, answer })
  })

const runPending = () => new Promise<void>((resolve) => setImmediate(resolve))
/** Answers every statement until `work` is done. */
const answering = async <T>(work: T | Promise<T>): Promise<T> => {
  let isDone = false
  const done = Promise.resolve(work).finally(() => {
    isDone = true
  })
  while (!isDone) {
    for (const { answer } of waiting.splice(0)) answer()
    await runPending()
  }
  return done
}

const reading = (...refs: ResourceRef[]) => refs.map((resource) => ({ userId: bob, action: 'read' as const, resource }))
const ask = (...refs: ResourceRef[]) => access.decideMany(reading(...refs), createDeadlines(clock)(1e9))

beforeEach(() => {
  world = new Map<FactKey, Fact[FactKind]>([
    [factKey('account', bob), { status: 'active', role: 'user', plan: 'free', limits: null }],
    [factKey('grants', bob), { granted: {} }],
    ...unrestricted,
    [factKey('project', lab.id), project('public')],
    [factKey('project', den.id), project('private')],
  ])
  lease = { untilMs: Number.POSITIVE_INFINITY }
  waiting = []
  facts = createFactCache({
    load,
    memory: createTtlMap<Fact[FactKind]>({ clock, ttlMs: 60_000 }),
    clock,
    lease,
    flags: { l1: true },
  })
  access = createAccess({ facts, clock, decisionCounters: createDecisionCounters() })
})

describe('a batch', () => {
  test('whose facts are all in memory is decided at once, without a promise or a statement', async () => {
    await answering(ask(lab, den))
    const decisions = ask(lab, den)
    expect(decisions).not.toBeInstanceOf(Promise)
    expect((await decisions).map(({ allowed }) => allowed)).toEqual([true, false])
    expect(waiting).toEqual([])
  })

  test('is decided on facts that were valid together, where some were in memory and changed while others were loaded', async () => {
    await answering(ask(lab))
    const batch = ask(lab, den)
    expect(waiting.map(({ keys }) => keys)).toEqual([[factKey('project', den.id)]])
    // One transaction hides the one project and shows the other: at no moment were both visible.
    world.set(factKey('project', lab.id), project('private')).set(factKey('project', den.id), project('public'))
    facts.invalidate([factKey('project', lab.id), factKey('project', den.id)])
    expect((await answering(batch)).map(({ allowed }) => allowed)).toEqual([false, true])
  })

  test('without a lease takes nothing from memory, and all of its facts from one statement', async () => {
    await answering(ask(lab, den))
    lease.untilMs = Number.NEGATIVE_INFINITY
    world.set(factKey('project', lab.id), project('private'))
    const batch = ask(lab, den)
    expect(waiting).toHaveLength(1)
    expect((await answering(batch)).map(({ allowed }) => allowed)).toEqual([false, false])
  })

  test('about several users and resources in turn gives each question the answer that it gets alone', async () => {
    world.set(factKey('account', ada), { status: 'active', role: 'user', plan: 'free', limits: null })
    world.set(factKey('grants', ada), { granted: {} })
    const resources = [lab, den, { type: 'project', id: idOf('project', 3) } as const]
    const questions = Array.from({ length: 60 }, (_, at) => ({
      userId: at % 2 === 0 ? ada : bob,
      action: at % 5 === 0 ? ('write' as const) : ('read' as const),
      resource: resources[at % 3] as ResourceRef,
    }))
    const deadline = createDeadlines(clock)(1e9)
    await answering(access.decideMany(questions, deadline))
    const alone = questions.map(({ userId, action, resource }) => access.decide(userId, action, resource, deadline))
    expect(access.decideMany(questions, deadline)).toEqual(alone as never)
    expect(new Set((await Promise.all(alone)).map(({ reason }) => reason)).size).toBeGreaterThan(2)
  })
})
