import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { manualClock } from '../../src/kit/clock.ts'
import { createLog } from '../../src/platform/log.ts'
import { mmdb } from '../harness/mmdb.ts'
import {
  type Answer,
  type Api,
  api,
  type Person,
  type Runtime,
  register,
  startApp,
  startServer,
  type TestApp,
  type TestServer,
} from '../harness.ts'

const places: Readonly<Record<string, string>> = { '192.0.2.1': 'DE', '198.51.100.1': 'FR', '203.0.113.1': 'BR' }
const [home, abroad, far, nowhere] = ['192.0.2.1', '198.51.100.1', '203.0.113.1', '10.0.0.9']
const geoip = { countryOf: (address: string) => places[address] ?? null, systemOf: () => null, builtAt: new Date(0) }

const firefox = 'Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:145.0) Gecko/20100101 Firefox/145.0'
const chrome = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36'

const required = '401 session.reauthentication_required'
const outcome = ({ status, body }: Answer) => (status < 400 ? status : `${status} ${body?.code}`)

/** Requests of a client at an address. */
const from = (address: string, token?: string, userAgent = firefox) => ({
  headers: { 'x-forwarded-for': address, 'user-agent': userAgent },
  ...(token !== undefined && { token }),
})

const registerFrom = async (client: Api, address: string): Promise<Person> => {
  const post: Api['post'] = (path, body) => client.post(path, body, from(address))
  return register({ ...client, post })
}

const me = (client: Api, person: Pick<Person, 'token'>, address: string, userAgent?: string) =>
  client.get('/api/v1/auth/me', from(address, person.token, userAgent))
const refresh = (client: Api, refresh_token: string, address: string) =>
  client.post('/api/v1/auth/refresh', { refresh_token }, from(address))
const reauthenticate = (client: Api, { token, password }: Person, address: string) =>
  client.post('/api/v1/auth/reauthenticate', { password }, from(address, token))

const makeProject = async (client: Api, person: Person, address: string): Promise<string> =>
  (await client.post('/api/v1/projects', { name: 'P' }, from(address, person.token))).body.id
const questionOf = (id: string) => ({ action: 'read', resource: { type: 'project', id } })

