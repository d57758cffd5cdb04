import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { Redis as Client } from 'ioredis'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import {
  type Api,
  api,
  type Person,
  type Runtime,
  register,
  startRedis,
  startServer,
  type TestServer,
} from '../harness.ts'
import { until } from './support.ts'

/*
 * Someone who can write to Redis, and read all of it, wants more rights. Facts live in memory for a second here, so the server reads
 * them from Redis again and again. The server of the other runtime fills Redis as well.
 */

let redis: Awaited<ReturnType<typeof startRedis>>
let client: Client
let sql: Sql
const servers = {} as Record<Runtime, TestServer>

beforeAll(async () => {
  redis = await startRedis()
  client = new Client(redis.url)
  const env = { REDIS_URL: redis.url, L1_TTL_SECONDS: '1' }
  servers.bun = await startServer({ runtime: 'bun', env })
  servers.deno = await startServer({ runtime: 'deno', env, connection: servers.bun.connection })
  sql = connectOnce(servers.bun.connection)
}, 60_000)
afterAll(async () => {
  await sql?.end()
  client?.disconnect()
  await servers.deno?.stop()
  await servers.bun?.stop()
  await redis?.stop()
})

for (const runtime of ['bun', 'deno'] as const) {
  describe(`what is written into Redis by hand, on ${runtime}`, () => {
    let http: Api
    let operator: Person
    let person: Person
    beforeAll(async () => {
      http = api(servers[runtime].baseUrl)
      operator = await register(http)
      person = await register(http)
      await sql`update users set role = 'admin' where id = ${operator.id}`
      await until(async () => (await usersFor(operator)) === 200, 'the server knows the operator')
    })
    const usersFor = async ({ token }: Person) => (await http.get('/api/v1/users?limit=1', { token })).status
    const counted = async () =>
      (await http.get('/api/v1/performance/metrics', { token: operator.token })).body.caches.l2.forged as number
    const find = async (key: string) => (await client.keys(`velro:3:*:${key}`))[0] ?? ''
    /** Waits until the fact is in Redis, and returns its name there and its value. */
    const entryOf = async (key: string, ask: () => Promise<unknown>) => {
      let [name, value] = ['', null as string | null]
      await until(async () => {
        await ask()
        name = await find(key)
        value = name === '' ? null : await client.hget(name, 'value')
        return value !== null
      }, `${key} is in Redis`)
      return { name, value: value ?? '' }
    }
    /** Writes each value until the server has seen it, which its counter tells, and asks what it believes meanwhile. */
    const forge = async (name: string, values: readonly string[], ask: () => Promise<number>): Promise<Set<number>> => {
      const seen = new Set<number>()
      for (const value of values) {
        const before = await counted()
        await until(async () => {
          await client.hset(name, 'value', value)
          seen.add(await ask())
          return (await counted()) > before
        }, `${name} was read`)
        seen.add(await ask())
      }
      return seen
    }

    test('makes no operator of a person: neither a changed role nor the entry of an operator', async () => {
      const mine = await entryOf(`account:${person.id}`, () => usersFor(person))
      const theirs = await entryOf(`account:${operator.id}`, () => usersFor(operator))
      expect(mine.value).toContain('"role":"user"')
      const promoted = mine.value.replace('"role":"user"', '"role":"admin"')
      expect([
        ...(await forge(mine.name, [promoted, theirs.value, promoted.slice(22)], () => usersFor(person))),
      ]).toEqual([403])
      expect(await usersFor(operator)).toBe(200)
    }, 60_000)

    test('gives no access to a project of someone else', async () => {
      const owner = await register(http)
      const { body: project } = await http.post(
        '/api/v1/projects',
        { name: 'p', visibility: 'team-only' },
        { token: owner.token },
      )
      const path = `/api/v1/projects/${project.id}`
      const asked = async () => (await http.get(path, { token: person.token })).status
      const { name } = await entryOf(`grants:${person.id}`, asked)
      const own = await entryOf(`project:${project.id}`, asked)
      const granted = JSON.stringify({ at: Date.now(), fact: { granted: { [project.id]: 127 } } })
      expect([...(await forge(name, [granted, 'A'.repeat(22) + granted], asked))]).toEqual([404])
      const mine = own.value.replace(owner.id, person.id)
      expect([...(await forge(own.name, [mine, own.value.replace('team-only', 'public')], asked))]).toEqual([404])
    }, 60_000)

    test('does not revive a session that was ended, nor one that belongs to someone else', async () => {
      const ended = await register(http)
      const meOf = async () => (await http.get('/api/v1/auth/me', { token: ended.token })).status
      const [, payload = ''] = ended.token.split('.')
      const { sid } = JSON.parse(Buffer.from(payload, 'base64url').toString())
      const { name, value } = await entryOf(`session:${sid}`, meOf)
      expect((await http.post('/api/v1/auth/logout', undefined, { token: ended.token })).status).toBe(204)
      const [, other = ''] = person.token.split('.')
      const otherSid = JSON.parse(Buffer.from(other, 'base64url').toString()).sid
      const theirs = await entryOf(`session:${otherSid}`, () => http.get('/api/v1/auth/me', { token: person.token }))
      const revived = value.replace(/"at":(\d+)/, (_, at) => `"at":${Number(at) + 1}`)
      expect([...(await forge(name, [theirs.value, revived], meOf))]).toEqual([401])
    }, 60_000)

    test('opens one critical incident about Redis, which names what was forged', async () => {
      const incidents = async () => (await http.get('/api/v1/security/incidents', { token: operator.token })).body.items
      await until(async () => (await incidents()).length > 0, 'the incident')
      const [incident, ...others] = await incidents()
      expect(incident).toMatchObject({
        kind: 'cache.entry_forged',
        severity: 'critical',
        subject: { type: 'dependency', id: 'redis' },
        status: 'open',
      })
      expect(others).toEqual([])
      const { body } = await http.get(`/api/v1/security/incidents/${incident.id}`, { token: operator.token })
      expect(body.evidence[0].details).toMatchObject({ what: 'fact', count: 1 })
    })

    test('is counted and is in the log once a minute for each kind, without its value', () => {
      const lines = servers[runtime]
        .output()
        .split('\n')
        .filter((line) => line.includes('"redis.forged"'))
        .map((line) => JSON.parse(line))
      expect(lines.length).toBeGreaterThan(0)
      expect(lines.length).toBeLessThan(4)
      expect(lines[0]).toMatchObject({ level: 'error', event: 'redis.forged', what: 'fact', count: 1 })
      expect(lines[0].key).toMatch(/^(account|grants|project|session):/)
    })
  })
}
