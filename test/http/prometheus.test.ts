import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'
import { bucketsS } from '../../src/monitoring/prometheus/exposition.ts'
import { type Api, api, type Person, register, startServer, type TestServer } from '../harness.ts'
import { findPromtool } from '../world/programs.ts'

const promtool = findPromtool()
const folder = fileURLToPath(new URL('../../src/monitoring/prometheus/', import.meta.url))

let server: TestServer
let client: Api
let operator: Person
let person: Person

const keyWith = async (scope: string): Promise<string> => {
  const input = { name: scope, scopes: [scope] }
  return (await client.post('/api/v1/service-keys', input, { token: operator.token })).body.key
}

const scrape = async (token: string) => {
  const response = await fetch(`${server.baseUrl}/metrics`, { headers: { authorization: `Bearer ${token}` } })
  return { status: response.status, type: response.headers.get('content-type'), text: await response.text() }
}

/** The value of a sample; undefined where the page lacks it. */
const sampleOf = (text: string, sample: string): number | undefined => {
  const line = text.split('\n').find((each) => each.startsWith(`${sample} `))
  return line === undefined ? undefined : Number(line.slice(sample.length + 1))
}

const until = async <T>(find: () => Promise<T | undefined>): Promise<T> => {
  for (const giveUpAt = performance.now() + 30_000; ; ) {
    const found = await find()
    if (found !== undefined) return found
    if (performance.now() > giveUpAt) throw new Error('The expected figures did not appear within 30 s')
    await Bun.sleep(100)
  }
}

beforeAll(async () => {
  server = await startServer({
    runtime: 'bun',
    readyWithinMs: 80_000,
    env: { WEB_CONCURRENCY: '2', DB_CONNECTIONS: '10' },
  })
  client = api(server.baseUrl)
  operator = await register(client)
  person = await register(client)
  const sql = postgres({ ...server.connection, max: 1 })
  await sql`update users set role = 'admin' where id = ${operator.id}`
  await sql.end()
  await until(async () => ((await scrape(operator.token)).status === 200 ? true : undefined))
}, 120_000)
afterAll(async () => {
  await server?.stop()
})

test('an anonymous client, a person and a key without the scope get no figures for Prometheus', async () => {
  const wrong = await keyWith('authorization:check')
  const answers = [
    await client.get('/metrics'),
    await client.get('/metrics', { token: 'x' }),
    await client.get('/metrics', { token: person.token }),
    await client.get('/metrics', { token: wrong }),
  ]
  expect(answers.map(({ status, body }) => [status, body.code])).toEqual([
    [401, 'identity.not_signed_in'],
    [401, 'identity.not_signed_in'],
    [403, 'access.admins_only'],
    [403, 'service_key.scope_missing'],
  ])
})

describe('the page for Prometheus', () => {
  test('has the figures of every process of the supervisor, whichever process answers', async () => {
    const token = await keyWith('performance:read')
    const text = await until(async () => {
      const { status, type, text: page } = await scrape(token)
      expect([status, type]).toEqual([200, 'text/plain; version=0.0.4; charset=utf-8'])
      const processes = new Set([...page.matchAll(/process="(\d+)"/g)].map(([, number]) => number))
      return processes.size === 2 ? page : undefined
    })
    for (const number of [0, 1]) {
      const name = 'http_server_request_duration_seconds'
      const buckets = bucketsS.map((le) => sampleOf(text, `${name}_bucket{process="${number}",le="${le}"}`) as number)
      const count = sampleOf(text, `${name}_count{process="${number}"}`) as number
      expect(buckets).toEqual(buckets.toSorted((one, other) => one - other))
      expect(buckets.at(-1)).toBeLessThanOrEqual(count)
      expect(sampleOf(text, `${name}_bucket{process="${number}",le="+Inf"}`)).toBe(count)
    }
  })

  test('has a bucket for each target, and no id, address or path among its labels', async () => {
    const { text } = await scrape(operator.token)
    for (const le of [0.025, 0.05, 0.075, 0.1, 0.15]) expect(text).toContain(`le="${le}"`)
    for (const [, value = ''] of text.matchAll(/="([^"]*)"/g)) expect(value).toMatch(/^([a-z][a-z0-9_]*|[\d.]+|\+Inf)$/)
  })

  test('counts the requests of both processes', async () => {
    const countOf = (text: string) =>
      [0, 1].reduce(
        (sum, number) => sum + (sampleOf(text, `http_server_request_duration_seconds_count{process="${number}"}`) ?? 0),
        0,
      )
    const before = countOf((await scrape(operator.token)).text)
    for (let n = 0; n < 50; n += 1) await client.get('/health')
    await until(async () => (countOf((await scrape(operator.token)).text) >= before + 50 ? true : undefined))
  })

  test.skipIf(promtool === undefined)('passes promtool check metrics without a complaint', async () => {
    const { text } = await scrape(operator.token)
    const { exitCode, stdout, stderr } = Bun.spawnSync([promtool as string, 'check', 'metrics'], {
      stdin: Buffer.from(text),
    })
    expect([exitCode, stdout.toString(), stderr.toString()]).toEqual([0, '', ''])
  })
})

test.skipIf(promtool === undefined)('the alert rules pass promtool check rules', () => {
  const { exitCode, stderr } = Bun.spawnSync([promtool as string, 'check', 'rules', `${folder}rules.yml`])
  expect([exitCode, stderr.toString()]).toEqual([0, ''])
})

test('the Grafana board and the alert rules name only metrics that the page has', async () => {
  const { text } = await scrape(operator.token)
  const families = new Set([...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name = '']) => name))
  for (const file of ['dashboard.json', 'rules.yml']) {
    const content = await Bun.file(`${folder}${file}`).text()
    const names = content.matchAll(/(?<![\w:])(?:velro|http_server|db_client)_\w+(?=[[{)\s,\\]|$)/gm)
    for (const [name] of names) {
      if (name.startsWith('db_client_connection_pool') || name === 'db_client_connection_state') continue
      expect([file, name, families.has(name.replace(/_(bucket|count|sum)$/, ''))]).toEqual([file, name, true])
    }
  }
})
