import { beforeAll, describe, expect, test } from 'bun:test'
import { createHash, randomBytes } from 'node:crypto'
import { createBrowser } from '../../harness/browser.ts'
import type { TestIdentityProvider } from '../../harness/identity-provider.ts'
import type { Person } from '../../harness.ts'
import { type Group, refusal, returnTo } from './driver.ts'

const base = '/api/v1/auth/identity-providers'
const links = '/api/v1/auth/linked-identities'
const newEmail = () => `some-${randomBytes(6).toString('hex')}@example.com`
const newVerifier = () => randomBytes(32).toString('base64url')
const challengeOf = (verifier: string) => createHash('sha256').update(verifier).digest('base64url')

type Given = { readonly code: string; readonly code_verifier: string }

export const identityProviders: Group = (world) =>
  describe('identity providers', () => {
    let provider: TestIdentityProvider | undefined
    let person: Person
    beforeAll(async () => {
      provider = world().subject.identityProvider
      person = await world().register()
    })

    /** A new person at the provider, signed in there. */
    const newPerson = (email = newEmail(), verified = true) => {
      const subject = `black box ${randomBytes(6).toString('hex')}`
      provider?.people.set(subject, { email, email_verified: verified, name: 'Ada' })
      if (provider !== undefined) provider.signedIn = subject
      return email
    }
    const returned = async (start: string, code_verifier: string): Promise<Given> => {
      const { url } = await createBrowser().visit(start, returnTo)
      const code = new URL(url).searchParams.get('code')
      if (code === null) throw new Error(`The browser returned to ${url}`)
      return { code, code_verifier }
    }
    const go = async (): Promise<Given> => {
      const verifier = newVerifier()
      const query = new URLSearchParams({ return_to: returnTo, code_challenge: challengeOf(verifier) })
      return returned(`${world().subject.baseUrl}${base}/acme/start?${query}`, verifier)
    }
    const goFor = async (token: string, purpose = 'link'): Promise<Given> => {
      const verifier = newVerifier()
      const input = { purpose, return_to: returnTo, code_challenge: challengeOf(verifier) }
      const { status, body } = await world().post(`${base}/acme/start`, input, { token })
      expect(status).toBe(200)
      return returned(body.url, verifier)
    }
    const signIn = (given: Given) => world().post(`${base}/sign-in`, given)
    const link = (given: Given, token: string) => world().post(links, given, { token })

    test('an unknown provider, state, ticket, code or identity is refused', async () => {
      const secret = newVerifier()
      const input = { purpose: 'link', return_to: returnTo, code_challenge: secret }
      const { token } = person
      const start = `return_to=${encodeURIComponent(returnTo)}&code_challenge=${secret}`
      for (const answer of [
        await world().get(`${base}/unknown/start?${start}`),
        await world().get(`${base}/unknown/start?ticket=x`),
        await world().get(`${base}/unknown/callback?state=x`),
        await world().post(`${base}/unknown/start`, input, { token }),
      ])
        expect(refusal(answer)).toBe('404 identity_provider.not_found')
      const given = { code: secret, code_verifier: secret }
      expect(refusal(await signIn(given))).toBe('400 identity_provider.code_invalid')
      expect(refusal(await link(given, token))).toBe('400 identity_provider.code_invalid')
      const unknown = `${links}/0192f3a0-0000-7000-8000-000000000000`
      expect(refusal(await world().delete(unknown, { token }))).toBe('404 linked_identity.not_found')
      if (provider === undefined) return
      expect(refusal(await world().get(`${base}/acme/callback?state=x`))).toBe('400 identity_provider.state_invalid')
      expect(refusal(await world().get(`${base}/acme/start?ticket=x`))).toBe('400 identity_provider.ticket_invalid')
      expect((await world().get(`${base}/acme/start?${start}`)).status).toBe(303)
    })

    test('a person who is new signs in, once with each code, and cannot unlink the last way in', async () => {
      expect((await world().get(base)).status).toBe(200)
      if (provider === undefined) return
      const email = newPerson()
      const given = await go()
      const { status, body } = await signIn(given)
      expect([status, body.user.email, body.user.email_verified]).toEqual([200, email, true])
      expect(refusal(await signIn(given))).toBe('410 identity_provider.code_used')
      const provenAgain = await goFor(body.access_token, 'reauthenticate')
      const reauthenticate = (token: string) => world().post(`${base}/reauthenticate`, provenAgain, { token })
      const renewed = await reauthenticate(body.access_token)
      expect(renewed.status).toBe(200)
      const sending = { token: renewed.body.access_token }
      expect(refusal(await reauthenticate(sending.token))).toBe('410 identity_provider.code_used')
      const [own] = (await world().get(links, sending)).body.items
      expect(refusal(await world().delete(`${links}/${own.id}`, sending))).toBe('409 linked_identity.last_way_in')
    })

    test('an address that the provider has not verified opens no account, and one that is taken no other', async () => {
      if (provider === undefined) return
      newPerson(newEmail(), false)
      expect(refusal(await signIn(await go()))).toBe('403 identity_provider.email_unverified')
      newPerson(person.email)
      expect(refusal(await signIn(await go()))).toBe('409 identity_provider.account_exists')
    })

    test('the owner of an account links identities, up to ten, and unlinks one', async () => {
      if (provider === undefined) return
      const { token } = person
      newPerson()
      expect(refusal(await link(await goFor(token), token))).toBe('403 linked_identity.address_unverified')
      newPerson(person.email)
      const given = await goFor(token)
      const first = await link(given, token)
      expect(first.status).toBe(201)
      expect(refusal(await link(given, token))).toBe('410 identity_provider.code_used')
      expect(refusal(await link(await goFor(token), token))).toBe('409 linked_identity.taken')
      for (let count = 1; count < 10; count += 1) {
        newPerson()
        expect((await link(await goFor(token), token)).status).toBe(201)
      }
      newPerson()
      expect(refusal(await link(await goFor(token), token))).toBe('409 linked_identity.too_many')
      expect((await world().delete(`${links}/${first.body.id}`, { token })).status).toBe(204)
      expect((await world().get(links, { token })).body.items.length).toBe(9)
    })
  })
