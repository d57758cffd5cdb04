import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { Secret, TOTP } from 'otpauth'
import type { Page } from 'playwright-core'
import { until } from '../faults/support.ts'
import { type ReceivedMail, startSmtpServer } from '../harness/smtp.ts'
import { type Runtime, startServer, type TestServer } from '../harness.ts'
import { type Browser, findChromium, startChromium } from './chromium.ts'
import { createCertificate, servePage, startTlsProxy } from './origins.ts'
import {
  callFrom,
  createPasskey,
  emptyPage,
  followStream,
  readStorage,
  sendBlindly,
  showPicture,
  submitForm,
  usePasskey,
} from './page.ts'

/** A service at https://api.velro.test, pages of other origins, the mails it sends, and a browser. */
const startWorld = async (runtime: Runtime, program: string) => {
  const certificate = await createCertificate()
  const [proxy, smtp] = [await startTlsProxy(certificate), await startSmtpServer()]
  const pages = servePage(certificate, emptyPage)
  const base = `https://api.velro.test:${proxy.port}`
  const at = (host: string) => `https://${host}:${pages.port}`
  const server: TestServer = await startServer({
    runtime,
    env: {
      PUBLIC_URL: base,
      CORS_ORIGINS: at('app.velro.test'),
      REQUIRE_VERIFIED_EMAIL: 'on',
      SMTP_URL: `smtp://127.0.0.1:${smtp.port}?starttls=off`,
      MAIL_FROM: 'Velro <no-reply@velro.test>',
      PASSKEY_DOMAIN: 'velro.test',
      PASSKEY_ORIGINS: at('app.velro.test'),
      JOB_CONCURRENCY: '1',
    },
  })
  proxy.leadTo(Number(new URL(server.baseUrl).port))
  const browser: Browser = await startChromium(program, certificate.publicKeyHash)
  return {
    base,
    /** The service without TLS, for who is not in the browser. */
    direct: server.baseUrl,
    at,
    browser,
    mails: smtp.mails as readonly ReceivedMail[],
    stop: async () => {
      await browser.close()
      await server.stop()
      proxy.close()
      await pages.close()
      await smtp.close()
    },
  }
}

type World = Awaited<ReturnType<typeof startWorld>>

const email = 'ada@example.com'
const [firstPassword, secondPassword] = ['seven green bottles hanging', 'eight green bottles hanging']

/** The link in the newest mail to a person, by default Ada, whose subject matches, as a mail program shows it. */
const linkIn = async (world: World, subject: RegExp, recipient = email): Promise<string> => {
  const isWanted = ({ to, source }: ReceivedMail) => to.includes(recipient) && subject.test(source)
  await until(() => world.mails.some(isWanted), `a mail about ${subject}`)
  const { source = '' } = world.mails.findLast(isWanted) ?? {}
  const text = source.replaceAll(/=\r?\n/g, '').replaceAll('=3D', '=')
  const [link] = /https:\/\/api\.velro\.test:\d+\/\S+#[A-Za-z0-9_-]{43}/.exec(text) ?? []
  if (link === undefined) throw new Error(`no link in ${source}`)
  return link
}

const program = findChromium()
const runtimes: readonly Runtime[] = ['bun', 'deno']

