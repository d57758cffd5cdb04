import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { type PostgresServer, startPostgres } from '../harness/postgres-server.ts'
import { api, register, startServer, type TestServer } from '../harness.ts'

describe('two instances with the default configuration on a Postgres with 100 connections', () => {
  let postgres: PostgresServer
  const servers: TestServer[] = []

  beforeAll(async () => {
    postgres = await startPostgres({ settings: { max_connections: '100' } })
    const { connection } = postgres
    for (const runtime of ['bun', 'bun'] as const) {
      // On a busy machine 1,200 requests at once may take longer than the default deadline.
      servers.push(await startServer({ runtime, connection, env: { DB_CONNECTIONS: '', REQUEST_TIMEOUT_MS: '30000' } }))
    }
  }, 60_000)
  afterAll(async () => {
    await Promise.all(servers.map((server) => server.stop()))
    await postgres?.stop()
  })

  test('answer bursts of 600 requests each without one 503', async () => {
    const [first] = servers
    const { token } = await register(api(first?.baseUrl ?? ''))
    const ask = async (server: TestServer): Promise<number> => {
      const response = await fetch(`${server.baseUrl}/api/v1/auth/sessions`, {
        headers: { authorization: `Bearer ${token}` },
      })
      await response.arrayBuffer()
      return response.status
    }
    const burst = (server: TestServer) => Promise.all(Array.from({ length: 600 }, () => ask(server)))
    const statuses = (await Promise.all(servers.map(burst))).flat()
    expect(statuses.filter((status) => status !== 200)).toEqual([])
    expect(statuses.length).toBe(1_200)
  }, 60_000)
})
