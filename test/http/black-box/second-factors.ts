import { describe, expect, test } from 'bun:test'
import { Secret, TOTP } from 'otpauth'
import { createAuthenticator } from '../../harness/authenticator.ts'
import type { Person } from '../../harness.ts'
import { type Group, passkeyDomain, refusal, sharedOrigin } from './driver.ts'

const base = '/api/v1/auth'
const stepMs = 30_000
const maxPasskeys = 20

/** Codes of the step before, of this one and of the next: each is accepted once. */
const codesOf = (secret: string) =>
  [-stepMs, 0, stepMs].map((offsetMs) =>
    TOTP.generate({ secret: Secret.fromBase32(secret), timestamp: Date.now() + offsetMs }),
  )

export const secondFactors: Group = (world) =>
  describe('second factors', () => {
    const post = (path: string, body?: object, token?: string) =>
      world().post(base + path, body, token === undefined ? {} : { token })
    const newDevice = () => createAuthenticator({ origin: sharedOrigin, domain: passkeyDomain })
    const addPasskey = async ({ token }: Pick<Person, 'token'>, device = newDevice()) => {
      const { body } = await post('/passkeys/options', undefined, token)
      return post('/passkeys', { name: 'Laptop', passkey: device.create(body.options) }, token)
    }
    const login = ({ email, password }: Pick<Person, 'email' | 'password'>) => post('/login', { email, password })
    const reauthenticate = (body: object, token: string) => post('/reauthenticate', body, token)

    const verify = (person: Person, operator: Person, email_verified = true) =>
      world().patch(`/api/v1/users/${person.id}`, { email_verified }, { token: operator.token })
    /** A person who may set up factors. Undefined where mails are configured and no operator can verify the address. */
    const newPerson = async (): Promise<Person | undefined> => {
      const [person, operator] = [await world().register(), await world().operator()]
      if (operator !== undefined) {
        expect((await verify(person, operator)).status).toBe(200)
        return person
      }
      const { status } = await post('/passkeys/options', undefined, person.token)
      return status === 403 ? undefined : person
    }

    test('a factor needs a verified address where mails are configured', async () => {
      const [ada, operator] = [await world().register(), await world().operator()]
      const options = await post('/passkeys/options', undefined, ada.token)
      if (operator === undefined || options.status !== 403) return
      const unverified = '403 identity.email_not_verified'
      expect(refusal(options)).toBe(unverified)
      expect(refusal(await post('/totp', undefined, ada.token))).toBe(unverified)
      await verify(ada, operator)
      const { body } = await post('/passkeys/options', undefined, ada.token)
      await verify(ada, operator, false)
      const passkey = newDevice().create(body.options)
      expect(refusal(await post('/passkeys', { name: 'Laptop', passkey }, ada.token))).toBe(unverified)
    })

    test('an authenticator app is asked for at sign-in, each code once, and removed again', async () => {
      const ada = await newPerson()
      if (ada === undefined) return
      expect(refusal(await post('/totp/confirm', { code: '000000' }, ada.token))).toBe('409 totp.not_started')
      expect(refusal(await post('/recovery-codes', undefined, ada.token))).toBe('409 second_factor.none')
      expect(refusal(await world().delete(`${base}/totp`, { token: ada.token }))).toBe('404 totp.not_found')
      const { body: setup } = await post('/totp', undefined, ada.token)
      const [first = '', second = '', third = ''] = codesOf(setup.secret)
      const confirmed = await post('/totp/confirm', { code: first }, ada.token)
      expect(confirmed.status).toBe(200)
      expect(refusal(await post('/totp', undefined, ada.token))).toBe('409 totp.already_enabled')
      expect(refusal(await post('/totp/confirm', { code: second }, ada.token))).toBe('409 totp.already_enabled')
      const { status, body: step } = await login(ada)
      expect([status, step.methods]).toEqual([202, ['totp', 'recovery_code']])
      const complete = (factor: object) =>
        post('/login/second-factor', { sign_in_token: step.sign_in_token, ...factor })
      expect(refusal(await complete({ code: first }))).toBe('403 identity.second_factor_wrong')
      expect((await complete({ code: second })).status).toBe(200)
      expect(refusal(await complete({ code: third }))).toBe('401 identity.sign_in_expired')
      const codes = await post('/recovery-codes', undefined, ada.token)
      expect([codes.status, codes.body.recovery_codes.length]).toEqual([200, 10])
      expect((await world().delete(`${base}/totp`, { token: ada.token })).status).toBe(204)
    })

    test('authenticating again takes the password, and a factor where there is one', async () => {
      const ada = await newPerson()
      if (ada === undefined) return
      const options = await post('/reauthenticate/options', undefined, ada.token)
      expect(options.body).toMatchObject({ password: true, second_factor: false })
      expect(refusal(await reauthenticate({}, ada.token))).toBe('403 identity.password_missing')
      expect(refusal(await reauthenticate({ password: 'wrong horse battery' }, ada.token))).toBe(
        '403 identity.password_wrong',
      )
      const again = await reauthenticate({ password: ada.password }, ada.token)
      expect(again.status).toBe(200)
      const token = again.body.access_token
      const { body: setup } = await post('/totp', undefined, token)
      const [first = ''] = codesOf(setup.secret)
      expect((await post('/totp/confirm', { code: first }, token)).status).toBe(200)
      expect(refusal(await reauthenticate({ password: ada.password }, token))).toBe(
        '403 identity.second_factor_missing',
      )
    })

    test('ten wrong attempts pause authenticating again, and sign-ins by the second factor', async () => {
      const ada = await newPerson()
      if (ada === undefined) return
      const { body: setup } = await post('/totp', undefined, ada.token)
      const [first = ''] = codesOf(setup.secret)
      await post('/totp/confirm', { code: first }, ada.token)
      const { body: step } = await login(ada)
      const { sign_in_token } = step
      const guess = () => post('/login/second-factor', { sign_in_token, recovery_code: 'a'.repeat(24) })
      for (let tries = 0; tries < 10; tries += 1)
        expect(refusal(await guess())).toBe('403 identity.second_factor_wrong')
      expect(refusal(await guess())).toBe('429 identity.sign_in_paused')
      const ben = await world().register()
      const again = () => reauthenticate({ password: 'wrong horse battery' }, ben.token)
      for (let tries = 0; tries < 10; tries += 1) expect(refusal(await again())).toBe('403 identity.password_wrong')
      expect(refusal(await again())).toBe('429 identity.sign_in_paused')
    })

    test('a passkey is added, renamed and removed by its owner, and signs in alone', async () => {
      const [ada, ben] = [await newPerson(), await world().register()]
      if (ada === undefined) return
      const device = newDevice()
      const added = await addPasskey(ada, device)
      expect(added.status).toBe(201)
      expect(refusal(await addPasskey(ada, device))).toBe('409 passkey.known')
      const { body } = await post('/passkeys/options', undefined, ada.token)
      const elsewhere = newDevice().create(body.options, { origin: 'https://app.example.org' })
      expect(refusal(await post('/passkeys', { name: 'Phone', passkey: elsewhere }, ada.token))).toBe(
        '400 passkey.response_invalid',
      )
      const { body: asked } = await post('/login/passkey/options')
      const passkey = device.get(asked.options)
      expect((await post('/login/passkey', { passkey })).status).toBe(200)
      expect(refusal(await post('/login/passkey', { passkey }))).toBe('401 passkey.refused')
      const path = `${base}/passkeys/${added.body.passkey.id}`
      expect(refusal(await world().patch(path, { name: 'Stolen' }, { token: ben.token }))).toBe('404 passkey.not_found')
      expect((await world().patch(path, { name: 'Work' }, { token: ada.token })).body.name).toBe('Work')
      expect(refusal(await world().delete(path, { token: ben.token }))).toBe('404 passkey.not_found')
      const listed = await world().get(`${base}/second-factors`, { token: ada.token })
      expect(listed.body.passkeys.map(({ name }: { name: string }) => name)).toEqual(['Work'])
      expect((await world().delete(path, { token: ada.token })).status).toBe(204)
    })

    test(`an account has ${maxPasskeys} passkeys at most`, async () => {
      const ada = await newPerson()
      if (ada === undefined) return
      for (let added = 0; added < maxPasskeys; added += 1) expect((await addPasskey(ada)).status).toBe(201)
      expect(refusal(await addPasskey(ada))).toBe('409 passkey.too_many')
    })

    test('a team that requires one shows itself to members who have one', async () => {
      const [owner, member] = [await newPerson(), await world().register()]
      if (owner === undefined) return
      const { body: setup } = await post('/totp', undefined, owner.token)
      const [first = ''] = codesOf(setup.secret)
      await post('/totp/confirm', { code: first }, owner.token)
      const { body: team } = await world().post('/api/v1/teams', { name: 'Careful' }, { token: owner.token })
      const path = `/api/v1/teams/${team.id}`
      const invitation = { email: member.email, role: 'viewer' }
      const { body: invited } = await world().post(`${path}/invitations`, invitation, { token: owner.token })
      const { secret } = invited
      expect((await world().post('/api/v1/teams/invitations/accept', { secret }, { token: member.token })).status).toBe(
        200,
      )
      expect((await world().patch(path, { requires_second_factor: true }, { token: owner.token })).status).toBe(200)
      expect(refusal(await world().get(`${path}/members`, { token: member.token }))).toBe(
        '403 team.second_factor_required',
      )
      expect((await world().get(`${path}/members`, { token: owner.token })).status).toBe(200)
    })

    test('an operator removes those of a person who has lost them', async () => {
      const operator = await world().operator()
      if (operator === undefined) return
      const ada = await newPerson()
      if (ada === undefined) return
      await addPasskey(ada)
      const path = (id: string) => `/api/v1/users/${id}/second-factors`
      expect((await world().delete(path(ada.id), { token: operator.token })).status).toBe(204)
      expect((await login(ada)).status).toBe(200)
      expect(refusal(await world().delete(path(crypto.randomUUID()), { token: operator.token }))).toBe(
        '404 user.not_found',
      )
    })
  })
