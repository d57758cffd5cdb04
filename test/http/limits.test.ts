import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { parseList } from 'structured-headers'
import { catalogue } from '../../src/fault.ts'
import { defaultPolicy, type Policy } from '../../src/limits/policy.ts'
import { createLog } from '../../src/platform/log.ts'
import { newPicture } from '../harness/pictures.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const checkPath = '/api/v1/authorization/check'
const question = (type = 'project') => ({
  action: 'read',
  resource: { type, id: '00000000-0000-7000-8000-000000000001' },
})
const perPlan = (free: number, pro = free * 2) => ({ free, pro, enterprise: pro * 10 })

const policy: Policy = {
  ...defaultPolicy,
  budgets: {
    ...defaultPolicy.budgets,
    api: perPlan(20, 40),
    generation: perPlan(2),
    media: perPlan(3),
    anonymous: 6,
    auth_address: 200,
    auth_account: 9,
    auth_account_and_address: 5,
  },
}

let app: TestApp
let client: Api
const written: string[] = []
const logged = (event: string) => written.map((line) => JSON.parse(line)).filter((entry) => entry.event === event)

beforeAll(async () => {
  app = await startApp({
    config: { limits: 'on', policy, trustedProxies: ['127.0.0.1'], welcomeCredits: 1_000 },
    log: createLog('info', { write: (line: string) => void written.push(line) }),
  })
  client = api(app.baseUrl)
})
afterAll(() => app?.close())

/** A new address for each test. */
let addresses = 0
const newAddress = () => {
  addresses += 1
  return `198.51.100.${addresses}`
}
const from = (address = newAddress()) => ({ 'x-forwarded-for': address })
const registerFrom = (headers = from()) =>
  register({ ...client, post: (path, body, sending) => client.post(path, body, { headers, ...sending }) })

const check = (person: Person, body: object = question()) =>
  client.post(checkPath, body, { token: person.token, headers: from('203.0.113.1') })

const repeat = async (times: number, send: () => Promise<Answer>): Promise<Answer[]> => {
  const answers: Answer[] = []
  for (let time = 0; time < times; time += 1) answers.push(await send())
  return answers
}
const statusesOf = (answers: readonly Answer[]) => answers.map(({ status }) => status)

/** The one item of a RateLimit field, parsed as a structured field. */
const item = (answer: Answer | undefined, name: string): Record<string, unknown> => {
  const [parsed, ...others] = parseList(answer?.headers.get(name) ?? '')
  expect(others).toEqual([])
  const [value, parameters] = parsed ?? []
  return { value, ...Object.fromEntries(parameters ?? []) }
}

const expectExceeded = (answer: Answer | undefined, budget: string, limit: number, windowSeconds = 60) => {
  expect(answer?.status).toBe(429)
  const seconds = answer?.body.retry_after_seconds
  expect(seconds).toBeGreaterThanOrEqual(1)
  expect(seconds).toBeLessThanOrEqual(windowSeconds + 1)
  expect(answer?.body).toMatchObject({
    type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
    code: 'limit.exceeded',
    budget,
    limit,
    window_seconds: windowSeconds,
    'violated-policies': [budget],
  })
  expect(answer?.headers.get('retry-after')).toBe(String(seconds))
  expect(item(answer, 'ratelimit-policy')).toEqual({ value: budget, q: limit, w: windowSeconds })
  expect(item(answer, 'ratelimit')).toEqual({ value: budget, r: 0, t: seconds })
}

