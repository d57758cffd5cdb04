import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { type Authenticator, createAuthenticator, type Deviation } from '../harness/authenticator.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const outcome = ({ status, body }: Answer) => (status < 400 ? status : `${status} ${body?.code}`)
const refused = '401 passkey.refused'
const invalid = '400 passkey.response_invalid'
const domain = 'example.com'
const origin = 'https://app.example.com'
const passkeys = { id: domain, origins: ['https://example.com', origin] }

const clock = manualClock(Date.UTC(2026, 5, 1))
let app: TestApp
let client: Api
let sql: Sql
beforeAll(async () => {
  app = await startApp({ clock, config: { passkeys } })
  client = api(app.baseUrl)
  sql = connectOnce(app.connection)
})
afterAll(async () => {
  await sql?.end()
  await app?.close()
})

const auth = (path: string, body?: object, token?: string) =>
  client.post(`/api/v1/auth${path}`, body, token === undefined ? {} : { token })
const creationOptions = async (token: string) => (await auth('/passkeys/options', undefined, token)).body.options
const requestOptions = async () => (await auth('/login/passkey/options')).body.options
const add = (token: string, passkey: object) => auth('/passkeys', { name: 'Laptop', passkey }, token)
const signIn = (passkey: object) => auth('/login/passkey', { passkey })
const login = ({ email, password }: Person) => auth('/login', { email, password })

/** A person with one passkey. */
const enrol = async (person?: Person): Promise<{ person: Person; device: Authenticator }> => {
  const who = person ?? (await register(client))
  const device = createAuthenticator({ origin, domain })
  const added = await add(who.token, device.create(await creationOptions(who.token)))
  expect(outcome(added)).toBe(201)
  return { person: who, device }
}

