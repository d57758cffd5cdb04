/**
 * Slows refreshing down by 80 ms on a running server, and reports when the alert opens and clears, and which grade the report has.
 *
 *   bun test/faults/slow-authentication.ts [--runtime bun|deno]
 *
 * The delay is a trigger in the database of the test, which sleeps for as long as a row says.
 */
import { parseArgs } from 'node:util'
import { connectOnce } from '../../src/platform/postgres.ts'
import type { Runtime } from '../harness/server.ts'
import { api, register, startServer } from '../harness.ts'

const { values } = parseArgs({ options: { runtime: { type: 'string' } } })
const runtimes = (values.runtime === undefined ? ['bun', 'deno'] : [values.runtime]) as Runtime[]
const clients = 4
const pauseMs = 40

const measure = async (runtime: Runtime) => {
  const server = await startServer({ runtime })
  const sql = connectOnce(server.connection)
  const client = api(server.baseUrl)
  let isOver = false
  try {
    await sql`create table test_delay (seconds float8 not null)`
    await sql`insert into test_delay values (0)`
    await sql`
      create function test_delay() returns trigger language plpgsql as $$
      begin perform pg_sleep(seconds) from public.test_delay where seconds > 0; return new; end $$`
    await sql`create trigger test_delay before insert on refresh_tokens for each row execute function test_delay()`
    const operator = await register(client)
    await sql`update users set role = 'admin' where id = ${operator.id}`
    const { email, password } = operator
    // An instance judges nothing in its first minute.
    await Bun.sleep(61_000)
    const signIn = async () => (await client.post('/api/v1/auth/login', { email, password })).body
    const { access_token: token } = await signIn()

    const refreshing = Array.from({ length: clients }, async () => {
      let { refresh_token } = await signIn()
      while (!isOver) {
        const { status, body } = await client.post('/api/v1/auth/refresh', { refresh_token })
        if (status === 200) refresh_token = body.refresh_token
        await Bun.sleep(pauseMs)
      }
    })
    const get = async (path: string) => (await client.get(`/api/v1/performance${path}`, { token })).body
    const alertsOf = async () => (await get('/alerts?metric=authentication')).items
    const gradeOf = async () => {
      const report = await get('/report')
      const { windows } = report.metrics.find(({ metric }: { metric: string }) => metric === 'authentication')
      const { grade, p95_ms, samples } = windows[0]
      return `${grade} (P95 ${p95_ms} ms of ${samples})`
    }
    const waitFor = async (what: string, holds: () => Promise<boolean>) => {
      const startedMs = performance.now()
      while (!(await holds())) {
        if (performance.now() - startedMs > 90_000) throw new Error(`Not within 90 s: ${what}`)
        await Bun.sleep(100)
      }
      return ((performance.now() - startedMs) / 1_000).toFixed(1)
    }
    const delay = (seconds: number) => sql`update test_delay set seconds = ${seconds}`

    await Bun.sleep(12_000)
    await waitFor('no alert before', async () =>
      (await alertsOf()).every((each: { status: string }) => each.status === 'cleared'),
    )
    const before = (await alertsOf()).length
    console.log(`${runtime}: before: grade ${await gradeOf()}, alerts ${before}`)
    await delay(1.5)
    await Bun.sleep(100)
    await delay(0)
    await Bun.sleep(6_000)
    console.log(`${runtime}: after ${clients} slow requests or fewer: alerts ${(await alertsOf()).length}`)
    await delay(0.08)
    const opened = await waitFor('an open alert', async () => (await alertsOf())[0]?.status === 'open')
    await Bun.sleep(5_000)
    const slow = await gradeOf()
    await delay(0)
    const cleared = await waitFor('a cleared alert', async () => (await alertsOf())[0]?.status === 'cleared')
    const [{ severity, value }] = await alertsOf()
    console.log(
      `${runtime}: opened after ${opened} s, grade ${slow}, ${severity} at ${Math.round(value)} ms; cleared after ${cleared} s`,
    )
    isOver = true
    await Promise.all(refreshing)
  } finally {
    isOver = true
    await sql.end()
    await server.stop()
  }
}

for (const runtime of runtimes) await measure(runtime)
