import { describe, expect, test } from 'bun:test'
import { until } from '../faults/support.ts'
import { type Answer, api, createDatabase, register, startServer } from '../harness.ts'
import { findHaproxy, startHaproxy } from './programs.ts'
import { startProxy } from './proxy.ts'

const haproxy = findHaproxy()

describe.skipIf(haproxy === undefined)(
  'behind HAProxy, which accepts and closes connections while Postgres is gone',
  () => {
    for (const runtime of ['bun', 'deno'] as const) {
      test(`checks are answered from memory or refused, and none waits for its deadline (${runtime})`, async () => {
        const database = await createDatabase()
        const postgres = await startProxy(database.connection)
        const proxy = await startHaproxy(postgres.port)
        const connection = { ...database.connection, host: '127.0.0.1', port: proxy.port }
        const server = await startServer({ runtime, connection, env: { REQUEST_TIMEOUT_MS: '20000' } })
        const client = api(server.baseUrl)
        const { token } = await register(client)
        const project = await client.post('/api/v1/projects', { name: 'One' }, { token })
        const ask = (action: string, id: string): Promise<Answer> =>
          client.post('/api/v1/authorization/check', { action, resource: { type: 'project', id } }, { token })
        const known = project.body.id
        expect((await ask('read', known)).body.allowed).toBe(true)

        // It must have been connected for long enough to know that no other instance runs.
        await Bun.sleep(2_500)
        expect((await ask('read', known)).body.allowed).toBe(true)
        postgres.cut()
        await until(
          async () => (await ask('read', known)).headers.has('velro-degraded'),
          'a check is decided in memory',
        )
        const startedMs = performance.now()
        const answers = await Promise.all([
          ...Array.from({ length: 40 }, () => ask('read', known)),
          ...Array.from({ length: 40 }, () => ask('read', crypto.randomUUID())),
          ...Array.from({ length: 40 }, () => ask('delete', known)),
        ])
        const tookMs = performance.now() - startedMs
        const kinds = answers.map(({ status, body }) => (status === 200 ? body.allowed : body.code))
        expect(new Set(kinds.slice(0, 40))).toEqual(new Set([true]))
        expect(new Set(kinds.slice(40))).toEqual(new Set(['database.unavailable']))
        // Each would take the 20 s of its deadline, if it waited for a connection.
        expect(tookMs).toBeLessThan(10_000)
        await server.kill('SIGKILL')
        await proxy.stop()
        await database.drop()
      })
    }
  },
)
