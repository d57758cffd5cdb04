import { afterAll, beforeAll, expect, test } from 'bun:test'
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { connectionEnvironment } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { type Api, api, openDatabase, type Person, register, startApp, type TestApp, testSecret } from '../harness.ts'

const script = fileURLToPath(new URL('../../src/boot/admin-unlock.ts', import.meta.url))
const deno = fileURLToPath(new URL('../../node_modules/.bin/deno', import.meta.url))

let database: Awaited<ReturnType<typeof openDatabase>>
let app: TestApp
let client: Api
let operator: Person
let person: Person
beforeAll(async () => {
  database = await openDatabase()
  app = await startApp({ connection: database.connection, config: { trustedProxies: ['127.0.0.1'] } })
  client = api(app.baseUrl)
  operator = await register(client)
  person = await register(client)
  await app.services.database.admin`update users set role = 'admin' where id = ${operator.id}`
  await app.caughtUp()
})
afterAll(async () => {
  await app.close()
  await database.drop()
})

const from = (address: string) => ({ headers: { 'x-forwarded-for': address } })

for (const [runtime, command] of [
  ['Bun', [process.execPath]],
  ['Deno', [deno, 'run', '-A']],
] as const)
  test(`on ${runtime}: admin:unlock lifts the mode and every block, which a running instance applies, and audits both`, async () => {
    const as = { token: operator.token }
    for (const block of [
      { kind: 'user', value: person.id },
      { kind: 'address', value: '203.0.113.7' },
    ]) {
      expect((await client.post('/api/v1/security/blocks', block, as)).status).toBe(201)
    }
    expect((await client.put('/api/v1/security/mode', { mode: 'lockdown' }, as)).status).toBe(200)
    const [program = '', ...before] = command
    const env = { ...process.env, ...connectionEnvironment(database.connection), SECRET: testSecret, LOG_LEVEL: 'warn' }
    const { stdout } = await promisify(execFile)(program, [...before, script], { env })
    expect(stdout).toBe('The mode was lockdown and is normal now. 2 blocks were removed.\n')
    const look = () => client.get('/api/v1/auth/me', { token: person.token, ...from('203.0.113.7') })
    await until(async () => (await look()).status === 200, 'the instance has applied it')
    const rows = await app.services.database.admin<{ action: string }[]>`
      select action from audit_events where actor_kind = 'system' and action in ('mode.unlocked', 'block.removed')
       order by at desc limit 3`
    expect(rows.map(({ action }) => action).toSorted()).toEqual(['block.removed', 'block.removed', 'mode.unlocked'])
  })
