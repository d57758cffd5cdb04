import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { readFile } from 'node:fs/promises'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { Secret, TOTP } from 'otpauth'
import type { Page } from 'playwright-core'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import {
  api,
  createDatabase,
  type Person,
  register,
  startServer,
  type TestDatabase,
  type TestServer,
} from '../harness.ts'
import { type Browser, findChromium, startChromium } from './chromium.ts'

const axe = await readFile(new URL(import.meta.resolve('axe-core/axe.min.js')), 'utf8')
/** Where screenshots are kept, if they are wanted. */
const folder = process.env['SCREENSHOTS']
const sizes = { wide: { width: 1440, height: 1100 }, narrow: { width: 390, height: 844 } }
const chromium = findChromium()

/** What the page asked for, and what went wrong in it. */
const watch = (page: Page) => {
  const seen = { problems: [] as string[], hosts: new Set<string>() }
  page.on('console', (message) => {
    // The browser reports refused requests too, which the tests make on purpose.
    if (message.type() === 'error' && !/status of (401|403|503)|ERR_/.test(message.text()))
      seen.problems.push(message.text())
  })
  page.on('pageerror', (error) => seen.problems.push(String(error)))
  page.on('request', (request) => seen.hosts.add(new URL(request.url()).host))
  return seen
}

/** Connections to a server by another port, which can be cut. */
const startLine = async (target: string) => {
  let baseUrl = target
  const sockets = new Set<Socket>()
  const proxy = createServer((client) => {
    const upstream = connect(Number(new URL(baseUrl).port), '127.0.0.1')
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(from)
      from.on('error', () => to.destroy()).on('close', () => to.destroy())
      from.pipe(to)
    }
  })
  const listen = (port: number) => new Promise<void>((resolve) => proxy.listen(port, '127.0.0.1', resolve))
  await listen(0)
  const { port } = proxy.address() as AddressInfo
  return {
    baseUrl: `http://127.0.0.1:${port}`,
    cut: async () => {
      proxy.close()
      for (const socket of sockets) socket.destroy()
      sockets.clear()
    },
    mend: () => listen(port),
    leadTo: (target: string) => {
      baseUrl = target
    },
  }
}

const signIn = async (page: Page, { email, password }: Pick<Person, 'email' | 'password'>) => {
  await page.getByLabel('Email').fill(email)
  await page.getByLabel('Password', { exact: true }).fill(password)
  await page.getByRole('button', { name: 'Sign in' }).click()
}

type Finding = { id: string; impact: string; nodes: { html: string }[] }
/** What axe finds serious or critical (WCAG 2.2 A and AA). The page permits no inline script, so axe is injected past its policy. */
const seriousFindings = async (page: Page): Promise<string[]> => {
  const devtools = await page.context().newCDPSession(page)
  await devtools.send('Runtime.evaluate', { expression: axe })
  const { result } = await devtools.send('Runtime.evaluate', {
    expression: 'axe.run().then(({ violations }) => JSON.stringify(violations))',
    awaitPromise: true,
    returnByValue: true,
  })
  return (JSON.parse(String(result.value)) as Finding[])
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(({ id, nodes }) => `${id}: ${nodes[0]?.html}`)
}

