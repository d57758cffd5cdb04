import { describe, expect, test } from 'bun:test'
import { createAccess } from '../../src/access/access.ts'
import { createDecisionCounters } from '../../src/access/cache/decision-counters.ts'
import { createFactCache } from '../../src/access/cache/fact-cache.ts'
import type { LoadFacts } from '../../src/access/cache/tiered-loader.ts'
import { redactExplanation } from '../../src/access/explanation.ts'
import type { Decision } from '../../src/access/policy/decide.ts'
import type { AccountFact } from '../../src/access/policy/facts/account.ts'
import { restrictionsId } from '../../src/access/policy/facts/mode.ts'
import { toFactKey } from '../../src/access/policy/facts/queries.ts'
import { type Fact, type FactKey, type FactKind, factKey } from '../../src/access/policy/facts/registry.ts'
import { type Circumstances, finding, noCircumstances } from '../../src/access/policy/findings.ts'
import type { Action } from '../../src/access/policy/matrix.ts'
import { jsonTextOf } from '../../src/http/json-text.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { createTtlMap } from '../../src/kit/ttl-map.ts'
import { idOf } from './random.ts'
import { unrestricted } from './restrictions.ts'

const subject = idOf('user', 1)
const owner = idOf('user', 2)
const projectId = idOf('project', 1)
const generationId = idOf('generation', 1)
const mediaId = idOf('media', 1)
const unknownId = idOf('media', 2)

/** Explains to the subject whether it may read media: by default those of another user's generation, which is not completed. */
const explainAll = async (
  status: AccountFact['status'],
  id: string,
  {
    clock = manualClock(),
    ownerId = owner,
    action = 'read' as Action,
    circumstances = noCircumstances,
    record = (_: Decision): boolean => false,
    status: generationStatus = 'processing' as 'processing' | 'completed',
  } = {},
) => {
  const stored = new Map<FactKey, Fact[FactKind] | null>([
    [factKey('account', subject), { status, role: 'user', plan: 'free', limits: null }],
    [factKey('grants', subject), { granted: {} }],
    [factKey('project', projectId), { ownerId, visibility: 'private', allowDerivatives: true }],
    [factKey('generation', generationId), { ownerId: owner, projectId, status: generationStatus }],
    [factKey('media', mediaId), { ownerId: owner, generationId, sha256: 'aa', contentType: 'image/webp' }],
    [factKey('media', unknownId), null],
    ...unrestricted,
  ])
  const load: LoadFacts = async () => ({ facts: stored, tier: 'l3', redisAgesMs: new Map() })
  const access = createAccess({
    facts: createFactCache({
      load,
      memory: createTtlMap<Fact[FactKind]>({ clock, ttlMs: 60_000 }),
      clock,
      lease: { untilMs: Number.POSITIVE_INFINITY },
      flags: { l1: true },
    }),
    clock,
    decisionCounters: createDecisionCounters(),
  })
  const deadline = createDeadlines(clock)(1e9)
  const ask = () => access.explain(subject, action, { type: 'media', id }, deadline, circumstances, record)
  return { cold: await ask(), warm: await ask() }
}

const explain = async (status: AccountFact['status'], id: string) =>
  redactExplanation((await explainAll(status, id)).cold)

/** A clock that advances by the next of these times at each reading. */
const steppingClock = (...stepsMs: readonly number[]) => {
  const clock = manualClock()
  let readings = 0
  return {
    ...clock,
    monotonic: () => {
      clock.advance(stepsMs[readings++ % stepsMs.length] ?? 0)
      return clock.monotonic()
    },
  }
}

