import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { claimsOf, signClaims } from '../harness/identity-provider.ts'
import { api, register, startApp } from '../harness.ts'
import {
  callbackOf,
  newEmail,
  newVerifier,
  octocat,
  publicUrl,
  startWorld,
  tokenOf,
  type World,
} from './identity-providers-world.ts'

let world: World
let sql: Sql
beforeAll(async () => {
  world = await startWorld({ config: { passkeys: { id: 'velro.test', origins: ['https://velro.test'] } } })
  sql = connectOnce(world.app.connection)
})
afterAll(async () => {
  await sql.end()
  await world.close()
})
beforeEach(() => {
  world.provider.onToken = undefined
  world.provider.onRequest = undefined
})

const codeOf = ({ status, body }: { status: number; body: { code?: string } | undefined }) =>
  status < 400 ? status : body?.code

const get = (path: string, token: string) => world.client.get(`/api/v1/auth${path}`, { token })
const unlink = (token: string, id: string) => world.client.delete(`/api/v1/auth/linked-identities/${id}`, { token })
const verify = (userId: string) => sql`update users set email_verified_at = now() where id = ${userId}`

describe('a person signs in with a provider', () => {
  test('who is new here gets an account with the verified address and name, and the same account the next time', async () => {
    const email = newEmail()
    world.at({ email: email.toUpperCase(), email_verified: true, name: 'Ada\u202e \n Lovelace' })
    const first = await world.signIn(await world.go())
    expect(first.status).toBe(200)
    expect(first.body.user).toMatchObject({ email, display_name: 'Ada Lovelace', email_verified: true })
    expect(Object.keys(first.body).toSorted()).toEqual([
      'access_token',
      'device_token',
      'expires_in',
      'refresh_token',
      'token_type',
      'user',
    ])
    const second = await world.signIn(await world.go())
    expect(second.body.user.id).toBe(first.body.user.id)
    expect((await get('/me', second.body.access_token)).status).toBe(200)
  })

  test('who changed the address at the provider, even to one of another account, keeps the account', async () => {
    const subject = world.at({ email: newEmail(), email_verified: true })
    const { id } = tokenOf(await world.signIn(await world.go()))
    const other = await register(world.client)
    world.provider.people.set(subject, { email: other.email, email_verified: false })
    const again = await world.signIn(await world.go())
    expect(again.body.user.id).toBe(id)
  })

  test('from a known device without notice, and with a notice from an unknown one', async () => {
    world.at({ email: newEmail(), email_verified: true })
    const { body } = await world.signIn(await world.go())
    await sql`update sessions set address = '203.0.113.9' where user_id = ${body.user.id}`
    const count = async () =>
      (await sql`select from notices where user_id = ${body.user.id} and kind = 'new_device'`).count
    const known = await world.signIn(await world.go(), { device_token: body.device_token })
    expect([known.body.device_token, await count()]).toEqual([body.device_token, 0])
    await sql`update sessions set address = '203.0.113.9' where user_id = ${body.user.id}`
    await world.signIn(await world.go())
    expect(await count()).toBe(1)
  })

  test('whose account is suspended is refused', async () => {
    world.at({ email: newEmail(), email_verified: true })
    const { id } = tokenOf(await world.signIn(await world.go()))
    await sql`update users set status = 'suspended' where id = ${id}`
    expect(codeOf(await world.signIn(await world.go()))).toBe('identity.account_suspended')
  })

  test('who is new here in two windows at once gets one account', async () => {
    world.at({ email: newEmail(), email_verified: true })
    const returns = [await world.go(), await world.go(), await world.go()]
    const answers = await Promise.all(returns.map((each) => world.signIn(each)))
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200])
    expect(new Set(answers.map(({ body }) => body.user.id)).size).toBe(1)
  })

  test('with two sign-ins under way in one browser can finish both', async () => {
    world.at({ email: newEmail(), email_verified: true })
    const browser = world.newBrowser()
    const verifiers = [newVerifier(), newVerifier()]
    const callbacks = []
    for (const verifier of verifiers) callbacks.push(await world.callbackUrl(browser, 'acme', verifier))
    for (const [at, callback] of callbacks.entries()) {
      const returned = await world.follow(browser, callback.href, verifiers[at] ?? '')
      expect(returned.error).toBeUndefined()
      expect((await world.signIn(returned)).status).toBe(200)
    }
  })

  test('gets the tokens in cookies, where the page asks for it and its origin is known', async () => {
    world.at({ email: newEmail(), email_verified: true })
    const returned = await world.go()
    const input = { code: returned.code, code_verifier: returned.verifier, cookies: true }
    const path = '/api/v1/auth/identity-providers/sign-in'
    const foreign = await world.client.post(path, input, { headers: { origin: 'https://evil.example' } })
    expect([foreign.status, foreign.body.code]).toEqual([403, 'request.origin_refused'])
    const answer = await world.client.post(path, input, { headers: { origin: publicUrl } })
    expect([answer.status, Object.keys(answer.body).toSorted()]).toEqual([200, ['expires_in', 'user']])
    const cookie = answer.headers
      .getSetCookie()
      .map((line) => line.split(';', 1)[0])
      .join('; ')
    const me = await world.client.get('/api/v1/auth/me', { headers: { cookie, origin: publicUrl } })
    expect(me.body).toEqual(answer.body.user)
  })

  test('without a password: a login with any password is refused as a wrong one', async () => {
    const email = newEmail()
    world.at({ email, email_verified: true })
    await world.signIn(await world.go())
    const login = await world.client.post('/api/v1/auth/login', { email, password: 'anything at all' })
    expect(codeOf(login)).toBe('identity.credentials_wrong')
  })

  test('is listed with the providers of the configuration', async () => {
    const { body } = await world.client.get('/api/v1/auth/identity-providers')
    expect(body).toEqual({
      items: [
        { id: 'github', name: 'GitHub' },
        { id: 'acme', name: 'acme' },
        { id: 'other', name: 'other' },
        { id: 'gone', name: 'Gone Ltd' },
      ],
    })
  })
})

