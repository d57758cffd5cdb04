import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { type CryptoKey, exportSPKI, importJWK } from 'jose'
import { createLog } from '../../src/platform/log.ts'
import { type Claims, claimsOf, newProviderKey, signClaims } from '../harness/identity-provider.ts'
import { register } from '../harness.ts'
import {
  callbackOf,
  challengeOf,
  clientSecret,
  newEmail,
  newVerifier,
  publicUrl,
  type Returned,
  returnTo,
  startWorld,
  type World,
} from './identity-providers-world.ts'

let world: World
const written: string[] = []
beforeAll(async () => {
  const log = createLog('info', { write: (line: string) => void written.push(line) })
  world = await startWorld({ log, config: { requestTimeoutMs: 2_500 } })
})
afterAll(() => world.close())
beforeEach(() => {
  written.length = 0
  world.provider.onToken = undefined
  world.provider.onRequest = undefined
  world.at({ email: newEmail(), email_verified: true, name: 'Ada' })
})

const codeOf = ({ status, body }: { status: number; body: { code?: string } | undefined }) =>
  status < 400 ? status : body?.code
const flipped = (text: string, at: number) => {
  const bytes = Buffer.from(text, 'base64url')
  bytes[at % bytes.length] = (bytes[at % bytes.length] ?? 0) ^ 1
  return bytes.toString('base64url')
}
const rs256 = () => ({ alg: 'RS256', kid: world.provider.key.publicJwk.kid as string })
const signed = (claims: Claims) => signClaims(claims, world.provider.key.privateKey, rs256())
/** Sends another ID token, made of the right one. */
const onIdToken = (change: (token: string) => string | undefined | Promise<string | undefined>) => {
  world.provider.onToken = async (answer) => ({ ...answer, id_token: await change(answer.id_token ?? '') })
}
const onClaims = (change: (claims: Claims) => Claims) => onIdToken((token) => signed(change(claimsOf(token))))
const without = (name: string) => (claims: Claims) =>
  Object.fromEntries(Object.entries(claims).filter(([key]) => key !== name))
