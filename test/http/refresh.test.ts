import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const dayMs = 86_400_000
const graceMs = 10_000
const me = '/api/v1/auth/me'

type Entry = { level: string; fields: Record<string, unknown> }

const refused = ({ status, body }: Answer) => `${status} ${body?.code}`
const notSignedIn = '401 identity.not_signed_in'
const invalid = '401 identity.refresh_token_invalid'

describe('a refresh token', () => {
  const clock = manualClock()
  const entries: Entry[] = []
  const writer = (level: string) => (fields: object) => void entries.push({ level, fields: { ...fields } })
  let app: TestApp
  let client: Api
  let sql: Sql
  beforeAll(async () => {
    const log = { debug: writer('debug'), info: writer('info'), warn: writer('warn'), error: writer('error') }
    app = await startApp({ clock, log })
    client = api(app.baseUrl)
    sql = connectOnce(app.connection)
  })
  afterAll(async () => {
    await sql.end()
    await app.close()
  })
  beforeEach(() => {
    entries.length = 0
  })

  const refresh = (refresh_token: string) => client.post('/api/v1/auth/refresh', { refresh_token })
  const next = async (refresh_token: string): Promise<{ access: string; refresh: string }> => {
    const { status, body } = await refresh(refresh_token)
    expect(status).toBe(200)
    return { access: body.access_token, refresh: body.refresh_token }
  }
  const meOf = async (token: string) => (await client.get(me, { token })).status
  const reuses = () => entries.filter(({ fields }) => fields['event'] === 'session.refresh_reused')
  const login = async ({ email, password }: Person) =>
    (await client.post('/api/v1/auth/login', { email, password })).body as {
      access_token: string
      refresh_token: string
    }

  test('retried within ten seconds gets the same answer, byte for byte', async () => {
    const person = await register(client)
    const first = await refresh(person.refreshToken)
    for (const elapsedMs of [1, 4_999, 5_000]) {
      clock.advance(elapsedMs)
      const retry = await refresh(person.refreshToken)
      expect([retry.status, JSON.stringify(retry.body)]).toEqual([200, JSON.stringify(first.body)])
    }
    expect(reuses()).toEqual([])
    expect(await meOf(first.body.access_token)).toBe(200)
  })

  test('reused after ten seconds gets 401, ends every token of its family at once, and is logged as a warning', async () => {
    const person = await register(client)
    const other = await login(person)
    const successor = await next(person.refreshToken)
    const newest = await next(successor.refresh)
    for (const token of [person.token, successor.access, newest.access]) expect(await meOf(token)).toBe(200)
    clock.advance(graceMs + 1)

    const reuse = await refresh(person.refreshToken)
    expect(refused(reuse)).toBe(invalid)
    for (const token of [person.token, successor.access, newest.access]) {
      expect(refused(await client.get(me, { token }))).toBe(notSignedIn)
    }
    for (const token of [person.refreshToken, successor.refresh, newest.refresh]) {
      expect(refused(await refresh(token))).toBe(invalid)
    }
    const [event, ...more] = reuses()
    expect(more).toEqual([])
    expect(event).toMatchObject({
      level: 'warn',
      fields: { user_id: person.id, request_id: reuse.headers.get('x-request-id') },
    })
    const [row] = await sql`select end_reason from sessions where id = ${event?.fields['session_id'] as string}`
    expect(row?.['end_reason']).toBe('refresh_reused')

    // Another session of the same user is another family and goes on.
    expect(await meOf(other.access_token)).toBe(200)
    await next(other.refresh_token)
  })

  test('reused fifty times at once is refused every time and ends its family once', async () => {
    const person = await register(client)
    await next(person.refreshToken)
    clock.advance(graceMs + 1)
    const answers = await Promise.all(Array.from({ length: 50 }, () => refresh(person.refreshToken)))
    expect(new Set(answers.map(refused))).toEqual(new Set([invalid]))
    expect(reuses()).toHaveLength(1)
  })

  test('used fifty times at once and retried fifty times stores one successor', async () => {
    const person = await register(client)
    for (const elapsedMs of [0, graceMs]) {
      clock.advance(elapsedMs)
      const answers = await Promise.all(Array.from({ length: 50 }, () => refresh(person.refreshToken)))
      expect(answers.map(({ status }) => status)).toEqual(Array(50).fill(200))
      expect(new Set(answers.map(({ body }) => JSON.stringify(body))).size).toBe(1)
    }
    const rows = await sql`
      select s.ended_at, t.rotated_at from sessions s join refresh_tokens t on t.session_id = s.id
       where s.user_id = ${person.id} order by t.rotated_at nulls last`
    expect(rows).toHaveLength(2)
    expect(rows.map((row) => row['ended_at'])).toEqual([null, null])
    expect(rows[1]?.['rotated_at']).toBeNull()
  })

  test('used concurrently with a logout leaves the session ended', async () => {
    for (let round = 0; round < 5; round += 1) {
      const person = await register(client)
      const [refreshed] = await Promise.all([
        refresh(person.refreshToken),
        client.post('/api/v1/auth/logout', undefined, { token: person.token }),
      ])
      const tokens = refreshed.status === 200 ? [person.token, refreshed.body.access_token] : [person.token]
      for (const token of tokens) expect(refused(await client.get(me, { token }))).toBe(notSignedIn)
      if (refreshed.status === 200) expect(refused(await refresh(refreshed.body.refresh_token))).toBe(invalid)
    }
  })

  test('ends its session after seven days without use, and each use starts the seven days again', async () => {
    const [idle, used] = [await register(client), await register(client)]
    clock.advance(7 * dayMs - 1)
    const { refresh: latest } = await next(used.refreshToken)
    clock.advance(1)
    expect(refused(await refresh(idle.refreshToken))).toBe(invalid)
    clock.advance(6 * dayMs)
    await next(latest)
    expect(reuses()).toEqual([])
  })

  test('ends its session after thirty days of any use, together with the access tokens of its last minutes', async () => {
    const person = await register(client)
    let token = person.refreshToken
    for (let week = 1; week <= 4; week += 1) {
      clock.advance(7 * dayMs - 1)
      token = (await next(token)).refresh
    }
    clock.advance(2 * dayMs)
    const last = await next(token)
    clock.advance(3)
    expect(await meOf(last.access)).toBe(200)
    clock.advance(1)
    expect(refused(await client.get(me, { token: last.access }))).toBe(notSignedIn)
    expect(refused(await refresh(last.refresh))).toBe(invalid)
  })

  test('comes with an access token that is valid for exactly fifteen minutes', async () => {
    const { token } = await register(client)
    clock.advance(900_000 - 1_000)
    expect(await meOf(token)).toBe(200)
    clock.advance(1_000)
    expect(refused(await client.get(me, { token }))).toBe(notSignedIn)
  })

  test('of an ended session is refused and does not count as a reuse', async () => {
    const person = await register(client)
    const { refresh: successor } = await next(person.refreshToken)
    await client.post('/api/v1/auth/logout', undefined, { token: person.token })
    clock.advance(graceMs + 1)
    for (const token of [person.refreshToken, successor]) expect(refused(await refresh(token))).toBe(invalid)
    expect(reuses()).toEqual([])
  })

  test('of a suspended account is refused, as is its password; a wrong password does not reveal the suspension', async () => {
    const person = await register(client)
    await sql`update users set status = 'suspended' where id = ${person.id}`
    const { email, password } = person
    const right = await client.post('/api/v1/auth/login', { email, password })
    expect(refused(right)).toBe('403 identity.account_suspended')
    const wrong = await client.post('/api/v1/auth/login', { email, password: 'something else' })
    expect(refused(wrong)).toBe('401 identity.credentials_wrong')
    expect(refused(await refresh(person.refreshToken))).toBe(invalid)
    // The row was changed behind the service's back: wait until the cached account has expired.
    clock.advance(60_000)
    expect(refused(await client.get(me, { token: person.token }))).toBe(notSignedIn)
  })

  test('cannot be derived from stored rows or logs, and neither can a password or an access token', async () => {
    const person = await register(client)
    const { access, refresh: successor } = await next(person.refreshToken)
    const secrets = [person.password, person.refreshToken, successor, person.token, access]
    const hidden = secrets.flatMap((secret) => [
      secret,
      Buffer.from(secret).toString('hex'),
      Buffer.from(secret, 'base64url').toString('hex'),
    ])
    const tables = await sql<{ name: string }[]>`select tablename as name from pg_tables where schemaname = 'public'`
    expect(tables.length).toBeGreaterThan(4)
    for (const { name } of tables) {
      const [dump] = await sql<{ text: string | null }[]>`
        select string_agg(t::text, ' ') as text from ${sql(name)} as t`
      for (const secret of hidden) expect((dump?.text ?? '').includes(secret)).toBe(false)
    }
    for (const { fields } of entries) {
      for (const secret of secrets) expect(JSON.stringify(fields).includes(secret)).toBe(false)
    }
  })
})
