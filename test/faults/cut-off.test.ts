import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { connectOnce } from '../../src/platform/postgres.ts'
import {
  type Api,
  api,
  createDatabase,
  type Person,
  register,
  startRedis,
  startServer,
  type TestDatabase,
  type TestRedis,
  type TestServer,
} from '../harness.ts'
import { type Cuttable, createCuttable } from './cuttable.ts'
import { until } from './support.ts'

describe('two instances, one on Bun and one on Deno, with one Redis', () => {
  let database: TestDatabase
  let redis: TestRedis
  const routes: Cuttable[] = []
  const servers: TestServer[] = []
  let bun: Api
  let deno: Api
  let ada: Person
  let bob: Person
  let resource: { type: 'project'; id: string }
  let serviceKey: string

  const ask = (client: Api, token: string, about = {}) =>
    client.post('/api/v1/authorization/check', { action: 'read', resource, ...about }, { token })
  const evaluate = (client: Api) =>
    client.post(
      '/access/v1/evaluation',
      { subject: { type: 'user', id: bob.id }, action: { name: 'read' }, resource },
      { token: serviceKey },
    )
  const setVisibility = (client: Api, visibility: string) =>
    client.patch(`/api/v1/projects/${resource.id}`, { visibility }, { token: ada.token })

  beforeAll(async () => {
    database = await createDatabase()
    redis = await startRedis()
    for (const runtime of ['bun', 'deno'] as const) {
      const route = await createCuttable(database.connection)
      routes.push(route)
      servers.push(
        await startServer({
          runtime,
          connection: route.connection,
          env: { REDIS_URL: redis.url, DB_CONNECTIONS: '12', LOG_LEVEL: 'fatal' },
        }),
      )
    }
    ;[bun, deno] = servers.map(({ baseUrl }) => api(baseUrl)) as [Api, Api]
    ada = await register(bun)
    bob = await register(bun)
    const project = await bun.post('/api/v1/projects', { name: 'p' }, { token: ada.token })
    resource = { type: 'project', id: project.body.id }
    const sql = connectOnce(database.connection)
    await sql`update users set role = 'admin' where id = ${ada.id}`
    await sql.end()
    const key = { name: 'k', scopes: ['authorization:check'] }
    // Once the change of the role has come back on the bus.
    await until(async () => {
      serviceKey = (await bun.post('/api/v1/service-keys', key, { token: ada.token })).body.key
      return serviceKey !== undefined
    }, 'an operator makes a key')
  })
  afterAll(async () => {
    for (const server of servers) await server.stop()
    for (const route of routes) await route.close()
    await redis?.stop()
    await database?.drop()
  })

  test('one that is cut off from Postgres alone answers 503 while the other revokes, and both answer from memory, marked, once both are cut off', async () => {
    expect((await setVisibility(bun, 'public')).status).toBe(200)
    for (const client of [bun, deno]) expect((await ask(client, bob.token)).body.allowed).toBeTrue()
    const [routeOfBun, routeOfDeno] = routes as [Cuttable, Cuttable]

    await routeOfBun.cut()
    expect((await setVisibility(deno, 'private')).status).toBe(200)
    // The change was answered: no allow from here on, marked or not.
    const answers: Record<string, number> = {}
    for (const endMs = performance.now() + 4_000; performance.now() < endMs; ) {
      const { status, body } = await ask(bun, bob.token)
      const answer = status === 200 ? `allowed: ${body.allowed}` : String(body.code)
      answers[answer] = (answers[answer] ?? 0) + 1
    }
    expect(Object.keys(answers)).toEqual(['database.unavailable'])

    await routeOfBun.mend()
    await until(async () => (await setVisibility(bun, 'public')).status === 200, 'the instance writes again')
    for (const client of [bun, deno]) {
      await until(async () => (await ask(client, bob.token)).body.allowed === true, 'both allow')
    }
    // Memory must hold the facts under a lease before the cut.
    await Bun.sleep(1_500)
    for (const client of [bun, deno]) {
      expect((await ask(client, bob.token)).body.allowed).toBeTrue()
      expect((await evaluate(client)).body.decision).toBeTrue()
    }
    await Promise.all(routes.map((route) => route.cut()))
    for (const client of [bun, deno]) {
      const isServed = async () => (await ask(client, bob.token)).body.degraded !== undefined
      await until(isServed, 'answered from memory', 10_000)
      const { status, body, headers } = await ask(client, bob.token)
      expect([status, body.allowed, body.degraded, headers.get('velro-degraded')]).toEqual([
        200,
        true,
        'stale-reads',
        'stale-reads',
      ])
      expect((await evaluate(client)).body).toMatchObject({ decision: true, context: { degraded: 'stale-reads' } })
    }
    await routeOfDeno.mend()
    await until(async () => (await setVisibility(deno, 'private')).status === 200, 'the other instance writes again')
    const late = await ask(bun, bob.token)
    expect([late.status, late.body.allowed]).toEqual([503, undefined])
    await routeOfBun.mend()
    await until(async () => (await ask(bun, bob.token)).body.allowed === false, 'the change is seen')
  }, 60_000)
})
