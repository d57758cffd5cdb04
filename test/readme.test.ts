import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { linkFlows, linkVariableOf } from '../src/mail/settings.ts'
import { connectOnce } from '../src/platform/postgres.ts'
import { until } from './faults/support.ts'
import { createBrowser } from './harness/browser.ts'
import { startIdentityProvider } from './harness/identity-provider.ts'
import { reapFolder } from './harness/reaper.ts'
import { api, register, startServer, type TestServer } from './harness.ts'

const readme = await readFile(new URL('../README.md', import.meta.url), 'utf8')
const [configSource, mailSource, siemSource] = await Promise.all(
  ['config.ts', 'mail/settings.ts', 'siem/settings.ts'].map((name) =>
    readFile(new URL(`../src/${name}`, import.meta.url), 'utf8'),
  ),
)

let server: TestServer

beforeAll(async () => {
  server = await startServer({ runtime: 'bun' })
})
afterAll(() => server.stop())

/** The commands of the section "First calls" with their expected output. */
const firstCalls = /```sh\n(base=[\s\S]*?)```[\s\S]*?```text\n([\s\S]*?)```/.exec(readme)
/** The commands of the section after it, which go on in the same shell. */
const accountCalls = /### An account and its data[\s\S]*?```sh\n([\s\S]*?)```[\s\S]*?```text\n([\s\S]*?)```/.exec(
  readme,
)
const webhookCalls =
  /### Events for a service of your own[\s\S]*?```sh\n([\s\S]*?)```[\s\S]*?```text\n([\s\S]*?)```/.exec(readme)
const parts = [firstCalls, accountCalls, webhookCalls]
const commands = parts.map((part) => part?.[1] ?? '').join('')
const output = parts.map((part) => part?.[2] ?? '').join('')

const run = async (shell: string, folder: string): Promise<string> => {
  const script = commands.replace(/^base=.*$/m, `base=${server.baseUrl}`)
  const { stdout } = await promisify(execFile)(shell, ['-c', script], { cwd: folder })
  return stdout
}

describe('the first calls of the README', () => {
  test('consist of commands alone: an interactive zsh runs comments as commands', () => {
    expect(output.split('\n').length).toBeGreaterThan(15)
    expect(commands.split('\n').filter((line) => line.includes('#'))).toEqual([])
  })

  // CI has every shell; elsewhere a shell that is not installed cannot be tested.
  const shells = ['bash', 'dash', 'zsh'].filter((shell) => process.env['CI'] !== undefined || Bun.which(shell) !== null)
  test.each(shells)('print the documented output in %s, the second time as well', async (shell) => {
    const folder = await mkdtemp(join(tmpdir(), 'velro-readme-'))
    reapFolder(folder)
    expect(await run(shell, folder)).toBe(output)
    expect(await run(shell, folder)).toBe(output)
    expect((await readdir(folder)).toSorted()).toEqual(['ada.zip', 'lighthouse-256.webp', 'lighthouse.webp'])
  })
})

test('a lost password is set anew by the mails in the log, and a second factor set up then, as the README shows', async () => {
  const sections = ['## A lost password', '### Second factors'].map((title) =>
    /```sh\n([\s\S]*?)```[\s\S]*?```text\n([\s\S]*?)```/.exec(readme.slice(readme.indexOf(title))),
  )
  const [lost, printed] = [1, 2].map((at) => sections.map((section) => section?.[at] ?? '').join('')) as [
    string,
    string,
  ]
  const mailing = await startServer({ runtime: 'bun', env: { SMTP_URL: 'log:' } })
  const folder = await mkdtemp(join(tmpdir(), 'velro-readme-'))
  reapFolder(folder)
  const log = join(folder, 'velro.log')
  const copying = setInterval(() => void writeFile(log, mailing.output()), 50)
  const script = lost.replace(/^base=.*$/m, `base=${mailing.baseUrl}`)
  const { stdout } = await promisify(execFile)('dash', ['-c', script], { cwd: folder }).finally(() => {
    clearInterval(copying)
    return mailing.stop()
  })
  expect(printed.split('\n').length).toBeGreaterThan(8)
  expect(stdout).toBe(printed)
})