describe('the budget api', () => {
  test('admits the figure of the plan, names the policy in each answer, and the units left from half on', async () => {
    const ada = await registerFrom()
    const answers = await repeat(21, () => check(ada))
    expect(statusesOf(answers)).toEqual([...Array(20).fill(200), 429])
    for (const answer of answers.slice(0, 20)) {
      expect(item(answer, 'ratelimit-policy')).toEqual({ value: 'api', q: 20, w: 60 })
    }
    expect(answers[9]?.headers.get('ratelimit')).toBeNull()
    expect(item(answers[10], 'ratelimit')).toMatchObject({ value: 'api', r: 9 })
    expect(item(answers[19], 'ratelimit')).toMatchObject({ value: 'api', r: 0 })
    expectExceeded(answers[20], 'api', 20)
  })

  test('is counted for each person alone, at one address as at several', async () => {
    const [ada, bob] = [await registerFrom(), await registerFrom()]
    await repeat(20, () => check(ada))
    expect((await check(ada)).status).toBe(429)
    expect((await check(bob)).status).toBe(200)
  })

  test('counts a batch by its items, ten for a unit, and refused requests count nothing', async () => {
    const ada = await registerFrom()
    const batch = (size: number) =>
      client.post(`${checkPath}/batch`, { checks: Array(size).fill(question()) }, { token: ada.token })
    expect(item(await batch(101), 'ratelimit')).toMatchObject({ r: 9 })
    expectExceeded(await batch(101), 'api', 20)
    expect(item(await batch(1), 'ratelimit')).toMatchObject({ r: 8 - 1 })
  })

  test('refuses before the body is read', async () => {
    const ada = await registerFrom()
    await repeat(20, () => check(ada))
    const answer = await client.post(checkPath, '{ not JSON', { token: ada.token })
    expectExceeded(answer, 'api', 20)
  })
})

