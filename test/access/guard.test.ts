import { beforeEach, describe, expect, test } from 'bun:test'
import { Elysia } from 'elysia'
import { createAccess } from '../../src/access/access.ts'
import { createDecisionCounters } from '../../src/access/cache/decision-counters.ts'
import { createFactCache } from '../../src/access/cache/fact-cache.ts'
import { withStaleReads } from '../../src/access/cache/stale-reads.ts'
import type { LoadFacts } from '../../src/access/cache/tiered-loader.ts'
import { createGuard } from '../../src/access/guard.ts'
import { type Fact, type FactKey, type FactKind, factKey } from '../../src/access/policy/facts/registry.ts'
import { Fault } from '../../src/fault.ts'
import { adapter, contextSlot } from '../../src/http/elysia-adapter.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { createTtlMap } from '../../src/kit/ttl-map.ts'
import { idOf } from './random.ts'

const userId = idOf('user', 1)
const sessionId = idOf('session', 1)
const projectId = idOf('project', 1)
const leaseMs = 1_000

/** The user owns the project. */
const stored = new Map<FactKey, Fact[FactKind]>([
  [factKey('account', userId), { status: 'active', role: 'admin', plan: 'free' }],
  [factKey('session', sessionId), { userId, ended: false, expiresAtMs: Number.POSITIVE_INFINITY }],
  [factKey('project', projectId), { ownerId: userId, visibility: 'private', allowDerivatives: true }],
  [factKey('grants', userId), { granted: {} }],
])

const projectOf = () => ({ type: 'project', id: projectId }) as const

describe('a session whose facts are in memory', () => {
  let clock: ReturnType<typeof manualClock>
  let isUp: boolean
  let app: { handle(request: Request): Promise<Response> }
  let usesStaleFacts: () => boolean

  beforeEach(() => {
    clock = manualClock()
    isUp = true
    const load: LoadFacts = async () => {
      if (!isUp) throw Object.assign(new Error('refused'), { code: 'ECONNREFUSED' })
      return { facts: stored, tier: 'l3', redisAgesMs: new Map() }
    }
    const lease = { untilMs: leaseMs }
    const memory = createTtlMap<Fact[FactKind]>({ clock, ttlMs: 60_000 })
    const staleReads = withStaleReads({
      facts: createFactCache({ load, memory, clock, lease, flags: { l1: true } }),
      isReachable: async () => isUp,
      isShared: () => true,
      clock,
      lease,
      limitMs: 60_000,
    })
    const access = createAccess({ facts: staleReads.facts, clock, decisionCounters: createDecisionCounters() })
    const guard = createGuard({
      access,
      claimsOf: () => ({ userId, sessionId, expiresAtMs: Number.POSITIVE_INFINITY }),
    })
    const deadline = createDeadlines(clock)(1e9)
    usesStaleFacts = () => staleReads.isUsedBy(deadline)
    app = new Elysia({ adapter })
      .decorate(contextSlot)
      .onError(({ error }) =>
        error instanceof Fault ? new Response(error.code, { status: error.status }) : new Response(String(error)),
      )
      .onRequest((incoming) => {
        Object.assign(incoming, { context: { requestId: 'r', deadline } })
      })
      .use(guard)
      // Answers are constants: a 503 can come only from the guard.
      .get('/signed-in', () => 'answered', { signedIn: true })
      .get('/signed-in-with-resources', () => 'answered', { signedIn: () => [] })
      .get('/signed-in-or-other-credential', () => 'answered', {
        signedInOrOtherCredential: { hasOtherCredential: () => false, resourcesOf: () => [] },
      })
      .get('/operator', () => 'answered', { operator: true })
      .get('/may', () => 'answered', { may: ['read', projectOf] })
      .get('/may-with-recheck', () => 'answered', { mayWithRecheck: ['read', projectOf] })
      .get('/person-or-service', () => 'answered', { personOrService: { scope: 'authorization:check' } })
  })

  const get = async (path: string) => {
    const headers = { authorization: 'Bearer token' }
    const response = await app.handle(new Request(`http://velro${path}`, { headers }))
    return [path, response.status, await response.text()]
  }

  const needPostgres = [
    '/signed-in',
    '/signed-in-with-resources',
    '/signed-in-or-other-credential',
    '/operator',
    '/may',
    '/may-with-recheck',
  ]

  test('is refused with 503 while Postgres is down by every macro for people alone', async () => {
    for (const path of needPostgres) expect(await get(path)).toEqual([path, 200, 'answered'])
    isUp = false
    clock.advance(leaseMs)
    for (const path of needPostgres) {
      expect(await get(path)).toEqual([path, 503, 'database.unavailable'])
    }
    expect(usesStaleFacts()).toBe(true)
  })

  test('is accepted on stale facts while Postgres is down by a macro that also admits services', async () => {
    expect(await get('/person-or-service')).toEqual(['/person-or-service', 200, 'answered'])
    expect(usesStaleFacts()).toBe(false)
    isUp = false
    clock.advance(leaseMs)
    expect(await get('/person-or-service')).toEqual(['/person-or-service', 200, 'answered'])
    expect(usesStaleFacts()).toBe(true)
  })
})
