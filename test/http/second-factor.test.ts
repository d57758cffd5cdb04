import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { Secret, TOTP } from 'otpauth'
import { manualClock } from '../../src/kit/clock.ts'
import { createLog } from '../../src/platform/log.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const outcome = ({ status, body }: Answer) => (status < 400 ? status : `${status} ${body?.code}`)
const wrong = '403 identity.second_factor_wrong'
const expired = '401 identity.sign_in_expired'
const stepMs = 30_000

const clock = manualClock(Date.UTC(2026, 5, 1))
const written: string[] = []
let app: TestApp
let client: Api
let sql: Sql
beforeAll(async () => {
  app = await startApp({ clock, log: createLog('info', { write: (line: string) => void written.push(line) }) })
  client = api(app.baseUrl)
  sql = connectOnce(app.connection)
})
afterAll(async () => {
  await sql?.end()
  await app?.close()
})
beforeEach(() => {
  // Each code is accepted once, so a test begins in a step of its own.
  clock.advance(4 * stepMs)
  written.length = 0
})

const auth = (path: string, body?: object, token?: string) =>
  client.post(`/api/v1/auth${path}`, body, token === undefined ? {} : { token })
const codeOf = (secret: string, offsetMs = 0) =>
  TOTP.generate({ secret: Secret.fromBase32(secret), timestamp: clock.now() + offsetMs })
const login = ({ email, password }: Pick<Person, 'email' | 'password'>) => auth('/login', { email, password })
const complete = (sign_in_token: string, factor: object) => auth('/login/second-factor', { sign_in_token, ...factor })

type Enrolled = Person & { secret: string; recoveryCodes: string[] }

/** A person with an authenticator app. The code of the present step is used up. */
const enrol = async (person?: Person): Promise<Enrolled> => {
  const who = person ?? (await register(client))
  const { body: setup } = await auth('/totp', undefined, who.token)
  const confirmed = await auth('/totp/confirm', { code: codeOf(setup.secret) }, who.token)
  expect(outcome(confirmed)).toBe(200)
  clock.advance(stepMs)
  return { ...who, secret: setup.secret, recoveryCodes: confirmed.body.recovery_codes }
}
const begin = async (person: Person): Promise<string> => {
  const first = await login(person)
  expect(first.status).toBe(202)
  return first.body.sign_in_token
}

