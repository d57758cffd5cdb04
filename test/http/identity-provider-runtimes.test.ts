import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { startIdentityProvider } from '../harness/identity-provider.ts'
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
  let stop: () => Promise<unknown> = async () => {}
  beforeAll(async () => {
    const started = await startSubject(runtime)
    stop = started.stop
    world = await createWorld(started.subject)
  }, 60_000)
  afterAll(() => stop())

  identityProviders(() => world)

  test('every response was as documented, with its headers, and every documented refusal was seen', () => {
    expect([world.ledger.breaches, world.ledger.bare]).toEqual([[], []])
    const common = [303, 400, 401, 403, 413, 415, 422, 429, 500, 503]
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