describe('an address opens a new account only where the provider has verified it', () => {
  test.each([
    ['false', { email_verified: false }],
    ['absent', {}],
    ['null', { email_verified: null }],
    ['the text false', { email_verified: 'false' }],
    ['a number', { email_verified: 1 }],
  ])('email_verified is %s: refused', async (_, claims) => {
    const email = newEmail()
    world.at({ email, ...claims })
    expect(codeOf(await world.signIn(await world.go()))).toBe('identity_provider.email_unverified')
    expect((await sql`select from users where email = ${email}`).count).toBe(0)
  })

  test('a text that is not an address, or has invisible characters, is not taken', async () => {
    for (const email of ['no address', 'ada@example', `a\u200bb@example.com`, '', 'a@b@example.com']) {
      world.at({ email, email_verified: true })
      expect([email, codeOf(await world.signIn(await world.go()))]).toEqual([
        email,
        'identity_provider.email_unverified',
      ])
    }
  })

  test('one that an account here has, in any spelling, signs in to nothing', async () => {
    const { email, id } = await register(world.client)
    world.at({ email: email.toUpperCase(), email_verified: true })
    const returned = await world.go()
    expect(codeOf(await world.signIn(returned))).toBe('identity_provider.account_exists')
    expect((await sql`select from linked_identities where user_id = ${id}`).count).toBe(0)
    // The code was not used: the answer is the same again.
    expect(codeOf(await world.signIn(returned))).toBe('identity_provider.account_exists')
  })
})