describe('other budgets', () => {
  test('an order counts on generation and not on api', async () => {
    const ada = await registerFrom()
    const order = () =>
      client.post('/api/v1/generations', { model: 'velro-sketch-1', prompt: 'a lighthouse' }, { token: ada.token })
    const answers = await repeat(3, order)
    expect(answers[2]?.status).toBe(429)
    expectExceeded(answers[2], 'generation', 2)
    expect((await check(ada)).headers.get('ratelimit')).toBeNull()
  })

  test('an open route counts by address, an IPv6 address by its /64, and health and keys count on none', async () => {
    const models = (headers: Record<string, string>) => client.get('/api/v1/models', { headers })
    const answers = [
      ...(await repeat(3, () => models(from('2001:db8:1:2::1')))),
      ...(await repeat(4, () => models(from('2001:db8:1:2:ffff::2')))),
    ]
    expect(statusesOf(answers)).toEqual([...Array(6).fill(200), 429])
    expectExceeded(answers[6], 'anonymous', 6)
    expect((await models(from('2001:db8:1:3::1'))).status).toBe(200)
    for (const path of ['/health', '/ready', '/.well-known/jwks.json']) {
      const answer = await client.get(path, { headers: from('2001:db8:1:2::1') })
      expect([path, answer.status, answer.headers.get('ratelimit-policy')]).toEqual([path, 200, null])
    }
    expectExceeded(await client.get('/nowhere', { headers: from('2001:db8:1:2::9') }), 'anonymous', 6)
  })

  test('an open route counts by person where the token is valid, and by address where it is not', async () => {
    const [ada, bob] = [await registerFrom(), await registerFrom()]
    const headers = from()
    const models = (token: string) => client.get('/api/v1/models', { token, headers })
    expect(statusesOf(await repeat(7, () => models(ada.token)))).toEqual([...Array(6).fill(200), 429])
    expect((await models(bob.token)).status).toBe(200)
    expect(statusesOf(await repeat(7, () => models('nonsense')))).toEqual([...Array(6).fill(200), 429])
  })

  test('wrong passwords count twice, on the account together with the address', async () => {
    const ada = await registerFrom()
    const headers = from()
    const login = (password: string) => client.post('/api/v1/auth/login', { email: ada.email, password }, { headers })
    const answers = await repeat(4, () => login('a wrong password'))
    expect(statusesOf(answers).slice(0, 2)).toEqual([401, 401])
    expect(answers.at(-1)?.status).toBe(429)
    expect(answers.at(-1)?.body.budget).toBe('auth_account_and_address')
    const elsewhere = await client.post(
      '/api/v1/auth/login',
      { email: ada.email, password: ada.password },
      { headers: from() },
    )
    expect(elsewhere.status).toBe(200)
  })

  test('a change of the password counts on api, on auth_address, and on the session together with the address', async () => {
    const ada = await registerFrom()
    const headers = from()
    const change = (current_password: string) =>
      client.post(
        '/api/v1/auth/password',
        { current_password, new_password: 'quite another passphrase' },
        { token: ada.token, headers },
      )
    const answers = await repeat(4, () => change('a wrong password'))
    expect(statusesOf(answers)).toEqual([403, 403, 403, 429])
    expectExceeded(answers[3], 'auth_account_and_address', 5)
    const checks = await repeat(7, () => check(ada))
    expect(item(checks.at(-1), 'ratelimit')).toMatchObject({ value: 'api', r: 20 - 4 - 7 })
    const login = { email: ada.email, password: ada.password }
    expect((await client.post('/api/v1/auth/login', login, { headers })).status).toBe(200)
  })

  test('a change of the password is refused where its address has used up auth_address', async () => {
    const ada = await registerFrom()
    const address = newAddress()
    const headers = from(address)
    // Else the token is refused as one that was not verified yet.
    await check(ada)
    for (let count = 0; count < 200; count += 1) await app.services.limits.authenticationFrom(undefined, address)
    const body = { current_password: ada.password, new_password: 'quite another passphrase' }
    const refused = await client.post('/api/v1/auth/password', body, { token: ada.token, headers })
    expectExceeded(refused, 'auth_address', 200)
    const elsewhere = await client.post('/api/v1/auth/password', body, { token: ada.token, headers: from() })
    expect(elsewhere.status).toBe(200)
  })

  test('a path that ends with a slash counts on the same budgets, also with an access token', async () => {
    const ada = await registerFrom()
    const address = newAddress()
    const sending = { token: 'x', headers: from(address) }
    const login = () => client.post('/api/v1/auth/login/', { email: ada.email, password: 'a wrong password' }, sending)
    const answers = await repeat(4, login)
    expect(statusesOf(answers)).toEqual([401, 401, 401, 429])
    expectExceeded(answers[3], 'auth_account_and_address', 5)
    for (let count = 0; count < 200; count += 1)
      await app.services.limits.authenticationFrom(undefined, address).catch(() => undefined)
    const other = { email: 'unknown@example.com', password: 'a wrong password' }
    expectExceeded(await client.post('/api/v1/auth/login/', other, sending), 'auth_address', 200)
  })

  test('registering one address counts on it and its client together, and holds up no sign-in', async () => {
    const ada = await registerFrom()
    const headers = from()
    const registration = { email: ada.email.toUpperCase(), password: 'seven green bottles hanging' }
    const answers = await repeat(6, () => client.post('/api/v1/auth/register', registration, { headers }))
    expect(statusesOf(answers)).toEqual([...Array(5).fill(409), 429])
    expectExceeded(answers[5], 'auth_account_and_address', 5)
    const login = { email: ada.email, password: ada.password }
    expect((await client.post('/api/v1/auth/login', login, { headers })).status).toBe(200)
  })

  test('a download counts on media and not on api', async () => {
    const ada = await registerFrom()
    const content = () => client.get('/api/v1/media/01890000-0000-7000-8000-000000000000/content', { token: ada.token })
    const answers = await repeat(4, content)
    expect(statusesOf(answers)).toEqual([404, 404, 404, 429])
    expectExceeded(answers[3], 'media', 3)
  })
})

