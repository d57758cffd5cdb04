import { beforeAll, describe, expect, test } from 'bun:test'
import { randomBytes } from 'node:crypto'
import { createLocalJWKSet, decodeProtectedHeader, jwtVerify } from 'jose'
import type { Person } from '../../harness.ts'
import { type Answer, type Group, refusal } from './driver.ts'

const someone = () => `some-${randomBytes(6).toString('hex')}@example.com`
const password = 'an uncommon passphrase 7'
const signUp = '/api/v1/auth/register'
const logIn = '/api/v1/auth/login'

export const accounts: Group = (world) =>
  describe('accounts', () => {
    let ada: Person
    beforeAll(async () => {
      ada = await world().register({ display_name: 'Ada' })
    })

    test('a password has 8 characters, however many units each of them has', async () => {
      const [eight, four] = ['🦊🐙🌵🪐🎻🧭🪁🫧', '🦊🐙🌵🪐']
      const person = await world().register()
      const change = { current_password: person.password, new_password: four }
      const email = someone()
      for (const answer of [
        await world().post('/api/v1/auth/register', { email, password: four }),
        await world().post('/api/v1/auth/password', change, { token: person.token }),
      ]) {
        expect([answer.status, answer.body.code]).toEqual([422, 'request.invalid'])
      }
      expect((await world().post('/api/v1/auth/register', { email, password: eight })).status).toBe(201)
    })

    test('registering signs in: 201 with tokens of the documented shape, which must not be cached', async () => {
      const email = someone()
      const { status, headers, body } = await world().post(signUp, { email, password })
      expect(status).toBe(201)
      expect(headers.get('cache-control')).toBe('no-store')
      const members = ['access_token', 'device_token', 'expires_in', 'refresh_token', 'token_type', 'user']
      expect(Object.keys(body).sort()).toEqual(members)
      expect([body.token_type, body.expires_in]).toEqual(['Bearer', 900])
      for (const token of [body.refresh_token, body.device_token]) expect(token).toMatch(/^[A-Za-z0-9_-]{43}$/)
      expect(body.user).toMatchObject({
        email,
        display_name: email.split('@')[0],
        role: 'user',
        plan: 'free',
        status: 'active',
      })
      expect((await world().get('/api/v1/auth/me', { token: body.access_token })).body).toEqual(body.user)
    })

    test('an access token is a JWT of RFC 9068 that the published keys verify', async () => {
      const keys = createLocalJWKSet((await world().get('/.well-known/jwks.json')).body)
      const { payload, protectedHeader } = await jwtVerify(ada.token, keys, { typ: 'at+jwt', algorithms: ['EdDSA'] })
      expect(Object.keys(protectedHeader).sort()).toEqual(['alg', 'kid', 'typ'])
      expect(Object.keys(payload).sort()).toEqual(['aud', 'exp', 'iat', 'iss', 'jti', 'mac', 'sid', 'sub'])
      expect(payload).toMatchObject({ sub: ada.id, iss: 'velro', aud: 'velro' })
      expect((payload.exp ?? 0) - (payload.iat ?? 0)).toBe(900)
      expect(Math.abs((payload.iat ?? 0) - Date.now() / 1_000)).toBeLessThan(60)
    })

    test('no two tokens are the same', async () => {
      const [one, two] = await Promise.all([world().login(ada), world().login(ada)])
      expect(new Set([ada.token, one.token, two.token]).size).toBe(3)
      expect(new Set([ada.refreshToken, one.refreshToken, two.refreshToken]).size).toBe(3)
      expect(decodeProtectedHeader(one.token)).toEqual(decodeProtectedHeader(two.token))
    })

    test('an internationalized domain is one address in Unicode and in punycode', async () => {
      const [name, domain] = someone().split('@') as [string, string]
      const unicode = `${name}@b\u00fccher.${domain}`
      const spellings = [unicode, `${name}@xn--bcher-kva.${domain}`, `${name}@BU\u0308CHER.${domain}`]
      expect((await world().post(signUp, { email: unicode, password })).status).toBe(201)
      for (const email of spellings) {
        expect(refusal(await world().post(signUp, { email, password }))).toBe('409 identity.email_taken')
        expect((await world().post(logIn, { email, password })).status).toBe(200)
      }
    })

    test('an address with an invisible character is refused', async () => {
      for (const character of ['\u200b', '\u00ad', '\u2060', '\u3164', '\ufe0f', '\u202e']) {
        const answer = await world().post(signUp, { email: `a${character}${someone()}`, password })
        expect(refusal(answer)).toBe('422 request.invalid')
        expect(answer.body.errors).toEqual([
          {
            in: 'body',
            pointer: '/email',
            detail: 'must be an e-mail address of at most 254 characters, without spaces or invisible characters',
          },
        ])
      }
    })

    test('one e-mail address has one account, compared without regard to case', async () => {
      const again = await world().post(signUp, { email: ada.email.toUpperCase(), password })
      expect(refusal(again)).toBe('409 identity.email_taken')
      const { status, body } = await world().post(logIn, { email: ada.email.toUpperCase(), password: ada.password })
      expect([status, body.user]).toEqual([200, ada.user])
    })

    test('eight concurrent registrations of one address create one account', async () => {
      const email = someone()
      const answers = await Promise.all(Array.from({ length: 8 }, () => world().post(signUp, { email, password })))
      expect(answers.map(({ status }) => status).sort()).toEqual([201, ...Array(7).fill(409)])
    })

    test('passwords have 8 to 1,024 characters', async () => {
      const seven = await world().post(signUp, { email: someone(), password: 'xq7!k#2' })
      const tooLong = await world().post(signUp, { email: someone(), password: 'ab'.repeat(513) })
      expect([refusal(seven), refusal(tooLong)]).toEqual(['422 request.invalid', '422 request.invalid'])
      const longest = await world().register({ password: `${'long '.repeat(204)}four` })
      expect(longest.password).toHaveLength(1_024)
      await world().login(longest)
      const cut = { email: longest.email, password: longest.password.slice(0, -1) }
      expect(refusal(await world().post(logIn, cut))).toBe('401 identity.credentials_wrong')
      await world().register({ password: 'xq7!k#2z' })
    })

    test('common passwords are refused, without regard to case', async () => {
      for (const common of ['password', 'PassWord', 'iloveyou', '12345678', 'qwertyuiop']) {
        const answer = await world().post(signUp, { email: someone(), password: common })
        expect([common, refusal(answer)]).toEqual([common, '422 identity.password_common'])
      }
    })

    test('a password is compared in NFC, and otherwise byte for byte', async () => {
      const composed = 'caf\u00e9 \u{1f511} na\u00efve '
      const person = await world().register({ password: composed })
      await world().login({ ...person, password: composed.normalize('NFD') })
      for (const other of [composed.trim(), composed.toUpperCase(), 'cafe \u{1f511} naive ', `${composed} `]) {
        const answer = await world().post(logIn, { email: person.email, password: other })
        expect(refusal(answer)).toBe('401 identity.credentials_wrong')
      }
    })

    test('an unknown address is answered with the bytes and headers of a wrong password', async () => {
      const ask = async (email: string) => {
        const { headers, text, body } = await world().post(logIn, { email, password: 'not the password' })
        expect(body.code).toBe('identity.credentials_wrong')
        const rest = [...headers].filter(([name]) => name !== 'x-request-id' && name !== 'date')
        return [text.replace(body.request_id, ''), rest]
      }
      expect(await ask(someone())).toEqual(await ask(ada.email))
    })

    test('ten wrong passwords pause sign-ins to an address, and a device token is kept over sign-ins', async () => {
      const wrong = { email: someone(), password: 'not the password' }
      const answers: Answer[] = []
      for (let index = 0; index < 11; index += 1) answers.push(await world().post(logIn, wrong))
      expect(answers.map(refusal)).toEqual([
        ...Array(10).fill('401 identity.credentials_wrong'),
        '429 identity.sign_in_paused',
      ])
      const last = answers.at(-1)
      expect(last?.headers.get('retry-after')).toBe(String(last?.body.retry_after_seconds))
      const { email, password } = await world().register()
      const { body } = await world().post(logIn, { email, password })
      const { device_token } = body
      const again = await world().post(logIn, { email, password, device_token })
      expect([again.status, again.body.device_token]).toEqual([200, device_token])
      const ignored = await world().post(logIn, { email, password, device_token: 'A'.repeat(43) })
      expect([ignored.status, ignored.body.device_token === 'A'.repeat(43)]).toEqual([200, false])
      expect(refusal(await world().post(logIn, { email, password, device_token: 'A' }))).toBe('422 request.invalid')
    })

    test('a change of the own account leaves the omitted fields as they are', async () => {
      const person = await world().register()
      const { token } = person
      await world().patch('/api/v1/auth/me', { display_name: 'Hopper' }, { token })
      const { status, body } = await world().patch('/api/v1/auth/me', { display_name: 'Grace \u{1f6a2}' }, { token })
      expect(status).toBe(200)
      expect(body).toEqual({ ...person.user, display_name: 'Grace \u{1f6a2}', updated_at: body.updated_at })
      expect(Date.parse(body.updated_at)).toBeGreaterThanOrEqual(Date.parse(person.user.updated_at))
      expect((await world().get('/api/v1/auth/me', { token })).body).toEqual(body)
    })

    test('closing an account ends its tokens and password and frees its address at once', async () => {
      const person = await world().register()
      const other = await world().login(person)
      const { status, text } = await world().send('DELETE', '/api/v1/auth/me', { token: person.token })
      expect([status, text]).toEqual([204, ''])
      for (const { token, refreshToken } of [person, other]) {
        expect(refusal(await world().get('/api/v1/auth/me', { token }))).toBe('401 identity.not_signed_in')
        const refreshed = await world().post('/api/v1/auth/refresh', { refresh_token: refreshToken })
        expect(refusal(refreshed)).toBe('401 identity.refresh_token_invalid')
      }
      const { email, password } = person
      expect(refusal(await world().post(logIn, { email, password }))).toBe('401 identity.credentials_wrong')
      const again = await world().register({ email })
      expect(again.id).not.toBe(person.id)
    })

    test('an export is a zip archive with the account in it, and one at a time for an account', async () => {
      const person = await world().register()
      const path = '/api/v1/auth/me/export'
      const answers = await Promise.all(Array.from({ length: 12 }, () => world().post(path, undefined, person)))
      const [made, refused] = [
        answers.find(({ status }) => status === 200),
        answers.find(({ status }) => status !== 200),
      ]
      expect(made?.headers.get('content-type')).toBe('application/zip')
      for (const text of ['account.json', person.email, person.id]) expect(made?.text).toContain(text)
      expect(refusal(refused as Answer)).toBe('429 identity.export_under_way')
      expect((await world().post(path, undefined, person)).status).toBe(200)
    })

    describe('changing the password', () => {
      const path = '/api/v1/auth/password'

      test('ends every session at once, this one too, and answers with the tokens of a new one', async () => {
        const person = await world().register()
        const refreshed = await world().post('/api/v1/auth/refresh', { refresh_token: person.refreshToken })
        const [other, third] = await Promise.all([world().login(person), world().login(person)])
        const new_password = 'quite another passphrase'
        const answer = await world().post(
          path,
          { current_password: person.password, new_password },
          { token: person.token },
        )
        expect([answer.status, Object.keys(answer.body).toSorted()]).toEqual([
          200,
          ['access_token', 'expires_in', 'refresh_token', 'token_type', 'user'],
        ])
        const earlier = { token: refreshed.body.access_token, refreshToken: refreshed.body.refresh_token }
        for (const { token, refreshToken } of [person, earlier, other, third]) {
          expect(refusal(await world().get('/api/v1/auth/me', { token }))).toBe('401 identity.not_signed_in')
          const refused = await world().post('/api/v1/auth/refresh', { refresh_token: refreshToken })
          expect(refusal(refused)).toBe('401 identity.refresh_token_invalid')
        }
        const { access_token: token, refresh_token } = answer.body
        expect((await world().get('/api/v1/auth/me', { token })).body).toEqual(answer.body.user)
        expect((await world().get('/api/v1/auth/sessions', { token })).body.items).toMatchObject([{ current: true }])
        expect((await world().post('/api/v1/auth/refresh', { refresh_token })).status).toBe(200)
        const old = await world().post(logIn, { email: person.email, password: person.password })
        expect(refusal(old)).toBe('401 identity.credentials_wrong')
        await world().login({ ...person, password: new_password })
      })

      test('needs the current password, and a new one that is not common', async () => {
        const person = await world().register()
        const attempt = (current_password: string, new_password: string) =>
          world().post(path, { current_password, new_password }, { token: person.token })
        expect(refusal(await attempt('not this one', 'quite another passphrase'))).toBe('403 identity.password_wrong')
        expect(refusal(await attempt(person.password, 'password123'))).toBe('422 identity.password_common')
        await world().login(person)
      })

      test('and registering refuse a password made of the address or the name of the service', async () => {
        const email = `lovelace-${randomBytes(6).toString('hex')}@example.com`
        const person = await world().register({ email })
        for (const new_password of [email, 'Lovelace1815', 'L0v3l4ce!', 'velro2026', 'velropassword']) {
          const change = { current_password: person.password, new_password }
          const changed = await world().post(path, change, { token: person.token })
          const registered = await world().post(signUp, { email: `x.${email}`, password: new_password })
          for (const answer of [changed, registered])
            expect([new_password, refusal(answer)]).toEqual([new_password, '422 identity.password_predictable'])
        }
        const new_password = 'lovelace and velro made pictures'
        const accepted = await world().post(
          path,
          { current_password: person.password, new_password },
          { token: person.token },
        )
        expect(accepted.status).toBe(200)
      })

      test('pauses after ten wrong current passwords', async () => {
        const { token, password } = await world().register()
        const attempt = (current_password: string) =>
          world().post(path, { current_password, new_password: 'quite another passphrase' }, { token })
        for (let index = 0; index < 10; index += 1)
          expect(refusal(await attempt('not this one'))).toBe('403 identity.password_wrong')
        expect(refusal(await attempt(password))).toBe('429 identity.sign_in_paused')
      })

      test('leaves no session open that a concurrent sign-in with the old password created', async () => {
        const person = await world().register()
        let changed = false
        const change = world()
          .post(path, { current_password: person.password, new_password: 'brand new phrase' }, { token: person.token })
          .finally(() => {
            changed = true
          })
        // Eight at any time, so that some have read the old hash and wait for a worker when it is replaced.
        const opened: Answer[] = []
        const keepSigningIn = async () => {
          while (!changed) {
            const answer = await world().post(logIn, { email: person.email, password: person.password })
            if (answer.status === 200) opened.push(answer)
          }
        }
        await Promise.all(Array.from({ length: 8 }, keepSigningIn))
        const { status, body: changedTo } = await change
        expect(status).toBe(200)
        expect(opened.length).toBeGreaterThan(0)
        const uses = opened.map(({ body }) => world().get('/api/v1/auth/me', { token: body.access_token }))
        const living = (await Promise.all(uses)).filter(({ status }) => status === 200)
        expect(living.length).toBe(0)
        const { body } = await world().get('/api/v1/auth/sessions', { token: changedTo.access_token })
        expect(body.items).toHaveLength(1)
      })

      test('when two changes run at once, one succeeds and its password is valid', async () => {
        const person = await world().register()
        const attempt = (new_password: string) =>
          world().post(path, { current_password: person.password, new_password }, { token: person.token })
        const offered = ['the first of two phrases', 'the second of two phrases'] as const
        const answers = await Promise.all(offered.map(attempt))
        expect(answers.map(({ status }) => status).sort()).toEqual([200, 403])
        const winner = offered[answers.findIndex(({ status }) => status === 200)] as string
        await world().login({ ...person, password: winner })
      })
    })
  })
