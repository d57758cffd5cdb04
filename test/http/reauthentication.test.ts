import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const recentMs = 300_000
const required = '401 session.reauthentication_required'
const outcome = ({ status, body }: Answer) => (status < 400 ? status : `${status} ${body?.code}`)

describe('authentication within the last five minutes', () => {
  const clock = manualClock(Date.now())
  let app: TestApp
  let client: Api
  beforeAll(async () => {
    app = await startApp({ clock })
    client = api(app.baseUrl)
  })
  afterAll(() => app?.close())

  const reauthenticate = (token: string, body: object) => client.post('/api/v1/auth/reauthenticate', body, { token })
  const refresh = (refresh_token: string) => client.post('/api/v1/auth/refresh', { refresh_token })

  /** A sensitive change that leaves everything as it is: the password stays the same. */
  const change = ({ password }: Person, token: string) =>
    client.post('/api/v1/auth/password', { current_password: password, new_password: password }, { token })

  const operator = async () => {
    const person = await register(client)
    await app.services.database.admin`update users set role = 'admin' where id = ${person.id}`
    await app.caughtUp()
    return person
  }

  test('is there after a sign-in, ends after five minutes, and is not prolonged by a refresh', async () => {
    const person = await register(client)
    clock.advance(recentMs)
    const changed = await change(person, person.token)
    expect(outcome(changed)).toBe(200)
    clock.advance(recentMs + 1)
    const refused = await change(person, changed.body.access_token)
    expect(outcome(refused)).toBe(required)
    expect(refused.body.max_age_seconds).toBe(300)
    expect(refused.headers.get('www-authenticate')).toBe(
      'Bearer error="insufficient_user_authentication", max_age="300"',
    )
    const refreshed = await refresh(changed.body.refresh_token)
    expect(outcome(await change(person, refreshed.body.access_token))).toBe(required)
    const again = await client.post('/api/v1/auth/login', { email: person.email, password: person.password })
    expect(outcome(await change(person, again.body.access_token))).toBe(200)
  })

  test('is required of every sensitive change, by people and by operators', async () => {
    const [person, other, admin] = [await register(client), await register(client), await operator()]
    const sending = { token: person.token }
    const team = (await client.post('/api/v1/teams', { name: 't' }, sending)).body
    const project = (await client.post('/api/v1/projects', { name: 'p' }, sending)).body
    const key = (
      await client.post('/api/v1/service-keys', { name: 'k', scopes: ['authorization:check'] }, { token: admin.token })
    ).body
    clock.advance(recentMs + 1)
    const { token } = admin
    const answers = {
      password: await change(person, person.token),
      closing: await client.delete('/api/v1/auth/me', sending),
      team: await client.post(`/api/v1/teams/${team.id}/transfer`, { user_id: other.id }, sending),
      project: await client.post(`/api/v1/projects/${project.id}/transfer`, { owner_id: other.id }, sending),
      newKey: await client.post('/api/v1/service-keys', { name: 'k', scopes: ['authorization:check'] }, { token }),
      keyLimit: await client.patch(`/api/v1/service-keys/${key.id}`, { limit_per_second: 5 }, { token }),
      keyRevoked: await client.delete(`/api/v1/service-keys/${key.id}`, { token }),
      account: await client.patch(`/api/v1/users/${other.id}`, { role: 'admin' }, { token }),
      failures: await client.delete(`/api/v1/users/${other.id}/sign-in-failures`, { token }),
      credits: await client.post('/api/v1/credits/grants', { user_id: other.id, amount: 1, note: 'n' }, { token }),
      endedSession: await client.delete(`/api/v1/auth/sessions/${other.id}`, sending),
      endedSessions: await client.post('/api/v1/auth/logout-all', undefined, sending),
      exported: await client.post('/api/v1/auth/me/export', undefined, sending),
      invited: await client.post('/api/v1/users', { email: 'invited@example.com' }, { token }),
      invitedAgain: await client.post(`/api/v1/users/${other.id}/invitation`, undefined, { token }),
      reset: await client.post(`/api/v1/users/${other.id}/password-reset`, undefined, { token }),
      signedOut: await client.delete(`/api/v1/users/${other.id}/sessions`, { token }),
      flags: await client.put('/api/v1/security/flags', { warm_up: true }, { token }),
      breaker: await client.patch('/api/v1/security/breakers/mail', { failures: 3 }, { token }),
      mode: await client.put('/api/v1/security/mode', { mode: 'normal' }, { token }),
      block: await client.post('/api/v1/security/blocks', { kind: 'user', value: other.id }, { token }),
      unblock: await client.delete(`/api/v1/security/blocks/${other.id}`, { token }),
      limit: await client.post('/api/v1/security/limits/lift', { budget: 'api', key: other.id }, { token }),
    }
    const outcomes = Object.entries(answers).map(([name, answer]) => [name, outcome(answer)])
    expect(outcomes).toEqual(Object.keys(answers).map((name) => [name, required]))
    // What is not sensitive needs none.
    expect(outcome(await client.get('/api/v1/users', { token }))).toBe(200)
    expect(outcome(await client.patch('/api/v1/auth/me', { display_name: 'Renamed' }, sending))).toBe(200)
  })

  test('is documented for every change that only operators may make', async () => {
    type Operation = { responses: Record<string, unknown>; 'x-recent-authentication'?: true }
    const document: { paths: Record<string, Record<string, Operation>> } = (await client.get('/docs/json')).body
    const changes = Object.entries(document.paths).flatMap(([path, operations]) =>
      Object.entries(operations)
        .filter(
          ([method, { responses }]) => method !== 'get' && JSON.stringify(responses).includes('access.admins_only'),
        )
        .map(([method, operation]) => ({ route: `${method} ${path}`, operation })),
    )
    expect(changes.length).toBeGreaterThan(15)
    // Every route can answer 401 `session.reauthentication_required` from elsewhere; these do so for the age of the session.
    const open = changes.filter(({ operation }) => operation['x-recent-authentication'] !== true)
    expect(open.map(({ route }) => route)).toEqual([])
  })

  test('is given again by the password, in a new session in place of the old one, whose tokens end', async () => {
    const person = await register(client)
    const successor = (await refresh(person.refreshToken)).body.refresh_token
    clock.advance(recentMs + 1)
    expect(outcome(await change(person, person.token))).toBe(required)
    const { status, body } = await reauthenticate(person.token, { password: person.password })
    expect(status).toBe(200)
    const sessions = await client.get('/api/v1/auth/sessions', { token: body.access_token })
    expect(sessions.body.items.map(({ current }: { current: boolean }) => current)).toEqual([true])
    expect(outcome(await client.get('/api/v1/auth/me', { token: person.token }))).toBe('401 identity.not_signed_in')
    for (const old of [person.refreshToken, successor]) {
      expect(outcome(await refresh(old))).toBe('401 identity.refresh_token_invalid')
    }
    const refreshed = await refresh(body.refresh_token)
    expect(outcome(await change(person, refreshed.body.access_token))).toBe(200)
  })

  test('is not given by a wrong password, whose failures pause the session', async () => {
    const person = await register(client)
    clock.advance(recentMs + 1)
    const tries: (string | number)[] = []
    for (let count = 0; count < 11; count += 1)
      tries.push(outcome(await reauthenticate(person.token, { password: 'not the password' })))
    expect(tries).toEqual([...Array(10).fill('403 identity.password_wrong'), '429 identity.sign_in_paused'])
    expect(outcome(await reauthenticate(person.token, { password: person.password }))).toBe(
      '429 identity.sign_in_paused',
    )
    expect(outcome(await change(person, person.token))).toBe(required)
  })

  test('is not given to a session that has ended, nor to another one of the account', async () => {
    const person = await register(client)
    const login = async () =>
      (await client.post('/api/v1/auth/login', { email: person.email, password: person.password })).body.access_token
    const [ended, other] = [await login(), await login()]
    await client.post('/api/v1/auth/logout', undefined, { token: ended })
    expect(outcome(await reauthenticate(ended, { password: person.password }))).toBe('401 identity.not_signed_in')
    clock.advance(recentMs + 1)
    expect(outcome(await reauthenticate(person.token, { password: person.password }))).toBe(200)
    expect(outcome(await change(person, other))).toBe(required)
  })
})
