import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { connectOnce } from '../../src/platform/postgres.ts'
import { type PostgresServer, startPostgres } from '../harness/postgres-server.ts'
import {
  type Answer,
  type Api,
  api,
  type Person,
  register,
  startRedis,
  startServer,
  type TestServer,
} from '../harness.ts'
import { until } from './support.ts'

const breakersPath = '/api/v1/security/breakers'
/** In which the breaker must open. */
const openMs = 2_000
/** In which everything must work again. */
const recoveryMs = 5_000
/** Slack for a busy machine. */
const slackMs = 2_000

type AuditedMode = {
  readonly actor: { readonly kind: string }
  readonly before: { readonly mode: string }
  readonly after: { readonly mode: string; readonly instance: string; readonly cause: string }
}

const codeOf = ({ status, body }: Answer) => `${status} ${body?.code ?? ''}`.trim()

describe('three instances, two on Bun and one on Deno, whose Postgres is frozen under load', () => {
  let postgres: PostgresServer
  let redis: Awaited<ReturnType<typeof startRedis>>
  const servers: TestServer[] = []
  const clients: Api[] = []
  let ada: Person
  let bob: Person
  let resource: { type: 'project'; id: string }

  const check = (client: Api, action = 'read', by = bob) =>
    client.post('/api/v1/authorization/check', { action, resource }, { token: by.token })
  const setVisibility = (client: Api, visibility: string) =>
    client.patch(`/api/v1/projects/${resource.id}`, { visibility }, { token: ada.token })
  const stateOf = async (client: Api, dependency: string) => {
    const { body } = await client.get(breakersPath, { token: ada.token })
    return body?.breakers?.find(({ name }: { name: string }) => name === dependency)?.state
  }
  const isWarm = async (client: Api) => {
    const { status, body, headers } = await check(client)
    return status === 200 && body.allowed === true && headers.get('velro-degraded') === null
  }

  /** The own mode of an instance as it is shown with its breakers, in its metrics, and in explanations. */
  const modesOf = async (client: Api) => {
    const { body: breakers } = await client.get(breakersPath, { token: ada.token })
    const { body: metrics } = await client.get('/api/v1/performance/metrics', { token: ada.token })
    const question = { action: 'read', resource }
    const { body: explained } = await client.post('/api/v1/authorization/explain', question, { token: bob.token })
    const emergency = explained.layers?.find(({ layer }: { layer: number }) => layer === 9)
    return [breakers.instance_mode, metrics.instance_mode, emergency?.reason]
  }
  const modeChange = (event: AuditedMode) =>
    `${event.actor.kind}: ${event.before.mode} -> ${event.after.mode} by ${event.after.cause}`

  beforeAll(async () => {
    postgres = await startPostgres({ settings: { max_connections: '100' } })
    redis = await startRedis()
    for (const runtime of ['bun', 'bun', 'deno'] as const) {
      const env = { REDIS_URL: redis.url, DB_CONNECTIONS: '18', REQUEST_TIMEOUT_MS: '20000', LOG_LEVEL: 'fatal' }
      servers.push(await startServer({ runtime, connection: postgres.connection, env }))
    }
    clients.push(...servers.map(({ baseUrl }) => api(baseUrl)))
    const [client] = clients as [Api]
    ada = await register(client)
    bob = await register(client)
    const sql = connectOnce(postgres.connection)
    await sql`update users set role = 'admin' where id = ${ada.id}`
    await sql.end()
    const project = await client.post('/api/v1/projects', { name: 'p', visibility: 'public' }, { token: ada.token })
    resource = { type: 'project', id: project.body.id }
  })
  afterAll(async () => {
    for (const server of servers) await server.stop()
    await redis?.stop()
    await postgres?.stop()
  })

  test('open its breaker within 2 s, go on with marked reads from memory, refuse the rest at once, and are well within 5 s of its thaw', async () => {
    expect((await setVisibility(clients[0] as Api, 'public')).status).toBe(200)
    for (const client of clients) await until(() => isWarm(client), 'the facts are in memory')
    // Each must have received heartbeats of the others for two leases.
    await Bun.sleep(2_500)
    for (const client of clients) expect(await stateOf(client, 'postgres')).toBe('closed')

    let isRunning = true
    const inFlight: Promise<void>[] = []
    const unexpected = new Set<string>()
    const load = clients.map(async (client, at) => {
      for (let round = 0; isRunning; round += 1) {
        const change = client.patch(`/api/v1/projects/${resource.id}`, { name: `${at}.${round}` }, { token: ada.token })
        inFlight.push(
          change.then((answer) => {
            if (answer.status !== 200 && answer.status !== 503) unexpected.add(codeOf(answer))
          }),
        )
        await Promise.race([Promise.all([change, check(client)]), Bun.sleep(100)])
      }
    })
    await Bun.sleep(300)
    postgres.freeze()
    try {
      const frozenMs = performance.now()
      const opened = clients.map(async (client) => {
        await until(async () => (await stateOf(client, 'postgres')) !== 'closed', 'the breaker opens', 10_000)
        return performance.now() - frozenMs
      })
      expect(Math.max(...(await Promise.all(opened)))).toBeLessThan(openMs + slackMs)
      for (const client of clients) {
        const isServed = async () => (await check(client)).body.degraded === 'stale-reads'
        await until(isServed, 'reads go on from memory', 5_000)
        expect((await check(client)).headers.get('velro-degraded')).toBe('stale-reads')
        const ready = await client.get('/ready')
        expect([ready.status, ready.body.status, ready.body.reasons]).toEqual([
          200,
          'degraded',
          ['database.unavailable'],
        ])
        const startedMs = performance.now()
        const refused = await Promise.all([
          setVisibility(client, 'private'),
          client.post('/api/v1/projects', { name: 'q' }, { token: ada.token }),
          client.post('/api/v1/teams', { name: 'q' }),
          client.post('/api/v1/auth/register', { email: 'new@example.com', password: 'an uncommon phrase' }),
          client.post('/api/v1/auth/login', { email: bob.email, password: bob.password }),
          check(client, 'write', ada),
        ])
        expect(refused.map((answer) => `${codeOf(answer)} ${answer.headers.get('retry-after')}`)).toEqual([
          // It may take access away, which is not refused by the mode.
          '503 database.unavailable 1',
          '503 mode.read_only 1',
          '503 mode.read_only 1',
          '503 mode.read_only 1',
          '503 database.unavailable 1',
          '503 database.unavailable 1',
        ])
        expect(performance.now() - startedMs).toBeLessThan(1_000)
        expect(await modesOf(client)).toEqual(['read-only', 'read-only', 'emergency.read_only'])
      }
    } finally {
      postgres.thaw()
    }
    const thawedMs = performance.now()
    for (const client of clients) {
      const isWell = async () =>
        (await isWarm(client)) &&
        (await client.get('/ready')).body.status === 'ready' &&
        (await check(client, 'write', ada)).status === 200
      await until(isWell, 'the instance is well')
    }
    expect(performance.now() - thawedMs).toBeLessThan(recoveryMs + slackMs)
    isRunning = false
    await Promise.all([...load, ...inFlight])
    expect([...unexpected]).toEqual([])
    for (const client of clients) expect(await modesOf(client)).toEqual([null, null, 'emergency.normal'])
    const query = '?action=mode.of_instance_changed&limit=100'
    const audited = async () =>
      (await (clients[0] as Api).get(`/api/v1/security/audit${query}`, { token: ada.token })).body
    await until(async () => (await audited()).items.length >= 6, 'the modes of the instances are audited')
    const { items } = await audited()
    const instances = new Set(items.map(({ after }: { after: { instance: string } }) => after.instance))
    expect([instances.size, new Set(items.map(modeChange))]).toEqual([
      3,
      new Set(['system: normal -> read-only by postgres', 'system: read-only -> normal by postgres']),
    ])

    expect((await setVisibility(clients[0] as Api, 'private')).status).toBe(200)
    const answers = await Promise.all(clients.map((client) => check(client)))
    expect(answers.map(({ status, body }) => [status, body.allowed])).toEqual(Array(3).fill([200, false]))
  }, 60_000)

  test('and whose Redis is frozen, answer cold and warm requests and changes as before', async () => {
    await until(async () => (await setVisibility(clients[0] as Api, 'public')).status === 200, 'changes are made')
    process.kill(redis.pid, 'SIGSTOP')
    try {
      for (const client of clients) {
        const person = await register(client)
        const answers = await Promise.all([
          ...Array.from({ length: 20 }, () => check(client, 'read', person)),
          setVisibility(client, 'public'),
          client.post('/api/v1/projects', { name: 'q' }, { token: person.token }),
          client.get('/api/v1/projects', { token: person.token }),
        ])
        expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200, 201]))
        const redisIsOpen = async () => (await stateOf(client, 'redis')) !== 'closed'
        await until(redisIsOpen, 'the breaker of Redis opens')
        const ready = await client.get('/ready')
        expect([ready.status, ready.body.reasons]).toEqual([200, ['redis.unavailable']])
      }
    } finally {
      process.kill(redis.pid, 'SIGCONT')
    }
    for (const client of clients) {
      await until(async () => (await client.get('/ready')).body.status === 'ready', 'Redis is used again')
      expect(await stateOf(client, 'redis')).toBe('closed')
    }
  }, 60_000)
})
