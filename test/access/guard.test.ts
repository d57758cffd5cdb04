import { beforeEach, describe, expect, test } from 'bun:test'
import { Elysia } from 'elysia'
import { createAccess } from '../../src/access/access.ts'
import { createDecisionCounters } from '../../src/access/cache/decision-counters.ts'
import { createFactCache, type FactCache } from '../../src/access/cache/fact-cache.ts'
import { withStaleReads } from '../../src/access/cache/stale-reads.ts'
import type { LoadFacts } from '../../src/access/cache/tiered-loader.ts'
import { noBarrier } from '../../src/access/guard/barrier.ts'
import { createGuard } from '../../src/access/guard/guard.ts'
import { type Fact, type FactKey, type FactKind, factKey } from '../../src/access/policy/facts/registry.ts'
import { Fault } from '../../src/fault.ts'
import { contentLengthOf } from '../../src/http/body.ts'
import { adapter, contextSlot, inputHook } from '../../src/http/elysia-adapter.ts'
import { createInputReader } from '../../src/http/input.ts'
import { closed, t } from '../../src/http/schema-types.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { createTtlMap } from '../../src/kit/ttl-map.ts'
import { createFixedWatch } from './fixed-watch.ts'
import { idOf } from './random.ts'
import { unrestricted } from './restrictions.ts'

const noSpending = {
  create: () => ({ readRoute: () => {}, person: () => {}, service: () => {}, acting: () => {}, items: () => {} }),
  refuseUnknown: () => {},
}

const refusedTicket = () => new Fault('generation.stream_ticket_refused')
const noTickets = {
  read: () => {
    throw refusedTicket()
  },
  use: async () => {},
  refused: refusedTicket,
}

const unscreened = () => ({ verdict: 'abstain', reason: 'context.not_known' }) as const

const userId = idOf('user', 1)
const sessionId = idOf('session', 1)
const projectId = idOf('project', 1)
const leaseMs = 1_000

