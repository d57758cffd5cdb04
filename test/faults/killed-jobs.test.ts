import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import {
  api,
  createDatabase,
  freePort,
  type Person,
  register,
  startServer,
  type TestDatabase,
  type TestServer,
} from '../harness.ts'
import { until } from './support.ts'

const total = 100
const kills = 8

describe('two instances of which one is killed (-9) every second while they make 100 pictures', () => {
  let database: TestDatabase
  let sql: Sql
  const servers: TestServer[] = []
  beforeAll(async () => {
    database = await createDatabase()
    sql = connectOnce(database.connection)
  })
  afterAll(async () => {
    for (const server of servers) await server.kill('SIGKILL')
    await sql.end()
    await database.drop()
  })

  test('make every one that was accepted once, and take its price once', async () => {
    const start = async () => {
      const env = { PORT: String(await freePort()), JOB_CONCURRENCY: '3', RENDER_WORKERS: '1', LOG_LEVEL: 'error' }
      return startServer({ runtime: 'bun', connection: database.connection, env })
    }
    servers.push(await start(), await start())
    const person: Person = await register(api(servers[0]?.baseUrl ?? ''))

    const accepted = new Set<string>()
    let tried = 0
    /** Until it is answered, with one key: whoever was killed may have accepted it. */
    const order = async (number: number) => {
      const key = { 'idempotency-key': `order-${number}` }
      const body = {
        model: 'local/procedural',
        prompt: `lighthouse ${number}`,
        parameters: { width: 512, height: 384 },
      }
      for (let turn = number; ; turn += 1) {
        tried += 1
        const server = servers[turn % 2] as TestServer
        const answer = await api(server.baseUrl)
          .post('/api/v1/generations', body, { token: person.token, headers: key })
          .catch(() => undefined)
        if (answer?.status === 201) return accepted.add(answer.body.id)
        await Bun.sleep(50)
      }
    }
    const ordering = (async () => {
      for (let number = 0; number < total; number += 1) {
        await order(number)
        await Bun.sleep(40)
      }
    })()
    let cutOff = 0
    for (let kill = 0; kill < kills; kill += 1) {
      await Bun.sleep(1_000)
      const [held] = await sql<{ most: number }[]>`
        select coalesce(max(count), 0)::int as most
          from (select count(*) from generation_jobs where lease_until > now() group by worker) each`
      cutOff += held?.most ?? 0
      await servers[kill % 2]?.kill('SIGKILL')
      servers[kill % 2] = await start()
    }
    await ordering
    // Or this says nothing.
    expect(cutOff).toBeGreaterThan(kills / 2)
    expect(accepted.size).toBe(total)
    expect(tried).toBeGreaterThanOrEqual(total)

    const left = async () => {
      const [row] = await sql<{ left: number }[]>`select count(*)::int as left from generation_jobs`
      return row?.left
    }
    await until(async () => (await left()) === 0, 'all are over', 90_000)
    const rows = await sql<{ id: string; status: string; media: number; entries: string[] }[]>`
      select g.id, g.status, (select count(*)::int from media m where m.generation_id = g.id) as media,
             (select array_agg(l.kind order by l.id) from credit_ledger l where l.generation_id = g.id) as entries
        from generations g`
    expect(rows.map(({ id }) => id).toSorted()).toEqual([...accepted].toSorted())
    for (const { status, media, entries } of rows) {
      expect([status, media, entries]).toEqual(['completed', 1, ['reserve', 'settle']])
    }
    const [books] = await sql`
      select (select balance::int from credit_balances where user_id = ${person.id}) as balance,
             (select sum(amount)::int from credit_ledger where user_id = ${person.id}) as entries`
    expect(books).toEqual({ balance: 1_000 - total, entries: 1_000 - total })
    // Whoever was killed may have left a claim on the way, of a picture that the next one made again.
    expect(await sql`select from media_objects`).toHaveLength(total)
    expect((await sql`select from media_claims`).length).toBeLessThanOrEqual(cutOff)
    await until(async () => (await sql`select from media_orphans`).length === 0, 'no orphan waits')
  }, 180_000)
})
