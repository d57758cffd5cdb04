import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { startApp, type TestApp } from '../harness.ts'
import { chromium, openPage, type Page } from './devtools-page.ts'

describe.skipIf(chromium === undefined)('in a real Chromium with a virtual authenticator, on another origin', () => {
  let site: ReturnType<typeof Bun.serve>
  let app: TestApp
  let page: Page
  beforeAll(async () => {
    const html = '<!doctype html><title>A page</title>'
    site = Bun.serve({ port: 0, fetch: () => new Response(html, { headers: { 'content-type': 'text/html' } }) })
    const origin = `http://localhost:${site.port}`
    app = await startApp({ config: { passkeys: { id: 'localhost', origins: [origin] }, corsOrigins: [origin] } })
    page = await openPage(origin)
    await page.send('WebAuthn.enable')
    const options = {
      protocol: 'ctap2',
      transport: 'internal',
      hasResidentKey: true,
      hasUserVerification: true,
      isUserVerified: true,
      automaticPresenceSimulation: true,
    }
    await page.send('WebAuthn.addVirtualAuthenticator', { options })
    await page.run(`
      globalThis.call = async (path, body, token) => {
        const headers = { 'content-type': 'application/json', ...(token && { authorization: 'Bearer ' + token }) }
        const answer = await fetch('${app.baseUrl}/api/v1/auth' + path, { method: 'POST', headers, body: JSON.stringify(body) })
        return { status: answer.status, body: await answer.json() }
      }
      globalThis.sign = async (options) => {
        const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(options)
        return (await navigator.credentials.get({ publicKey })).toJSON()
      }`)
  }, 60_000)
  afterAll(async () => {
    await page?.close()
    await site?.stop(true)
    await app?.close()
  })

  test('a passkey is created, signs in without a password, completes a sign-in with one, and authenticates again', async () => {
    const statuses = await page.run<number[]>(`(async () => {
      const person = { email: 'ada@example.com', password: 'seven green bottles hanging' }
      const registered = await call('/register', person)
      const token = registered.body.access_token
      const { options } = (await call('/passkeys/options', undefined, token)).body
      const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(options)
      const created = await navigator.credentials.create({ publicKey })
      const added = await call('/passkeys', { name: 'Chromium', passkey: created.toJSON() }, token)
      const again = await call('/login/passkey/options')
      const signedIn = await call('/login/passkey', { passkey: await sign(again.body.options) })
      const first = await call('/login', person)
      const passkey = await sign(first.body.passkey)
      const second = await call('/login/second-factor', { sign_in_token: first.body.sign_in_token, passkey })
      const offered = await call('/reauthenticate/options', undefined, second.body.access_token)
      const proof = { passkey: await sign(offered.body.passkey) }
      const proven = await call('/reauthenticate', proof, second.body.access_token)
      return [registered, added, signedIn, first, second, offered, proven].map(({ status }) => status)
    })()`)
    expect(statuses).toEqual([201, 201, 200, 202, 200, 200, 200])
  })

  test('a passkey that the authenticator has already is not created a second time', async () => {
    const name = await page.run<string>(`(async () => {
      const { body } = await call('/login/passkey', { passkey: await sign((await call('/login/passkey/options')).body.options) })
      const { options } = (await call('/passkeys/options', undefined, body.access_token)).body
      const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(options)
      return navigator.credentials.create({ publicKey }).then(() => 'created', (error) => error.name)
    })()`)
    expect(name).toBe('InvalidStateError')
  })
})
