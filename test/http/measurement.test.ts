import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import type { RequestContext } from '../../src/http/request-context.ts'
import type { TimedMetric } from '../../src/monitoring/recorder.ts'
import { type Api, api, type Person, register, startApp, startRedis, type TestApp, type TestRedis } from '../harness.ts'

let app: TestApp
let redis: TestRedis
let client: Api
let person: Person
const measured: { method: string; route: string | undefined; status: number; ms: number; kind: string }[] = []

const kindOf = ({ principal }: RequestContext) => {
  if (principal === undefined) return 'none'
  return 'userId' in principal ? 'person' : 'service'
}

beforeAll(async () => {
  redis = await startRedis()
  app = await startApp({ config: { redisUrl: redis.url } })
  client = api(app.baseUrl)
  person = await register(client)
  app.services.requestRecorder.onAnswered((request, context, status, ms) =>
    measured.push({ method: request.method, route: context.route, status, ms, kind: kindOf(context) }),
  )
})
afterAll(async () => {
  await app?.close()
  await redis?.stop()
})

const counts = () => {
  const countOf = (metric: TimedMetric) => app.services.recorder.total(metric).slice.count
  return {
    api: countOf('api'),
    authentication: countOf('authentication'),
    registration: countOf('registration'),
    authorization: countOf('authorization'),
  }
}
/** The requests that were measured during `work`, and how much each count grew. */
const during = async (work: () => Promise<unknown>) => {
  measured.length = 0
  const before = counts()
  await work()
  const after = counts()
  const grown = {
    api: after.api - before.api,
    authentication: after.authentication - before.authentication,
    registration: after.registration - before.registration,
    authorization: after.authorization - before.authorization,
  }
  return { requests: measured.map(({ ms: _, ...request }) => request), grown }
}
const none = { api: 1, authentication: 0, registration: 0, authorization: 0 }
const send = (method: string, path: string, init: RequestInit = {}) =>
  fetch(`${app.baseUrl}${path}`, { method, ...init }).then((response) => response.arrayBuffer())

