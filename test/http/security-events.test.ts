import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { securityEvents } from '../../src/http/security-events.ts'
import { createLog } from '../../src/platform/log.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { type Api, api, startApp, type TestApp } from '../harness.ts'

const address = '203.0.113.7'
const headers = { 'x-forwarded-for': address }
const password = 'seven green bottles hanging'
const new_password = 'quite another passphrase'

let app: TestApp
let client: Api
let sql: Sql
const written: string[] = []
beforeAll(async () => {
  const log = createLog('info', { write: (line: string) => void written.push(line) })
  app = await startApp({ log, config: { trustedProxies: ['127.0.0.1'] } })
  client = api(app.baseUrl)
  sql = connectOnce(app.connection)
})
afterAll(async () => {
  await sql.end()
  await app.close()
})
beforeEach(() => {
  written.length = 0
})

const post = (path: string, body?: object, token?: string) =>
  client.post(`/api/v1${path}`, body, { headers, ...(token !== undefined && { token }) })
const remove = (path: string, token: string) => client.delete(`/api/v1${path}`, { headers, token })
const signUp = async () => {
  const email = `person-${randomBytes(6).toString('hex')}@example.com`
  const { body } = await post('/auth/register', { email, password })
  return {
    email,
    id: body.user.id as string,
    token: body.access_token as string,
    refresh: body.refresh_token as string,
  }
}

type Line = Record<string, unknown> & { event?: string }
/** The security events since the test began, without what every line has. */
const events = () =>
  written
    .map((line): Line => JSON.parse(line))
    .filter(({ event }) => event !== undefined && event in securityEvents)
    .map(({ level: _l, time: _t, message: _m, request_id: _r, ...rest }) => rest)
const any = expect.any(String)

