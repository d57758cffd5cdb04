import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { randomUUID } from 'node:crypto'
import { CompactSign, decodeJwt, type JWTPayload, SignJWT } from 'jose'
import { maxAccessTokenTtlMs } from '../../src/config.ts'
import { rotation } from '../../src/identity/signing-keys.ts'
import { createTokenDigest } from '../../src/identity/token-screening.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createSecrets } from '../../src/platform/secrets.ts'
import { macOf } from '../../src/platform/tokens.ts'
import { type Api, api, type Person, register, startApp, type TestApp, testSecret } from '../harness.ts'
import { spellingsOf } from './black-box/tokens.ts'

const me = '/api/v1/auth/me'
const minuteS = 60
const digest = createTokenDigest(createSecrets(testSecret))

/** The worst case: the forger holds the real signing key. Still, only tokens exactly like our own are accepted. */
describe('an access token signed with the real key', () => {
  const clock = manualClock()
  let app: TestApp
  let client: Api
  let ada: Person
  let ben: Person
  beforeAll(async () => {
    app = await startApp({ clock })
    client = api(app.baseUrl)
    ada = await register(client)
    ben = await register(client)
  })
  afterAll(() => app.close())

  const ours = () => ({ alg: 'EdDSA', typ: 'at+jwt', kid: app.services.keys.signer().kid })
  /** The right `mac` for these claims, so that they are refused for another reason. */
  const withMac = (claims: Record<string, unknown>) => ({ ...claims, mac: macOf(claims, digest) })
  const sign = (claims: Record<string, unknown>, header: Record<string, unknown> = {}) => {
    const protectedHeader = { ...ours(), ...header } as { alg: string }
    return new SignJWT(withMac(claims) as JWTPayload)
      .setProtectedHeader(protectedHeader)
      .sign(app.services.keys.signer().privateKey)
  }
  const claims = () => decodeJwt(ada.token) as Record<string, unknown>
  const without = (name: string) => Object.fromEntries(Object.entries(claims()).filter(([key]) => key !== name))
  const ask = async (token: string) => {
    const { status, body } = await client.get(me, { token })
    return status === 200 ? body.id : `${status} ${body.code}`
  }
  const refused = '401 identity.not_signed_in'
  const nowS = () => Math.floor(clock.now() / 1_000)

  test('is accepted unchanged, so every token below is refused for its single change', async () => {
    expect(await ask(await sign(claims()))).toBe(ada.id)
    expect(await ask(await sign({ ...claims(), iat: nowS() - 10, exp: nowS() + minuteS, jti: 'other' }))).toBe(ada.id)
  })

  for (const typ of ['JWT', 'jwt', 'rt+jwt', 'AT+JWT', 'application/at+jwt', 'at+jwt ', '', undefined]) {
    test(`with typ ${JSON.stringify(typ)} is refused`, async () => {
      expect(await ask(await sign(claims(), { typ }))).toBe(refused)
    })
  }

  for (const iss of ['velro ', 'Velro', 'https://velro.example.com', '', undefined, ['velro'], 1]) {
    test(`with iss ${JSON.stringify(iss)} is refused`, async () => {
      expect(await ask(await sign({ ...claims(), iss }))).toBe(refused)
    })
  }

  for (const aud of ['velro-other', '', undefined, [], ['other'], 1]) {
    test(`with aud ${JSON.stringify(aud)} is refused`, async () => {
      expect(await ask(await sign({ ...claims(), aud }))).toBe(refused)
    })
  }

  for (const [name, times] of Object.entries({
    'expired an hour ago': () => ({ iat: nowS() - 4_500, exp: nowS() - 3_600 }),
    'expired a second ago': () => ({ iat: nowS() - 100, exp: nowS() - 1 }),
    'expiring this second': () => ({ iat: nowS() - 100, exp: nowS() }),
    'not valid for another minute': () => ({ nbf: nowS() + minuteS }),
    'issued a minute in the future': () => ({ iat: nowS() + minuteS, exp: nowS() + 900 }),
    'issued twenty minutes ago and valid for a year': () => ({ iat: nowS() - 1_200, exp: nowS() + 31_536_000 }),
    'without exp': () => ({ exp: undefined }),
    'without iat': () => ({ iat: undefined }),
    'with iat and exp as text': () => ({ iat: String(nowS()), exp: String(nowS() + 900) }),
    'with exp null': () => ({ exp: null }),
    'with exp 1e300': () => ({ iat: nowS() + 1_000, exp: 1e300 }),
  })) {
    test(`${name} is refused`, async () => {
      expect(await ask(await sign({ ...claims(), ...times() }))).toBe(refused)
    })
  }

  for (const [name, header] of Object.entries({
    'another key id': { kid: '00000000-0000-4000-8000-000000000000' },
    'no key id': { kid: undefined },
    'a key id in upper case': () => ({ kid: ours().kid.toUpperCase() }),
    jku: { jku: 'http://127.0.0.1:9/jwks.json' },
    jwk: () => ({ jwk: app.services.keys.jwks().keys[0] }),
    x5u: { x5u: 'http://127.0.0.1:9/x.pem' },
    x5c: { x5c: ['AAAA'] },
    'an unknown extension': { x: 1 },
    'alg Ed25519': { alg: 'Ed25519' },
  })) {
    test(`with ${name} in its header is refused`, async () => {
      expect(await ask(await sign(claims(), typeof header === 'function' ? header() : header))).toBe(refused)
    })
  }

  test('with a critical extension is refused', async () => {
    const { privateKey } = app.services.keys.signer()
    const text = new TextEncoder().encode(JSON.stringify(claims()))
    for (const extension of [
      { b64: true, crit: ['b64'] },
      { 'urn:x': 1, crit: ['urn:x'] },
    ]) {
      const token = await new CompactSign(text)
        .setProtectedHeader({ ...ours(), ...extension })
        .sign(privateKey, { crit: { 'urn:x': true } })
      expect(await ask(token)).toBe(refused)
    }
  })

  for (const name of ['sub', 'sid', 'jti']) {
    test(`without ${name} or with an invalid one is refused`, async () => {
      expect(await ask(await sign(without(name)))).toBe(refused)
      const wrong = name === 'jti' ? [] : [1, null, '', 'x', ada.id.toUpperCase(), `${ada.id} `, [ada.id]]
      for (const value of wrong)
        expect([value, await ask(await sign({ ...claims(), [name]: value }))]).toEqual([value, refused])
    })
  }

  test('that pairs a user with the session of another user, or names an unknown one, is refused', async () => {
    expect(await ask(await sign({ ...claims(), sub: ben.id }))).toBe(refused)
    expect(await ask(await sign({ ...claims(), sid: decodeJwt(ben.token)['sid'] }))).toBe(refused)
    expect(await ask(await sign({ ...claims(), sid: randomUUID() }))).toBe(refused)
    expect(await ask(await sign({ ...claims(), sub: randomUUID() }))).toBe(refused)
    expect(await ask(ada.token)).toBe(ada.id)
  })

  test('whose payload is not an object is refused', async () => {
    const { privateKey } = app.services.keys.signer()
    for (const text of ['', 'null', '[]', '"text"', '1', '{', '\u0000', '{"sub":']) {
      const token = await new CompactSign(Buffer.from(text)).setProtectedHeader(ours()).sign(privateKey)
      expect([text, await ask(token)]).toEqual([text, refused])
    }
  })

  test('with a non-canonical base64url payload is refused, even if that spelling was signed', async () => {
    const { privateKey } = app.services.keys.signer()
    const header = Buffer.from(JSON.stringify(ours())).toString('base64url')
    // The payload's length leaves unused bits in its last character.
    let payload = ''
    for (let pad = 0; payload.length % 4 === 0; pad += 1) {
      payload = Buffer.from(JSON.stringify(withMac({ ...claims(), jti: 'x'.repeat(pad) }))).toString('base64url')
    }
    const signed = async (text: string) => {
      const signature = await crypto.subtle.sign('Ed25519', privateKey as never, Buffer.from(`${header}.${text}`))
      return `${header}.${text}.${Buffer.from(signature).toString('base64url')}`
    }
    const real = await signed(payload)
    expect(await ask(real)).toBe(ada.id)
    const spellings = spellingsOf(payload)
    expect(spellings.length).toBeGreaterThanOrEqual(3)
    for (const spelling of spellings) {
      expect(Buffer.from(spelling, 'base64url')).toEqual(Buffer.from(payload, 'base64url'))
      expect(await ask(await signed(spelling))).toBe(refused)
      expect(await ask(real.replace(`.${payload}.`, `.${spelling}.`))).toBe(refused)
    }
    expect(await ask(await signed(`${payload}=`))).toBe(refused)
  })

  test('with line breaks, tabs or spaces in it is refused, even where HTTP does not filter it', async () => {
    const { claimsOf } = app.services.identity
    expect((await claimsOf(ada.token)).userId).toBe(ada.id)
    for (const gap of ['\n', '\r\n', '\t', ' ', '\0', '\u200b', '=']) {
      const [header, payload, signature] = ada.token.split('.') as [string, string, string]
      for (const token of [
        ada.token + gap,
        gap + ada.token,
        `${header + gap}.${payload}.${signature}`,
        `${header}.${payload + gap}.${signature}`,
        `${header}.${payload.slice(0, 9)}${gap}${payload.slice(9)}.${signature}`,
        `${header}.${payload}.${signature.slice(0, 9)}${gap}${signature.slice(9)}`,
      ]) {
        await expect(claimsOf(token)).rejects.toMatchObject({ code: 'identity.not_signed_in' })
      }
    }
  })

  test('that is longer than any issued token is refused before its signature is verified', async () => {
    const long = await sign({ ...claims(), pad: 'x'.repeat(80_000) })
    const { claimsOf } = app.services.identity
    // A thousand refusals cost less than a few signature checks.
    const startedMs = performance.now()
    for (let count = 0; count < 1_000; count += 1) {
      await expect(claimsOf(long)).rejects.toMatchObject({ code: 'identity.not_signed_in' })
    }
    expect(performance.now() - startedMs).toBeLessThan(500)
    expect(await ask(long)).toBe(refused)
  })

  test('stays valid through key rotation, and the next key is published before it signs', async () => {
    const { keys } = app.services
    const old = keys.signer().kid
    const dayMs = 86_400_000
    clock.advance(rotation.signsMs - rotation.publishedAheadMs)
    await keys.refresh()
    const published = (await client.get('/.well-known/jwks.json')).body.keys.map(({ kid }: { kid: string }) => kid)
    expect(published).toContain(old)
    expect(published).toHaveLength(2)
    const login = async () =>
      (await client.post('/api/v1/auth/login', { email: ada.email, password: ada.password })).body
    clock.advance(dayMs - 60_000)
    const before = await login()
    expect(keys.signer().kid).toBe(old)
    clock.advance(60_001)
    const after = await login()
    expect(keys.signer().kid).toBe(published.find((kid: string) => kid !== old))
    for (const { access_token } of [before, after]) expect(await ask(access_token)).toBe(ada.id)
    clock.advance(2 * maxAccessTokenTtlMs)
    await keys.refresh()
    expect((await client.get('/.well-known/jwks.json')).body.keys).toHaveLength(1)
    expect(await ask((await login()).access_token)).toBe(ada.id)
  })
})

describe('instances over one database', () => {
  test('share their signing keys: each accepts the tokens of the other', async () => {
    const one = await startApp()
    const two = await startApp({ connection: one.connection })
    try {
      const person = await register(api(one.baseUrl))
      expect((await api(two.baseUrl).get(me, { token: person.token })).body).toEqual(person.user)
      expect(two.services.keys.jwks()).toEqual(one.services.keys.jwks())
    } finally {
      await two.close()
      await one.close()
    }
  })
})
