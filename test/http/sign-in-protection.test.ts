import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { randomBytes } from 'node:crypto'
import { createSignInStore } from '../../src/identity/sign-in-store.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const logIn = '/api/v1/auth/login'
const home = '203.0.113.7'
const homeNetwork = '203.0.113.99'
const elsewhere = '198.51.100.1'
const from = (address: string) => ({ headers: { 'x-forwarded-for': address } })
const outcomeOf = ({ status, body }: Answer) => (body?.code === undefined ? String(status) : `${status} ${body.code}`)
const wrong = '401 identity.credentials_wrong'
const pausing = '429 identity.sign_in_paused'

let clock: ReturnType<typeof manualClock>
let app: TestApp
/** Another instance on the same database. */
let other: TestApp
let client: Api
let sql: Sql
/** Those of the first instance about failures. */
const statements: string[] = []
beforeAll(async () => {
  clock = manualClock(Date.now())
  const config = { trustedProxies: ['127.0.0.1'] }
  app = await startApp({
    clock,
    config,
    onStatement: (text) => void (text.includes('sign_in_failures') && statements.push(text)),
  })
  other = await startApp({ clock, config, connection: app.connection })
  client = api(app.baseUrl)
  sql = connectOnce(app.connection)
})
afterAll(async () => {
  await sql.end()
  await other.close()
  await app.close()
})

type Attempt = { password?: string; address?: string; device_token?: string; on?: TestApp }
const attempt = (
  email: string,
  { password = 'not the password', address = elsewhere, device_token, on = app }: Attempt = {},
) => api(on.baseUrl).post(logIn, { email, password, ...(device_token && { device_token }) }, from(address))

const failTimes = async (email: string, times: number, options: Attempt = {}) => {
  const outcomes: string[] = []
  for (let index = 0; index < times; index += 1) outcomes.push(outcomeOf(await attempt(email, options)))
  return outcomes
}

const countOf = async (source: string): Promise<number> => {
  const [row] = await sql<{ failures: number }[]>`
    select coalesce(max(failures), 0)::int as failures from sign_in_failures where source like ${`${source}%`}`
  return row?.failures ?? 0
}

let owner: Person & { device_token: string }
beforeEach(async () => {
  await sql`truncate sign_in_failures, notices`
  const email = `owner-${randomBytes(6).toString('hex')}@example.com`
  const password = 'seven green bottles hanging'
  const { body } = await client.post('/api/v1/auth/register', { email, password }, from(home))
  owner = {
    email,
    password,
    token: body.access_token,
    refreshToken: body.refresh_token,
    id: body.user.id,
    user: body.user,
    device_token: body.device_token,
  }
})