describe('a security event is logged with who, from where and what', () => {
  test('for an account: registered, signed in, its password changed and not changed, its sessions ended, closed', async () => {
    const { email, id, token: old } = await signUp()
    const { body } = await post('/auth/login', { email, password })
    await post('/auth/login', { email, password: 'not the password' })
    await post('/auth/password', { current_password: 'not the password', new_password }, old)
    const changed = await post('/auth/password', { current_password: password, new_password }, old)
    const token = changed.body.access_token
    const again = await post('/auth/login', { email, password: new_password })
    const sid = JSON.parse(atob(again.body.access_token.split('.')[1] ?? '')).sid
    await remove(`/auth/sessions/${sid}`, token)
    await post(
      '/auth/logout',
      undefined,
      (await post('/auth/login', { email, password: new_password })).body.access_token,
    )
    await post('/auth/logout-all', undefined, token)
    await remove('/auth/me', (await post('/auth/login', { email, password: new_password })).body.access_token)
    const [one, session_id, account] = [{ address, user_id: id }, any, any]
    expect(events()).toEqual([
      { event: 'account.registered', ...one, session_id },
      { event: 'sign_in.succeeded', ...one, session_id, source: 'network' },
      { event: 'sign_in.failed', ...one, account, source: 'network' },
      { event: 'password.not_changed', ...one, account, source: 'session' },
      { event: 'password.changed', ...one, session_id },
      { event: 'sign_in.succeeded', ...one, session_id, source: 'network' },
      { event: 'session.ended', ...one, session_id: sid, reason: 'ended_by_user' },
      { event: 'sign_in.succeeded', ...one, session_id, source: 'network' },
      { event: 'session.ended', ...one, session_id, reason: 'logout' },
      { event: 'session.all_ended', ...one, session_id },
      { event: 'sign_in.succeeded', ...one, session_id, source: 'unknown' },
      { event: 'account.closed', ...one },
    ])
    const secrets = [
      password,
      new_password,
      'not the password',
      email,
      old,
      token,
      body.refresh_token,
      body.device_token,
    ]
    for (const secret of secrets) expect(written.join('')).not.toContain(secret)
  })

  test('for failures on an unknown address, by a hash of it, with the pause that they cause', async () => {
    const email = `unknown-${randomBytes(6).toString('hex')}@example.com`
    for (let index = 0; index < 12; index += 1) await post('/auth/login', { email, password })
    const logged = events()
    expect(logged.map(({ event }) => event)).toEqual([...Array(10).fill('sign_in.failed'), 'sign_in.paused'])
    expect(new Set(logged.map(({ account }) => account)).size).toBe(1)
    const told = { address, user_id: null, account: any, source: 'unknown' }
    expect(logged.at(-1)).toEqual({ event: 'sign_in.paused', ...told, failures: 10, paused_until: any })
    expect(written.join('')).not.toContain(email)
  })

  test('for a refresh token that was used twice', async () => {
    const { id, refresh } = await signUp()
    const refreshed = await post('/auth/refresh', { refresh_token: refresh })
    await post('/auth/refresh', { refresh_token: refreshed.body.refresh_token })
    await sql`update refresh_tokens set rotated_at = rotated_at - interval '1 hour'`
    written.length = 0
    await post('/auth/refresh', { refresh_token: refresh })
    expect(events()).toEqual([{ event: 'session.refresh_reused', address, user_id: id, session_id: any }])
    expect(JSON.parse(written[0] ?? '').level).toBe('warn')
  })

  test('for what operators do: a service key made and revoked, a role and a status changed', async () => {
    const operator = await signUp()
    const person = await signUp()
    await sql`update users set role = 'admin' where id = ${operator.id}`
    const { body } = await post('/auth/login', { email: operator.email, password })
    const token = body.access_token
    await app.caughtUp()
    written.length = 0
    const made = await post('/service-keys', { name: 'CI', scopes: ['authorization:check'] }, token)
    await remove(`/service-keys/${made.body.id}`, token)
    for (const change of [{ role: 'admin' }, { status: 'suspended' }])
      await client.patch(`/api/v1/users/${person.id}`, change, { headers, token })
    await post('/auth/login', { email: person.email, password })
    const one = { address, by: operator.id }
    expect(events()).toEqual([
      { event: 'service_key.created', ...one, service_key_id: made.body.id, scopes: ['authorization:check'] },
      { event: 'service_key.revoked', ...one, service_key_id: made.body.id },
      { event: 'user.changed', ...one, user_id: person.id, role: 'admin' },
      { event: 'user.changed', ...one, user_id: person.id, status: 'suspended' },
      { event: 'sign_in.refused', address, user_id: person.id },
    ])
    expect(written.join('')).not.toContain(made.body.key)
  })

  test('for what operators do about limits: those of an account and of a service key changed, one lifted, pauses ended', async () => {
    const operator = await signUp()
    const person = await signUp()
    await sql`update users set role = 'admin' where id = ${operator.id}`
    const { token } = operator
    await app.caughtUp()
    const made = await post(
      '/service-keys',
      { name: 'CI', scopes: ['authorization:check'], limit_per_second: 5 },
      token,
    )
    const change = (path: string, body: object) => client.patch(`/api/v1${path}`, body, { headers, token })
    written.length = 0
    const answers = [
      await change(`/users/${person.id}`, { limits: { api: 7, projects: 2 } }),
      await change(`/users/${person.id}`, { limits: null }),
      await change(`/service-keys/${made.body.id}`, { limit_per_second: 9 }),
      await change(`/service-keys/${made.body.id}`, { limit_per_second: null }),
      await post('/security/limits/lift', { budget: 'api', key: person.id }, token),
      await client.put('/api/v1/security/mode', { mode: 'no-register' }, { headers, token }),
      await client.put('/api/v1/security/mode', { mode: 'normal' }, { headers, token }),
      await remove(`/users/${person.id}/sign-in-failures`, token),
      await remove(`/users/${person.id}/sessions`, token),
    ]
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200, 204, 200, 200, 204, 204])
    const block = await post('/security/blocks', { kind: 'user', value: person.id }, token)
    expect((await remove(`/security/blocks/${block.body.id}`, token)).status).toBe(204)
    const expires_at = answers[5]?.body.expires_at
    const [one, key] = [{ address, by: operator.id }, { service_key_id: made.body.id }]
    expect(events()).toEqual([
      { event: 'user.changed', ...one, user_id: person.id, limits: '{"api":7,"projects":2}' },
      { event: 'user.changed', ...one, user_id: person.id, limits: 'null' },
      { event: 'service_key.limited', ...one, ...key, limit_per_second: 9 },
      { event: 'service_key.limited', ...one, ...key, limit_per_second: null },
      { event: 'limit.lifted', ...one, budget: 'api', key: person.id },
      { event: 'mode.changed', ...one, before: 'normal', after: 'no-register', expires_at },
      { event: 'mode.changed', ...one, before: 'no-register', after: 'normal', expires_at: null },
      { event: 'user.failures_cleared', ...one, user_id: person.id },
      { event: 'user.sessions_ended', ...one, user_id: person.id },
      { event: 'block.added', ...one, block_id: block.body.id, kind: 'user' },
      { event: 'block.removed', ...one, block_id: block.body.id },
    ])
    expect(written.join('')).not.toContain(made.body.key)
    expect(written.join('')).not.toContain(token)
  })

  test('for a team and a project: joined, a role changed, a member removed and gone, the team transferred and deleted', async () => {
    const [owner, ada, bob] = [await signUp(), await signUp(), await signUp()]
    const team_id = (await post('/teams', { name: 'Keepers' }, owner.token)).body.id as string
    const team = `/teams/${team_id}`
    const secrets: string[] = []
    const join = async ({ email, token }: { email: string; token: string }) => {
      const { secret } = (await post(`${team}/invitations`, { email, role: 'viewer' }, owner.token)).body
      secrets.push(secret)
      expect((await post('/teams/invitations/accept', { secret }, token)).status).toBe(200)
    }
    const setRole = async (id: string, role: string, token = owner.token) =>
      (await client.patch(`/api/v1${team}/members/${id}`, { role }, { headers, token })).status
    written.length = 0
    await join(ada)
    await join(bob)
    const project_id = (await post('/projects', { name: 'P', visibility: 'team-only' }, owner.token)).body.id as string
    await post(`/projects/${project_id}/teams`, { team_id, access_level: 'read' }, owner.token)
    const transferTo = async (owner_id: string) =>
      (await post(`/projects/${project_id}/transfer`, { owner_id }, owner.token)).status
    expect([await transferTo(team_id), await transferTo(bob.id)]).toEqual([422, 200])
    expect([await setRole(ada.id, 'admin'), await setRole(ada.id, 'admin')]).toEqual([200, 200])
    expect((await remove(`${team}/members/${bob.id}`, ada.token)).status).toBe(204)
    expect((await post(`${team}/transfer`, { user_id: owner.id }, owner.token)).status).toBe(200)
    expect((await post(`${team}/transfer`, { user_id: ada.id }, owner.token)).status).toBe(200)
    // Refused changes are not events.
    expect(await setRole(ada.id, 'viewer')).toBe(403)
    expect((await remove(`${team}/members/${ada.id}`, owner.token)).status).toBe(403)
    expect((await remove(team, owner.token)).status).toBe(403)
    expect((await post(`${team}/leave`, undefined, owner.token)).status).toBe(204)
    expect((await remove(team, ada.token)).status).toBe(204)
    const one = { address, team_id }
    expect(events()).toEqual([
      { event: 'team.member_joined', ...one, user_id: ada.id, role: 'viewer' },
      { event: 'team.member_joined', ...one, user_id: bob.id, role: 'viewer' },
      { event: 'project.transferred', address, by: owner.id, project_id, user_id: bob.id },
      { event: 'team.role_changed', ...one, by: owner.id, user_id: ada.id, role: 'admin', previous_role: 'viewer' },
      { event: 'team.member_removed', ...one, by: ada.id, user_id: bob.id, previous_role: 'viewer' },
      { event: 'team.transferred', ...one, by: owner.id, user_id: ada.id },
      { event: 'team.member_left', ...one, user_id: owner.id },
      { event: 'team.deleted', ...one, by: ada.id },
    ])
    for (const secret of [...secrets, ada.email, ada.token, bob.email]) expect(written.join('')).not.toContain(secret)
  })
})

test('every security event is documented', async () => {
  const text = await readFile(new URL('../../src/identity/README.md', import.meta.url), 'utf8')
  const table = text.slice(text.indexOf('## Security events'))
  const documented = [...table.matchAll(/^\| `([a-z_]+\.[a-z_]+)` +\|/gm)].map(([, name]) => name)
  expect(documented.toSorted()).toEqual(Object.keys(securityEvents).toSorted())
})