describe.skipIf(program === null).each(runtimes)(
  'a person with Chromium, whose page is of another origin than the service on %s,',
  (runtime) => {
    let world: World
    let page: Page
    let call: ReturnType<typeof callFrom>
    let secret: string
    let recoveryCodes: readonly string[]
    let lastStep = 0

    beforeAll(async () => {
      world = await startWorld(runtime, program ?? '')
      page = await world.browser.open(world.at('app.velro.test'))
      call = callFrom(page, world.base)
    }, 60_000)
    afterAll(() => world?.stop())

    /** A code of the authenticator app that was not used yet: the one of the next step is accepted too. */
    const nextCode = async (): Promise<string> => {
      const step = () => Math.floor(Date.now() / 30_000)
      await until(() => step() + 1 > lastStep, 'the next step of the authenticator app', 40_000)
      lastStep = Math.max(step(), lastStep + 1)
      return TOTP.generate({ secret: Secret.fromBase32(secret), timestamp: lastStep * 30_000 })
    }
    const expectSignedIn = async () => {
      const { status, body } = await call('GET', '/api/v1/auth/me')
      expect([status, body.email]).toEqual([200, email])
    }
    /** What scripts can read holds no token, and nothing else either. */
    const expectNothingStored = async () =>
      expect(await readStorage(page)).toEqual({ cookies: '', local: [], session: [], databases: [], caches: [] })

    test('registers, and verifies the address by the mail it gets, on the page of the service', async () => {
      const registered = await call('POST', '/api/v1/auth/register', { email, password: firstPassword, cookies: true })
      expect([registered.status, registered.body]).toEqual([202, { status: 'accepted' }])
      const link = await linkIn(world, /Verify/)
      // A program that scans mails opens the link, and uses nothing by that.
      const scanned = await world.browser.open(link)
      await scanned.close()
      const early = await call('POST', '/api/v1/auth/login', { email, password: firstPassword, cookies: true })
      expect([early.status, early.body.code]).toEqual([403, 'identity.email_not_verified'])
      const opened = await world.browser.open(link)
      await opened.click('button')
      await opened.waitForFunction(() => /is verified/.test(document.querySelector('[role=status]')?.textContent ?? ''))
      await opened.close()
    })

    test('signs in with cookies that no script can read', async () => {
      const { status, body } = await call('POST', '/api/v1/auth/login', {
        email,
        password: firstPassword,
        cookies: true,
      })
      expect([status, Object.keys(body).toSorted()]).toEqual([200, ['expires_in', 'user']])
      await expectSignedIn()
      await expectNothingStored()
      const cookies = (await world.browser.context.cookies()).toSorted((one, other) =>
        one.name.localeCompare(other.name),
      )
      expect(
        cookies.map(({ name, httpOnly, secure, sameSite, path }) => [name, httpOnly, secure, sameSite, path]),
      ).toEqual(['access', 'device', 'refresh'].map((name) => [`__Host-velro_${name}`, true, true, 'Lax', '/']))
    })

    test('generates a picture, follows it by EventSource, and sees it in an image of the page', async () => {
      const order = { model: 'local/procedural', prompt: 'a lighthouse at dusk' }
      const { status, body } = await call('POST', '/api/v1/generations', order)
      expect(status).toBe(201)
      const stream = `${world.base}/api/v1/generations/${body.id}/stream`
      expect((await followStream(page, stream)).at(-1)).toBe('completed')
      const list = await call('GET', '/api/v1/generations?include=media&links=256')
      const url: string = list.body.items[0].media[0].links['256']
      expect(await showPicture(page, url)).toBe(256)
    })

    test('turns on an authenticator app', async () => {
      const { body } = await call('POST', '/api/v1/auth/totp')
      secret = body.secret
      const confirmed = await call('POST', '/api/v1/auth/totp/confirm', { code: await nextCode() })
      expect(confirmed.status).toBe(200)
      recoveryCodes = confirmed.body.recovery_codes
    })

    test('adds a passkey, signs out, and signs in with the passkey alone', async () => {
      const creation = await call('POST', '/api/v1/auth/passkeys/options')
      const passkey = await createPasskey(page, creation.body.options)
      expect((await call('POST', '/api/v1/auth/passkeys', { name: 'This browser', passkey })).status).toBe(201)
      const known = await call('POST', '/api/v1/auth/passkeys/options')
      // The options name the passkeys that there are, so the authenticator makes no second one.
      await expect(createPasskey(page, known.body.options)).rejects.toThrow('InvalidStateError')
      const offered = await call('POST', '/api/v1/auth/reauthenticate/options')
      const proof = { passkey: await usePasskey(page, offered.body.passkey) }
      expect((await call('POST', '/api/v1/auth/reauthenticate', proof)).status).toBe(200)
      expect((await call('POST', '/api/v1/auth/logout')).status).toBe(204)
      const out = await call('GET', '/api/v1/auth/me')
      expect([out.status, out.body.code]).toEqual([401, 'identity.not_signed_in'])
      const { body } = await call('POST', '/api/v1/auth/login/passkey/options')
      const signedIn = { passkey: await usePasskey(page, body.options), cookies: true }
      const answer = await call('POST', '/api/v1/auth/login/passkey', signedIn)
      expect([answer.status, Object.keys(answer.body).toSorted()]).toEqual([200, ['expires_in', 'user']])
      await expectSignedIn()
      await expectNothingStored()
    })

    test('cannot be made to change anything by a form of another site, nor by a sibling of the service', async () => {
      const read = async () => [
        (await call('GET', '/api/v1/auth/me')).body,
        (await call('GET', '/api/v1/auth/sessions')).body.items.length,
        (await call('GET', '/api/v1/generations')).body.items.length,
        (await call('GET', '/api/v1/auth/second-factors')).body,
      ]
      const before = await read()
      const types = ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data']
      const paths = ['logout', 'logout-all', 'totp', 'recovery-codes', 'me/export', 'login', 'refresh', 'password']
      const actions = [...paths.map((path) => `auth/${path}`), 'media', 'generations'].map(
        (path) => `${world.base}/api/v1/${path}`,
      )
      // As text it is JSON: {"cookies":true,"display_name":"=x"}.
      const fields = { '{"cookies":true,"display_name":"': 'x"}' }
      const [, logoutAll = ''] = actions
      const forms = types.map((enctype) => ({ action: logoutAll, enctype }))
      for (const host of ['evil.elsewhere.test', 'evil.velro.test']) {
        const evil = await world.browser.open(world.at(host))
        for (const { action, enctype } of [
          ...forms,
          { action: `${world.base}/api/v1/media`, enctype: types[2] ?? '' },
        ]) {
          await submitForm(evil, action, { method: 'POST', enctype, fields })
          await evil.goto(world.at(host))
        }
        await sendBlindly(evil, actions, types)
        // A page of another site reads nothing either, with or without the cookies.
        const readable = await evil.evaluate(
          (url) =>
            Promise.all(
              (['cors', 'no-cors'] as const).map((mode) =>
                fetch(url, { credentials: 'include', mode }).then(
                  async (answer) => (await answer.text()).length,
                  () => 0,
                ),
              ),
            ),
          `${world.base}/api/v1/auth/me`,
        )
        expect(readable).toEqual([0, 0])
        await evil.close()
      }
      expect(await read()).toEqual(before)
      await expectSignedIn()
    })

    test('resets the password by a mail, which ends the session and does not skip the second factor', async () => {
      expect((await call('POST', '/api/v1/auth/password-reset', { email })).status).toBe(202)
      const opened = await world.browser.open(await linkIn(world, /Choose a new password/))
      await opened.fill('input[type=password]', secondPassword)
      await opened.click('button')
      await opened.waitForFunction(() =>
        /password is set/.test(document.querySelector('[role=status]')?.textContent ?? ''),
      )
      await opened.close()
      expect((await call('GET', '/api/v1/auth/me')).status).toBe(401)
      const old = await call('POST', '/api/v1/auth/login', { email, password: firstPassword, cookies: true })
      expect([old.status, old.body.code]).toEqual([401, 'identity.credentials_wrong'])
      const first = await call('POST', '/api/v1/auth/login', { email, password: secondPassword, cookies: true })
      expect(first.status).toBe(202)
      const { sign_in_token } = first.body
      const second = { sign_in_token, code: await nextCode(), cookies: true }
      const answer = await call('POST', '/api/v1/auth/login/second-factor', second)
      expect([answer.status, Object.keys(answer.body).toSorted()]).toEqual([200, ['expires_in', 'user']])
      await expectSignedIn()
      await expectNothingStored()
    })

    /** A team of somebody else, which has invited Ada by mail. */
    const inviteToTeam = async (): Promise<string> => {
      const ben = { email: 'ben@example.com', password: 'nine green bottles hanging' }
      const send = async (path: string, body: object, token?: string) => {
        const headers = { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) }
        const response = await fetch(world.direct + path, { method: 'POST', headers, body: JSON.stringify(body) })
        const text = await response.text()
        expect([path, response.ok]).toEqual([path, true])
        return text === '' ? undefined : JSON.parse(text)
      }
      await send('/api/v1/auth/register', ben)
      const { hash } = new URL(await linkIn(world, /Verify/, ben.email))
      await send('/api/v1/auth/verify-email/confirm', { token: hash.slice(1) })
      const { access_token } = await send('/api/v1/auth/login', ben)
      const { id } = await send('/api/v1/teams', { name: 'Lighthouse' }, access_token)
      await send(`/api/v1/teams/${id}/invitations`, { email, role: 'viewer' }, access_token)
      return linkIn(world, /Lighthouse/)
    }

    test('accepts an invitation by mail on the page of the service, with a second factor', async () => {
      const opened = await world.browser.open(await inviteToTeam())
      await opened.fill('input[type=email]', email)
      await opened.fill('input[type=password]', secondPassword)
      await opened.click('button[value=accept]')
      await opened.fill('input[name=code]', recoveryCodes[0] ?? '')
      await opened.click('button[value=accept]')
      await opened.waitForFunction(() =>
        /are a member/.test(document.querySelector('[role=status]')?.textContent ?? ''),
      )
      await opened.close()
      expect((await call('GET', '/api/v1/teams')).body.items.map(({ name }: { name: string }) => name)).toEqual([
        'Lighthouse',
      ])
    })
  },
)