describe('an explanation for a person who may not read the resource', () => {
  for (const [status, reason, verdict] of [
    ['active', 'resource.not_visible', 'abstain'],
    ['suspended', 'account.suspended', 'deny'],
    ['deleted', 'account.deleted', 'deny'],
  ] as const) {
    test(`equals that of an id that does not exist, with a ${status} account`, async () => {
      const explanation = await explain(status, mediaId)
      expect(explanation).toEqual(await explain(status, unknownId))
      expect([explanation.allowed, explanation.reason]).toEqual([false, reason])
      expect(explanation.layers.find(({ layer }) => layer === 4)?.verdict).toBe(verdict)
      expect(explanation.layers.filter(({ tier, age_ms }) => tier !== null || age_ms !== null)).toEqual([])
    })
  }
})

test('an explanation shares the time of the decision out to the nine layers that load nothing', async () => {
  // Readings: the start, memory, the facts at hand, the decision.
  const { warm } = await explainAll('active', mediaId, { clock: steppingClock(0.001, 0.001, 0.001, 0.009) as never })
  const times = warm.layers.map(({ layer, microseconds }) => `${layer}: ${microseconds}`)
  expect(new Set(warm.layers.filter(({ layer }) => layer !== 7).map(({ microseconds }) => microseconds)).size).toBe(1)
  expect(times).toHaveLength(10)
  for (const { microseconds } of warm.layers) expect(microseconds).toBeGreaterThan(0)
})

describe('the JSON text of an explanation', () => {
  const clocks = {
    'that stands still': () => manualClock(),
    'with fractions of microseconds': () => steppingClock(0, 0.000_001, 0.000_083, 0.001, 0.012_345, 1.5),
    'with odd steps': () => steppingClock(1 / 3, 0.1 + 0.2, 2.000_000_4),
  }
  for (const [what, makeClock] of Object.entries(clocks)) {
    test(`is that of the object, on a clock ${what}`, async () => {
      const ids = [mediaId, unknownId]
      for (const status of ['active', 'suspended', 'deleted'] as const) {
        for (const id of ids) {
          for (const [ownerId, action] of [
            [owner, 'read'],
            [subject, 'read'],
            [subject, 'admin'],
          ] as const) {
            const { cold, warm } = await explainAll(status, id, { clock: makeClock() as never, ownerId, action })
            // The text that was given is that of the latest body only.
            expect(jsonTextOf(warm)).toBe(JSON.stringify(warm))
            expect(warm.layers.map(({ layer }) => layer)).toEqual(cold.layers.map(({ layer }) => layer))
            expect(warm.layers.find(({ layer }) => layer === 7)?.tier).toBe('l1')
            expect(jsonTextOf(redactExplanation(warm))).toBe(JSON.stringify(redactExplanation(warm)))
          }
        }
      }
    })
  }

  test('is not that of the object it was redacted from', async () => {
    const { warm } = await explainAll('active', mediaId)
    const text = jsonTextOf(redactExplanation(warm))
    expect(text).not.toContain('media.generation_not_completed')
    expect(JSON.parse(text)).toEqual(redactExplanation(warm))
  })
})