describe('SECURITY_CONTEXT=enforce', () => {
  const clock = manualClock(Date.now())
  const statements: string[] = []
  let output = ''
  const keep = (line: string) => {
    output += line
  }
  let app: TestApp
  let client: Api
  beforeAll(async () => {
    app = await startApp({
      clock,
      geoip,
      log: createLog('debug', { write: keep }),
      config: { securityContext: 'enforce', trustedProxies: ['127.0.0.1'] },
      onStatement: (text) => statements.push(text),
    })
    client = api(app.baseUrl)
  })
  afterAll(() => app?.close())

  test('refuses a token from a far country with a code that says how to go on, and answers it at home', async () => {
    const person = await registerFrom(client, home)
    const refused = await me(client, person, far)
    expect(outcome(refused)).toBe(required)
    expect(refused.body).toMatchObject({ max_age_seconds: 0, reason: 'context' })
    expect(refused.body.detail).toContain('POST /api/v1/auth/reauthenticate')
    expect(refused.headers.get('www-authenticate')).toBe('Bearer error="insufficient_user_authentication", max_age="0"')
    expect(outcome(await me(client, person, home))).toBe(200)
  })

  test('refuses checks, batches, explanations and AuthZEN evaluations from there before anything is decided', async () => {
    const person = await registerFrom(client, home)
    const question = questionOf(await makeProject(client, person, home))
    const at = from(far, person.token)
    const answers = [
      await client.post('/api/v1/authorization/check', question, at),
      await client.post('/api/v1/authorization/check/batch', { checks: [question] }, at),
      await client.post('/api/v1/authorization/explain', question, at),
      await client.get(`/api/v1/projects/${question.resource.id}`, at),
      await client.post('/api/v1/projects', { name: 'another' }, at),
      await client.patch('/api/v1/auth/me', { display_name: 'another' }, at),
      await client.get('/api/v1/auth/sessions', at),
      // Their bodies are wrong, and the second is so large that it is not read.
      await client.post('/api/v1/projects', { name: 1 }, at),
      await client.post('/api/v1/projects', { name: 'x'.repeat(3_000) }, at),
    ]
    expect(answers.map(outcome)).toEqual(answers.map(() => required))
  })

  test('goes on from there after authenticating again, and flips between both countries from then on', async () => {
    const person = await registerFrom(client, home)
    expect(outcome(await me(client, person, far))).toBe(required)
    const options = await client.post('/api/v1/auth/reauthenticate/options', undefined, from(far, person.token))
    expect(outcome(options)).toBe(200)
    const { status, body } = await reauthenticate(client, person, far)
    expect(status).toBe(200)
    const again = { token: body.access_token }
    for (const address of [far, home, far, home]) expect(outcome(await me(client, again, address))).toBe(200)
    const refreshed = await refresh(client, body.refresh_token, home)
    for (const address of [far, home])
      expect(outcome(await me(client, { token: refreshed.body.access_token }, address))).toBe(200)
    // The old token has ended, wherever it is used.
    expect(outcome(await me(client, person, home))).toBe('401 identity.not_signed_in')
  })

  test('refuses a stream from there, with a token and with a ticket, which stays good at home', async () => {
    const person = await registerFrom(client, home)
    const path = '/api/v1/generations'
    const order = { model: 'local/procedural', prompt: 'p' }
    const { id } = (await client.post(path, order, from(home, person.token))).body
    const { ticket } = (await client.post(`${path}/${id}/stream-tickets`, undefined, from(home, person.token))).body
    expect(outcome(await client.get(`${path}/${id}/stream`, from(far, person.token)))).toBe(required)
    expect(outcome(await client.get(`${path}/${id}/stream?ticket=${ticket}`, from(far)))).toBe(required)
    const stream = await fetch(`${app.baseUrl}${path}/${id}/stream?ticket=${ticket}`, from(home))
    expect(stream.status).toBe(200)
    await stream.body?.cancel()
  })

  test('refuses a refresh by cookies from there without deleting them', async () => {
    const { email, password } = await registerFrom(client, home)
    const inBrowser = (address: string, cookie?: string) => ({
      headers: { ...from(address).headers, origin: app.baseUrl, ...(cookie !== undefined && { cookie }) },
    })
    const signedIn = await client.post('/api/v1/auth/login', { email, password, cookies: true }, inBrowser(home))
    const cookie = signedIn.headers
      .getSetCookie()
      .map((each) => each.split(';')[0])
      .join('; ')
    const refreshed = await client.post('/api/v1/auth/refresh', { cookies: true }, inBrowser(far, cookie))
    expect(outcome(refreshed)).toBe(required)
    expect(refreshed.headers.getSetCookie()).toEqual([])
    expect(outcome(await client.post('/api/v1/auth/refresh', { cookies: true }, inBrowser(home, cookie)))).toBe(200)
  })

  test('goes on from there after a sign-in', async () => {
    const { email, password } = await registerFrom(client, home)
    const signedIn = await client.post('/api/v1/auth/login', { email, password }, from(far))
    expect(outcome(await me(client, { token: signedIn.body.access_token }, far))).toBe(200)
  })

  test('does not accept a wrong password from there', async () => {
    const person = await registerFrom(client, home)
    const answer = await reauthenticate(client, { ...person, password: 'not the password' }, far)
    expect(outcome(answer)).toBe('403 identity.password_wrong')
    expect(outcome(await me(client, person, far))).toBe(required)
  })

  test('lets a session be ended from anywhere', async () => {
    const person = await registerFrom(client, home)
    expect(outcome(await client.post('/api/v1/auth/logout', undefined, from(far, person.token)))).toBe(204)
    expect(outcome(await me(client, person, home))).toBe('401 identity.not_signed_in')
  })

  test('refuses a refresh from there and leaves the token as it was, so that it works at home', async () => {
    const person = await registerFrom(client, home)
    expect(outcome(await refresh(client, person.refreshToken, far))).toBe(required)
    const refreshed = await refresh(client, person.refreshToken, home)
    expect(outcome(refreshed)).toBe(200)
    expect(outcome(await me(client, { token: refreshed.body.access_token }, home))).toBe(200)
  })

  test('refuses the token of a traveller at home, who was seen far away by a refresh', async () => {
    const person = await registerFrom(client, home)
    clock.advance(12 * 3_600_000)
    const refreshed = await refresh(client, person.refreshToken, far)
    expect(outcome(refreshed)).toBe(200)
    const traveller = { token: refreshed.body.access_token }
    expect(outcome(await me(client, traveller, far))).toBe(200)
    expect(outcome(await me(client, traveller, home))).toBe(required)
  })

  test('refuses another browser on another platform in another network, and neither alone', async () => {
    const person = await registerFrom(client, home)
    expect(outcome(await me(client, person, '192.0.3.1', chrome))).toBe(required)
    expect(outcome(await me(client, person, home, chrome))).toBe(200)
    expect(outcome(await me(client, person, '192.0.3.1'))).toBe(200)
  })

  test('answers from a neighbouring country, from an address without a country and without a User-Agent', async () => {
    const person = await registerFrom(client, home)
    for (const address of [abroad, nowhere, home, nowhere, abroad])
      expect(outcome(await me(client, person, address))).toBe(200)
    expect(outcome(await me(client, person, home, ''))).toBe(200)
  })

  test('refuses nothing for a session that was opened where no country is known', async () => {
    const person = await registerFrom(client, nowhere)
    for (const address of [far, home, far]) expect(outcome(await me(client, person, address))).toBe(200)
  })

  test('answers a warm check from where the session was seen without a statement', async () => {
    const person = await registerFrom(client, home)
    const question = questionOf(await makeProject(client, person, home))
    const check = (address: string) => client.post('/api/v1/authorization/check', question, from(address, person.token))
    for (const address of [home, abroad]) await check(address)
    await app.leased()
    statements.length = 0
    for (const address of [home, abroad, home, abroad]) expect((await check(address)).body.allowed).toBe(true)
    expect(statements).toEqual([])
  })

  test('shows the country in the list of sessions, and what the session recorded in the export', async () => {
    const person = await registerFrom(client, home)
    const { body } = await client.get('/api/v1/auth/sessions', from(home, person.token))
    expect(body.items.map(({ country }: { country: string }) => country)).toEqual(['DE'])
    const [row] = await app.services.database.admin`
      select country, browser, platform, seen_country, length(network_hash) as hash from sessions where user_id = ${person.id}`
    expect({ ...row }).toEqual({ country: 'DE', browser: 'Firefox', platform: 'Windows', seen_country: 'DE', hash: 12 })
  })

  test('forgets where the sessions of a closed account were', async () => {
    const person = await registerFrom(client, home)
    expect(outcome(await client.delete('/api/v1/auth/me', from(home, person.token)))).toBe(204)
    const rows = await app.services.database.admin`
      select from sessions where user_id = ${person.id}
         and num_nonnulls(country, earlier_countries, network_hash, browser, platform, seen_country, seen_at) > 0`
    expect(rows.length).toBe(0)
  })

  test('is counted in the metrics, signals and refusals', async () => {
    const operator = await registerFrom(client, home)
    await app.services.database.admin`update users set role = 'admin' where id = ${operator.id}`
    await app.caughtUp()
    const { body } = await client.get('/api/v1/performance/metrics', from(home, operator.token))
    expect(body.security_context).toMatchObject({ mode: 'enforce', rollout_percent: 100 })
    expect(body.security_context.refusals).toBeGreaterThan(10)
    expect(body.security_context.signals.impossible_travel).toBeGreaterThan(5)
  })

  test('writes no token and no password to the log', async () => {
    const person = await registerFrom(client, home)
    await me(client, person, far)
    await refresh(client, person.refreshToken, far)
    expect(output).toContain('session.context_changed')
    for (const secret of [person.token, person.refreshToken, person.password, person.email])
      expect(output.includes(secret)).toBe(false)
  })
})

