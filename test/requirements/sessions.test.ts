import { afterAll, beforeAll, expect, test } from 'bun:test'
import { recentAuthenticationMs } from '../../src/access/guard/recent-authentication.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { type Answer, type Api, api, register, startApp, type TestApp } from '../harness.ts'

const clock = manualClock(Date.now())
const required = '401 session.reauthentication_required'
const outcome = ({ status, body }: Answer) => (status < 400 ? status : `${status} ${body?.code}`)
let app: TestApp
let client: Api

beforeAll(async () => {
  app = await startApp({ clock })
  client = api(app.baseUrl)
})
afterAll(() => app.close())

test('a session is ended from another one only after a recent authentication', async () => {
  const { email, password, token } = await register(client)
  const other = await client.post('/api/v1/auth/login', { email, password })
  const list = async () =>
    (await client.get('/api/v1/auth/sessions', { token })).body.items as { id: string; current: boolean }[]
  const [another] = (await list()).filter(({ current }) => !current)
  clock.advance(recentAuthenticationMs + 1)
  expect(outcome(await client.delete(`/api/v1/auth/sessions/${another?.id}`, { token }))).toBe(required)
  expect(outcome(await client.post('/api/v1/auth/logout-all', undefined, { token }))).toBe(required)
  expect(await list()).toHaveLength(2)
  const again = await client.post('/api/v1/auth/reauthenticate', { password }, { token })
  const fresh = { token: again.body.access_token }
  expect(outcome(await client.delete(`/api/v1/auth/sessions/${another?.id}`, fresh))).toBe(204)
  expect(outcome(await client.get('/api/v1/auth/me', { token: other.body.access_token }))).toBe(
    '401 identity.not_signed_in',
  )
  // The own session ends at any time.
  clock.advance(recentAuthenticationMs + 1)
  expect(outcome(await client.post('/api/v1/auth/logout', undefined, fresh))).toBe(204)
})