describe('an authenticator app', () => {
  test('is no factor before a code of it confirms it', async () => {
    const person = await register(client)
    const { body } = await auth('/totp', undefined, person.token)
    expect(body.uri).toStartWith('otpauth://totp/Velro:')
    expect(body.uri).toContain(`secret=${body.secret}`)
    expect(outcome(await auth('/totp/confirm', { code: '000000' }, person.token))).toBe(wrong)
    expect(outcome(await login(person))).toBe(200)
    expect((await client.get('/api/v1/auth/me', { token: person.token })).body.second_factor).toBe(false)
    expect(outcome(await client.delete('/api/v1/auth/totp', { token: person.token }))).toBe('404 totp.not_found')
  })

  test('is no factor before that of an account with a passkey either', async () => {
    const person = await register(client)
    const { body } = await auth('/totp', undefined, person.token)
    await sql`
      insert into passkeys (id, user_id, credential_id, public_key, counter, transports, backup_eligible, backed_up, name, created_at)
      values (${person.id}, ${person.id}, ${Buffer.from(person.id)}, 'x', 0, '{}', false, false, 'Key', now())`
    await app.caughtUp()
    const token = await begin(person)
    expect(outcome(await complete(token, { code: codeOf(body.secret) }))).toBe(wrong)
    const again = { password: person.password, code: codeOf(body.secret) }
    expect(outcome(await auth('/reauthenticate', again, person.token))).toBe(wrong)
  })

  test('once confirmed, lets a sign-in with the password open no session before a code of it', async () => {
    const person = await enrol()
    const first = await login(person)
    expect(first.status).toBe(202)
    expect(Object.keys(first.body).sort()).toEqual(['expires_in', 'methods', 'passkey', 'sign_in_token'])
    expect(first.body.methods).toEqual(['totp', 'recovery_code'])
    const sessions = () => sql`select from sessions where user_id = ${person.id} and ended_at is null`
    expect((await sessions()).count).toBe(1)
    const second = await complete(first.body.sign_in_token, { code: codeOf(person.secret) })
    expect(second.status).toBe(200)
    expect(second.body.user.second_factor).toBe(true)
    expect(second.body.device_token).toBeString()
    expect((await sessions()).count).toBe(2)
    expect((await client.get('/api/v1/auth/me', { token: second.body.access_token })).status).toBe(200)
  })

  test('has each code accepted once, and none of a step before it', async () => {
    const person = await enrol()
    const [before, now] = [codeOf(person.secret, -stepMs), codeOf(person.secret)]
    expect(outcome(await complete(await begin(person), { code: now }))).toBe(200)
    for (const code of [now, before]) expect(outcome(await complete(await begin(person), { code }))).toBe(wrong)
    expect(outcome(await auth('/reauthenticate', { password: person.password, code: now }, person.token))).toBe(wrong)
    clock.advance(stepMs)
    expect(outcome(await complete(await begin(person), { code: now }))).toBe(wrong)
    expect(outcome(await complete(await begin(person), { code: codeOf(person.secret) }))).toBe(200)
  })

  test('has a code that a hundred sign-ins present at once open one session', async () => {
    const person = await enrol()
    const begun: string[] = []
    for (let count = 0; count < 100; count += 1) begun.push(await begin(person))
    const code = codeOf(person.secret)
    const answers = await Promise.all(begun.map((token) => complete(token, { code })))
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(1)
  })

  test('has codes accepted a step early or late, and no further', async () => {
    const person = await enrol()
    clock.advance(10 * stepMs)
    for (const [offsetMs, expected] of [
      [-2 * stepMs, wrong],
      [-stepMs, 200],
      [2 * stepMs, wrong],
      [stepMs, 200],
    ] as const)
      expect([
        offsetMs,
        outcome(await complete(await begin(person), { code: codeOf(person.secret, offsetMs) })),
      ]).toEqual([offsetMs, expected])
  })

  test('is set up once at a time, and its secret is shown once and stored encrypted', async () => {
    const person = await enrol()
    const { token } = person
    expect(outcome(await auth('/totp', undefined, token))).toBe('409 totp.already_enabled')
    expect(outcome(await auth('/totp/confirm', { code: codeOf(person.secret) }, token))).toBe(
      '409 totp.already_enabled',
    )
    const listed = await client.get('/api/v1/auth/second-factors', { token })
    expect(listed.body).toEqual({
      totp: { confirmed_at: expect.any(String) },
      passkeys: [],
      recovery_codes_left: 10,
    })
    const [row] = await sql`select sealed_secret from totp_factors where user_id = ${person.id}`
    const stored = Buffer.from(row?.['sealed_secret'])
    expect(stored.includes(Buffer.from(Secret.fromBase32(person.secret).bytes))).toBe(false)
    expect(written.join('')).not.toContain(person.secret)
    // A row that is moved to another account does not open there.
    const other = await enrol()
    await sql`update totp_factors set sealed_secret = ${stored} where user_id = ${other.id}`
    expect((await complete(await begin(other), { code: codeOf(person.secret) })).status).toBe(500)
  })

  test('that is removed is not asked for any more, and its recovery codes end', async () => {
    const person = await enrol()
    const begun = await begin(person)
    expect((await client.delete('/api/v1/auth/totp', { token: person.token })).status).toBe(204)
    expect(outcome(await login(person))).toBe(200)
    for (const factor of [{ code: codeOf(person.secret) }, { recovery_code: person.recoveryCodes[0] }])
      expect(outcome(await complete(begun, factor))).toBe(wrong)
    expect((await sql`select from recovery_codes where user_id = ${person.id}`).count).toBe(0)
    expect(outcome(await auth('/recovery-codes', undefined, person.token))).toBe('409 second_factor.none')
  })
})

describe('a recovery code', () => {
  test('stands in for a code once, in any case, with or without hyphens, and the owner gets notice', async () => {
    const person = await enrol()
    const [one = '', two = ''] = person.recoveryCodes
    expect(new Set(person.recoveryCodes).size).toBe(10)
    expect(one).toMatch(/^([0-9a-hjkmnp-tv-z]{4}-){5}[0-9a-hjkmnp-tv-z]{4}$/)
    expect(outcome(await complete(await begin(person), { recovery_code: one }))).toBe(200)
    expect(outcome(await complete(await begin(person), { recovery_code: one }))).toBe(wrong)
    const typed = two.toUpperCase().replaceAll('-', ' ')
    expect(outcome(await complete(await begin(person), { recovery_code: typed }))).toBe(200)
    const { body } = await client.get('/api/v1/auth/second-factors', { token: person.token })
    expect(body.recovery_codes_left).toBe(8)
    const kinds = await sql<{ kind: string }[]>`select kind from notices where user_id = ${person.id} order by kind`
    expect(kinds.map(({ kind }) => kind)).toEqual(['recovery_code_used', 'totp_added'])
  })

  test('of another account, or replaced by new ones, is refused', async () => {
    const [person, other] = [await enrol(), await enrol()]
    expect(outcome(await complete(await begin(person), { recovery_code: other.recoveryCodes[0] }))).toBe(wrong)
    const replaced = await auth('/recovery-codes', undefined, person.token)
    expect(replaced.body.recovery_codes).toHaveLength(10)
    expect(outcome(await complete(await begin(person), { recovery_code: person.recoveryCodes[0] }))).toBe(wrong)
    expect(outcome(await complete(await begin(person), { recovery_code: replaced.body.recovery_codes[0] }))).toBe(200)
  })

  test('used by 100 sign-ins at once opens one session', async () => {
    const person = await enrol()
    const [recovery_code] = person.recoveryCodes
    const begun: string[] = []
    for (let count = 0; count < 100; count += 1) begun.push(await begin(person))
    const answers = await Promise.all(begun.map((token) => complete(token, { recovery_code })))
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(1)
  })
})