describe('SECURITY_CONTEXT=monitor', () => {
  let output = ''
  const keep = (line: string) => {
    output += line
  }
  let app: TestApp
  let client: Api
  beforeAll(async () => {
    app = await startApp({
      geoip,
      log: createLog('info', { write: keep }),
      config: { trustedProxies: ['127.0.0.1'] },
    })
    client = api(app.baseUrl)
  })
  afterAll(() => app?.close())

  test('is the default, refuses nothing, and reports its findings once', async () => {
    const person = await registerFrom(client, home)
    for (let time = 0; time < 3; time += 1) expect(outcome(await me(client, person, far))).toBe(200)
    const lines = output.split('\n').filter((line) => line.includes('session.context_changed'))
    expect(lines.map((line) => JSON.parse(line))).toMatchObject([
      {
        level: 'warn',
        address: far,
        user_id: person.id,
        country: 'BR',
        session_country: 'DE',
        signals: ['impossible_travel', 'country_changed', 'network_changed'],
        refused: false,
      },
    ])
  })

  test('is shown by layer 4 of an explanation, also for a resource that is not visible', async () => {
    const person = await registerFrom(client, home)
    const own = questionOf(await makeProject(client, person, home))
    const reasonAt = async (address: string, question = own) => {
      const { body } = await client.post('/api/v1/authorization/explain', question, from(address, person.token))
      const { verdict, reason } = body.layers.find(({ layer }: { layer: number }) => layer === 4)
      return `${body.allowed} ${verdict} ${reason}`
    }
    for (let time = 0; time < 2; time += 1) {
      expect(await reasonAt(home)).toBe('true abstain context.unchanged')
      expect(await reasonAt(far)).toBe('true abstain context.impossible_travel')
      expect(await reasonAt(abroad)).toBe('true abstain context.country_changed')
      expect(await reasonAt(abroad, questionOf(person.id))).toBe('false abstain context.country_changed')
    }
  })
})