/** The user owns the project. */
const stored = new Map<FactKey, Fact[FactKind]>([
  [factKey('account', userId), { status: 'active', role: 'admin', plan: 'free', limits: null }],
  [
    factKey('session', sessionId),
    { userId, ended: false, expiresAtMs: Number.POSITIVE_INFINITY, authenticatedAtMs: 0 },
  ],
  [factKey('project', projectId), { ownerId: userId, visibility: 'private', allowDerivatives: true }],
  [factKey('grants', userId), { granted: {} }],
  ...unrestricted,
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
      watch: createFixedWatch(async () => isUp).watch,
      isShared: () => true,
      clock,
      lease,
      limitMs: 60_000,
    })
    const access = createAccess({ facts: staleReads.facts, clock, decisionCounters: createDecisionCounters() })
    const guard = createGuard({
      access,
      clock,
      screen: unscreened,
      spending: noSpending,
      cookies: { accessTokenOf: () => undefined },
      tickets: noTickets,
      barrier: noBarrier,
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
        Object.assign(incoming, {
          context: {
            requestId: 'r',
            deadline,
            authorization: incoming.request.headers.get('authorization'),
            request: incoming.request,
            addressOf: () => '192.0.2.1',
          },
        })
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

describe('a request with a body', () => {
  const session = factKey('session', sessionId)
  const schema = closed({ word: t.String() })
  let isEnded: boolean
  let loads: string[][]
  let facts: FactCache
  let app: { handle(request: Request): Promise<Response> }

  beforeEach(() => {
    const clock = manualClock()
    isEnded = false
    loads = []
    const load: LoadFacts = async (queries) => {
      loads.push(queries.map(({ kind }) => kind).sort())
      const ended = new Map(stored).set(session, {
        userId,
        ended: isEnded,
        expiresAtMs: Number.POSITIVE_INFINITY,
        authenticatedAtMs: 0,
      })
      return { facts: ended, tier: 'l3', redisAgesMs: new Map() }
    }
    const memory = createTtlMap<Fact[FactKind]>({ clock, ttlMs: 60_000 })
    facts = createFactCache({ load, memory, clock, lease: { untilMs: leaseMs }, flags: { l1: true } })
    const access = createAccess({ facts, clock, decisionCounters: createDecisionCounters() })
    const guard = createGuard({
      access,
      clock,
      screen: unscreened,
      spending: noSpending,
      cookies: { accessTokenOf: () => undefined },
      tickets: noTickets,
      barrier: noBarrier,
      claimsOf: () => ({ userId, sessionId, expiresAtMs: Number.POSITIVE_INFINITY }),
    })
    const deadline = createDeadlines(clock)(1e9)
    const options = (maxBytes: number) => inputHook(createInputReader({ body: schema }, { maxBytes }), false)
    app = new Elysia({ adapter })
      .decorate(contextSlot)
      .onError(({ error }) => new Response(error instanceof Fault ? error.code : String(error)))
      .onRequest((incoming) => {
        Object.assign(incoming, {
          context: {
            requestId: 'r',
            contentLength: contentLengthOf(incoming.request),
            deadline,
            authorization: incoming.request.headers.get('authorization'),
            request: incoming.request,
            addressOf: () => '192.0.2.1',
          },
        })
      })
      .use(guard)
      .post('/small', () => 'answered', { signedIn: () => [projectOf()], ...options(65_536) })
      .post('/large', () => 'answered', { signedIn: () => [projectOf()], ...options(1_048_576) })
      .post('/operator', () => 'answered', { operator: true, ...options(65_536) })
  })

  /** A request whose body ends at the call of `end`, and whether the route has begun to read it. */
  const send = (path: string, text: string, more: Record<string, string> = {}) => {
    let isRead = false
    let end = () => {}
    const ended = new Promise<void>((resolve) => {
      end = resolve
    })
    const body = new ReadableStream<Uint8Array>(
      {
        async pull(controller) {
          isRead = true
          await ended
          controller.enqueue(new TextEncoder().encode(text))
          controller.close()
        },
      },
      { highWaterMark: 0 },
    )
    const headers = { authorization: 'Bearer token', 'content-type': 'application/json', ...more }
    const request = new Request(`http://velro${path}`, { method: 'POST', headers, body })
    const answer = app.handle(request).then((response) => response.text())
    return { answer, end, isRead: () => isRead }
  }
  const settle = () => new Promise((resolve) => setTimeout(resolve, 5))
  const small = { 'content-length': '12' }

  test('costs one load where memory knows neither caller nor resource, after the body', async () => {
    const sent = send('/small', '{"word":"x"}', small)
    await settle()
    expect([sent.isRead(), loads]).toEqual([true, []])
    sent.end()
    expect([await sent.answer, loads]).toEqual([
      'answered',
      [['account', 'blocked_networks', 'mode', 'project', 'session']],
    ])
  })

  test('is refused without reading one over 1 KiB where memory knows that the session has ended', async () => {
    isEnded = true
    const first = send('/small', '{"word":"x"}', small)
    first.end()
    expect(await first.answer).toBe('identity.not_signed_in')
    for (const length of ['1025', '65536', '65537']) {
      const second = send('/small', '{"word":"x"}', { 'content-length': length })
      expect([length, await second.answer, second.isRead()]).toEqual([length, 'identity.not_signed_in', false])
    }
  })

  test('is refused for its session first, where both the body and the session are wrong', async () => {
    isEnded = true
    for (const text of ['{', '{"word":1}']) {
      facts.invalidate('everything')
      const sent = send('/small', text, small)
      sent.end()
      expect([text, await sent.answer]).toEqual([text, 'identity.not_signed_in'])
    }
  })

  test('that is large or of unknown length is read only for a caller whose session was loaded', async () => {
    isEnded = true
    for (const headers of [{ 'content-length': '65537' }, {}] as Record<string, string>[]) {
      facts.invalidate('everything')
      const sent = send('/large', '{"word":"x"}', headers)
      expect([await sent.answer, sent.isRead()]).toEqual(['identity.not_signed_in', false])
    }
  })

  test('is refused where the session ends while the body comes in', async () => {
    const first = send('/small', '{"word":"x"}', small)
    first.end()
    await first.answer
    for (const path of ['/small', '/operator']) {
      isEnded = false
      facts.invalidate('everything')
      const known = send(path, '{"word":"x"}', small)
      known.end()
      expect([path, await known.answer]).toEqual([path, 'answered'])
      const slow = send(path, '{"word":"x"}', small)
      await settle()
      expect([path, slow.isRead()]).toEqual([path, true])
      isEnded = true
      facts.invalidate([session])
      slow.end()
      expect([path, await slow.answer]).toEqual([path, 'identity.not_signed_in'])
    }
  })
})