describe('a passkey', () => {
  test('signs its owner in without a password, and its use is recorded', async () => {
    const { person, device } = await enrol()
    const options = await requestOptions()
    expect(options).toMatchObject({ rpId: domain, userVerification: 'required' })
    expect(options.allowCredentials).toBeUndefined()
    const { status, body } = await signIn(device.get(options))
    expect(status).toBe(200)
    expect(body.user.id).toBe(person.id)
    const listed = await client.get('/api/v1/auth/second-factors', { token: body.access_token })
    expect(listed.body).toEqual({
      totp: null,
      passkeys: [
        {
          id: expect.any(String),
          name: 'Laptop',
          synced: false,
          created_at: expect.any(String),
          last_used_at: new Date(clock.now()).toISOString(),
        },
      ],
      recovery_codes_left: 10,
    })
    const [row] = await sql`select counter::int as counter, transports from passkeys where user_id = ${person.id}`
    expect(row).toEqual({ counter: 1, transports: ['internal', 'hybrid'] })
  })

  test('signs nobody in whose e-mail address is not verified, where that is required', async () => {
    const { person, device } = await enrol()
    const strict = await startApp({
      ...{ clock, connection: app.connection },
      config: { passkeys, requireVerifiedEmail: true },
    })
    try {
      const there = api(strict.baseUrl)
      const attempt = async () => {
        const { body } = await there.post('/api/v1/auth/login/passkey/options')
        return outcome(await there.post('/api/v1/auth/login/passkey', { passkey: device.get(body.options) }))
      }
      expect(await attempt()).toBe('403 identity.email_not_verified')
      await sql`update users set email_verified_at = now() where id = ${person.id}`
      expect(await attempt()).toBe(200)
    } finally {
      await strict.close()
    }
  })

  test('is asked for with what the options say: user verification, a resident key, no known passkey', async () => {
    const { person, device } = await enrol()
    const options = await creationOptions(person.token)
    expect(options).toMatchObject({
      rp: { id: domain, name: 'Velro' },
      attestation: 'none',
      authenticatorSelection: { residentKey: 'required', userVerification: 'required' },
      excludeCredentials: [{ id: device.id, type: 'public-key' }],
    })
    expect(options.pubKeyCredParams.map(({ alg }: { alg: number }) => alg)).toEqual([-8, -7, -257])
    expect(Buffer.from(options.user.id, 'base64url').toString()).toBe(person.id)
  })

  test('is refused where anything of its creation is wrong', async () => {
    const [person, other] = [await register(client), await register(client)]
    const device = createAuthenticator({ origin, domain })
    const attested = { fmt: 'packed', attStmt: {}, authData: Buffer.alloc(37) }
    const wrong: Record<string, Deviation & { attestation?: Record<string, unknown>; selfAttested?: boolean }> = {
      'another origin': { origin: 'https://app.example.org' },
      'an origin with a slash': { origin: `${origin}/` },
      'another domain': { domain: 'example.org' },
      'no user verification': { userVerified: false },
      'another type': { type: 'webauthn.get' },
      'another challenge': { challenge: 'AAAA' },
      'an attestation': { attestation: attested },
      'a valid attestation of its own': { selfAttested: true },
    }
    for (const [what, deviation] of Object.entries(wrong)) {
      const response = device.create(await creationOptions(person.token), deviation)
      expect([what, outcome(await add(person.token, response))]).toEqual([what, invalid])
    }
    const ofOther = device.create(await creationOptions(other.token))
    expect(outcome(await add(person.token, ofOther))).toBe(invalid)
    expect(
      outcome(
        await add(
          person.token,
          device.create(await requestOptions().then((options) => ({ ...options, user: { id: 'AA' } }))),
        ),
      ),
    ).toBe(invalid)
    const { access_token: another } = (await login(person)).body
    const ofAnotherSession = device.create(await creationOptions(person.token))
    expect(outcome(await add(another, ofAnotherSession))).toBe(invalid)
    const renamed = { ...device.create(await creationOptions(person.token)), id: 'AAAA', rawId: 'AAAA' }
    expect(outcome(await add(person.token, renamed))).toBe(invalid)
    const options = await creationOptions(person.token)
    clock.advance(300_000)
    expect(outcome(await add(person.token, device.create(options)))).toBe('400 passkey.response_invalid')
    expect((await client.get('/api/v1/auth/me', { token: person.token })).body.second_factor).toBe(false)
  })

  test('is added once: by one of 100 requests at once, and to one account', async () => {
    const [person, other] = [await register(client), await register(client)]
    const device = createAuthenticator({ origin, domain })
    const response = device.create(await creationOptions(person.token))
    const answers = await Promise.all(Array.from({ length: 100 }, () => add(person.token, response)))
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(1)
    expect(new Set(answers.filter(({ status }) => status !== 201).map(outcome))).toEqual(new Set([invalid]))
    const again = device.create(await creationOptions(other.token))
    expect(outcome(await add(other.token, again))).toBe('409 passkey.known')
  })

  test('is limited to 20 of an account', async () => {
    const { person } = await enrol()
    await sql`
      insert into passkeys (id, user_id, credential_id, public_key, counter, transports, backup_eligible, backed_up, name, created_at)
      select gen_random_uuid(), ${person.id}, n::text::bytea || ${person.id}::text::bytea, 'x', 0, '{}', false, false, 'k', now()
        from generate_series(1, 19) n`
    const device = createAuthenticator({ origin, domain })
    const answer = await add(person.token, device.create(await creationOptions(person.token)))
    expect([outcome(answer), answer.body.limit]).toEqual(['409 passkey.too_many', 20])
  })

  test('is renamed and removed by its owner alone', async () => {
    const [{ person }, { person: other }] = [await enrol(), await enrol()]
    const { body } = await client.get('/api/v1/auth/second-factors', { token: person.token })
    const path = `/api/v1/auth/passkeys/${body.passkeys[0].id}`
    expect(outcome(await client.patch(path, { name: 'Stolen' }, { token: other.token }))).toBe('404 passkey.not_found')
    expect(outcome(await client.delete(path, { token: other.token }))).toBe('404 passkey.not_found')
    expect((await client.patch(path, { name: 'Desk' }, { token: person.token })).body.name).toBe('Desk')
    expect((await client.delete(path, { token: person.token })).status).toBe(204)
    expect((await client.get('/api/v1/auth/me', { token: person.token })).body.second_factor).toBe(false)
    expect(outcome(await login(person))).toBe(200)
  })

  test('is not removed where it is the last way in', async () => {
    const { person } = await enrol()
    await sql`update users set password_hash = null where id = ${person.id}`
    const { body } = await client.get('/api/v1/auth/second-factors', { token: person.token })
    const path = `/api/v1/auth/passkeys/${body.passkeys[0].id}`
    expect(outcome(await client.delete(path, { token: person.token }))).toBe('409 identity.last_way_in')
    // An identity of a provider that is not configured signs in to nothing.
    await sql`
      insert into linked_identities (id, user_id, provider_id, issuer, subject, created_at, last_used_at)
      values (gen_random_uuid(), ${person.id}, 'removed', 'https://removed.example', ${person.id}, now(), now())`
    expect(outcome(await client.delete(path, { token: person.token }))).toBe('409 identity.last_way_in')
    const second = createAuthenticator({ origin, domain })
    expect(outcome(await add(person.token, second.create(await creationOptions(person.token))))).toBe(201)
    expect((await client.delete(path, { token: person.token })).status).toBe(204)
  })
})