const unsigned = (claims: Claims) =>
  [{ alg: 'none' }, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')

describe('an ID token of the provider is refused', () => {
  test('and the same one, unchanged, is accepted', async () => {
    onClaims((claims) => claims)
    expect(codeOf(await world.signIn(await world.go()))).toBe(200)
  })

  const nowS = () => Math.floor(Date.now() / 1_000)
  test.each<[string, (claims: Claims) => Claims]>([
    ['of another issuer', (claims) => ({ ...claims, iss: 'https://accounts.google.com' })],
    ['whose issuer has a slash more', (claims) => ({ ...claims, iss: `${claims['iss']}/` })],
    ['without an issuer', without('iss')],
    ['for another client', (claims) => ({ ...claims, aud: 'another client' })],
    ['for this and another client, without azp', (claims) => ({ ...claims, aud: ['velro-test', 'another client'] })],
    ['that another client may use', (claims) => ({ ...claims, aud: ['velro-test', 'b'], azp: 'b' })],
    ['without an audience', without('aud')],
    ['with another nonce', (claims) => ({ ...claims, nonce: 'A'.repeat(43) })],
    ['without a nonce', without('nonce')],
    ['that has expired', (claims) => ({ ...claims, exp: nowS() - 60 })],
    ['without an expiry', without('exp')],
    ['that is not valid yet', (claims) => ({ ...claims, nbf: nowS() + 3_600 })],
    ['without the time of its issue', without('iat')],
    ['without a subject', without('sub')],
    ['with a subject that is no text', (claims) => ({ ...claims, sub: 1 })],
    ['with an empty subject', (claims) => ({ ...claims, sub: '' })],
    ['with a subject of 256 characters', (claims) => ({ ...claims, sub: 's'.repeat(256) })],
    ['about another person than the user info', (claims) => ({ ...claims, sub: 'someone else' })],
  ])('%s', async (_, change) => {
    onClaims(change)
    expect((await world.go()).error).toBe('identity_provider.refused')
  })

  test('with the algorithm none, with and without a signature', async () => {
    for (const end of ['', '.', '.AAAA']) {
      onIdToken((token) => unsigned(claimsOf(token)) + end)
      expect((await world.go()).error).toBe('identity_provider.refused')
    }
  })

  test('signed with HS256, by the client secret or the published key', async () => {
    const { publicJwk } = world.provider.key
    const publicKey = (await importJWK(publicJwk, 'RS256', { extractable: true })) as CryptoKey
    const secrets = [clientSecret, await exportSPKI(publicKey), JSON.stringify(publicJwk)]
    for (const secret of secrets) {
      onIdToken((token) => signClaims(claimsOf(token), Buffer.from(secret), { ...rs256(), alg: 'HS256' }))
      expect((await world.go()).error).toBe('identity_provider.refused')
    }
  })

  test('signed with a key that the provider does not publish, under the id of one that it does or under another', async () => {
    const { privateKey } = await newProviderKey('other')
    for (const kid of [rs256().kid, 'other']) {
      onIdToken((token) => signClaims(claimsOf(token), privateKey, { alg: 'RS256', kid }))
      expect((await world.go()).error).toBe('identity_provider.refused')
    }
  })

  test('with one bit of its signature changed, without a signature, without a token', async () => {
    const changes: ((token: string) => string | undefined)[] = [
      (token) => token.replace(/[^.]+$/, (signature) => flipped(signature, 100)),
      (token) => token.replace(/[^.]+$/, ''),
      () => 'no token',
      () => undefined,
    ]
    for (const change of changes) {
      onIdToken(change)
      expect((await world.go()).error).toBe('identity_provider.refused')
    }
  })

  test('of another sign-in of the same person', async () => {
    let earlier = ''
    onIdToken((token) => {
      earlier = token
      return token
    })
    await world.go()
    onIdToken(() => earlier)
    expect((await world.go()).error).toBe('identity_provider.refused')
  })

  test('signed with a key that the provider has withdrawn, and accepted with its new key, both at once', async () => {
    const next = await newProviderKey('next')
    const publish = (keys: unknown[]) => {
      world.provider.onRequest = (path) => (path === '/jwks' ? Response.json({ keys }) : undefined)
    }
    expect((await world.go()).error).toBeUndefined()
    publish([next.publicJwk])
    expect((await world.go()).error).toBe('identity_provider.refused')
    onIdToken((token) => signClaims(claimsOf(token), next.privateKey, { alg: 'RS256', kid: 'next' }))
    expect((await world.go()).error).toBeUndefined()
  })

  test('and the log says why, without the token', async () => {
    onClaims((claims) => ({ ...claims, aud: 'another client' }))
    await world.go()
    const failed = written.map((line) => JSON.parse(line)).filter(({ event }) => event === 'identity.not_proven')
    expect(failed).toMatchObject([
      {
        level: 'info',
        provider_id: 'acme',
        purpose: 'sign_in',
        code: 'identity_provider.refused',
        address: '127.0.0.1',
      },
    ])
    expect(failed[0].detail).toContain('aud')
    expect(written.join()).not.toMatch(/eyJ|code=|state=/)
  })
})

describe('a state counts once, in its browser, for its provider', () => {
  test('and not again', async () => {
    const browser = world.newBrowser()
    const verifier = newVerifier()
    const callback = await world.callbackUrl(browser, 'acme', verifier)
    const first = await world.follow(browser, callback.href, verifier)
    const second = await world.follow(browser, callback.href, verifier)
    expect([first.error, second.error, second.code]).toEqual([undefined, 'identity_provider.state_used', undefined])
    expect(codeOf(await world.signIn(first))).toBe(200)
  })

  test('of 100 concurrent returns one gets a code, and the provider is asked once', async () => {
    const browser = world.newBrowser()
    const callback = await world.callbackUrl(browser)
    world.provider.requests.length = 0
    const returns = await Promise.all(Array.from({ length: 100 }, () => world.follow(browser, callback.href, '')))
    expect(returns.filter(({ code }) => code !== undefined).length).toBe(1)
    expect(returns.filter(({ error }) => error === 'identity_provider.state_used').length).toBe(99)
    expect(world.provider.requests.filter((path) => path === '/token').length).toBe(1)
  })

  const refused = async (returned: Promise<Returned & { response: Response | undefined }>) => {
    const { response, code } = await returned
    return [code, response?.status, (await response?.json())?.code]
  }
  const invalid = [undefined, 400, 'identity_provider.state_invalid']

  test('not in another browser, and not in one without a cookie', async () => {
    const callback = await world.callbackUrl(world.newBrowser())
    const other = world.newBrowser()
    expect(await refused(world.follow(other, callback.href, ''))).toEqual(invalid)
    await world.callbackUrl(other)
    expect(await refused(world.follow(other, callback.href, ''))).toEqual(invalid)
  })

  test('not with two cookies of the name, nor one that is no key', async () => {
    const browser = world.newBrowser()
    const callback = await world.callbackUrl(browser)
    const cookie = browser.cookiesOf(publicUrl)
    const send = async (value: string) => {
      const response = await fetch(callback.href.replace(publicUrl, world.app.baseUrl), {
        redirect: 'manual',
        headers: { cookie: value },
      })
      return response.status
    }
    for (const value of [
      `${cookie}; ${cookie}`,
      cookie.slice(0, -1),
      `${cookie}A`,
      '__Host-velro_provider=',
      `x=1, ${cookie}`,
    ])
      expect([value, await send(value)]).toEqual([value, 400])
    expect(await send(`a=b; ${cookie};c=d`)).toBe(303)
  })

  test('not at the callback of another provider, even one of the same issuer', async () => {
    const browser = world.newBrowser()
    const callback = await world.callbackUrl(browser)
    const elsewhere = callback.href.replace(callbackOf('acme'), callbackOf('other'))
    expect(await refused(world.follow(browser, elsewhere, ''))).toEqual(invalid)
  })

  test('not with a bit changed, not as another text, and not a made-up one', async () => {
    const browser = world.newBrowser()
    const callback = await world.callbackUrl(browser)
    const state = callback.searchParams.get('state') ?? ''
    for (const changed of [
      flipped(state, 0),
      flipped(state, 40),
      flipped(state, -1 + 1_000),
      `${state}=`,
      'A'.repeat(200),
    ]) {
      callback.searchParams.set('state', changed)
      expect(await refused(world.follow(browser, callback.href, ''))).toEqual(invalid)
    }
  })

  test('not after ten minutes', async () => {
    const browser = world.newBrowser()
    const callback = await world.callbackUrl(browser)
    world.clock.advance(600_000)
    expect(await refused(world.follow(browser, callback.href, ''))).toEqual(invalid)
  })

  test('not by HEAD, which a scanner sends, and the return counts afterwards', async () => {
    const browser = world.newBrowser()
    const callback = await world.callbackUrl(browser)
    const head = await fetch(callback.href.replace(publicUrl, world.app.baseUrl), {
      method: 'HEAD',
      redirect: 'manual',
      headers: { cookie: browser.cookiesOf(publicUrl) },
    })
    expect(head.status).toBe(400)
    expect((await world.follow(browser, callback.href, '')).error).toBeUndefined()
  })

  test('a callback without a state, or with two, is refused', async () => {
    const browser = world.newBrowser()
    const callback = await world.callbackUrl(browser)
    const twice = `${callback.href}&state=${callback.searchParams.get('state')}`
    expect(await refused(world.follow(browser, twice, ''))).toEqual(invalid)
    callback.searchParams.delete('state')
    expect(await refused(world.follow(browser, callback.href, ''))).toEqual(invalid)
  })
})

describe('a code of the provider', () => {
  test('that was stolen from another browser is refused: its verifier is missing', async () => {
    const stolen = (await world.callbackUrl(world.newBrowser())).searchParams.get('code') ?? ''
    const browser = world.newBrowser()
    const callback = await world.callbackUrl(browser)
    callback.searchParams.set('code', stolen)
    expect((await world.follow(browser, callback.href, '')).error).toBe('identity_provider.refused')
  })

  test('that was used is refused', async () => {
    const browser = world.newBrowser()
    const first = await world.callbackUrl(browser)
    expect((await world.follow(browser, first.href, '')).error).toBeUndefined()
    const second = await world.callbackUrl(browser)
    second.searchParams.set('code', first.searchParams.get('code') ?? '')
    expect((await world.follow(browser, second.href, '')).error).toBe('identity_provider.refused')
  })

  test('of another issuer (mix-up, RFC 9207) is refused before it is sent anywhere', async () => {
    const browser = world.newBrowser()
    const callback = await world.callbackUrl(browser)
    expect(callback.searchParams.get('iss')).toBe(world.provider.issuer)
    for (const iss of ['https://accounts.google.com', undefined]) {
      const changed = await world.callbackUrl(browser)
      if (iss === undefined) changed.searchParams.delete('iss')
      else changed.searchParams.set('iss', iss)
      world.provider.requests.length = 0
      expect((await world.follow(browser, changed.href, '')).error).toBe('identity_provider.refused')
      expect(world.provider.requests).toEqual([])
    }
  })

  test('given twice, or missing, is refused', async () => {
    const browser = world.newBrowser()
    const twice = await world.callbackUrl(browser)
    expect((await world.follow(browser, `${twice.href}&code=x`, '')).code).toBeUndefined()
    const missing = await world.callbackUrl(browser)
    missing.searchParams.delete('code')
    expect((await world.follow(browser, missing.href, '')).error).toBe('identity_provider.refused')
  })
})

describe('a code that the client gets', () => {
  test('is used once: 410 afterwards', async () => {
    const returned = await world.go()
    expect(codeOf(await world.signIn(returned))).toBe(200)
    const again = await world.signIn(returned)
    expect([again.status, again.body.code]).toEqual([410, 'identity_provider.code_used'])
  })

  test('is used by one of 100 concurrent sign-ins', async () => {
    const returned = await world.go()
    const answers = await Promise.all(Array.from({ length: 100 }, () => world.signIn(returned)))
    expect(answers.filter(({ status }) => status === 200).length).toBe(1)
    expect(answers.filter(({ status }) => status === 410).length).toBe(99)
  })

  test('is refused without its verifier, with a bit changed, and made up', async () => {
    const returned = await world.go()
    const code = returned.code ?? ''
    const wrong: Returned[] = [
      { ...returned, verifier: newVerifier() },
      { ...returned, verifier: flipped(returned.verifier, 3) },
      { ...returned, code: flipped(code, 0) },
      { ...returned, code: flipped(code, 31) },
      { ...returned, code: newVerifier() },
    ]
    for (const each of wrong) {
      const { status, body } = await world.signIn(each)
      expect([status, body.code]).toEqual([400, 'identity_provider.code_invalid'])
    }
    const last = code.at(-1) ?? ''
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
    const spelling = code.slice(0, -1) + alphabet[alphabet.indexOf(last) + 1]
    expect(codeOf(await world.signIn({ ...returned, code: spelling }))).toBe('identity_provider.code_invalid')
    expect(codeOf(await world.signIn(returned))).toBe(200)
  })

  test('is refused after ten minutes', async () => {
    const returned = await world.go()
    world.clock.advance(600_000)
    expect(codeOf(await world.signIn(returned))).toBe('identity_provider.code_invalid')
  })

  test('for a sign-in links no identity, and one for linking opens no session', async () => {
    const email = newEmail()
    const person = await register(world.client, { email })
    world.at({ email, email_verified: true })
    const returned = await world.go()
    expect(codeOf(await world.link(person, returned))).toBe('identity_provider.code_invalid')
    const forLinking = await world.goFor(person, 'link')
    expect(codeOf(await world.signIn(forLinking))).toBe('identity_provider.code_invalid')
    expect(codeOf(await world.link(person, forLinking))).toBe(201)
    expect(codeOf(await world.link(person, forLinking))).toBe('identity_provider.code_used')
  })

  test('for linking is refused to another account', async () => {
    const [person, other] = await Promise.all([register(world.client), register(world.client)])
    const returned = await world.goFor(person, 'link')
    expect(codeOf(await world.link(other, returned))).toBe('identity_provider.code_invalid')
  })

  test('for linking is used by one of 100 concurrent calls', async () => {
    const person = await register(world.client)
    world.at({ email: person.email, email_verified: true })
    const returned = await world.goFor(person, 'link')
    const answers = await Promise.all(Array.from({ length: 100 }, () => world.link(person, returned)))
    expect(answers.filter(({ status }) => status === 201).length).toBe(1)
    expect(answers.filter(({ status }) => status === 410).length).toBe(99)
  })

  test('leaves no token and no address in the database, while it can be used and afterwards', async () => {
    const email = newEmail()
    world.at({ email, email_verified: true, name: 'Grace Hopper' })
    const returned = await world.go()
    const { sql } = await import('../../src/platform/postgres.ts').then(({ connectOnce }) => ({
      sql: connectOnce(world.app.connection),
    }))
    const dump = async () => JSON.stringify(await sql`select * from identity_provider_sign_ins`)
    const readable = async () => Buffer.from((await dump()).replace(/\[[\d,]+\]/g, '')).toString()
    for (const secret of [email, 'Grace', returned.code ?? '', returned.verifier])
      expect(await readable()).not.toContain(secret)
    const [row] = await sql<{ encrypted_identity: Uint8Array }[]>`
      select encrypted_identity from identity_provider_sign_ins where encrypted_identity is not null order by created_at desc limit 1`
    expect(Buffer.from(row?.encrypted_identity ?? []).toString('latin1')).not.toContain('Grace')
    await world.signIn(returned)
    expect(
      (await sql`select from identity_provider_sign_ins where used_at is not null and encrypted_identity is not null`)
        .count,
    ).toBe(0)
    await sql.end()
  })
})

describe('a ticket of a signed-in person', () => {
  const prepare = async (token: string, id = 'acme') => {
    const input = { purpose: 'link', return_to: returnTo, code_challenge: challengeOf(newVerifier()) }
    return world.client.post(`/api/v1/auth/identity-providers/${id}/start`, input, { token })
  }
  const open = async (url: string) => {
    const { response, url: last } = await world.newBrowser().visit(url, callbackOf('acme'))
    return response === undefined ? last.slice(0, callbackOf('acme').length) : (await response.json()).code
  }

  test('opens for a minute, at its own provider, and unchanged', async () => {
    const { token } = await register(world.client)
    const url: string = (await prepare(token)).body.url
    expect(url.startsWith(`${publicUrl}/api/v1/auth/identity-providers/acme/start?ticket=`)).toBe(true)
    expect(await open(url)).toBe(callbackOf('acme'))
    const [start = '', ticket = ''] = url.split('ticket=')
    const invalid = 'identity_provider.ticket_invalid'
    expect(await open(`${start}ticket=${flipped(ticket, 20)}`)).toBe(invalid)
    expect(await open(url.replace('/acme/', '/other/'))).toBe(invalid)
    expect(await open(`${url}&return_to=${encodeURIComponent(returnTo)}`)).toBe('request.invalid')
    world.clock.advance(60_000)
    expect(await open(url)).toBe(invalid)
  })

  test('is given to signed-in people alone', async () => {
    const { token } = await register(world.client)
    const input = { purpose: 'sign_in', return_to: returnTo, code_challenge: challengeOf(newVerifier()) }
    const path = '/api/v1/auth/identity-providers/acme/start'
    expect((await world.client.post(path, input)).status).toBe(401)
    expect((await world.client.post(path, input, { token })).status).toBe(422)
    expect(codeOf(await prepare(token, 'unknown'))).toBe('identity_provider.not_found')
  })
})

describe('a browser is sent only to a URL of the configuration', () => {
  const start = (query: Record<string, string>, id = 'acme') =>
    world.client.get(`/api/v1/auth/identity-providers/${id}/start?${new URLSearchParams(query)}`)
  const code_challenge = challengeOf(newVerifier())

  test.each([
    'https://evil.example/signed-in',
    'https://app.example.com.evil.example/signed-in?from=velro',
    'https://app.example.com/signed-in',
    'https://app.example.com/signed-in?from=velro&next=//evil.example',
    'https://app.example.com/signed-in?from=velro#',
    'https://app.example.com/./signed-in?from=velro',
    'https://APP.example.com/signed-in?from=velro',
    'https://app.example.com@evil.example/signed-in?from=velro',
    'http://app.example.com/signed-in?from=velro',
    '//evil.example',
    '/\\evil.example',
    'javascript:alert(1)',
    'com.example.app:/other',
    ' https://app.example.com/signed-in?from=velro',
  ])('not to %s', async (return_to) => {
    const { status, headers, body } = await start({ return_to, code_challenge })
    expect([status, headers.get('location'), body.code]).toEqual([422, null, 'request.invalid'])
  })

  test('to each of them, an app included', async () => {
    for (const return_to of [returnTo, 'com.example.app:/signed-in'])
      expect((await start({ return_to, code_challenge })).status).toBe(303)
  })

  test('not to one given twice, nor to one that a signed-in person names', async () => {
    const query = new URLSearchParams({ return_to: returnTo, code_challenge })
    query.append('return_to', 'https://evil.example/')
    expect((await world.client.get(`/api/v1/auth/identity-providers/acme/start?${query}`)).status).toBe(422)
    const { token } = await register(world.client)
    const input = { purpose: 'link', return_to: 'https://evil.example/', code_challenge }
    expect((await world.client.post('/api/v1/auth/identity-providers/acme/start', input, { token })).status).toBe(422)
  })

  test('not without PKCE: a code challenge of S256 is required', async () => {
    for (const given of [undefined, '', 'plain', 'A'.repeat(42), 'A'.repeat(44), `${'A'.repeat(42)}=`]) {
      const query = { return_to: returnTo, ...(given !== undefined && { code_challenge: given }) }
      expect([given, (await start(query)).status]).toEqual([given, 422])
    }
  })

  test('not to a provider that is not configured', async () => {
    expect(codeOf(await start({ return_to: returnTo, code_challenge }, 'unknown'))).toBe('identity_provider.not_found')
  })
})

test('starts, returns and sign-ins count as attempts to authenticate from their address', async () => {
  const { policy } = world.app.services.config
  const limited = await startWorld({
    config: { limits: 'on', policy: { ...policy, budgets: { ...policy.budgets, auth_address: 4 } } },
  })
  try {
    limited.at({ email: newEmail(), email_verified: true })
    const returned = await limited.go()
    expect((await limited.signIn(returned)).status).toBe(200)
    expect((await limited.callbackUrl(limited.newBrowser())).searchParams.get('code')).not.toBeNull()
    const path = '/api/v1/auth/identity-providers'
    for (const answer of [
      await limited.client.get(`${path}/acme/start`),
      await limited.client.get(`${path}/other/callback?state=x`),
      await limited.signIn(returned),
    ])
      expect([answer.status, answer.body.budget]).toEqual([429, 'auth_address'])
  } finally {
    await limited.close()
  }
})

describe('a provider that fails sends the browser back, and the client learns how', () => {
  test('the person refuses', async () => {
    world.provider.signedIn = undefined
    expect((await world.go()).error).toBe('identity_provider.denied')
  })

  test('an error of the provider is not passed on as text', async () => {
    const browser = world.newBrowser()
    for (const [error, code] of [
      ['server_error', 'identity_provider.unavailable'],
      ['temporarily_unavailable', 'identity_provider.unavailable'],
      ['login_required', 'identity_provider.denied'],
      ['<script>alert(1)</script>', 'identity_provider.refused'],
    ] as const) {
      const callback = await world.callbackUrl(browser)
      callback.searchParams.delete('code')
      callback.searchParams.set('error', error)
      expect((await world.follow(browser, callback.href, '')).error).toBe(code)
    }
  })

  test('a provider that does not answer', async () => {
    expect((await world.go('gone')).error).toBe('identity_provider.unavailable')
  })

  const html = { 'content-type': 'text/html' }
  test.each<[string, string, () => Response | Promise<Response>]>([
    ['the token endpoint answers 503', 'unavailable', () => new Response('busy', { status: 503 })],
    [
      'the token endpoint answers 503 as JSON',
      'unavailable',
      () => Response.json({ error: 'server_error' }, { status: 503 }),
    ],
    ['it sends a page', 'refused', () => new Response('<html>', { headers: html })],
    [
      'it redirects',
      'refused',
      () => new Response(null, { status: 307, headers: { location: 'http://127.0.0.1:1/' } }),
    ],
    ['it sends JSON that is no object', 'refused', () => Response.json([1])],
    ['it sends too much', 'refused', () => Response.json({ access_token: 'a'.repeat(1_100_000) })],
    ['the client secret is wrong', 'refused', () => Response.json({ error: 'invalid_client' }, { status: 401 })],
  ])('%s', async (_, reason, answer) => {
    world.provider.onRequest = (path) => (path === '/token' ? answer() : undefined)
    expect((await world.go()).error).toBe(`identity_provider.${reason}`)
  })

  test('a token endpoint that hangs, within the deadline of the request', async () => {
    const { promise, resolve } = Promise.withResolvers<Response>()
    world.provider.onRequest = (path) => (path === '/token' ? promise : undefined)
    expect((await world.go()).error).toBe('identity_provider.unavailable')
    resolve(new Response())
  })

  test('keys that cannot be read', async () => {
    world.provider.onRequest = (path) => (path === '/jwks' ? new Response('busy', { status: 503 }) : undefined)
    expect((await world.go()).error).toBe('identity_provider.unavailable')
  })

  test('metadata that cannot be read again: the copy of an hour ago serves', async () => {
    await world.go()
    world.clock.advance(3_600_001)
    world.provider.requests.length = 0
    world.provider.onRequest = (path) =>
      path.includes('.well-known') ? new Response('busy', { status: 503 }) : undefined
    expect((await world.go()).error).toBeUndefined()
    expect(world.provider.requests.some((path) => path.includes('.well-known'))).toBe(true)
  })

  test('metadata of another issuer is not used', async () => {
    world.clock.advance(7_200_002)
    const document = { issuer: 'https://evil.example', token_endpoint: 'http://127.0.0.1:1/token' }
    world.provider.onRequest = (path) => (path.includes('.well-known') ? Response.json(document) : undefined)
    expect((await world.go()).error).toBeUndefined()
  })
})
