import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createApp } from '../../src/app.ts'
import { priorityOf } from '../../src/http/priority.ts'
import { type Admission, Overloaded } from '../../src/kit/admission.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

let app: TestApp
let client: Api
let ada: Person
beforeAll(async () => {
  app = await startApp()
  client = api(app.baseUrl)
  ada = await register(client)
})
afterAll(() => app?.close())

const outcomeOf = ({ status, body }: Answer) => (status < 400 ? String(status) : `${status} ${body.code}`)

/** Postgres has more work than it can do: what may be refused is. */
const whileOverloaded = async (work: () => Promise<void>) => {
  const { statements, batches, changes } = app.services.admissions
  const own = [statements, batches, changes].map((admission) => [admission, admission.run] as const)
  for (const [admission, run] of own) {
    const refusing: Admission['run'] = (priority, ...rest) =>
      priority === 'revocation' || priority === 'continuation'
        ? run(priority, ...rest)
        : Promise.reject(new Overloaded())
    Object.assign(admission, { run: refusing })
  }
  try {
    await work()
  } finally {
    for (const [admission, run] of own) Object.assign(admission, { run })
  }
}

describe('an overloaded server', () => {
  test('refuses what needs Postgres with 503 and Retry-After', async () => {
    await whileOverloaded(async () => {
      const refused = await client.get('/api/v1/projects', { token: ada.token })
      expect([outcomeOf(refused), refused.headers.get('retry-after')]).toEqual(['503 server.overloaded', '1'])
      const created = await client.post('/api/v1/projects', { name: 'P' }, { token: ada.token })
      expect(outcomeOf(created)).toBe('503 server.overloaded')
      const questions = Array.from({ length: 50 }, () => ({
        action: 'read',
        resource: { type: 'project', id: crypto.randomUUID() },
      }))
      const batch = await client.post('/api/v1/authorization/check/batch', { checks: questions }, { token: ada.token })
      expect(outcomeOf(batch)).toBe('503 server.overloaded')
    })
    expect(outcomeOf(await client.get('/api/v1/projects', { token: ada.token }))).toBe('200')
  })

  test('answers decisions from memory, /health and /ready', async () => {
    const { body: project } = await client.post('/api/v1/projects', { name: 'P' }, { token: ada.token })
    const question = { action: 'read', resource: { type: 'project', id: project.id } }
    const check = () => client.post('/api/v1/authorization/check', question, { token: ada.token })
    await check()
    await whileOverloaded(async () => {
      expect([outcomeOf(await check()), (await check()).body.allowed]).toEqual(['200', true])
      expect(outcomeOf(await client.get('/health'))).toBe('200')
      expect(outcomeOf(await client.get('/ready'))).toBe('200')
    })
  })

  test('takes access away, also where no fact is in memory', async () => {
    const bea = await register(client)
    const { body: project } = await client.post('/api/v1/projects', { name: 'P' }, { token: bea.token })
    await whileOverloaded(async () => {
      app.services.caches.facts.invalidate('everything')
      expect(outcomeOf(await client.delete(`/api/v1/projects/${project.id}`, { token: bea.token }))).toBe('204')
      app.services.caches.facts.invalidate('everything')
      expect(outcomeOf(await client.post('/api/v1/auth/logout', undefined, { token: bea.token }))).toBe('204')
    })
    expect(outcomeOf(await client.get('/api/v1/auth/me', { token: bea.token }))).toBe('401 identity.not_signed_in')
  })
})

test('each route has the priority of what it does: take access away, read, or something else', () => {
  const byPriority = Map.groupBy(
    createApp(app.services, () => '127.0.0.1')
      .routes.filter(({ path }) => /^\/(?:api|access)\//.test(path))
      .map(({ method, path }) => ({ method, path })),
    ({ method, path }) => {
      const url = `http://localhost${path.replaceAll(/:\w+/g, crypto.randomUUID())}`
      return priorityOf(new Request(url, { method }))
    },
  )
  const names = (priority: 'revocation' | 'read' | 'other') =>
    (byPriority.get(priority) ?? []).flatMap(({ method, path }) =>
      method === 'GET' || method === 'DELETE' ? [] : [`${method} ${path}`],
    )
  expect([...new Set(names('revocation'))].sort()).toEqual([
    'PATCH /api/v1/generations/:generation_id',
    'PATCH /api/v1/projects/:project_id',
    'PATCH /api/v1/projects/:project_id/teams/:team_id',
    'PATCH /api/v1/teams/:team_id/members/:user_id',
    'PATCH /api/v1/users/:user_id',
    'POST /api/v1/auth/logout',
    'POST /api/v1/auth/logout-all',
    'POST /api/v1/auth/password',
    'POST /api/v1/projects/:project_id/transfer',
    'POST /api/v1/security/blocks',
    'POST /api/v1/security/feature-flags/:name/restore',
    'POST /api/v1/teams/:team_id/leave',
    'POST /api/v1/teams/:team_id/transfer',
    'PUT /api/v1/security/feature-flags/:name',
    'PUT /api/v1/security/flags',
    'PUT /api/v1/security/mode',
  ])
  expect(
    names('read').every((name) => /^POST \/(?:api\/v1\/(?:authorization\/|media\/links$)|access\/v1\/)/.test(name)),
  ).toBe(true)
  expect(byPriority.get('other')?.some(({ method }) => method === 'GET' || method === 'DELETE')).toBe(false)
})