describe('a sign-in with a passkey', () => {
  test('is refused where anything of it is wrong, with one answer', async () => {
    const { person, device } = await enrol()
    const { device: other } = await enrol()
    const wrong: Record<string, Deviation> = {
      'another origin': { origin: 'https://example.org' },
      'another domain': { domain: 'example.org' },
      'no user verification': { userVerified: false },
      'another type': { type: 'webauthn.create' },
      'another challenge': { challenge: 'AAAA' },
      'the handle of another account': { userHandle: Buffer.from(crypto.randomUUID()).toString('base64url') },
    }
    const bodies = new Set<string>()
    const told = ({ body }: Answer) => bodies.add(JSON.stringify({ ...body, request_id: '' }))
    for (const [what, deviation] of Object.entries(wrong)) {
      const answer = await signIn(device.get(await requestOptions(), deviation))
      expect([what, outcome(answer)]).toEqual([what, refused])
      told(answer)
    }
    const good = device.get(await requestOptions())
    const bit = (text: string) => {
      const bytes = Buffer.from(text, 'base64url')
      bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1
      return bytes.toString('base64url')
    }
    const { response } = good
    const altered = {
      signature: { ...good, response: { ...response, signature: bit(response.signature) } },
      data: { ...good, response: { ...response, authenticatorData: bit(response.authenticatorData) } },
      client: { ...good, response: { ...response, clientDataJSON: bit(response.clientDataJSON) } },
      passkey: { ...good, id: other.id, rawId: other.id },
      unknown: { ...good, id: 'AAAA', rawId: 'AAAA' },
    }
    for (const [what, passkey] of Object.entries(altered)) {
      const answer = await signIn(passkey)
      expect([what, outcome(answer)]).toEqual([what, refused])
      told(answer)
    }
    expect(bodies.size).toBe(1)
    expect(outcome(await signIn(good))).toBe(200)
    expect((await sql`select from sessions where user_id = ${person.id} and ended_at is null`).count).toBe(2)
  })

  test('opens one session of a challenge: used twice, by 100 requests at once, after five minutes', async () => {
    const { device } = await enrol()
    const one = device.get(await requestOptions())
    expect([outcome(await signIn(one)), outcome(await signIn(one))]).toEqual([200, refused])
    const options = await requestOptions()
    const many = Array.from({ length: 100 }, () => device.get(options))
    const answers = await Promise.all(many.map(signIn))
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(1)
    const late = await requestOptions()
    clock.advance(300_000)
    expect(outcome(await signIn(device.get(late)))).toBe(refused)
  })

  test('is refused with a challenge for another purpose, or of another service', async () => {
    const { person, device } = await enrol()
    const registration = await creationOptions(person.token)
    const step = (await login(person)).body.passkey
    const again = (await auth('/reauthenticate/options', undefined, person.token)).body.passkey
    for (const options of [registration, step, again]) expect(outcome(await signIn(device.get(options)))).toBe(refused)
    const stranger = await startApp({ config: { passkeys, secret: 'another secret of another service' } })
    try {
      const foreign = (await api(stranger.baseUrl).post('/api/v1/auth/login/passkey/options')).body.options
      expect(outcome(await signIn(device.get(foreign)))).toBe(refused)
    } finally {
      await stranger.close()
    }
  })

  test('is refused where the counter did not grow, because the passkey was copied', async () => {
    const { device } = await enrol()
    expect(outcome(await signIn(device.get(await requestOptions(), { counter: 7 })))).toBe(200)
    for (const counter of [7, 3, 0])
      expect(outcome(await signIn(device.get(await requestOptions(), { counter })))).toBe(refused)
    expect(outcome(await signIn(device.get(await requestOptions(), { counter: 8 })))).toBe(200)
    const options = await Promise.all(Array.from({ length: 20 }, () => requestOptions()))
    const atOnce = await Promise.all(options.map((each) => signIn(device.get(each, { counter: 9 }))))
    expect(atOnce.filter(({ status }) => status === 200)).toHaveLength(1)
  })

  test('is not held up by failures of others on the password, and goes by the state of the account', async () => {
    const { person, device } = await enrol()
    // Ten of the known network, and ten of all others.
    for (let count = 0; count < 20; count += 1)
      await auth('/login', { email: person.email, password: 'not the password' })
    expect(outcome(await login(person))).toBe('429 identity.sign_in_paused')
    expect(outcome(await signIn(device.get(await requestOptions())))).toBe(200)
    await sql`update users set status = 'suspended' where id = ${person.id}`
    expect(outcome(await signIn(device.get(await requestOptions())))).toBe('403 identity.account_suspended')
  })

  test('that is malformed in any way is answered 4xx', async () => {
    const { device } = await enrol()
    const good = device.get(await requestOptions())
    const junk = (bytes: string | Uint8Array) => Buffer.from(bytes).toString('base64url')
    const clients = ['', 'null', '[]', '"x"', '{}', '{"challenge":1}', '{"challenge":"', '\u0000']
    for (const text of clients) {
      const response = { ...good.response, clientDataJSON: junk(text) || 'AA' }
      expect((await signIn({ ...good, response })).status).toBe(401)
    }
    for (const length of [1, 36, 37, 38, 200]) {
      const response = { ...good.response, authenticatorData: junk(Buffer.alloc(length, 255)) }
      expect([length, (await signIn({ ...good, response })).status]).toEqual([length, 401])
    }
    for (const type of [undefined, 'password', 1]) expect((await signIn({ ...good, type })).status).toBe(422)
    expect((await signIn({ ...good, id: '===' })).status).toBe(422)
    const token = (await register(client)).token
    for (const object of ['', 'oA', 'o2NmbXRkbm9uZQ', junk(Buffer.alloc(600, 0x81)), junk(Buffer.alloc(300, 255))]) {
      const options = await creationOptions(token)
      const made = createAuthenticator({ origin, domain }).create(options)
      const answer = await add(token, { ...made, response: { ...made.response, attestationObject: object } })
      expect([object.slice(0, 9), answer.status]).toEqual([object.slice(0, 9), object === '' ? 422 : 400])
    }
  })
})

