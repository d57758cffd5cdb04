import { afterAll, beforeAll, expect, test } from 'bun:test'
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { connectionEnvironment } from '../../src/platform/postgres.ts'
import { type Api, api, openDatabase, register, startApp, type TestApp } from '../harness.ts'

const script = fileURLToPath(new URL('../../src/boot/admin-create.ts', import.meta.url))
const deno = fileURLToPath(new URL('../../node_modules/.bin/deno', import.meta.url))

let database: Awaited<ReturnType<typeof openDatabase>>
let app: TestApp
let client: Api
beforeAll(async () => {
  database = await openDatabase()
  app = await startApp({ connection: database.connection })
  client = api(app.baseUrl)
})
afterAll(async () => {
  await app.close()
  await database.drop()
})

type Ended = { code: number | null; stdout: string; stderr: string }
const run = (args: string[], input: string, command = [process.execPath]): Promise<Ended> =>
  new Promise((resolve) => {
    const env = {
      ...process.env,
      ...connectionEnvironment(database.connection),
      SECRET: 's'.repeat(32),
      LOG_LEVEL: 'warn',
    }
    const [program = '', ...before] = command
    const child = spawn(program, [...before, script, ...args], { env })
    let stdout = ''
    let stderr = ''
    child.stdout.on('data', (bytes) => {
      stdout += bytes
    })
    child.stderr.on('data', (bytes) => {
      stderr += bytes
    })
    child.on('close', (code) => resolve({ code, stdout, stderr }))
    child.stdin.end(input)
  })

const login = (email: string, password: string) => client.post('/api/v1/auth/login', { email, password })

for (const [runtime, command] of [
  ['Bun', [process.execPath]],
  ['Deno', [deno, 'run', '-A']],
] as const)
  test(`on ${runtime}: admin:create makes an operator who can sign in at once, with a verified address`, async () => {
    const email = `operator-${runtime.toLowerCase()}@example.com`
    const { code, stdout } = await run([email.toUpperCase(), '--name', 'Op'], 'seven green bottles\n', [...command])
    expect([code, stdout]).toEqual([0, expect.stringMatching(/^Created the operator [0-9a-f-]{36}\./)])
    const { status, body } = await login(email, 'seven green bottles')
    expect([status, body.user]).toEqual([
      200,
      expect.objectContaining({ role: 'admin', email_verified: true, display_name: 'Op' }),
    ])
    expect((await client.get('/api/v1/users', { token: body.access_token })).status).toBe(200)
    // A second time the password is not asked for, and not changed.
    const again = await run([email], '', [...command])
    expect([again.code, again.stdout]).toEqual([0, expect.stringContaining('is an operator already')])
    expect((await login(email, 'seven green bottles')).status).toBe(200)
  })

test('admin:create makes the active account of an address an operator and leaves its password', async () => {
  const person = await register(client)
  const { code, stdout } = await run([person.email], 'another password 1\n')
  expect([code, stdout]).toEqual([0, expect.stringContaining(`The account ${person.id} has this address`)])
  expect((await login(person.email, person.password)).body.user.role).toBe('admin')
  expect((await login(person.email, 'another password 1')).status).toBe(401)
})

test('admin:create refuses an address and a password as registering does, and makes no account', async () => {
  const suspended = await register(client)
  await database.sql`update users set status = 'suspended' where id = ${suspended.id}`
  for (const [args, input, said] of [
    [['not an address'], 'seven green bottles\n', 'email must be an e-mail address'],
    [['new@example.com'], 'password123\n', 'list of common passwords'],
    [['new@example.com'], 'velro2026!\n', 'too close to your e-mail address or the name of this service'],
    [['new@example.com'], '', 'password must be text of at least 8 characters'],
    [[suspended.email], 'seven green bottles\n', 'already exists'],
    [[], '', 'One e-mail address must be given'],
    [['a@example.com', 'b@example.com'], '', 'One e-mail address must be given'],
    [['new@example.com', '--password', 'x'], '', "Unknown option '--password'"],
  ] as const) {
    const { code, stderr } = await run([...args], input)
    expect([args, code, stderr.includes(said) ? said : stderr]).toEqual([args, 1, said])
  }
  const { count } = await database.sql`select from users where email = 'new@example.com'`
  expect(count).toBe(0)
})