describe('an identity is linked by the owner of an account', () => {
  test('who has signed in, and who signs in with it from then on', async () => {
    const person = await register(world.client)
    world.at({ email: person.email, email_verified: true })
    const linked = await world.link(person, await world.goFor(person, 'link'))
    expect(linked.status).toBe(201)
    expect(linked.body).toMatchObject({ provider: { id: 'acme', name: 'acme' }, email: person.email })
    expect((await get('/linked-identities', person.token)).body.items).toEqual([linked.body])
    expect((await world.signIn(await world.go())).body.user.id).toBe(person.id)
    const [notice] = await sql`select details from notices where user_id = ${person.id} and kind = 'identity_linked'`
    expect(notice?.['details']).toEqual({ provider: 'acme' })
  })

  test('and the same address verifies that of the account', async () => {
    const person = await register(world.client)
    world.at({ email: person.email, email_verified: true })
    await world.link(person, await world.goFor(person, 'link'))
    await world.app.caughtUp()
    expect((await get('/me', person.token)).body.email_verified).toBe(true)
  })

  test('not with another address while the address of the account is unverified: who registered it may not own it', async () => {
    const person = await register(world.client)
    world.at({ email: newEmail(), email_verified: true })
    const returned = await world.goFor(person, 'link')
    expect(codeOf(await world.link(person, returned))).toBe('linked_identity.address_unverified')
    await verify(person.id)
    expect(codeOf(await world.link(person, returned))).toBe(201)
  })

  test.each([[{ email_verified: false }], [{}]])(
    'not with an address that the provider has not verified: %o',
    async (claims) => {
      const person = await register(world.client)
      await verify(person.id)
      world.at({ email: person.email, ...claims })
      expect(codeOf(await world.link(person, await world.goFor(person, 'link')))).toBe(
        'identity_provider.email_unverified',
      )
    },
  )

  test('not where another account has it', async () => {
    world.at({ email: newEmail(), email_verified: true })
    await world.signIn(await world.go())
    const person = await register(world.client)
    await verify(person.id)
    expect(codeOf(await world.link(person, await world.goFor(person, 'link')))).toBe('linked_identity.taken')
  })

  test('of concurrent accounts one gets it', async () => {
    const people = await Promise.all([1, 2, 3, 4].map(() => register(world.client)))
    for (const { id } of people) await verify(id)
    world.at({ email: newEmail(), email_verified: true })
    const returns = []
    for (const person of people) returns.push({ person, returned: await world.goFor(person, 'link') })
    const answers = await Promise.all(returns.map(({ person, returned }) => world.link(person, returned)))
    expect(answers.map(codeOf).toSorted()).toEqual([201, ...Array(3).fill('linked_identity.taken')])
  })

  test('and unlinked, but not where it is the last way in', async () => {
    world.at({ email: newEmail(), email_verified: true })
    const person = tokenOf(await world.signIn(await world.go()))
    const [own] = (await get('/linked-identities', person.token)).body.items
    expect(codeOf(await unlink(person.token, own.id))).toBe('linked_identity.last_way_in')
    world.github.user = octocat()
    const added = await world.link(person, await world.goFor(person, 'link', 'github'))
    expect(codeOf(await unlink(person.token, own.id))).toBe(204)
    expect(codeOf(await unlink(person.token, added.body.id))).toBe('linked_identity.last_way_in')
    expect(codeOf(await unlink(person.token, own.id))).toBe('linked_identity.not_found')
  })

  test('and with a passkey it is neither the last way in nor a way around the second factor', async () => {
    world.at({ email: newEmail(), email_verified: true })
    const person = tokenOf(await world.signIn(await world.go()))
    await sql`
      insert into passkeys (id, user_id, credential_id, public_key, counter, transports, backup_eligible, backed_up, name, created_at)
      values (gen_random_uuid(), ${person.id}, ${Buffer.from(person.id)}, ${Buffer.from('key')}, 0, '{}', false, false, 'Key', now())`
    await world.app.caughtUp()
    const answer = await world.signIn(await world.go())
    expect([answer.status, typeof answer.body.sign_in_token, answer.body.access_token]).toEqual([
      202,
      'string',
      undefined,
    ])
    const again = await world.reauthenticate(person, await world.goFor(person, 'reauthenticate'))
    expect(codeOf(again)).toBe('identity.second_factor_missing')
    const [own] = (await get('/linked-identities', person.token)).body.items
    expect(codeOf(await unlink(person.token, own.id))).toBe(204)
  })

  test('an identity of a provider that is configured no more is no way in', async () => {
    world.at({ email: newEmail(), email_verified: true })
    const person = tokenOf(await world.signIn(await world.go()))
    world.github.user = octocat()
    await world.link(person, await world.goFor(person, 'link', 'github'))
    // Also where a provider has another issuer now: an identity there is another one.
    await sql`
      update linked_identities set issuer = 'https://removed.example' where user_id = ${person.id} and provider_id = 'github'`
    const { items } = (await get('/linked-identities', person.token)).body
    expect(codeOf(await unlink(person.token, items[0].id))).toBe('linked_identity.last_way_in')
    expect(codeOf(await unlink(person.token, items[1].id))).toBe(204)
  })

  test('a passkey is removed where an identity is a way in, and is no way in where no domain is configured', async () => {
    world.at({ email: newEmail(), email_verified: true })
    const person = tokenOf(await world.signIn(await world.go()))
    const id = crypto.randomUUID()
    const addPasskey = () => sql`
      insert into passkeys (id, user_id, credential_id, public_key, counter, transports, backup_eligible, backed_up, name, created_at)
      values (${id}, ${person.id}, ${Buffer.from(id)}, ${Buffer.from('key')}, 0, '{}', false, false, 'Key', now())`
    await addPasskey()
    const remove = () => world.client.delete(`/api/v1/auth/passkeys/${id}`, { token: person.token })
    expect(codeOf(await remove())).toBe(204)
    await addPasskey()
    const config = { ...world.app.services.config, passkeys: undefined }
    const elsewhere = await startApp({ connection: world.app.connection, clock: world.clock, config })
    const [own] = (await get('/linked-identities', person.token)).body.items
    const refused = await api(elsewhere.baseUrl).delete(`/api/v1/auth/linked-identities/${own.id}`, {
      token: person.token,
    })
    await elsewhere.close()
    expect(codeOf(refused)).toBe('linked_identity.last_way_in')
    expect(codeOf(await unlink(person.token, own.id))).toBe(204)
  })

  test('of two concurrent unlinks of the last two one is refused', async () => {
    world.at({ email: newEmail(), email_verified: true })
    const person = tokenOf(await world.signIn(await world.go()))
    world.github.user = octocat()
    await world.link(person, await world.goFor(person, 'link', 'github'))
    const { items } = (await get('/linked-identities', person.token)).body
    const answers = await Promise.all(items.map(({ id }: { id: string }) => unlink(person.token, id)))
    expect(answers.map(codeOf).toSorted()).toEqual([204, 'linked_identity.last_way_in'])
  })

  test('that of another person does not exist', async () => {
    world.at({ email: newEmail(), email_verified: true })
    const owner = tokenOf(await world.signIn(await world.go()))
    const [own] = (await get('/linked-identities', owner.token)).body.items
    const other = await register(world.client)
    expect(codeOf(await unlink(other.token, own.id))).toBe('linked_identity.not_found')
  })

  test('at most 10 to one account', async () => {
    const person = await register(world.client)
    await verify(person.id)
    await sql`
      insert into linked_identities (id, user_id, provider_id, issuer, subject, created_at, last_used_at)
      select gen_random_uuid(), ${person.id}, 'acme', 'https://many.example', 'many ' || n, now(), now()
        from generate_series(1, 10) n`
    world.at({ email: person.email, email_verified: true })
    expect(codeOf(await world.link(person, await world.goFor(person, 'link')))).toBe('linked_identity.too_many')
  })

  test('a closed account has none, and its identity opens a new account', async () => {
    const email = newEmail()
    world.at({ email, email_verified: true })
    const { token, id } = tokenOf(await world.signIn(await world.go()))
    expect((await world.client.delete('/api/v1/auth/me', { token })).status).toBe(204)
    expect((await sql`select from linked_identities where user_id = ${id} or email = ${email}`).count).toBe(0)
    const again = await world.signIn(await world.go())
    expect([again.status, again.body.user.id === id]).toEqual([200, false])
  })
})

