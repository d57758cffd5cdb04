import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { decodeJwt } from 'jose'
import { manualClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createSecrets } from '../../src/platform/secrets.ts'
import { createResealing } from '../../src/secrets/resealing.ts'
import { createSecretStore, sealedColumns } from '../../src/secrets/store.ts'
import { until } from '../faults/support.ts'
import { newPicture } from '../harness/pictures.ts'
import { type Answer, api, startApp, startServer, type TestApp } from '../harness.ts'

/*
 * SECRET is replaced without an interruption in two deployments: first every instance accepts the new one (SECRET_PREVIOUS), then
 * every instance uses it. In each step instances of both steps run beside each other.
 */

const older = 'the secret that is replaced, of more than 32 characters'
const newer = 'the secret that replaces it, of more than 32 characters'
const home = '203.0.113.7'
const elsewhere = '198.51.100.1'
const from = (address: string) => ({ headers: { 'x-forwarded-for': address } })
const outcomeOf = ({ status, body }: Answer) => (body?.code === undefined ? String(status) : `${status} ${body.code}`)

/** An app of this process, or another process. */
type Instance = Pick<TestApp, 'baseUrl'>

const clock = manualClock(Date.now())
const apps: TestApp[] = []
let sql: Sql
const start = async (secret: string, previousSecret?: string) => {
  const config = { secret, previousSecret, trustedProxies: ['127.0.0.1'], dbConnections: 8 }
  const first = apps[0]
  const app = await startApp({ clock, config, ...(first && { connection: first.connection }) })
  apps.push(app)
  return app
}

let before: TestApp
/** Uses the older secret and accepts the newer one; and the other way round. */
let accepting: TestApp
let rotated: TestApp
beforeAll(async () => {
  before = await start(older)
  sql = connectOnce(before.connection)
  accepting = await start(older, newer)
  rotated = await start(newer, older)
})
afterAll(async () => {
  await sql.end()
  for (const app of apps.toReversed()) await app.close()
})

type Account = { email: string; token: string; refresh_token: string; device_token: string }
const password = 'seven green bottles hanging'
let accounts = 0
const signUp = async (on: Instance): Promise<Account> => {
  accounts += 1
  const email = `owner-${accounts}@example.com`
  const { status, body } = await api(on.baseUrl).post('/api/v1/auth/register', { email, password }, from(home))
  expect(status).toBe(201)
  return { email, token: body.access_token, refresh_token: body.refresh_token, device_token: body.device_token }
}
const me = (on: Instance, token: string) => api(on.baseUrl).get('/api/v1/auth/me', { token }).then(outcomeOf)
const refresh = (on: Instance, refresh_token: string) => api(on.baseUrl).post('/api/v1/auth/refresh', { refresh_token })
const logIn = (on: Instance, { email }: Account, device_token?: string, given = password) =>
  api(on.baseUrl).post(
    '/api/v1/auth/login',
    { email, password: given, ...(device_token && { device_token }) },
    from(elsewhere),
  )
const linkOf = async (on: Instance, { token }: Account): Promise<string> => {
  const uploaded = await api(on.baseUrl).post('/api/v1/media', await newPicture(), {
    token,
    headers: { 'content-type': 'image/png' },
  })
  expect(uploaded.status).toBe(201)
  const link = await api(on.baseUrl).post(`/api/v1/media/${uploaded.body.id}/links`, {}, { token })
  expect(link.status).toBe(201)
  return new URL(link.body.url).pathname + new URL(link.body.url).search
}
const open = async (on: Instance, path: string) => (await fetch(on.baseUrl + path)).status
const both = () =>
  [
    [before, accepting],
    [accepting, rotated],
    [rotated, accepting],
  ] as const

// First: the clock of this process moves in the tests below.
for (const runtime of ['bun', 'deno'] as const) {
  test(`while SECRET is replaced, a process of ${runtime} and others accept tokens and links of each other`, async () => {
    const env = { SECRET: newer, SECRET_PREVIOUS: older, LOG_LEVEL: 'info' }
    const server = await startServer({ runtime, connection: before.connection, env })
    try {
      for (const [maker, reader] of [
        [accepting, server],
        [server, accepting],
      ] as const) {
        const account = await signUp(maker)
        const link = await linkOf(maker, account)
        expect([await me(reader, account.token), await open(reader, link)]).toEqual(['200', 200])
        const { body } = await refresh(maker, account.refresh_token)
        const retried = await refresh(reader, account.refresh_token)
        expect([retried.status, retried.body.refresh_token]).toEqual([200, body.refresh_token])
        expect((await logIn(reader, account, account.device_token)).status).toBe(200)
      }
      await until(() => server.output().includes('secret.resealed'), 'stored values are sealed again')
    } finally {
      await server.stop()
    }
  }, 30_000)
}