describe.skipIf(chromium === null)('the dashboard', () => {
  let database: TestDatabase
  let sql: Sql
  let server: TestServer
  const start = () => startServer({ runtime: 'bun', connection: database.connection })
  let browser: Browser
  let line: Awaited<ReturnType<typeof startLine>>
  let operator: Person
  let page: Page
  let seen: ReturnType<typeof watch>
  let load: Promise<void>
  let isOver = false

  beforeAll(async () => {
    database = await createDatabase()
    sql = connectOnce(database.connection)
    server = await start()
    line = await startLine(server.baseUrl)
    browser = await startChromium(chromium ?? '', '')
    const client = api(line.baseUrl)
    operator = await register(client)
    const asker = await register(client)
    await sql`update users set role = 'admin' where id = ${operator.id}`
    const { id } = (await client.post('/api/v1/projects', { name: 'Lighthouses' }, { token: asker.token })).body
    const question = { action: 'read', resource: { type: 'project', id } }
    load = (async () => {
      while (!isOver) {
        await Promise.all(
          [1, 2, 3, 4].map(() =>
            client.post('/api/v1/authorization/check', question, { token: asker.token }).catch(() => {}),
          ),
        )
        await Bun.sleep(20)
      }
    })()
    page = await browser.context.newPage()
    seen = watch(page)
    await page.setViewportSize(sizes.wide)
    await page.goto(`${line.baseUrl}/dashboard`)
  })
  afterAll(async () => {
    isOver = true
    await load
    await browser.close()
    await line.cut()
    await server.stop()
    await sql.end()
    await database.drop()
  })
  const tileOf = (name: string) => page.locator('#tiles li', { hasText: name }).locator('b')

  test('holds no data for who has not signed in, and refuses who is no operator', async () => {
    expect(await page.locator('#dashboard').isVisible()).toBe(false)
    const person = await register(api(server.baseUrl))
    await signIn(page, person)
    await page.getByText('This account is no operator.').waitFor()
    expect(await page.locator('#tiles li').count()).toBe(0)
    await signIn(page, { ...operator, password: 'not the password' })
    await until(
      async () => /password/i.test(String(await page.locator('#sign-in-problem').textContent())),
      'the refusal is told',
    )
  })

  test('shows an operator figures that move', async () => {
    await signIn(page, operator)
    await page.getByText('Live, 1 instance').waitFor()
    await until(async () => Number(await tileOf('Requests').textContent()) > 5, 'requests are counted')
    const row = page.getByRole('row', { name: /^Authorization/ })
    await until(async () => String(await row.textContent()).includes('A'), 'authorization has a grade')
    expect(await tileOf('Stale facts').textContent()).toBe('0')
    const before = await page.locator('#tiles').textContent()
    await until(async () => (await page.locator('#tiles').textContent()) !== before, 'the figures change')
    await page.getByRole('button', { name: 'All requests' }).click()
    await page.getByRole('heading', { name: 'Latency: All requests' }).waitFor()
    expect(await page.evaluate('[localStorage.length, sessionStorage.length, document.cookie]')).toEqual([0, 0, ''])
  })

  test('has no serious finding of axe and no overflow, on a phone and in the dark', async () => {
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme })
      for (const [name, size] of Object.entries(sizes)) {
        await page.setViewportSize(size)
        await page.waitForTimeout(300)
        if (folder !== undefined)
          await page.screenshot({ path: `${folder}/${name}-${colorScheme}.png`, fullPage: true })
        expect([name, await page.evaluate('document.documentElement.scrollWidth')]).toEqual([name, size.width])
        expect([name, colorScheme, await seriousFindings(page)]).toEqual([name, colorScheme, []])
      }
    }
    await page.emulateMedia({ colorScheme: 'light' })
    await page.setViewportSize(sizes.wide)
  })

  test('sets the mode of the service, which is felt at once', async () => {
    const client = api(server.baseUrl)
    const person = await register(client)
    const create = async () => (await client.post('/api/v1/projects', { name: 'Own' }, { token: person.token })).status
    expect(await create()).toBe(201)
    for (const [mode, status] of [
      ['Read only', 503],
      ['Normal', 201],
    ] as const) {
      await page.getByRole('button', { name: /^Mode/ }).click()
      await page.getByRole('radio', { name: new RegExp(`^${mode}`) }).check()
      if (folder !== undefined) await page.screenshot({ path: `${folder}/mode.png` })
      await page.getByRole('button', { name: 'Set on every instance' }).click()
      await page.getByRole('dialog').waitFor({ state: 'hidden' })
      expect([mode, await create()]).toEqual([mode, status])
    }
  })

  test('says that a password in the dialog of the mode is wrong, and can be closed by keyboard', async () => {
    const aged =
      await sql`update sessions set authenticated_at = now() - interval '1 hour' where user_id = ${operator.id}`
    expect(aged.count).toBeGreaterThan(0)
    await page.getByRole('button', { name: /^Mode/ }).press('Enter')
    const dialog = page.getByRole('dialog')
    const confirm = async (password: string) => {
      await dialog.getByLabel('Your password').fill(password)
      await dialog.getByRole('button', { name: 'Set on every instance' }).click()
    }
    await dialog.getByRole('button', { name: 'Set on every instance' }).click()
    await confirm('not the password')
    await until(async () => /password/i.test(String(await page.locator('#mode-problem').textContent())), 'it is told')
    expect(await page.locator('#dashboard').isVisible()).toBe(true)
    await page.keyboard.press('Escape')
    await dialog.waitFor({ state: 'hidden' })
    await page.getByRole('button', { name: /^Mode/ }).press('Enter')
    await dialog.getByRole('button', { name: 'Set on every instance' }).click()
    await confirm(operator.password)
    await dialog.waitFor({ state: 'hidden' })
  })

  test('says that the connection is lost, and goes on with the server that is started again', async () => {
    await line.cut()
    await page.getByText('Reconnecting…').waitFor()
    await server.stop()
    server = await start()
    line.leadTo(server.baseUrl)
    await line.mend()
    await page.getByText('Live, 1 instance').waitFor()
  })

  test('leaves no figure and no session to the next person after signing out', async () => {
    await page.getByRole('button', { name: 'Sign out' }).click()
    await page.getByRole('button', { name: 'Sign in' }).waitFor()
    const left = async () =>
      String(
        await page
          .locator('#tiles, tbody, .keys, .list, #cache, #resources, #defence, #blocks')
          .evaluateAll((places) => places.map((place) => place.textContent).join('')),
      )
    expect(await left()).toBe('')
    const live = () =>
      sql`select from sessions where user_id = ${operator.id} and ended_at is null and user_agent like '%Chrome%'`
    await until(async () => (await live()).length === 0, 'the session has ended')
    // What was asked before and is answered now is not shown.
    await page.waitForTimeout(300)
    expect(await left()).toBe('')
  })

  test('takes the code of an authenticator app, or a recovery code', async () => {
    const client = api(server.baseUrl)
    const { email, password } = operator
    const { body } = await client.post('/api/v1/auth/login', { email, password })
    const as = { token: body.access_token }
    const { secret } = (await client.post('/api/v1/auth/totp', undefined, as)).body
    const code = () => TOTP.generate({ secret: Secret.fromBase32(secret) })
    const { recovery_codes } = (await client.post('/api/v1/auth/totp/confirm', { code: code() }, as)).body
    const [recoveryCode] = recovery_codes as string[]
    await signIn(page, operator)
    const field = page.locator('#code-field input')
    await field.fill('000000')
    await page.getByRole('button', { name: 'Sign in' }).click()
    await until(async () => /code/i.test(String(await page.locator('#sign-in-problem').textContent())), 'it is told')
    await field.fill(recoveryCode ?? '')
    await page.getByRole('button', { name: 'Sign in' }).click()
    await page.getByText('Live, 1 instance').waitFor()
  })

  test('asks no other host, breaks no policy and logs no error', () => {
    expect(seen.problems).toEqual([])
    expect([...seen.hosts]).toEqual([new URL(line.baseUrl).host])
  })
})