describe('service keys with allowed networks and an expiry', () => {
  const clock = manualClock(Date.now())
  let app: TestApp
  let other: TestApp
  let client: Api
  let operator: Person
  const path = '/api/v1/service-keys'
  const create = async (given: object = {}) =>
    (await client.post(path, { name: 'k', scopes: ['authorization:check'], ...given }, { token: operator.token })).body
  const signInAgain = async (person: Person): Promise<Person> => {
    const { email, password } = person
    const { body } = await client.post('/api/v1/auth/login', { email, password })
    return { ...person, token: body.access_token }
  }
  const ask = (key: string, address: string, at = client) =>
    at.post(
      '/api/v1/authorization/check',
      { ...questionOf(operator.id), user_id: operator.id },
      { token: key, headers: { 'x-forwarded-for': address } },
    )
  beforeAll(async () => {
    const options = { clock, config: { trustedProxies: ['127.0.0.1'] } }
    app = await startApp(options)
    other = await startApp({ ...options, connection: app.connection })
    client = api(app.baseUrl)
    operator = await register(client)
    await app.services.database.admin`update users set role = 'admin' where id = ${operator.id}`
    await app.caughtUp()
  })
  afterAll(async () => {
    await other?.close()
    await app?.close()
  })

  test('are used from there alone, on every kind of route', async () => {
    const { key, allowed_networks } = await create({
      allowed_networks: ['203.0.113.77/24', '198.51.100.1', '2001:DB8::1/32', '203.0.113.0/24'],
    })
    expect(allowed_networks).toEqual(['203.0.113.0/24', '198.51.100.1', '2001:db8::/32'])
    const allowed = ['203.0.113.9', '::ffff:203.0.113.9', '198.51.100.1', '2001:db8:ffff::9']
    for (const address of allowed) expect(outcome(await ask(key, address))).toBe(200)
    for (const address of ['203.0.114.1', '198.51.100.2', '2001:db9::1', '127.0.0.9', 'not an address']) {
      const answer = await ask(key, address)
      expect({ address, outcome: outcome(answer) }).toEqual({ address, outcome: '403 service_key.network_refused' })
    }
    const headers = { 'x-forwarded-for': '192.0.2.1', 'velro-user': operator.id }
    expect(outcome(await client.get('/api/v1/auth/me', { token: key, headers }))).toBe(
      '403 service_key.network_refused',
    )
    expect(outcome(await client.get('/api/v1/auth/sessions', { token: key, headers }))).toBe(
      '403 service_key.network_refused',
    )
  })

  test('tell nothing to who has a wrong secret', async () => {
    const { key } = await create({ allowed_networks: ['203.0.113.0/24'] })
    const wrong = `${key.slice(0, -2)}${key.endsWith('AA') ? 'BB' : 'AA'}`
    expect(outcome(await ask(wrong, '192.0.2.1'))).toBe('401 identity.not_signed_in')
    expect(outcome(await ask(wrong, '203.0.113.1'))).toBe('401 identity.not_signed_in')
  })

  test('are restricted and freed on every instance once the call has returned', async () => {
    const { key, id } = await create()
    const elsewhere = api(other.baseUrl)
    for (const at of [client, elsewhere]) expect(outcome(await ask(key, '192.0.2.1', at))).toBe(200)
    const change = (changes: object) => client.patch(`${path}/${id}`, changes, { token: operator.token })
    const restricted = await change({ allowed_networks: ['203.0.113.0/24'] })
    expect(restricted.body).toMatchObject({ allowed_networks: ['203.0.113.0/24'], limit_per_second: null })
    for (const at of [elsewhere, client])
      expect(outcome(await ask(key, '192.0.2.1', at))).toBe('403 service_key.network_refused')
    // Another change leaves them as they are.
    expect((await change({ limit_per_second: 100 })).body.allowed_networks).toEqual(['203.0.113.0/24'])
    expect((await change({ allowed_networks: null })).body.allowed_networks).toBeNull()
    for (const at of [elsewhere, client]) expect(outcome(await ask(key, '192.0.2.1', at))).toBe(200)
  })

  test('are refused with a code of their own once they have expired, also by a change', async () => {
    const inAnHour = new Date(clock.now() + 3_600_000).toISOString()
    const { key, id } = await create({ expires_at: inAnHour })
    expect(outcome(await ask(key, '192.0.2.1'))).toBe(200)
    clock.advance(3_600_001)
    for (const at of [client, api(other.baseUrl)]) {
      const answer = await ask(key, '192.0.2.1', at)
      expect(outcome(answer)).toBe('401 service_key.expired')
      expect(answer.headers.get('www-authenticate')).toBe('Bearer error="invalid_token"')
    }
    operator = await signInAgain(operator)
    const { body } = await client.patch(`${path}/${id}`, { expires_at: null }, { token: operator.token })
    expect(body.expires_at).toBeNull()
    for (const at of [api(other.baseUrl), client]) expect(outcome(await ask(key, '192.0.2.1', at))).toBe(200)
  })

  test('cannot have networks that are not valid, nor be changed by an empty request', async () => {
    const { id } = await create()
    const change = (changes: object) => client.patch(`${path}/${id}`, changes, { token: operator.token })
    for (const [networks, pointer] of [
      [['203.0.113.0/33'], '/allowed_networks/0'],
      [['203.0.113.1', 'example.com'], '/allowed_networks/1'],
      [['0.0.0.0/0'], '/allowed_networks/0'],
      [['::ffff:203.0.113.0/120'], '/allowed_networks/0'],
      [[], '/allowed_networks'],
      [Array.from({ length: 33 }, (_, at) => `203.0.113.${at}`), '/allowed_networks'],
    ] as const) {
      const { status, body } = await change({ allowed_networks: networks })
      expect(status).toBe(422)
      expect(body.errors[0].pointer).toBe(pointer)
    }
    expect((await change({})).status).toBe(422)
    expect((await change({ expires_at: new Date(clock.now() - 1).toISOString() })).status).toBe(422)
    expect((await change({ scopes: ['authorization:list'] })).status).toBe(422)
  })
})

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'velro-countries-'))
})
afterAll(() => rm(folder, { recursive: true }))

