import { afterAll, describe, expect, test } from 'bun:test'
import { until } from '../faults/support.ts'
import type { Daemon } from '../harness/daemon.ts'
import { createDatabase, startServer, type TestDatabase, type TestServer } from '../harness.ts'
import { findHaproxy, startBalancer } from './programs.ts'

describe.skipIf(findHaproxy() === undefined)('behind HAProxy, which asks every instance whether it is ready', () => {
  let database: TestDatabase | undefined
  let balancer: Daemon | undefined
  const servers: TestServer[] = []
  afterAll(async () => {
    await balancer?.stop()
    for (const server of servers) await server.kill('SIGKILL')
    await database?.drop()
  })

  test('no request fails while instances on Bun and on Deno shut down with DRAIN_DELAY_SECONDS', async () => {
    database = await createDatabase()
    const { connection } = database
    for (const runtime of ['bun', 'deno', 'bun'] as const) {
      servers.push(await startServer({ runtime, connection, env: { DRAIN_DELAY_SECONDS: '2' } }))
    }
    const started = await startBalancer(servers.map(({ baseUrl }) => Number(new URL(baseUrl).port)))
    balancer = started
    const statuses = new Map<number, number>()
    let asking = true
    const ask = async () => {
      while (asking) {
        const { status } = await fetch(`http://127.0.0.1:${started.port}/api/v1/models`)
        statuses.set(status, (statuses.get(status) ?? 0) + 1)
      }
    }
    const clients = Array.from({ length: 4 }, ask)
    await until(() => (statuses.get(200) ?? 0) > 50, 'requests are answered')
    expect(await Promise.all(servers.slice(0, 2).map((server) => server.kill('SIGTERM')))).toEqual([0, 0])
    asking = false
    await Promise.all(clients)
    expect([...statuses.keys()]).toEqual([200])
  }, 60_000)
})