describe('a passkey as a second factor', () => {
  test('completes a sign-in with the password, by a challenge of that sign-in alone', async () => {
    const { person, device } = await enrol()
    const [one, two] = [await login(person), await login(person)]
    expect(one.status).toBe(202)
    expect(one.body.methods).toEqual(['passkey', 'recovery_code'])
    expect(one.body.passkey.allowCredentials).toEqual([
      { id: device.id, type: 'public-key', transports: ['internal', 'hybrid'] },
    ])
    const complete = (token: string, passkey: object) => auth('/login/second-factor', { sign_in_token: token, passkey })
    const wrong = '403 identity.second_factor_wrong'
    expect(outcome(await complete(two.body.sign_in_token, device.get(one.body.passkey)))).toBe(wrong)
    expect(outcome(await complete(one.body.sign_in_token, device.get(await requestOptions())))).toBe(wrong)
    const { device: foreign } = await enrol()
    expect(outcome(await complete(one.body.sign_in_token, foreign.get(one.body.passkey)))).toBe(wrong)
    const right = device.get(one.body.passkey)
    expect(outcome(await complete(one.body.sign_in_token, right))).toBe(200)
    expect(outcome(await complete(one.body.sign_in_token, right))).toBe(wrong)
    const again = device.get(one.body.passkey)
    expect(outcome(await complete(one.body.sign_in_token, again))).toBe('401 identity.sign_in_expired')
  })

  test('authenticates a session again by itself, by a challenge of that session alone', async () => {
    const { person, device } = await enrol()
    const other = (await signIn(device.get(await requestOptions()))).body.access_token
    clock.advance(300_001)
    const optionsOf = async (token: string) => (await auth('/reauthenticate/options', undefined, token)).body.passkey
    const again = (token: string, passkey: object) => auth('/reauthenticate', { passkey }, token)
    const wrong = '403 identity.second_factor_wrong'
    expect(outcome(await again(person.token, device.get(await optionsOf(other))))).toBe(wrong)
    const right = device.get(await optionsOf(person.token))
    const { status, body } = await again(person.token, right)
    expect(status).toBe(200)
    expect(outcome(await auth('/recovery-codes', undefined, body.access_token))).toBe(200)
    expect(outcome(await again(body.access_token, right))).toBe(wrong)
  })
})

test('a deployment without a domain for passkeys says so, and signs in by other factors', async () => {
  const plain = await startApp({ config: { passkeys: undefined }, connection: app.connection, clock })
  try {
    const elsewhere = api(plain.baseUrl)
    const { person } = await enrol()
    const post = (path: string, body?: object) => elsewhere.post(`/api/v1/auth${path}`, body, { token: person.token })
    for (const path of ['/login/passkey/options', '/passkeys/options'])
      expect(outcome(await post(path))).toBe('503 passkey.not_configured')
    const first = await post('/login', { email: person.email, password: person.password })
    expect([first.status, first.body.methods, first.body.passkey]).toEqual([202, ['recovery_code'], null])
  } finally {
    await plain.close()
  }
})
