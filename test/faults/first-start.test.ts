import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { readdir } from 'node:fs/promises'
import { api, createDatabase, openDatabase, register, startApp, startServer } from '../harness.ts'

describe('instances that start together on an empty database', () => {
  let database: Awaited<ReturnType<typeof openDatabase>>
  beforeAll(async () => {
    database = await openDatabase({ migrated: false })
  })
  afterAll(() => database.drop())

  for (const migrated of [false, true]) {
    test(`create one signing key, eight in one process ${migrated ? 'after' : 'before'} the migration`, async () => {
      const empty = await createDatabase({ migrated })
      const start = () => startApp({ connection: empty.connection, config: { dbConnections: 6 } })
      const apps = await Promise.all(Array.from({ length: 8 }, start))
      try {
        const keySets = await Promise.all(apps.map(({ baseUrl }) => api(baseUrl).get('/.well-known/jwks.json')))
        expect(keySets[0]?.body.keys).toHaveLength(1)
        for (const { body } of keySets) expect(body).toEqual(keySets[0]?.body)
      } finally {
        await Promise.all(apps.map((app) => app.close()))
        await empty.drop()
      }
    })
  }

  test('migrate once, create one signing key, and accept each other’s tokens', async () => {
    const servers = await Promise.all(
      (['bun', 'bun', 'deno'] as const).map((runtime) =>
        startServer({ runtime, connection: database.connection, env: { DB_CONNECTIONS: '12' } }),
      ),
    )
    try {
      const files = (await readdir(new URL('../../sql/', import.meta.url))).filter((name) => /^\d{6}_/.test(name))
      const applied = await database.sql<{ name: string }[]>`select name from schema_migrations order by version`
      expect(applied.map(({ name }) => name)).toEqual(files.sort())
      const migrating = servers.filter((server) => server.output().includes('database schema migrated'))
      expect(migrating).toHaveLength(1)
      const [keys] = await database.sql<{ count: number }[]>`select count(*)::int as count from signing_keys`
      expect(keys?.count).toBe(1)
      for (const server of servers) {
        const person = await register(api(server.baseUrl))
        for (const other of servers) {
          const { status, body } = await api(other.baseUrl).get('/api/v1/auth/me', { token: person.token })
          expect([status, body.id]).toEqual([200, person.id])
        }
      }
    } finally {
      await Promise.all(servers.map((server) => server.stop()))
    }
  })
})