describe('a request', () => {
  const check = () => ({ action: 'read', resource: { type: 'project', id: crypto.randomUUID() } })

  test('for a decision counts once as `api` and as `authorization`, by the front door', async () => {
    const path = '/api/v1/authorization/check'
    const { requests, grown } = await during(() => client.post(path, check(), { token: person.token }))
    expect(requests).toEqual([{ method: 'POST', route: path, status: 200, kind: 'person' }])
    expect(grown).toEqual({ ...none, authorization: 1 })
  })

  test('for a decision counts the same where it is refused, by either way', async () => {
    const path = '/api/v1/authorization/check'
    const { requests, grown } = await during(async () => {
      await client.post(path, { action: 'none' }, { token: person.token })
      await client.post(path, check(), { token: 'x' })
      await client.post(path, check(), {})
      await client.post(`${path}?query`, check(), { token: person.token })
    })
    expect(requests.map(({ status, route }) => [status, route])).toEqual([
      [422, path],
      [401, path],
      [401, path],
      [200, path],
    ])
    expect(grown).toEqual({ ...none, api: 4, authorization: 4 })
  })

  test('to sign in or to refresh counts as `authentication`, one to register as `registration`, whether it succeeds or not', async () => {
    const { requests, grown } = await during(async () => {
      const { body } = await client.post('/api/v1/auth/login', { email: person.email, password: person.password })
      await client.post('/api/v1/auth/login', { email: person.email, password: 'another password' })
      await client.post('/api/v1/auth/refresh', { refresh_token: body.refresh_token })
      await client.post('/api/v1/auth/refresh', { refresh_token: 'none' })
      await client.post('/api/v1/auth/register', { email: person.email, password: person.password })
      await send('GET', '/api/v1/auth/login')
    })
    expect(requests.map(({ status }) => status)).toEqual([200, 401, 200, expect.any(Number), 409, 405])
    expect(grown).toEqual({ api: 6, authentication: 4, registration: 1, authorization: 0 })
  })

  test('counts once, with any status, and names the path of its route', async () => {
    const id = crypto.randomUUID()
    const sent: [method: string, path: string, route: string | undefined, status: number, init?: RequestInit][] = [
      ['GET', '/health', '/health', 200],
      ['HEAD', '/health', '/health', 200],
      ['GET', '/ready', '/ready', 200],
      ['GET', '/docs/json', '/docs/json', 200],
      ['GET', '/nowhere', undefined, 404],
      ['POST', '/health', undefined, 405],
      ['OPTIONS', '/health', undefined, 204],
      ['OPTIONS', '/nowhere', undefined, 404],
      ['GET', '/api/v1/auth/me', '/api/v1/auth/me', 401],
      ['GET', `/api/v1/teams/${id}`, '/api/v1/teams/:team_id', 401],
      ['GET', `/api/v1/media/${id}/content?signature=x`, '/api/v1/media/:media_id/content', 403],
      ['POST', '/api/v1/auth/login', '/api/v1/auth/login', 415, { body: 'x', headers: { 'content-type': 'text/x' } }],
      [
        'POST',
        '/api/v1/auth/login',
        '/api/v1/auth/login',
        400,
        { body: '{', headers: { 'content-type': 'application/json' } },
      ],
    ]
    for (const [method, path, route, status, init] of sent) {
      const { requests, grown } = await during(() => send(method, path, init))
      expect(requests).toEqual([{ method, route, status, kind: 'none' }])
      expect(grown.api).toBe(1)
    }
  })

  test('that fails or is refused under load counts as failed', async () => {
    const { total } = app.services.recorder
    const before = total('api').failed
    const { lifecycle } = app.services
    lifecycle.stopping = true
    const { requests } = await during(() =>
      client.post('/api/v1/auth/login', { email: person.email, password: person.password }),
    )
    lifecycle.stopping = false
    expect(requests.map(({ status, route }) => [status, route])).toEqual([[503, '/api/v1/auth/login']])
    expect(total('api').failed - before).toBe(1)
  })

  test('to sign in is timed without the time in which its client sends the body, which counts for `api`', async () => {
    const sums = () => {
      const { total } = app.services.recorder
      return [total('api').slice.sum, total('authentication').slice.sum] as const
    }
    const [api, authentication] = sums()
    const [begin, ...rest] = JSON.stringify({ email: person.email, password: person.password })
    const body = new ReadableStream({
      start: async (controller) => {
        controller.enqueue(new TextEncoder().encode(begin))
        await Bun.sleep(1_000)
        controller.enqueue(new TextEncoder().encode(rest.join('')))
        controller.close()
      },
    })
    const headers = { 'content-type': 'application/json' }
    const { requests } = await during(() => send('POST', '/api/v1/auth/login', { body, headers }))
    expect(requests.map(({ status }) => status)).toEqual([200])
    expect(sums()[0] - api).toBeGreaterThan(990)
    expect(sums()[1] - authentication).toBeLessThan(900)
  })

  test('makes its principal one of the users of the last minute', async () => {
    const { users } = app.services.recorder
    const before = users().estimate()
    const other = await register(client)
    for (let round = 0; round < 3; round += 1) await client.get('/api/v1/auth/me', { token: other.token })
    expect(users().estimate()).toBe(before + 1)
  })

  test('is timed from its arrival to its response', async () => {
    await during(() => client.post('/api/v1/auth/login', { email: person.email, password: person.password }))
    expect(measured[0]?.ms).toBeGreaterThan(0)
    expect(measured[0]?.ms).toBeLessThan(5_000)
  })
})

describe('a decision', () => {
  const tiersDuring = async (work: () => Promise<unknown>) => {
    const { total } = app.services.recorder
    const countsOf = () => (['l1', 'l2', 'l3', 'database'] as const).map((metric) => total(metric).slice.count)
    const before = countsOf()
    await work()
    return countsOf().map((count, at) => count - (before[at] ?? 0))
  }

  test('is timed in each tier that it read: cold in Redis and Postgres, warm in memory alone', async () => {
    const { body } = await client.post('/api/v1/projects', { name: 'p' }, { token: person.token })
    const question = { action: 'read', resource: { type: 'project', id: body.id } }
    const ask = () => client.post('/api/v1/authorization/check', question, { token: person.token })
    while (app.services.caches.redisUse() !== 'used') await Bun.sleep(5)
    const [, l2 = 0, l3 = 0, database = 0] = await tiersDuring(ask)
    expect([l2 > 0, l3 > 0, database > 0]).toEqual([true, true, true])
    const [l1, ...others] = await tiersDuring(ask)
    expect([l1, others[0], others[1]]).toEqual([1, 0, 0])
    const questions = { checks: [question, question, question] }
    const [batch] = await tiersDuring(() =>
      client.post('/api/v1/authorization/check/batch', questions, { token: person.token }),
    )
    expect(batch).toBe(1)
    const [explained] = await tiersDuring(() =>
      client.post('/api/v1/authorization/explain', question, { token: person.token }),
    )
    expect(explained).toBe(1)
  })
})

test('the lag of the event loop counts a block with its length', async () => {
  const { window } = app.services.recorder
  const startedMs = performance.now()
  while (performance.now() - startedMs < 300);
  await Bun.sleep(120)
  expect(window('10s').event_loop.slice.max).toBeGreaterThan(240)
})
