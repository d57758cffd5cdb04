import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import type { Page } from 'playwright-core'
import { until } from '../faults/support.ts'
import { type ReceivedMail, startSmtpServer } from '../harness/smtp.ts'
import { type Runtime, startServer, type TestServer } from '../harness.ts'
import { type Browser, findChromium, startChromium } from './chromium.ts'
import { createCertificate, servePage, startTlsProxy } from './origins.ts'
import { callFrom, emptyPage, followStream, readStorage, sendBlindly, showPicture, submitForm } from './page.ts'

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
      JOB_CONCURRENCY: '1',
    },
  })
  proxy.leadTo(Number(new URL(server.baseUrl).port))
  const browser: Browser = await startChromium(program, certificate.publicKeyHash)
  return {
    base,
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

/** The link in the newest mail to Ada whose subject matches, as a mail program shows it. */
const linkIn = async (world: World, subject: RegExp): Promise<string> => {
  const isWanted = ({ to, source }: ReceivedMail) => to.includes(email) && subject.test(source)
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

    beforeAll(async () => {
      world = await startWorld(runtime, program ?? '')
      page = (await world.browser.open(world.at('app.velro.test'))).page
      call = callFrom(page, world.base)
    }, 60_000)
    afterAll(() => world?.stop())

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
      const { page: scanned } = await world.browser.open(link)
      await scanned.close()
      const early = await call('POST', '/api/v1/auth/login', { email, password: firstPassword, cookies: true })
      expect([early.status, early.body.code]).toEqual([403, 'identity.email_not_verified'])
      const { page: opened } = await world.browser.open(link)
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

    test('cannot be made to change anything by a form of another site, nor by a sibling of the service', async () => {
      const read = async () => [
        (await call('GET', '/api/v1/auth/me')).body,
        (await call('GET', '/api/v1/auth/sessions')).body.items.length,
        (await call('GET', '/api/v1/generations')).body.items.length,
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
        const { page: evil } = await world.browser.open(world.at(host))
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

    test('resets the password by a mail, which ends the session', async () => {
      expect((await call('POST', '/api/v1/auth/password-reset', { email })).status).toBe(202)
      const { page: opened } = await world.browser.open(await linkIn(world, /Choose a new password/))
      await opened.fill('input[type=password]', secondPassword)
      await opened.click('button')
      await opened.waitForFunction(() =>
        /password is set/.test(document.querySelector('[role=status]')?.textContent ?? ''),
      )
      await opened.close()
      expect((await call('GET', '/api/v1/auth/me')).status).toBe(401)
      const old = await call('POST', '/api/v1/auth/login', { email, password: firstPassword, cookies: true })
      expect([old.status, old.body.code]).toEqual([401, 'identity.credentials_wrong'])
      const again = await call('POST', '/api/v1/auth/login', { email, password: secondPassword, cookies: true })
      expect(again.status).toBe(200)
      await expectSignedIn()
      await expectNothingStored()
    })
  },
)