describe('bytes by a link', () => {
  /** Counts one of the three units of media. */
  const uploadAs = async ({ token }: Person): Promise<string> => {
    const bytes = new Uint8Array(await newPicture())
    const sending = { token, headers: { 'content-type': 'image/png' } }
    const { status, body } = await client.post('/api/v1/media', bytes, sending)
    expect(status).toBe(201)
    return body.id
  }
  const linkAs = async ({ token }: Person, media: string, kind: 'links' | 'share-links'): Promise<string> => {
    const { status, body } = await client.post(`/api/v1/media/${media}/${kind}`, {}, { token })
    expect(status).toBe(201)
    return new URL(body.url).pathname + new URL(body.url).search
  }
  const openLink = (target: string) => client.get(target, { headers: from() })

  test('is refused from an address with too many invalid links, with any token and any spelling of its parameter', async () => {
    const ada = await registerFrom()
    const media = await uploadAs(ada)
    const [signed, shared] = [await linkAs(ada, media, 'links'), await linkAs(ada, media, 'share-links')]
    const address = newAddress()
    for (let count = 0; count < 200; count += 1) await app.services.limits.authenticationFrom(undefined, address)
    const targets = [
      signed,
      shared,
      signed.replace('signature=', '%73ignature='),
      `${shared}&utm_source=x`,
      `${shared}&variant=256`,
    ]
    for (const target of targets)
      for (const token of [undefined, ada.token, 'x']) {
        const sending = { headers: from(address), ...(token !== undefined && { token }) }
        const { status, body } = await client.get(target, sending)
        // Without a token, a link whose parameter is not recognized counts as any request without a credential.
        if (token !== undefined || !target.includes('%73'))
          expect([target, token, status, body.budget]).toEqual([target, token, 429, 'auth_address'])
      }
    const own = await client.get(`/api/v1/media/${media}/content?variant=256`, {
      token: ada.token,
      headers: from(address),
    })
    expect(own.status).toBe(200)
  })

  for (const kind of ['links', 'share-links'] as const) {
    test(`of ${kind} count on media for the person who made the link, also when others open it`, async () => {
      const [ada, bob] = [await registerFrom(), await registerFrom()]
      const media = await uploadAs(ada)
      const target = await linkAs(ada, media, kind)
      const answers = await repeat(3, () => openLink(target))
      expect(statusesOf(answers)).toEqual([200, 200, 429])
      expectExceeded(answers[2], 'media', 3)
      const own = await client.get(`/api/v1/media/${media}/content`, { token: ada.token })
      expectExceeded(own, 'media', 3)
      await uploadAs(bob)
    })

    test(`of ${kind} count after the decision: a link that is refused costs its maker nothing`, async () => {
      const ada = await registerFrom()
      const media = await uploadAs(ada)
      const target = await linkAs(ada, media, kind)
      const forged = target.replace(/(?<=(?:signature|share)=).{6}/, 'AAAAAA')
      expect(statusesOf(await repeat(3, () => openLink(forged)))).toEqual([403, 403, 403])
      await app.services.database.admin`delete from media where id = ${media}`
      await app.caughtUp()
      expect(statusesOf(await repeat(3, () => openLink(target)))).toEqual([403, 403, 403])
      for (const each of [1, 2]) expect([each, await uploadAs(ada)]).toEqual([each, expect.any(String)])
    })
  }
})

describe('an operator', () => {
  let operator: Person
  beforeAll(async () => {
    operator = await registerFrom()
    await app.services.database.admin`update users set role = 'admin', plan = 'enterprise' where id = ${operator.id}`
    await app.caughtUp()
  })
  const asOperator = () => ({ token: operator.token })

  test('sees who is limited and lifts it', async () => {
    const ada = await registerFrom()
    await repeat(22, () => check(ada))
    const list = async () => {
      const { body } = await client.get('/api/v1/security/limits', asOperator())
      return body.items.find(({ key }: { key: string }) => key === ada.id)
    }
    expect(await list()).toMatchObject({ budget: 'api', limit: 20, used: 20, refused: 2 })
    const lifted = await client.post('/api/v1/security/limits/lift', { budget: 'api', key: ada.id }, asOperator())
    expect(lifted.status).toBe(204)
    expect(await list()).toBeUndefined()
    expect((await check(ada)).status).toBe(200)
    expect(logged('limit.lifted')).toMatchObject([{ by: operator.id, budget: 'api', key: ada.id }])
  })

  test('sets figures of an account, which count from the next request on, and removes them', async () => {
    const ada = await registerFrom()
    const set = (limits: object | null) => client.patch(`/api/v1/users/${ada.id}`, { limits }, asOperator())
    expect((await set({ api: 3, projects: 7 })).body.limits).toEqual({ api: 3, projects: 7 })
    const answers = await repeat(4, () => check(ada))
    expect(statusesOf(answers)).toEqual([200, 200, 200, 429])
    expectExceeded(answers[3], 'api', 3)
    expect((await set(null)).body.limits).toBeNull()
    expect((await check(ada)).status).toBe(200)
    for (const wrong of [{ api: 0 }, { api: 1.5 }, { api: '5' }, { anonymous: 5 }, { api: 1_000_001 }, []])
      expect([wrong, (await set(wrong)).status]).toEqual([wrong, 422])
  })

  test('sets the limit of a service key, which counts from the next request on', async () => {
    const input = { name: 'gateway', scopes: ['authorization:check'], limit_per_second: 2 }
    const { body: made } = await client.post('/api/v1/service-keys', input, asOperator())
    expect(made.limit_per_second).toBe(2)
    const ask = () => client.post(checkPath, { ...question(), user_id: operator.id }, { token: made.key })
    const answers = await Promise.all(Array.from({ length: 30 }, ask))
    const refused = answers.find(({ status }) => status === 429)
    expectExceeded(refused, 'service_key', 2, 1)
    const path = `/api/v1/service-keys/${made.id}`
    expect((await client.patch(path, { limit_per_second: null }, asOperator())).body.limit_per_second).toBeNull()
    expect(new Set(statusesOf(await Promise.all(Array.from({ length: 30 }, ask))))).toEqual(new Set([200]))
  })

  test('reads the counts in the metrics', async () => {
    const { body } = await client.get('/api/v1/performance/metrics', asOperator())
    expect(body.limits.mode).toBe('on')
    expect(body.limits.budgets.api.admitted).toBeGreaterThan(0)
    expect(body.limits.decisions).toMatchObject({ shared: 0, fallback: 0 })
  })
})