describe('after ten wrong passwords from anywhere', () => {
  beforeEach(async () => {
    const outcomes: string[] = []
    for (let index = 0; index < 10; index += 1)
      outcomes.push(
        outcomeOf(await attempt(owner.email, { address: `198.51.${index}.1`, on: index % 2 ? app : other })),
      )
    expect(outcomes).toEqual(Array(10).fill(wrong))
  })

  test('an unknown device is refused on every instance, with the right password as with a wrong one', async () => {
    for (const on of [app, other]) {
      const [bad, right] = [
        await attempt(owner.email, { on }),
        await attempt(owner.email, { on, password: owner.password }),
      ]
      expect([outcomeOf(bad), outcomeOf(right)]).toEqual([pausing, pausing])
      for (const { headers, body } of [bad, right]) {
        expect(headers.get('retry-after')).toBe(String(body.retry_after_seconds))
        expect(body.retry_after_seconds).toBeWithin(25, 31)
      }
      const { request_id: _, ...told } = bad.body
      expect(right.body).toEqual({ ...told, request_id: right.body.request_id })
    }
  })

  test('the owner gets in by the device token, and by the network of a live session, and others stay refused', async () => {
    const { password, device_token } = owner
    const known = await attempt(owner.email, { password, device_token, address: '192.0.2.1' })
    expect([known.status, known.body.device_token]).toEqual([200, device_token])
    const inNetwork = await attempt(owner.email, { password, address: homeNetwork, on: other })
    expect(inNetwork.status).toBe(200)
    expect(inNetwork.body.device_token).not.toBe(device_token)
    expect(await failTimes(owner.email, 1, { password })).toEqual([pausing])
  })

  test('the owner gets in nowhere by the token of another account', async () => {
    const stranger = await client.post('/api/v1/auth/register', {
      email: `stranger-${owner.email}`,
      password: owner.password,
    })
    const { device_token } = stranger.body
    expect(await failTimes(owner.email, 1, { password: owner.password, device_token })).toEqual([pausing])
  })

  test('a flood of attempts costs one statement a second, also with device tokens that were made up', async () => {
    await attempt(owner.email)
    statements.length = 0
    for (let index = 0; index < 20; index += 1) {
      const device_token = index % 2 ? randomBytes(32).toString('base64url') : undefined
      const given = { address: `198.51.100.${index}`, ...(device_token && { device_token }) }
      expect(outcomeOf(await attempt(owner.email, given))).toBe(pausing)
    }
    expect(statements).toHaveLength(0)
    clock.advance(1_001)
    await failTimes(owner.email, 3)
    expect(statements).toHaveLength(1)
    const { password, device_token } = owner
    expect((await attempt(owner.email, { password, device_token })).status).toBe(200)
  })

  test('nobody else at these addresses is refused', async () => {
    const { email, password } = await register(client)
    for (let index = 0; index < 10; index += 1)
      expect((await attempt(email, { password, address: `198.51.${index}.1` })).status).toBe(200)
  })

  test('one attempt is verified after the pause, over all instances, and a failure doubles the pause', async () => {
    // The clocks of the instances differ a little.
    clock.advance(32_000)
    const answers = await Promise.all(
      Array.from({ length: 12 }, (_, index) => attempt(owner.email, { on: index % 2 ? app : other })),
    )
    expect(answers.map(outcomeOf).toSorted()).toEqual([wrong, ...Array(11).fill(pausing)])
    clock.advance(50_000)
    expect(await failTimes(owner.email, 1, { password: owner.password })).toEqual([pausing])
    clock.advance(12_000)
    const { status, body } = await attempt(owner.email, { password: owner.password })
    expect(status).toBe(200)
    expect(await countOf('unknown')).toBe(0)
    expect(body.device_token).toMatch(/^[A-Za-z0-9_-]{43}$/)
  })

  test('an operator sees the pause and ends it, on every instance', async () => {
    const { token, id } = await register(client)
    await sql`update users set role = 'admin' where id = ${id}`
    await app.caughtUp()
    await attempt(owner.email, { address: homeNetwork })
    const failures = `/api/v1/users/${owner.id}/sign-in-failures`
    const listed = await client.get(failures, { token })
    const time = expect.any(String)
    expect(listed.body.items).toEqual([
      { source: 'network', network: '203.0.113.0/24', failures: 1, last_failed_at: time, paused_until: null },
      { source: 'unknown', network: null, failures: 10, last_failed_at: time, paused_until: time },
    ])
    expect((await client.delete(failures, { token })).status).toBe(204)
    clock.advance(1_100)
    expect(outcomeOf(await attempt(owner.email, { password: owner.password, on: other }))).toBe('200')
    expect((await client.get(failures, { token })).body).toEqual({ items: [] })
  })

  test('the owner has notice of it, once a day, without a secret', async () => {
    clock.advance(30_000)
    await failTimes(owner.email, 1)
    const rows = await sql`select kind, details, sent_at from notices where user_id = ${owner.id}`
    expect([...rows]).toEqual([
      { kind: 'sign_in_failures', details: { address: '198.51.9.1', failures: 10 }, sent_at: null },
    ])
    clock.advance(86_400_000)
    await failTimes(owner.email, 1)
    expect(await sql`select from notices where user_id = ${owner.id}`).toHaveLength(2)
  })
})

test('an unknown address pauses as an existing one does, with the same bytes', async () => {
  const email = `unknown-${owner.email}`
  const told = async (about: string) => {
    const outcomes = await failTimes(about, 10)
    const { status, headers, body } = await attempt(about)
    const rest = [...headers].filter(([name]) => name !== 'x-request-id' && name !== 'date')
    return { outcomes, status, rest, body: { ...body, request_id: '' } }
  }
  expect(await told(email)).toEqual(await told(owner.email))
  clock.advance(30_000)
  expect(await failTimes(email, 2)).toEqual([wrong, pausing])
})

test('a success makes failures count anew, for its own source alone', async () => {
  const { email, password, device_token } = owner
  await failTimes(email, 9)
  await failTimes(email, 5, { device_token })
  expect([await countOf('unknown'), await countOf('device')]).toEqual([9, 5])
  expect((await attempt(email, { password, device_token, address: home })).status).toBe(200)
  expect([await countOf('unknown'), await countOf('device')]).toEqual([9, 0])
  expect((await attempt(email, { password })).status).toBe(200)
  expect(await countOf('unknown')).toBe(0)
})

test('a known device that fails ten times is treated as an unknown one, and the owner elsewhere is not', async () => {
  const { email, password, device_token } = owner
  const second = await attempt(email, { password, address: '192.0.2.50' })
  expect(await failTimes(email, 20, { device_token, address: elsewhere })).toEqual(Array(20).fill(wrong))
  expect(await failTimes(email, 1, { device_token, password })).toEqual([pausing])
  const known = await attempt(email, { password, device_token: second.body.device_token })
  expect(known.status).toBe(200)
})

test('of 60 wrong passwords at once few more than ten are verified', async () => {
  const answers = await Promise.all(
    Array.from({ length: 60 }, (_, index) => attempt(owner.email, { address: `198.51.100.${index}` })),
  )
  const outcomes = Object.groupBy(answers.map(outcomeOf), (outcome) => outcome)
  expect(Object.keys(outcomes).toSorted()).toEqual([wrong, pausing])
  // One worker makes two turns.
  expect(outcomes[wrong]?.length).toBeLessThanOrEqual(12)
})