describe('GitHub, which speaks OAuth 2.0 alone', () => {
  test('identifies by its number and the primary verified address', async () => {
    const email = newEmail()
    const user = octocat({
      emails: [
        { email: newEmail(), primary: false, verified: true },
        { email, primary: true, verified: true },
      ],
    })
    world.github.user = user
    const first = await world.signIn(await world.go('github'))
    expect(first.body.user).toMatchObject({ email, display_name: 'Mona Octocat', email_verified: true })
    // A login can be renamed, and then taken by another person.
    world.github.user = { ...user, login: 'renamed', emails: [] }
    expect((await world.signIn(await world.go('github'))).body.user.id).toBe(first.body.user.id)
    world.github.user = octocat({ login: 'octocat' })
    expect((await world.signIn(await world.go('github'))).body.user.id).not.toBe(first.body.user.id)
  })

  test.each([
    ['an unverified primary address', [{ email: newEmail(), primary: true, verified: false }]],
    ['only other verified addresses', [{ email: newEmail(), primary: false, verified: true }]],
    ['no addresses', []],
  ])('%s opens no account', async (_, emails) => {
    world.github.user = octocat({ emails })
    expect(codeOf(await world.signIn(await world.go('github')))).toBe('identity_provider.email_unverified')
  })

  test('an app that may not read addresses opens no account', async () => {
    world.github.user = octocat()
    world.github.givesEmails = false
    expect(codeOf(await world.signIn(await world.go('github')))).toBe('identity_provider.email_unverified')
    world.github.givesEmails = true
  })

  test('a code of another client is refused, by its verifier', async () => {
    world.github.user = octocat()
    const stolen = (await world.callbackUrl(world.newBrowser(), 'github')).searchParams.get('code') ?? ''
    const browser = world.newBrowser()
    const callback = await world.callbackUrl(browser, 'github')
    callback.searchParams.set('code', stolen)
    expect((await world.follow(browser, callback.href, '')).error).toBe('identity_provider.refused')
    expect(world.github.refusals.splice(0)).toEqual(['bad_verification_code'])
  })

  test('a user without a number is refused', async () => {
    for (const id of ['583231', 0, -1, 1.5, null]) {
      world.github.user = octocat({ id: id as number })
      expect((await world.go('github')).error).toBe('identity_provider.refused')
    }
  })
})