describe.each<Runtime>(['bun', 'deno'])('a server on %s with the database of GEOIP_COUNTRY_DB', (runtime) => {
  let server: TestServer
  afterAll(() => server?.stop())

  test('refuses a token from a far country, and names countries in IPv4 and IPv6', async () => {
    const file = join(folder, `${runtime}.mmdb`)
    await writeFile(
      file,
      mmdb({
        '192.0.2.0/24': { country_code: 'DE' },
        '203.0.113.0/24': { country_code: 'BR' },
        '2001:db8::/32': { country_code: 'JP' },
      }),
    )
    server = await startServer({
      runtime,
      env: { SECURITY_CONTEXT: 'enforce', GEOIP_COUNTRY_DB: file, TRUSTED_PROXIES: '127.0.0.1', JOB_CONCURRENCY: '0' },
    })
    const client = api(server.baseUrl)
    const person = await registerFrom(client, home)
    expect(outcome(await me(client, person, far))).toBe(required)
    expect(outcome(await me(client, person, '2001:db8::1'))).toBe(required)
    expect(outcome(await me(client, person, '::ffff:192.0.2.9'))).toBe(200)
    const again = await reauthenticate(client, person, '2001:db8::1')
    const { body } = await client.get('/api/v1/auth/sessions', from('2001:db8::1', again.body.access_token))
    expect(body.items.map(({ country }: { country: string }) => country)).toEqual(['JP'])
  }, 60_000)
})

test('a server whose database cannot be used does not start, and says why in one line', async () => {
  const file = join(folder, 'ipv4.mmdb')
  await writeFile(file, mmdb({ '192.0.2.0/24': { country_code: 'DE' } }, 4))
  const started = startServer({ runtime: 'bun', env: { GEOIP_COUNTRY_DB: file } })
  expect(started).rejects.toThrow(
    `GEOIP_COUNTRY_DB names ${file}, which cannot be used: it knows IPv4 alone, and would give IPv6 addresses wrong countries.`,
  )
}, 60_000)
