import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { api, createDatabase, startServer, type TestDatabase } from '../harness.ts'

const total = 200
const acknowledgedBeforeKill = 60
const atOnce = 16
const loginsAtOnce = 4
const password = 'a passphrase that lasts'

describe('a server that is killed (-9) in the middle of 200 registrations', () => {
  let database: TestDatabase
  let sql: Sql
  beforeAll(async () => {
    database = await createDatabase()
    sql = connectOnce(database.connection)
  })
  afterAll(async () => {
    await sql.end()
    await database.drop()
  })

  test('keeps every acknowledged account, and no account without its session', async () => {
    const start = () =>
      startServer({ runtime: 'bun', connection: database.connection, env: { HASH_WORKERS: '2', LOG_LEVEL: 'error' } })
    const first = await start()
    const acknowledged: { email: string; access: string; refresh: string }[] = []
    let next = 0
    let killed: Promise<unknown> | undefined
    const registerSome = async () => {
      while (next < total && killed === undefined) {
        const email = `killed-${next}@example.com`
        next += 1
        const answer = await api(first.baseUrl)
          .post('/api/v1/auth/register', { email, password })
          .catch(() => undefined)
        if (answer?.status === 201) {
          acknowledged.push({ email, access: answer.body.access_token, refresh: answer.body.refresh_token })
        }
        if (acknowledged.length >= acknowledgedBeforeKill) killed ??= first.kill('SIGKILL')
      }
    }
    await Promise.all(Array.from({ length: atOnce }, registerSome))
    await killed
    // Guards the test: some registrations were in flight at the kill.
    expect(next).toBeGreaterThan(acknowledged.length)
    expect(next).toBeLessThan(total)

    const second = await start()
    const client = api(second.baseUrl)
    try {
      for (const { email, access, refresh } of acknowledged) {
        expect((await client.get('/api/v1/auth/me', { token: access })).body).toMatchObject({ email })
        expect((await client.post('/api/v1/auth/refresh', { refresh_token: refresh })).status).toBe(200)
      }
      const statuses: number[] = []
      const remaining = acknowledged.map(({ email }) => email)
      // A few at once: all of them would wait for the hash workers beyond their deadline on a busy machine.
      const loginSome = async () => {
        for (let email = remaining.pop(); email !== undefined; email = remaining.pop())
          statuses.push((await client.post('/api/v1/auth/login', { email, password })).status)
      }
      await Promise.all(Array.from({ length: loginsAtOnce }, loginSome))
      expect(statuses).toEqual(acknowledged.map(() => 200))

      const halves = await sql`
        select u.email from users u
         where u.password_hash is null
            or not exists (select from sessions s join refresh_tokens t on t.session_id = s.id where s.user_id = u.id)`
      expect([...halves]).toEqual([])
      // An account that was not acknowledged either exists completely or can be registered now.
      const known = new Set(acknowledged.map(({ email }) => email))
      for (let count = 0; count < next; count += 1) {
        const email = `killed-${count}@example.com`
        if (known.has(email)) continue
        const again = await client.post('/api/v1/auth/register', { email, password })
        if (again.status !== 201) {
          expect(again.status).toBe(409)
          expect((await client.post('/api/v1/auth/login', { email, password })).status).toBe(200)
        }
      }
    } finally {
      await second.stop()
    }
  })
})