describe('a person authenticates again with a provider', () => {
  test('which is asked for it, and whose code opens no session and links no identity', async () => {
    world.at({ email: newEmail(), email_verified: true })
    const person = tokenOf(await world.signIn(await world.go()))
    const returned = await world.goFor(person, 'reauthenticate')
    expect(returned.error).toBeUndefined()
    expect(codeOf(await world.signIn(returned))).toBe('identity_provider.code_invalid')
    expect(codeOf(await world.link(person, returned))).toBe('identity_provider.code_invalid')
  })

  test('and gets a new session in place of the old one, once with each code', async () => {
    world.at({ email: newEmail(), email_verified: true })
    const person = tokenOf(await world.signIn(await world.go()))
    const returned = await world.goFor(person, 'reauthenticate')
    const again = await world.reauthenticate(person, returned)
    expect([again.status, again.body.user.id]).toEqual([200, person.id])
    expect((await get('/me', person.token)).status).toBe(401)
    const renewed = { token: again.body.access_token }
    expect((await get('/me', renewed.token)).status).toBe(200)
    expect(codeOf(await world.reauthenticate(renewed, returned))).toBe('identity_provider.code_used')
  })

  test('not with an identity of another account, nor with a code for something else or of another account', async () => {
    world.at({ email: newEmail(), email_verified: true })
    const other = tokenOf(await world.signIn(await world.go()))
    const otherReturned = await world.goFor(other, 'reauthenticate')
    const person = await register(world.client)
    const codes = [
      await world.goFor(person, 'reauthenticate'),
      await world.go(),
      await world.goFor(person, 'link'),
      otherReturned,
    ]
    for (const returned of codes)
      expect(codeOf(await world.reauthenticate(person, returned))).toBe('identity_provider.code_invalid')
    expect((await get('/me', person.token)).status).toBe(200)
  })

  test('not with another identity at the same provider, such as that of a thief of the session', async () => {
    const email = newEmail()
    world.at({ email, email_verified: true })
    const person = tokenOf(await world.signIn(await world.go()))
    world.at({ email, email_verified: true })
    const returned = await world.goFor(person, 'reauthenticate')
    expect(codeOf(await world.reauthenticate(person, returned))).toBe('identity_provider.code_invalid')
    expect((await get('/me', person.token)).status).toBe(200)
  })

  test('which says that this was too long ago: refused', async () => {
    world.at({ email: newEmail(), email_verified: true })
    const person = tokenOf(await world.signIn(await world.go()))
    world.provider.onToken = async (token) => {
      const claims = { ...claimsOf(token.id_token ?? ''), auth_time: Math.floor(Date.now() / 1_000) - 3_600 }
      const header = { alg: 'RS256', kid: 'first' }
      return { ...token, id_token: await signClaims(claims, world.provider.key.privateKey, header) }
    }
    expect((await world.goFor(person, 'reauthenticate')).error).toBe('identity_provider.refused')
    expect((await world.go()).error).toBeUndefined()
  })
})

describe('the address of a provider', () => {
  test('carries state, nonce, a challenge and the callback of this provider alone', async () => {
    const response = await fetch(world.startUrl('acme', newVerifier()).replace(publicUrl, world.app.baseUrl), {
      redirect: 'manual',
    })
    expect(response.status).toBe(303)
    const url = new URL(response.headers.get('location') ?? '')
    const { state = '', nonce = '', code_challenge = '', ...rest } = Object.fromEntries(url.searchParams)
    expect(rest).toEqual({
      client_id: 'velro-test',
      response_type: 'code',
      redirect_uri: callbackOf('acme'),
      scope: 'openid email profile',
      code_challenge_method: 'S256',
    })
    expect([nonce.length, code_challenge.length, state.length > 100]).toEqual([43, 43, true])
    expect(response.headers.get('set-cookie')).toMatch(
      /^__Host-velro_provider=[\w-]{43}; Path=\/; Max-Age=600; HttpOnly; Secure; SameSite=Lax$/,
    )
    expect(response.headers.get('cache-control')).toBe('no-store')
    expect(response.headers.get('referrer-policy')).toBe('no-referrer')
  })
})
