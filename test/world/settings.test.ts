import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { connectOnce, poolNames, type Sql } from '../../src/platform/postgres.ts'
import { findRoute } from '../../src/platform/route.ts'
import { api, createDatabase, register, startApp, type TestDatabase } from '../harness.ts'

/** Settings that people give a database or a role, each of which broke something. */
const peoplesSettings = {
  datestyle: 'German',
  timezone: 'Asia/Kathmandu',
  intervalstyle: 'sql_standard',
  bytea_output: 'escape',
  extra_float_digits: '-5',
  array_nulls: 'off',
  standard_conforming_strings: 'off',
  default_transaction_isolation: 'repeatable read',
  statement_timeout: '100ms',
  lock_timeout: '50ms',
  idle_in_transaction_session_timeout: '100ms',
  idle_session_timeout: '200ms',
  transaction_timeout: '150ms',
  jit_above_cost: '0',
}

/** A database may have its own values of settings, which each new connection to it gets. */
const alter = async (sql: Sql, database: string, settings: Readonly<Record<string, string>>): Promise<void> => {
  for (const [name, value] of Object.entries(settings)) {
    await sql.unsafe(`alter database ${database} set ${name} = ${name === 'search_path' ? value : `'${value}'`}`)
  }
}

describe('a database with other settings than the server', () => {
  let database: TestDatabase
  let sql: Sql
  beforeAll(async () => {
    database = await createDatabase({ migrated: false })
    sql = connectOnce(database.connection)
    await alter(sql, database.connection.database, peoplesSettings)
  })
  afterAll(async () => {
    await sql.end()
    await database.drop()
  })

  test('is migrated by five instances that start at once, and their writes are read back unchanged', async () => {
    const { connection } = database
    const apps = await Promise.all(
      Array.from({ length: 5 }, () => startApp({ connection, config: { dbConnections: 6 } })),
    )
    try {
      const [first, second] = [api(apps[0]?.baseUrl ?? ''), api(apps[1]?.baseUrl ?? '')]
      const before = Date.now()
      const person = await register(first)
      const createdAtMs = Date.parse(person.user.created_at)
      expect(Math.abs(createdAtMs - before)).toBeLessThan(60_000)
      const { token } = person
      const project = await second.post('/api/v1/projects', { name: 'Lighthouses' }, { token })
      expect(project.status).toBe(201)
      const key = { headers: { 'idempotency-key': 'one' }, token }
      const body = { model: 'local/procedural', prompt: 'a lighthouse', project_id: project.body.id }
      const generation = await first.post('/api/v1/generations', body, key)
      expect([200, 201, 202]).toContain(generation.status)
      expect((await second.post('/api/v1/generations', body, key)).body.id).toBe(generation.body.id)
      // Idle connections outlive idle_session_timeout.
      await Bun.sleep(400)
      const check = { action: 'read', resource: { type: 'project', id: project.body.id } }
      const answers = await Promise.all(
        Array.from({ length: 10 }, () => second.post('/api/v1/authorization/check', check, { token })),
      )
      expect(answers.map(({ status, body }) => [status, body.allowed])).toEqual(Array(10).fill([200, true]))
      expect((await first.get('/api/v1/auth/me', { token })).body.created_at).toBe(person.user.created_at)
    } finally {
      await Promise.all(apps.map((app) => app.close()))
    }
  })

  test('does not change the settings of the pools', async () => {
    // Limits of statements and of idle transactions differ from pool to pool.
    const expected = {
      DateStyle: 'ISO, MDY',
      TimeZone: 'UTC',
      IntervalStyle: 'postgres',
      bytea_output: 'hex',
      extra_float_digits: '1',
      array_nulls: 'on',
      standard_conforming_strings: 'on',
      transaction_isolation: 'read committed',
      lock_timeout: '0',
      idle_session_timeout: '0',
      transaction_timeout: '0',
      jit: 'off',
      search_path: 'public',
    }
    const app = await startApp({ connection: database.connection })
    try {
      for (const name of poolNames) {
        const rows = await app.services.database[name]<{ name: string; value: string }[]>`
          select name, current_setting(name) as value from unnest(${Object.keys(expected)}::text[]) as name`
        expect([name, Object.fromEntries(rows.map((row) => [row.name, row.value]))]).toEqual([name, expected])
      }
    } finally {
      await app.close()
    }
  })
})

describe('the schema of the tables', () => {
  let database: TestDatabase
  let sql: Sql
  beforeAll(async () => {
    database = await createDatabase()
    sql = connectOnce(database.connection)
    await sql`create schema studio`
  })
  afterAll(async () => {
    await sql.end()
    await database.drop()
  })

  test('is found where an empty schema comes before it in search_path, and new tables are created there too', async () => {
    await alter(sql, database.connection.database, { search_path: 'studio, public' })
    expect(await findRoute(database.connection)).toMatchObject({ pooled: false, schema: 'public' })
    const app = await startApp({ connection: database.connection })
    const [row] = await app.services.database.write`select current_schema() as schema`
    expect(row?.['schema']).toBe('public')
    await app.close()
  })

  test('is named where search_path does not name it, and nothing is installed a second time', async () => {
    const name = database.connection.database
    await sql.unsafe(`alter database ${name} set search_path = studio`)
    await expect(startApp({ connection: database.connection })).rejects.toThrow(
      `The tables of Velro are in the schema public, which search_path (studio) does not name. Run: alter role velro in database ${name} set search_path = public`,
    )
    const [row] = await sql`select count(*)::int as count from pg_class where relnamespace = 'studio'::regnamespace`
    expect(row?.['count']).toBe(0)
  })

  test('is asked for where search_path names none that exists', async () => {
    const empty = await createDatabase({ migrated: false })
    const own = connectOnce(empty.connection)
    await own.unsafe(`alter database ${empty.connection.database} set search_path = nowhere`)
    await own.end()
    await expect(findRoute(empty.connection)).rejects.toThrow(
      /search_path \(nowhere\) names no schema that exists\. Create/,
    )
    await empty.drop()
  })

  test('keeps its triggers: session_replication_role = replica is refused', async () => {
    const own = await createDatabase({ migrated: false })
    const name = own.connection.database
    await sql.unsafe(`alter database ${name} set session_replication_role = replica`)
    await expect(findRoute(own.connection)).rejects.toThrow(
      /session_replication_role is replica, which disables the triggers .*\. Run: alter role velro in database/,
    )
    await own.drop()
  })
})