test('a proxy that is not trusted, and has a private address, is not limited by address, and /ready says so', async () => {
  const untrusting = await startApp({ config: { limits: 'on', policy } })
  try {
    const { get } = api(untrusting.baseUrl)
    expect((await get('/ready')).body).toEqual({ status: 'ready', reasons: [] })
    const answers = await repeat(10, () => get('/api/v1/models', { headers: from() }))
    expect(statusesOf(answers)).toEqual(Array(10).fill(200))
    expect((await get('/ready')).body).toEqual({ status: 'degraded', reasons: ['proxy.untrusted'] })
    expect(statusesOf(await repeat(7, () => get('/api/v1/models')))).toEqual([...Array(6).fill(200), 429])
  } finally {
    await untrusting.close()
  }
})

test('with LIMITS=monitor nothing is refused, and what would have been is counted and logged', async () => {
  const lines: string[] = []
  const monitoring = await startApp({
    config: { limits: 'monitor', policy },
    log: createLog('info', { write: (line: string) => void lines.push(line) }),
  })
  try {
    const { get } = api(monitoring.baseUrl)
    expect(statusesOf(await repeat(8, () => get('/api/v1/models')))).toEqual(Array(8).fill(200))
    expect(monitoring.services.limits.counts.anonymous).toEqual({ admitted: 6, refused: 2 })
    expect(lines.filter((line) => line.includes('"limit.exceeded"')).length).toBe(1)
  } finally {
    await monitoring.close()
  }
})

describe('the answers', () => {
  test('are documented with 429 and its headers on every route but those that count on no budget', async () => {
    const { body } = await client.get('/docs/json', { headers: from() })
    type Operation = { 'x-budget': string; responses: Record<string, { headers?: object }> }
    const operations = Object.entries(body.paths as Record<string, Record<string, Operation>>).flatMap(
      ([path, methods]) => Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
    )
    expect(operations.length).toBeGreaterThan(60)
    for (const { path, method, operation } of operations) {
      const isFree = operation['x-budget'] === 'free'
      const headers = Object.keys(operation.responses['429']?.headers ?? {})
      expect([method, path, headers]).toEqual([
        method,
        path,
        isFree ? [] : ['Retry-After', 'RateLimit-Policy', 'RateLimit'],
      ])
    }
    const free = operations.filter(({ operation }) => operation['x-budget'] === 'free').map(({ path }) => path)
    expect(free.toSorted()).toEqual(['/.well-known/jwks.json', '/health', '/ready'])
    expect(catalogue['limit.exceeded'].status).toBe(429)
  })

  test('are logged once for each key', async () => {
    const ada = await registerFrom()
    await repeat(23, () => check(ada))
    expect(logged('limit.exceeded').filter(({ key }) => key === ada.id)).toMatchObject([
      { level: 'info', budget: 'api', limit: 20, mode: 'on' },
    ])
  })
})
