import { describe, expect, test } from 'bun:test'
import { createAccess } from '../../src/access/access.ts'
import { createDecisionCounters } from '../../src/access/cache/decision-counters.ts'
import { createFactCache } from '../../src/access/cache/fact-cache.ts'
import type { LoadFacts } from '../../src/access/cache/tiered-loader.ts'
import { redactExplanation } from '../../src/access/explanation.ts'
import type { AccountFact } from '../../src/access/policy/facts/account.ts'
import { type Fact, type FactKey, type FactKind, factKey } from '../../src/access/policy/facts/registry.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { createTtlMap } from '../../src/kit/ttl-map.ts'
import { idOf } from './random.ts'

const subject = idOf('user', 1)
const owner = idOf('user', 2)
const projectId = idOf('project', 1)
const generationId = idOf('generation', 1)
const mediaId = idOf('media', 1)
const unknownId = idOf('media', 2)

/** Explains to the subject whether it may read another user's media, of a generation that is not completed. */
const explain = async (status: AccountFact['status'], id: string) => {
  const stored = new Map<FactKey, Fact[FactKind] | null>([
    [factKey('account', subject), { status, role: 'user', plan: 'free', limits: null }],
    [factKey('grants', subject), { granted: {} }],
    [factKey('project', projectId), { ownerId: owner, visibility: 'private', allowDerivatives: true }],
    [factKey('generation', generationId), { ownerId: owner, projectId, status: 'processing' }],
    [factKey('media', mediaId), { ownerId: owner, generationId, sha256: 'aa', contentType: 'image/webp' }],
    [factKey('media', unknownId), null],
  ])
  const clock = manualClock()
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
  return redactExplanation(await access.explain(subject, 'read', { type: 'media', id }, deadline))
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