describe('a device', () => {
  test('is not known any more after the password was changed elsewhere, nor after its session was ended', async () => {
    const { email, password, token } = owner
    const [second, third] = [
      await attempt(email, { password, address: '192.0.2.1' }),
      await attempt(email, { password, address: '192.0.2.2' }),
    ]
    const session = JSON.parse(atob(third.body.access_token.split('.')[1] ?? '')).sid
    await client.delete(`/api/v1/auth/sessions/${session}`, { token })
    await failTimes(email, 10, { address: '198.51.100.1' })
    const tryWith = async (device_token: string, given = password) =>
      outcomeOf(await attempt(email, { password: given, device_token, address: '198.51.100.9' }))
    expect([await tryWith(third.body.device_token), await tryWith(second.body.device_token)]).toEqual([pausing, '200'])
    const new_password = 'quite another passphrase'
    await client.post('/api/v1/auth/password', { current_password: password, new_password }, { token })
    expect(await tryWith(second.body.device_token, new_password)).toBe(pausing)
    expect(await tryWith(owner.device_token, new_password)).toBe('200')
  })

  test('is known for 180 days after its last sign-in', async () => {
    const { email, password, device_token } = owner
    const day = 86_400_000
    clock.advance(179 * day)
    expect((await attempt(email, { password, device_token })).body.device_token).toBe(device_token)
    clock.advance(179 * day)
    expect((await attempt(email, { password, device_token })).body.device_token).toBe(device_token)
    clock.advance(181 * day)
    expect((await attempt(email, { password, device_token })).body.device_token).not.toBe(device_token)
  })

  test('that is new gets the owner notice; a known one does not', async () => {
    const { email, password, device_token, id } = owner
    await attempt(email, { password, device_token, address: '192.0.2.1' })
    await attempt(email, { password, address: homeNetwork })
    expect(await sql`select from notices where user_id = ${id}`).toHaveLength(0)
    await attempt(email, { password, address: '198.18.0.1' })
    await attempt(email, { password, address: '198.19.0.1' })
    const rows = await sql`select kind, details from notices where user_id = ${id}`
    expect([...rows]).toEqual([
      { kind: 'new_device', details: { address: '198.18.0.1', user_agent: expect.any(String) } },
    ])
  })

  test('is stored as a hash, and at most 50 of an account are', async () => {
    const { email, password, id, device_token } = owner
    for (let index = 0; index < 52; index += 1) {
      clock.advance(1_000)
      await attempt(email, { password, address: homeNetwork })
    }
    const rows = await sql<{ token_hash: Uint8Array }[]>`select token_hash from known_devices where user_id = ${id}`
    expect(rows).toHaveLength(50)
    const stored = Buffer.from(device_token, 'base64url').toString('hex')
    expect(rows.map(({ token_hash }) => Buffer.from(token_hash).toString('hex'))).not.toContain(stored)
  })
})

test('wrong current passwords pause the change of the password for their session alone', async () => {
  const { email, password, token } = owner
  const second = await attempt(email, { password, address: homeNetwork })
  const change = (bearer: string, current_password: string) =>
    client.post(
      '/api/v1/auth/password',
      { current_password, new_password: 'quite another passphrase' },
      { token: bearer },
    )
  for (let index = 0; index < 10; index += 1)
    expect(outcomeOf(await change(token, 'not the password'))).toBe('403 identity.password_wrong')
  expect(outcomeOf(await change(token, password))).toBe(pausing)
  expect(outcomeOf(await attempt(email, { password }))).toBe('200')
  expect(outcomeOf(await change(second.body.access_token, password))).toBe('200')
})

test('closing an account erases its devices and notices', async () => {
  await failTimes(owner.email, 10)
  await client.delete('/api/v1/auth/me', { token: owner.token })
  const left = await sql`
    select user_id from known_devices where user_id = ${owner.id}
    union all select user_id from notices where user_id = ${owner.id}`
  expect(left).toHaveLength(0)
})

test('counts are dropped after 30 days without a failure, notices after 30 days, devices once they have expired', async () => {
  await failTimes(owner.email, 10)
  clock.advance(29 * 86_400_000)
  await app.services.identity.purgeSignIns()
  expect(await countOf('unknown')).toBe(10)
  clock.advance(2 * 86_400_000)
  await app.services.identity.purgeSignIns()
  expect(await countOf('unknown')).toBe(0)
  expect(await sql`select from notices`).toHaveLength(0)
  clock.advance(180 * 86_400_000)
  await app.services.identity.purgeSignIns()
  expect(await sql`select from known_devices`).toHaveLength(0)
})

test('of too many counts those with the fewest and oldest failures are dropped', async () => {
  for (const [index, times] of [3, 1, 2, 1].entries()) {
    clock.advance(1_000)
    await failTimes(`flood-${index}-${owner.email}`, times)
  }
  expect(await createSignInStore(sql, sql).trimFailures(3)).toBe(1)
  const rows = await sql<{ failures: number }[]>`select failures from sign_in_failures order by last_failed_at`
  expect(rows.map(({ failures }) => failures)).toEqual([3, 2, 1])
})