describe('the token between the two steps of a sign-in', () => {
  test('is good for one session, also of 100 uses at once', async () => {
    const person = await enrol()
    const token = await begin(person)
    const code = codeOf(person.secret)
    const answers = await Promise.all(Array.from({ length: 100 }, () => complete(token, { code })))
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(1)
    clock.advance(3_600_000)
    const again = await complete(token, { code: codeOf(person.secret) })
    expect(outcome(again)).toBe(expired)
  })

  test('used a second time with another right code, is refused', async () => {
    const person = await enrol()
    const token = await begin(person)
    expect(outcome(await complete(token, { code: codeOf(person.secret) }))).toBe(200)
    clock.advance(stepMs)
    expect(outcome(await complete(token, { code: codeOf(person.secret) }))).toBe(expired)
  })

  test('ends after five minutes, with a change of the password, and where any bit is changed', async () => {
    const person = await enrol()
    const late = await begin(person)
    clock.advance(300_000)
    expect(outcome(await complete(late, { code: codeOf(person.secret) }))).toBe(expired)
    const token = await begin(person)
    const bytes = Buffer.from(token, 'base64url')
    for (let at = 0; at < bytes.length; at += 7) {
      const changed = Buffer.from(bytes)
      changed[at] = (changed[at] ?? 0) ^ 1
      expect([at, outcome(await complete(changed.toString('base64url'), { code: codeOf(person.secret) }))]).toEqual([
        at,
        expired,
      ])
    }
    const fresh = await auth(
      '/reauthenticate',
      { password: person.password, code: codeOf(person.secret) },
      person.token,
    )
    const change = { current_password: person.password, new_password: 'quite another passphrase' }
    expect((await auth('/password', change, fresh.body.access_token)).status).toBe(200)
    clock.advance(stepMs)
    expect(outcome(await complete(token, { code: codeOf(person.secret) }))).toBe(expired)
  })

  test('is of no use for another purpose, nor to the factors of another account', async () => {
    const [person, other] = [await enrol(), await enrol()]
    const token = await begin(person)
    expect((await client.get('/api/v1/auth/me', { token })).status).toBe(401)
    expect((await auth('/refresh', { refresh_token: token.slice(0, 43) })).status).toBe(401)
    for (const factor of [{ code: codeOf(other.secret) }, { recovery_code: other.recoveryCodes[0] }])
      expect(outcome(await complete(token, factor))).toBe(wrong)
    expect(outcome(await complete(token, { code: codeOf(person.secret) }))).toBe(200)
  })

  test('is refused without exactly one factor', async () => {
    const person = await enrol()
    const token = await begin(person)
    const both = { code: codeOf(person.secret), recovery_code: person.recoveryCodes[0] }
    for (const factor of [{}, both]) {
      const { status, body } = await complete(token, factor)
      expect([status, body.errors[0].detail]).toEqual([422, 'must have exactly one of code, recovery_code and passkey'])
    }
  })
})

describe('guesses of a second factor', () => {
  test('are counted before they are verified: of a hundred at once ten are, and then the source pauses', async () => {
    const person = await enrol()
    const token = await begin(person)
    const right = codeOf(person.secret)
    const guesses = Array.from({ length: 100 }, (_, at) => String(100_000 + at)).filter((code) => code !== right)
    const answers = await Promise.all(guesses.map((code) => complete(token, { code })))
    const byOutcome = Map.groupBy(answers, outcome)
    expect(byOutcome.get(wrong)?.length).toBe(10)
    expect(byOutcome.get('429 identity.sign_in_paused')?.length).toBe(guesses.length - 10)
    expect(outcome(await complete(token, { code: right }))).toBe('429 identity.sign_in_paused')
    // The password is still verified, and a pause ends.
    clock.advance(30_001)
    expect(outcome(await complete(await begin(person), { code: codeOf(person.secret) }))).toBe(200)
    const events = written
      .map((line) => JSON.parse(line))
      .filter(({ event }) => event === 'sign_in.second_factor_failed')
    expect(events).toHaveLength(10)
  })

  test('are shown to operators as those of factors', async () => {
    const person = await enrol()
    const operator = await register(client)
    await sql`update users set role = 'admin' where id = ${operator.id}`
    await app.caughtUp()
    expect(outcome(await complete(await begin(person), { code: '000001' }))).toBe(wrong)
    const { body } = await client.get(`/api/v1/users/${person.id}/sign-in-failures`, { token: operator.token })
    expect(body.items).toEqual([
      { source: 'factor', network: null, failures: 1, last_failed_at: expect.any(String), paused_until: null },
    ])
  })
})

