import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createBrowser } from '../harness/browser.ts'
import {
  type Claims,
  claimsOf,
  newProviderKey,
  signClaims,
  startIdentityProvider,
  type TestIdentityProvider,
} from '../harness/identity-provider.ts'
import { freePort, type Runtime, startServer } from '../harness.ts'
import { nameOf, routesOf } from './black-box/document.ts'
import { isOfProviders } from './black-box/documentation.ts'
import { createWorld, returnTo, type World } from './black-box/driver.ts'
import { identityProviders } from './black-box/identity-providers.ts'

const startSubject = async (runtime: Runtime) => {
  // Known before the start, because the provider must know it.
  const port = await freePort()
  const publicUrl = `http://127.0.0.1:${port}`
  const credentials = { clientId: 'velro', clientSecret: 'a client secret' }
  const redirectUris = [`${publicUrl}/api/v1/auth/identity-providers/acme/callback`]
  // Bun sends the secret in the body, Deno in a header.
  const authentication = runtime === 'bun' ? 'client_secret_post' : 'client_secret_basic'
  const provider = await startIdentityProvider({ ...credentials, redirectUris, authentication })
  const server = await startServer({
    runtime,
    env: {
      PORT: String(port),
      PUBLIC_URL: publicUrl,
      RETURN_TO_URLS: returnTo,
      OIDC_PROVIDERS: 'acme',
      OIDC_ACME_ISSUER: provider.issuer,
      OIDC_ACME_CLIENT_ID: credentials.clientId,
      OIDC_ACME_CLIENT_SECRET: credentials.clientSecret,
    },
  })
  const stop = async () => {
    await server.stop()
    await provider.close()
  }
  return { subject: { baseUrl: server.baseUrl, runtime, identityProvider: provider }, stop }
}

describe.each<Runtime>(['bun', 'deno'])('on %s', (runtime) => {
  let world: World
  let provider: TestIdentityProvider
  let stop: () => Promise<unknown> = async () => {}
  beforeAll(async () => {
    const started = await startSubject(runtime)
    stop = started.stop
    provider = started.subject.identityProvider
    world = await createWorld(started.subject)
  }, 60_000)
  afterAll(() => stop())

  identityProviders(() => world)

  test('an ID token that another party made, or that is for another sign-in, is refused', async () => {
    const { key } = provider
    const stranger = await newProviderKey('first')
    const header = { alg: 'RS256', kid: 'first' }
    const changed = (members: Claims) => (claims: Claims) =>
      signClaims({ ...claims, ...members }, key.privateKey, header)
    const unsigned = (claims: Claims) =>
      `${[{ alg: 'none' }, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')}.`
    const forgeries: Record<string, (claims: Claims) => string | Promise<string>> = {
      'another issuer': changed({ iss: 'https://accounts.google.com' }),
      'another audience': changed({ aud: 'another client' }),
      'another nonce': changed({ nonce: 'A'.repeat(43) }),
      expired: changed({ exp: Math.floor(Date.now() / 1_000) - 60 }),
      'algorithm none': unsigned,
      HS256: (claims) =>
        signClaims(claims, Buffer.from('a client secret'.padEnd(32, '.')), { ...header, alg: 'HS256' }),
      'another key': (claims) => signClaims(claims, stranger.privateKey, header),
    }
    provider.people.set('forged', { email: 'forged@example.com', email_verified: true })
    provider.signedIn = 'forged'
    const go = async () => {
      const query = new URLSearchParams({ return_to: returnTo, code_challenge: 'A'.repeat(43) })
      const start = `${world.subject.baseUrl}/api/v1/auth/identity-providers/acme/start?${query}`
      return new URL((await createBrowser().visit(start, returnTo)).url).searchParams.get('error')
    }
    for (const [name, forge] of Object.entries(forgeries)) {
      provider.onToken = async (token) => ({ ...token, id_token: await forge(claimsOf(token.id_token ?? '')) })
      expect([name, await go()]).toEqual([name, 'identity_provider.refused'])
    }
    provider.onToken = undefined
    expect(await go()).toBeNull()
  })

  test('a provider that is away, and one that comes back', async () => {
    provider.onRequest = (path) => (path === '/token' ? new Response('busy', { status: 503 }) : undefined)
    const query = new URLSearchParams({ return_to: returnTo, code_challenge: 'A'.repeat(43) })
    const start = `${world.subject.baseUrl}/api/v1/auth/identity-providers/acme/start?${query}`
    const go = async () => new URL((await createBrowser().visit(start, returnTo)).url).searchParams.get('error')
    expect(await go()).toBe('identity_provider.unavailable')
    provider.onRequest = undefined
    expect(await go()).toBeNull()
  })

  test('every response was as documented, with its headers, and every documented refusal was seen', () => {
    expect([world.ledger.breaches, world.ledger.bare]).toEqual([[], []])
    const common = [202, 303, 400, 401, 403, 413, 415, 422, 429, 500, 503]
    const unseen = routesOf(world.document)
      .filter(isOfProviders)
      .flatMap((route) => {
        const seen = world.ledger.seen.get(nameOf(route))?.statuses
        const expected = Object.keys(route.operation.responses).map(Number)
        return expected
          .filter((status) => !common.includes(status) && seen?.has(status) !== true)
          .map((status) => `${nameOf(route)} ${status}`)
      })
    expect(unseen).toEqual([])
  })
})
