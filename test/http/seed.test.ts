import { afterAll, beforeAll, expect, test } from 'bun:test'
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { startServer, type TestServer } from '../harness.ts'

const script = fileURLToPath(new URL('../../src/boot/seed.ts', import.meta.url))

let server: TestServer

beforeAll(async () => {
  server = await startServer({ runtime: 'bun' })
})
afterAll(() => server.stop())

const seed = async (url: string): Promise<string> => {
  const { stdout } = await promisify(execFile)(process.execPath, [script], { env: { ...process.env, VELRO_URL: url } })
  return stdout
}

const signIn = async (email: string): Promise<string> => {
  const response = await fetch(`${server.baseUrl}/api/v1/auth/login`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ email, password: 'correct horse battery' }),
  })
  return ((await response.json()) as { access_token: string }).access_token
}

const titles = async (email: string): Promise<string[]> => {
  const response = await fetch(`${server.baseUrl}/api/v1/generations?limit=100`, {
    headers: { authorization: `Bearer ${await signIn(email)}` },
  })
  const { items } = (await response.json()) as { items: { title: string }[] }
  return items.map(({ title }) => title).toSorted()
}

test('the seed creates its world once, and a second run changes nothing', async () => {
  const first = await seed(server.baseUrl)
  const shared = ['A lighthouse at dusk', 'Greetings from the coast', 'The same lighthouse in a storm']
  expect(await titles('dee@example.com')).toEqual(shared)
  expect(await titles('eve@example.com')).toEqual(['A study of waves', 'Greetings from the coast'])
  expect(await seed(server.baseUrl)).toBe(first)
  expect(await titles('dee@example.com')).toEqual(shared)
})

test('the seed says in one line that no service answers at VELRO_URL', async () => {
  const failure = await seed('http://127.0.0.1:1').catch((error: { code: number; stderr: string }) => error)
  expect(failure).toMatchObject({
    code: 1,
    stderr: 'http://127.0.0.1:1 cannot be reached. Start the service first, or set VELRO_URL.\n',
  })
})