test('a service makes a project for a user as the README shows', async () => {
  const [, block = ''] = /```sh\n(key=[\s\S]*?)```/.exec(readme) ?? []
  const client = api(server.baseUrl)
  const [operator, user] = [await register(client), await register(client)]
  const sql = connectOnce(server.connection)
  await sql`update users set role = 'admin' where id = ${operator.id}`.finally(() => sql.end())
  const env = { ...process.env, BASE: server.baseUrl, OPERATOR_TOKEN: operator.token, USER_ID: user.id }
  const made = async () => JSON.parse((await promisify(execFile)('dash', ['-c', block], { env })).stdout)
  await until(async () => (await made()).owner_id === user.id, 'the role of the operator is known')
  expect((await client.get('/api/v1/projects?limit=1', { token: user.token })).body.items[0]).toEqual(
    expect.objectContaining({ name: 'Onboarding', owner_id: user.id }),
  )
})

describe('the sign-in with a provider of the README', () => {
  const section = readme.slice(readme.indexOf('## Sign in with Google'), readme.indexOf('## Pages in browsers'))
  const [leave = '', signIn = ''] = [...section.matchAll(/```sh\n([\s\S]*?)```/g)].map(([, block = '']) => block)
  const functions = /^call\(\) \{\n[\s\S]*?^\}/m.exec(commands)?.[0] ?? ''

  test('signs a person in who is new', async () => {
    const publicUrl = 'http://velro.test'
    const credentials = { clientId: 'velro', clientSecret: 'a client secret' }
    const redirectUris = [`${publicUrl}/api/v1/auth/identity-providers/acme/callback`]
    const provider = await startIdentityProvider({ ...credentials, redirectUris })
    const app = await startServer({
      runtime: 'bun',
      env: {
        PUBLIC_URL: publicUrl,
        RETURN_TO_URLS: 'https://app.example.com/signed-in',
        OIDC_PROVIDERS: 'acme',
        OIDC_ACME_ISSUER: provider.issuer,
        OIDC_ACME_CLIENT_ID: credentials.clientId,
        OIDC_ACME_CLIENT_SECRET: credentials.clientSecret,
      },
    })
    try {
      provider.people.set('ada', { email: 'ada@example.com', email_verified: true })
      provider.signedIn = 'ada'
      const sh = async (script: string) => (await promisify(execFile)('sh', ['-c', script])).stdout
      const [verifier = '', start = ''] = (
        await sh(`base=${publicUrl}\n${leave.replace('provider=google', 'provider=acme')}echo "$verifier"`)
      )
        .trim()
        .split('\n')
        .toReversed()
      const { url } = await createBrowser({ [publicUrl]: app.baseUrl }).visit(start, 'https://app.example.com/')
      const code = new URL(url).searchParams.get('code')
      const answer = await sh(`base=${app.baseUrl}\n${functions}\ncode=${code}\nverifier=${verifier}\n${signIn}`)
      expect(JSON.parse(answer).user).toMatchObject({ email: 'ada@example.com', email_verified: true })
    } finally {
      await app.stop()
      await provider.close()
    }
  }, 60_000)
})

test('every variable of the configuration is in the table of the README, and no other', () => {
  const table = readme.slice(readme.indexOf('## Configuration'), readme.indexOf('## Architecture'))
  const documented = [...table.matchAll(/^\| (`[^|]*`) \|/gm)].flatMap(([, cell = '']) =>
    [...cell.matchAll(/`([A-Z0-9_]+)`/g)].map(([, name = '']) => name),
  )
  const read = [
    ...`${configSource}${mailSource}${siemSource}`.matchAll(/(?:text|integer|list|oneOf)\(\s*'([A-Z0-9_]+)'/g),
  ].map(([, name = '']) => name)
  expect(documented.toSorted()).toEqual([...new Set([...read, ...linkFlows.map(linkVariableOf)])].toSorted())
})

test('every file and folder that src/README.md names exists', async () => {
  const map = await readFile(new URL('../src/README.md', import.meta.url), 'utf8')
  const named = [...map.matchAll(/`([a-z-]+(?:\/[a-z-]+)*(?:\/|\.ts))`/g)].map(([, path = '']) => path)
  const files = [...new Bun.Glob('**/*.ts').scanSync(new URL('../src/', import.meta.url).pathname)]
  const missing = named.filter(
    (path) => !/^(?:sql|test)\//.test(path) && !files.some((file) => `/${file}`.includes(`/${path}`)),
  )
  expect(named.length).toBeGreaterThan(40)
  expect(missing).toEqual([])
})