describe('an account with a second factor', () => {
  test('authenticates again with the password and a factor, and not with one of them alone', async () => {
    const person = await enrol()
    clock.advance(300_001)
    const { token, password } = person
    const again = (body: object) => auth('/reauthenticate', body, token)
    expect(outcome(await again({ password }))).toBe('403 identity.second_factor_missing')
    expect(outcome(await again({ code: codeOf(person.secret) }))).toBe('403 identity.password_missing')
    expect(outcome(await again({ password: 'not this one', code: codeOf(person.secret) }))).toBe(
      '403 identity.password_wrong',
    )
    expect(outcome(await again({ password, code: '000001' }))).toBe(wrong)
    expect(outcome(await auth('/recovery-codes', undefined, token))).toBe('401 session.reauthentication_required')
    const { status, body } = await again({ password, code: codeOf(person.secret) })
    expect(status).toBe(200)
    expect(outcome(await auth('/recovery-codes', undefined, body.access_token))).toBe(200)
    const offered = await auth('/reauthenticate/options', undefined, body.access_token)
    expect(offered.body).toEqual({
      password: true,
      second_factor: true,
      methods: ['totp', 'recovery_code'],
      passkey: null,
    })
  })

  test('has its other sessions authenticate again with the new factor before sensitive changes', async () => {
    const person = await register(client)
    const other = (await login(person)).body.access_token
    expect(outcome(await auth('/totp', undefined, other))).toBe(200)
    await enrol(person)
    expect(outcome(await auth('/totp', undefined, other))).toBe('401 session.reauthentication_required')
    expect(outcome(await auth('/recovery-codes', undefined, person.token))).toBe(200)
  })

  test('asks for the factor in a sign-in that began before it was set up', async () => {
    const person = await register(client)
    // Deadlines go by the clock of the test, so it stands still meanwhile.
    const { body: setup } = await auth('/totp', undefined, person.token)
    const [confirmed, ...signIns] = await Promise.all([
      auth('/totp/confirm', { code: codeOf(setup.secret) }, person.token),
      ...Array.from({ length: 20 }, () => login(person)),
    ])
    expect(outcome(confirmed)).toBe(200)
    expect(signIns.map(outcome).filter((each) => each !== 200 && each !== 202)).toEqual([])
    expect((await login(person)).status).toBe(202)
    const [row] = await sql<{ late: number }[]>`
      select count(*)::int as late from sessions s join totp_factors t using (user_id)
       where s.user_id = ${person.id} and s.id <> ${JSON.parse(atob(person.token.split('.')[1] ?? '')).sid}
         and coalesce(s.authenticated_at, s.created_at) <> to_timestamp(0)`
    expect(row?.late).toBe(0)
  })

  test('that is suspended or closed completes no sign-in, and a closed one keeps no factor', async () => {
    const [suspended, closed] = [await enrol(), await enrol()]
    const [one, two] = [await begin(suspended), await begin(closed)]
    await sql`update users set status = 'suspended' where id = ${suspended.id}`
    expect((await client.delete('/api/v1/auth/me', { token: closed.token })).status).toBe(204)
    expect(outcome(await complete(one, { code: codeOf(suspended.secret) }))).toBe(expired)
    expect(outcome(await complete(two, { code: codeOf(closed.secret) }))).toBe(expired)
    for (const table of ['totp_factors', 'recovery_codes', 'passkeys'])
      expect((await sql`select from ${sql(table)} where user_id = ${closed.id}`).count).toBe(0)
  })

  test('whose owner has lost it gets rid of it by an operator, which ends its sessions and gives notice', async () => {
    const person = await enrol()
    const operator = await register(client)
    await sql`update users set role = 'admin' where id = ${operator.id}`
    await app.caughtUp()
    const path = `/api/v1/users/${person.id}/second-factors`
    expect(outcome(await client.delete(path, { token: person.token }))).toBe('403 access.admins_only')
    expect((await client.delete(path, { token: operator.token })).status).toBe(204)
    expect((await client.delete(path, { token: operator.token })).status).toBe(204)
    expect((await client.get('/api/v1/auth/me', { token: person.token })).status).toBe(401)
    expect(outcome(await login(person))).toBe(200)
    const notices = await sql`select from notices where user_id = ${person.id} and kind = 'second_factors_removed'`
    expect(notices.count).toBe(1)
  })
})