describe('the trace of an explanation', () => {
  const lines = ({ layers }: Awaited<ReturnType<typeof explainAll>>['warm']) =>
    layers.map(({ layer, placed, verdict, reason }) => `${layer} ${placed}: ${verdict} ${reason}`)

  test('has a finding of each of the ten layers, and says why it is evaluated in another order than that of the numbers', async () => {
    for (const explanation of Object.values(
      await explainAll('active', mediaId, { ownerId: subject, record: () => true }),
    )) {
      expect(lines(explanation)).toEqual([
        '10 needs_no_resource: abstain anomaly.none',
        '4 needs_no_resource: abstain account.active',
        '9 needs_no_resource: abstain emergency.normal',
        '7 loads_facts: abstain facts.at_hand',
        '1 by_number: allow ownership.project_owner',
        '2 by_number: abstain team.none',
        '3 by_number: abstain visibility.not_public',
        '5 by_number: abstain lineage.nothing_derived',
        '6 by_number: deny media.generation_not_completed',
        '8 after_decision: abstain audit.denial_recorded',
      ])
    }
  })

  test('has the numbers in order within those that are evaluated by number', async () => {
    const { warm } = await explainAll('active', mediaId)
    const byNumber = warm.layers.flatMap(({ layer, placed }) => (placed === 'by_number' ? [layer] : []))
    expect(byNumber).toEqual(byNumber.toSorted((one, other) => one - other))
  })

  test('shows what the circumstances of the request say on layers 10, 4 and 9, whoever may read the resource', async () => {
    const circumstances: Circumstances = {
      anomaly: finding('abstain', 'anomaly.slowed'),
      context: finding('abstain', 'context.country_changed'),
      emergency: finding('abstain', 'emergency.read_only'),
    }
    for (const id of [mediaId, unknownId]) {
      const { cold, warm } = await explainAll('active', id, { circumstances })
      for (const each of [cold, warm, redactExplanation(warm)]) {
        const found = each.layers.map(({ layer, reason }) => `${layer} ${reason}`)
        expect(found.slice(0, 3)).toEqual(['10 anomaly.slowed', '4 context.country_changed', '9 emergency.read_only'])
        expect(jsonTextOf(each)).toBe(JSON.stringify(each))
      }
    }
  })

  test('says whether layer 8 has recorded the decision, which it is given once', async () => {
    const recorded: Decision[] = []
    const reasonOf = async (ownerId: string, action: Action, isRecorded: boolean) => {
      const record = (decision: Decision) => {
        recorded.push(decision)
        return isRecorded
      }
      const id = mediaId
      const { cold, warm } = await explainAll('active', id, { ownerId, action, record, status: 'completed' })
      expect(recorded.splice(0).map(({ allowed }) => allowed)).toEqual([cold.allowed, warm.allowed])
      return warm.layers.find(({ layer }) => layer === 8)?.reason
    }
    expect(await reasonOf(subject, 'read', true)).toBe('audit.allow_recorded')
    expect(await reasonOf(subject, 'read', false)).toBe('audit.allow_not_sampled')
    expect(await reasonOf(owner, 'read', true)).toBe('audit.denial_recorded')
    expect(await reasonOf(owner, 'read', false)).toBe('audit.not_recorded')
  })
})

test('an explanation tells the age of the oldest fact it used', async () => {
  const clock = manualClock()
  const stored = new Map<FactKey, Fact[FactKind] | null>([
    [factKey('account', subject), { status: 'active', role: 'user', plan: 'free', limits: null }],
    [factKey('project', projectId), { ownerId: subject, visibility: 'private', allowDerivatives: true }],
    [factKey('grants', subject), { granted: {} }],
    ...unrestricted,
  ])
  const load: LoadFacts = async (queries) => ({
    facts: new Map(queries.map((query) => [toFactKey(query), stored.get(toFactKey(query)) ?? null])),
    tier: 'l3',
    redisAgesMs: new Map(),
  })
  const facts = createFactCache({
    load,
    memory: createTtlMap<Fact[FactKind]>({ clock, ttlMs: 60_000 }),
    clock,
    lease: { untilMs: Number.POSITIVE_INFINITY },
    flags: { l1: true },
  })
  const access = createAccess({ facts, clock, decisionCounters: createDecisionCounters() })
  const deadline = createDeadlines(clock)(1e9)
  const ageMs = async () => {
    const { layers } = await access.explain(subject, 'read', { type: 'project', id: projectId }, deadline)
    return layers.find(({ layer }) => layer === 7)?.age_ms
  }
  expect(await ageMs()).toBe(0)
  clock.advance(700)
  expect(await ageMs()).toBe(700)
  facts.invalidate([factKey('project', projectId)])
  expect(await ageMs()).toBe(700)
  clock.advance(50)
  facts.invalidate([factKey('account', subject), factKey('mode', restrictionsId)])
  await ageMs()
  expect(await ageMs()).toBe(50)
})