describe('while SECRET is replaced, on instances of both steps', () => {
  test('access tokens and signed links of one are accepted by the other', async () => {
    for (const [maker, reader] of both()) {
      const account = await signUp(maker)
      const link = await linkOf(maker, account)
      expect([await me(reader, account.token), await open(reader, link)]).toEqual(['200', 200])
    }
  })

  test('a refresh goes on at the other, and a retry gets the same tokens there', async () => {
    for (const [maker, reader] of both()) {
      const account = await signUp(maker)
      const rotations = await refresh(maker, account.refresh_token)
      const retried = await refresh(reader, account.refresh_token)
      expect([rotations.status, retried.status]).toEqual([200, 200])
      expect(retried.body).toEqual(rotations.body)
      const next = await refresh(reader, rotations.body.refresh_token)
      expect([next.status, await me(maker, next.body.access_token)]).toEqual([200, '200'])
      const ids = [rotations, next].map(({ body }) => decodeJwt(body.access_token).jti)
      const stored = await sql<{ access_token_id: string }[]>`
        select access_token_id from refresh_tokens where access_token_id = any (${ids as string[]})`
      expect(stored).toHaveLength(2)
    }
  })

  test('a refresh token that is used again later ends its session', async () => {
    for (const [maker, reader] of both()) {
      const account = await signUp(maker)
      const { body } = await refresh(maker, account.refresh_token)
      // Clocks of the instances differ by the seconds between their starts.
      clock.advance(400_000)
      expect(outcomeOf(await refresh(reader, account.refresh_token))).toBe('401 identity.refresh_token_invalid')
      expect(outcomeOf(await refresh(maker, body.refresh_token))).toBe('401 identity.refresh_token_invalid')
    }
  })

  test('failed sign-ins count together, and a known device of the older secret is let in and gets a new token', async () => {
    for (const [maker, reader] of both()) {
      const account = await signUp(maker)
      const outcomes: string[] = []
      for (let index = 0; index < 10; index += 1)
        outcomes.push(outcomeOf(await logIn(index % 2 ? maker : reader, account, undefined, 'not the password')))
      expect(outcomes).toEqual(Array(10).fill('401 identity.credentials_wrong'))
      for (const on of [maker, reader]) expect(outcomeOf(await logIn(on, account))).toBe('429 identity.sign_in_paused')
      const known = await logIn(reader, account, account.device_token)
      expect(known.status).toBe(200)
      const isReplaced = (maker === rotated) !== (reader === rotated)
      expect(known.body.device_token === account.device_token).toBe(!isReplaced)
      const again = await logIn(reader, account, known.body.device_token)
      expect([again.status, again.body.device_token]).toEqual([200, known.body.device_token])
      expect((await logIn(maker, account, known.body.device_token)).status).toBe(200)
    }
  })
})

describe('once SECRET was replaced', () => {
  const signedIn: Account[] = []
  let after: TestApp
  beforeAll(async () => {
    signedIn.push(await signUp(rotated))
    // One account is paused by failures that were counted under the older secret alone.
    const paused = await signUp(before)
    for (let index = 0; index < 10; index += 1) await logIn(before, paused, undefined, 'not the password')
    signedIn.push(paused)
  })

  test('an instance without SECRET_PREVIOUS refuses to start until every stored value is sealed again', async () => {
    // The instance that accepts the newer secret does not use it.
    const store = createSecretStore(sql)
    const webhook = newId()
    const [secret, previous] = ['one', 'two'].map((each) => createSecrets(older).seal('webhook-secret', each, webhook))
    await sql`
      insert into webhooks
             (id, url, events, secret, previous_secret, previous_secret_until, responsible_id, created_at, updated_at)
      select ${webhook}, 'https://hooks.example.com', '{user.created}', ${secret as Uint8Array},
             ${previous as Uint8Array}, now(), id, now(), now() from users limit 1`
    const log = { ...before.services.log, info: () => {}, error: () => {} } as typeof before.services.log
    await createResealing({ store, secrets: createSecrets(older, newer), log })()
    await expect(start(newer)).rejects.toThrow('sealed under another SECRET')
    const reseal = createResealing({ store, secrets: createSecrets(newer, older), log })
    await Promise.all([reseal(), reseal()])
    const filled = ['signing_keys', 'wrapped_keys', 'webhooks']
    for (const column of sealedColumns) {
      const rows = await store.listSealed(column, { prefix: new Uint8Array(5), after: undefined, limit: 100 })
      if (filled.includes(column.table)) expect([column.table, rows.length > 0]).toEqual([column.table, true])
      const secrets = createSecrets(newer)
      for (const { key, sealed } of rows) expect(secrets.sealedBy(column.name, sealed, key)).toBe('current')
    }
    after = await start(newer)
    await expect(start(older)).rejects.toThrow('sealed under another SECRET')
  })

  test('tokens under the newer secret stay valid without the older one, and failures stay counted', async () => {
    const [current, paused] = signedIn as [Account, Account]
    expect(await me(after, current.token)).toBe('200')
    expect((await refresh(after, current.refresh_token)).status).toBe(200)
    expect(outcomeOf(await logIn(after, paused))).toBe('429 identity.sign_in_paused')
  })

  test('tokens and links under the older secret are refused without it', async () => {
    const [, paused] = signedIn as [Account, Account]
    const link = await linkOf(before, paused)
    expect([await me(after, paused.token), await open(after, link)]).toEqual(['401 identity.not_signed_in', 403])
    // A refresh token is random, so it does not depend on SECRET.
    expect((await refresh(after, paused.refresh_token)).status).toBe(200)
  })
})
