import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { decodeJwt } from 'jose'
import { manualClock, systemClock } from '../../src/kit/clock.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
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
    await next((await next(person.refreshToken)).refresh)
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

describe('a refresh whose response was lost,', () => {
  const clock = manualClock()
  let here: TestApp
  let there: TestApp
  let sql: Sql
  beforeAll(async () => {
    here = await startApp({ clock })
    there = await startApp({ clock, connection: here.connection })
    sql = connectOnce(here.connection)
  })
  afterAll(async () => {
    await sql.end()
    await there.close()
    await here.close()
  })

  const refreshOn = ({ baseUrl }: TestApp, refresh_token: string) =>
    api(baseUrl).post('/api/v1/auth/refresh', { refresh_token })
  const useOn = ({ baseUrl }: TestApp, token: string) => api(baseUrl).get(me, { token })
  const outcome = ({ status, body }: Answer) => (status === 200 ? '200' : `${status} ${body?.code}`)
  const isEnded = async ({ id }: Person) => {
    const [row] = await sql<{ ended: boolean }[]>`
      select bool_and(ended_at is not null) as ended from sessions where user_id = ${id}`
    return row?.ended
  }

  test('is retried within five minutes on any instance, as often as it is lost, and gets the same response', async () => {
    const person = await register(api(here.baseUrl))
    const lost = await refreshOn(here, person.refreshToken)
    for (const [app, elapsedMs] of [
      [there, 10_001],
      [here, 89_999],
      [there, 200_000],
    ] as const) {
      clock.advance(elapsedMs)
      const retry = await refreshOn(app, person.refreshToken)
      expect([retry.status, JSON.stringify(retry.body)]).toEqual([200, JSON.stringify(lost.body)])
    }
    expect(outcome(await useOn(here, lost.body.access_token))).toBe('200')
    const next = await refreshOn(there, lost.body.refresh_token)
    expect(next.status).toBe(200)
    expect(await isEnded(person)).toBe(false)
  })

  test('ends the session when it is retried later than five minutes', async () => {
    const person = await register(api(here.baseUrl))
    await refreshOn(here, person.refreshToken)
    clock.advance(300_001)
    expect(outcome(await refreshOn(there, person.refreshToken))).toBe(invalid)
    expect(await isEnded(person)).toBe(true)
  })

  test('ends the session when its access token was presented to another instance just before the retry', async () => {
    for (const presented of ['valid', 'of a route that is refused'] as const) {
      const person = await register(api(here.baseUrl))
      const { body } = await refreshOn(here, person.refreshToken)
      clock.advance(60_000)
      if (presented === 'valid') await useOn(there, body.access_token)
      else await api(there.baseUrl).get('/api/v1/users', { token: body.access_token })
      expect(outcome(await refreshOn(here, person.refreshToken))).toBe(invalid)
      expect(await isEnded(person)).toBe(true)
      expect(outcome(await useOn(there, body.access_token))).toBe(notSignedIn)
    }
  })

  test('ends the session when its refresh token was presented', async () => {
    const person = await register(api(here.baseUrl))
    const { body } = await refreshOn(here, person.refreshToken)
    const second = await refreshOn(there, body.refresh_token)
    clock.advance(60_000)
    expect(outcome(await refreshOn(here, person.refreshToken))).toBe(invalid)
    expect(outcome(await refreshOn(there, second.body.refresh_token))).toBe(invalid)
  })

  test('is retried many times at once and on both instances with one response, and stores one successor', async () => {
    const person = await register(api(here.baseUrl))
    const lost = await refreshOn(here, person.refreshToken)
    clock.advance(120_000)
    const retries = Array.from({ length: 20 }, (_, index) => refreshOn(index % 2 ? here : there, person.refreshToken))
    for (const retry of await Promise.all(retries))
      expect([retry.status, JSON.stringify(retry.body)]).toEqual([200, JSON.stringify(lost.body)])
    const rows = await sql`
      select t.rotated_at from sessions s join refresh_tokens t on t.session_id = s.id where s.user_id = ${person.id}`
    expect(rows).toHaveLength(2)
  })

  test('ends the session when a retry that waits is overtaken by a use of the tokens', async () => {
    const person = await register(api(here.baseUrl))
    const { body } = await refreshOn(here, person.refreshToken)
    clock.advance(120_000)
    const [retry, used] = await Promise.all([
      refreshOn(here, person.refreshToken),
      refreshOn(there, body.refresh_token),
    ])
    expect(used.status).toBe(200)
    expect([outcome(retry), await isEnded(person)]).toEqual([invalid, true])
  })

  test('costs a request with a known access token no statement', async () => {
    const person = await register(api(here.baseUrl))
    const { body } = await refreshOn(here, person.refreshToken)
    await useOn(here, body.access_token)
    const recorded = async () => {
      const [row] = await sql`
        select access_token_used_at from refresh_tokens t join sessions s on s.id = t.session_id
         where s.user_id = ${person.id} and access_token_used_at is not null`
      return row !== undefined
    }
    await until(recorded, 'the first use is recorded')
    const [first] = await sql`select max(access_token_used_at) as at from refresh_tokens`
    await useOn(here, body.access_token)
    await useOn(there, body.access_token)
    await here.services.identity.recordTokenUses()
    await there.services.identity.recordTokenUses()
    const [second] = await sql`select max(access_token_used_at) as at from refresh_tokens`
    expect(second?.['at']).toEqual(first?.['at'])
  })
})

describe('instances whose clocks differ by 45 s', () => {
  const shifted = (ms: number) => ({ now: () => Date.now() + ms, monotonic: systemClock.monotonic })
  let ahead: TestApp
  let exact: TestApp
  let behind: TestApp
  beforeAll(async () => {
    exact = await startApp()
    ahead = await startApp({ clock: shifted(45_000), connection: exact.connection })
    behind = await startApp({ clock: shifted(-45_000), connection: exact.connection })
  })
  afterAll(async () => {
    for (const app of [behind, ahead, exact]) await app.close()
  })

  test('accept each other’s access tokens, and a concurrent retry of a refresh does not end the session', async () => {
    const apps = [ahead, exact, behind]
    for (const from of apps) {
      for (const to of apps) {
        const person = await register(api(from.baseUrl))
        expect((await api(to.baseUrl).get(me, { token: person.token })).status).toBe(200)
        const answers = await Promise.all(
          [from, to].map(({ baseUrl }) =>
            api(baseUrl).post('/api/v1/auth/refresh', { refresh_token: person.refreshToken }),
          ),
        )
        expect(answers.map(({ status }) => status)).toEqual([200, 200])
        const token = answers[0]?.body.access_token
        for (const { baseUrl } of apps) expect((await api(baseUrl).get(me, { token })).status).toBe(200)
        const again = await api(to.baseUrl).post('/api/v1/auth/refresh', { refresh_token: person.refreshToken })
        expect(again.status).toBe(200)
      }
    }
  })

  test('refuse an access token at the same time, to the second', async () => {
    const person = await register(api(ahead.baseUrl))
    const { exp } = decodeJwt(person.token)
    expect(Math.abs((exp ?? 0) - 900 - Date.now() / 1_000)).toBeLessThan(30)
  })
})
