import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { lockKeys } from '../../src/platform/lock-keys.ts'
import { migrate } from '../../src/platform/migrate.ts'
import { connectOnce, createDatabase as createPools, databaseFault, type Sql } from '../../src/platform/postgres.ts'
import { findRoute } from '../../src/platform/route.ts'
import { hold, until } from '../faults/support.ts'
import { startPgbouncer, type TestPooler } from '../harness/pgbouncer.ts'
import { api, createDatabase, register, startApp, startServer, type TestApp, type TestDatabase } from '../harness.ts'
import { findPgbouncer } from './programs.ts'
import { startProxy } from './proxy.ts'

const newer = findPgbouncer('newer')
const older = findPgbouncer('older')

describe.skipIf(newer === undefined)('behind PgBouncer 1.21 or newer in transaction mode, with its defaults', () => {
  let database: TestDatabase
  let pgbouncer: TestPooler
  let bus: Awaited<ReturnType<typeof startProxy>>
  let sql: Sql
  let app: TestApp
  const config = () => ({ databaseBusUrl: bus.url })

  beforeAll(async () => {
    database = await createDatabase({ migrated: false })
    sql = connectOnce(database.connection)
    bus = await startProxy(database.connection)
    if (newer === undefined) return
    pgbouncer = await startPgbouncer(database.connection, {
      program: newer,
      settings: { max_prepared_statements: '200' },
    })
    const connection = { ...database.connection, host: '127.0.0.1', port: pgbouncer.port }
    app = await startApp({ connection, config: { ...config(), dbConnections: 40 } })
  })
  afterAll(async () => {
    await app?.close()
    await pgbouncer?.stop()
    bus.cut()
    await sql.end()
    await database.drop()
  })

  test('a person registers, creates a project and a revocation holds at once', async () => {
    const client = api(app.baseUrl)
    const person = await register(client)
    const project = await client.post('/api/v1/projects', { name: 'Lighthouses' }, { token: person.token })
    expect(project.status).toBe(201)
    const check = { action: 'read', resource: { type: 'project', id: project.body.id } }
    const allowed = await client.post('/api/v1/authorization/check', check, { token: person.token })
    expect(allowed.body.allowed).toBe(true)
    expect((await client.delete(`/api/v1/projects/${project.body.id}`, { token: person.token })).status).toBe(204)
    const after = await client.post('/api/v1/authorization/check', check, { token: person.token })
    expect(after.body.allowed).toBe(false)
  })

  test('a burst of requests is answered over the server connections that PgBouncer opens', async () => {
    const client = api(app.baseUrl)
    const person = await register(client)
    const answers = await Promise.all(
      Array.from({ length: 200 }, () => client.get('/api/v1/projects', { token: person.token })),
    )
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]))
  })

  test('statements that were prepared before a column was added go on working', async () => {
    const client = api(app.baseUrl)
    const { token, id } = await register(client)
    const project = await client.post('/api/v1/projects', { name: 'Before' }, { token })
    const path = `/api/v1/projects/${project.body.id}`
    const use = async () => [
      (await client.get(path, { token })).status,
      (await client.patch(path, { name: 'After' }, { token })).status,
      (await client.post('/api/v1/projects', { name: 'More' }, { token })).status,
      (await client.get('/api/v1/projects', { token })).status,
      (await client.get('/api/v1/auth/sessions', { token })).status,
      (await client.get('/api/v1/auth/me', { token })).status,
      (await client.get('/api/v1/teams', { token })).status,
      (await client.get('/api/v1/media', { token })).status,
      (await client.get('/api/v1/generations', { token })).status,
      (await register(client)).id.length,
    ]
    // On each connection that PgBouncer has to the server.
    const useAll = () => Promise.all(Array.from({ length: 10 }, use))
    const before = await useAll()
    const tables = await sql<{ name: string }[]>`
      select relname as name from pg_class
       where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition`
    for (const { name } of tables) await sql.unsafe(`alter table ${name} add column added_later integer`)
    expect(await useAll()).toEqual(before)
    expect(before[0]?.slice(0, 4)).toEqual([200, 200, 201, 200])
    expect(id).not.toBe('')
  })

  test('a statement is cancelled at the limit of its pool', async () => {
    const { auth } = app.services.database
    const error = await auth`select pg_sleep(60) as slept`.then(
      () => undefined,
      (reason: unknown) => reason,
    )
    expect(databaseFault(error)?.code).toBe('request.timeout')
    const running = async () => {
      const [row] =
        await sql`select count(*)::int as count from pg_stat_activity where query like '%pg_sleep(60)%' and state = 'active' and pid <> pg_backend_pid()`
      return row?.['count'] === 0
    }
    await until(running, 'the cancelled statement has ended on the server')
    // A connection whose statement was cancelled serves the next one.
    expect([...(await auth`select 1 as one`)]).toEqual([{ one: 1 }])
  })

  test('each transaction has the limits of its pool, against those of the database, and leaves none behind', async () => {
    await sql.unsafe(`alter database ${database.connection.database} set statement_timeout = '77s'`)
    const { write, batch } = app.services.database
    const limits = (on: Pick<Sql, 'unsafe'>) =>
      on.unsafe(`
      select current_setting('statement_timeout') as statement, current_setting('lock_timeout') as lock,
             current_setting('idle_in_transaction_session_timeout') as idle, current_setting('jit') as jit,
             current_setting('transaction_isolation') as isolation`)
    const inside = { lock: '0', idle: '10s', jit: 'off', isolation: 'read committed' }
    const [ofWrite] = await write.begin((tx) => limits(tx))
    const [ofBatch] = await batch.begin((tx) => limits(tx))
    expect([{ ...ofWrite }, { ...ofBatch }]).toEqual([
      { statement: '5s', ...inside },
      { statement: '1min', ...inside },
    ])
    const [outside] = await limits(write)
    expect(outside?.['statement']).not.toBe('5s')
    await sql.unsafe(`alter database ${database.connection.database} reset statement_timeout`)
  })

  test('a migration waits for that of another instance, however short the limits of the database are', async () => {
    const empty = await createDatabase({ migrated: false })
    const name = empty.connection.database
    await sql.unsafe(`alter database ${name} set lock_timeout = '20ms'`)
    const other = await hold(empty.connection, (tx) => tx`select pg_advisory_xact_lock(${lockKeys.migrations})`)
    const pooled = connectOnce(pgbouncer.url(name))
    const migrating = migrate(pooled)
    let isRefused = false
    migrating.catch(() => {
      isRefused = true
    })
    const hasWaited = async () => {
      const rows = await sql`
        select from pg_stat_activity
         where datname = ${name} and wait_event = 'advisory' and clock_timestamp() - query_start > interval '60ms'`
      return isRefused || rows.length > 0
    }
    await until(hasWaited, 'the migration has waited longer than the limit')
    await other.release()
    expect((await migrating).length).toBeGreaterThan(20)
    await pooled.end()
    await empty.drop()
  })

  test('a setting that no client can change there is refused with what to run', async () => {
    const other = await createDatabase()
    const name = other.connection.database
    const connection = { ...other.connection, host: '127.0.0.1', port: pgbouncer.port }
    await sql.unsafe(`alter database ${name} set default_transaction_isolation = 'serializable'`)
    await expect(findRoute(connection)).rejects.toThrow(
      `default_transaction_isolation is serializable, which a pooler lets no client change. Run: alter role velro in database ${name} set default_transaction_isolation = 'read committed'; then RECONNECT in PgBouncer.`,
    )
    await other.drop()
  })

  test('settings that spoil results do not, and a short limit is reported', async () => {
    const other = await createDatabase()
    const name = other.connection.database
    for (const setting of [
      `datestyle = 'German'`,
      `bytea_output = 'escape'`,
      `timezone = 'Asia/Tokyo'`,
      `lock_timeout = '200ms'`,
    ]) {
      await sql.unsafe(`alter database ${name} set ${setting}`)
    }
    const connection = { ...other.connection, host: '127.0.0.1', port: pgbouncer.port }
    const reported: string[] = []
    expect(await findRoute(connection, (limit) => void reported.push(limit))).toMatchObject({
      pooled: true,
      schema: 'public',
    })
    expect(reported).toEqual(['lock_timeout'])
    const direct = await startProxy(other.connection)
    const own = await startApp({ connection, config: { databaseBusUrl: direct.url } })
    const person = await register(api(own.baseUrl))
    expect(Math.abs(Date.parse(person.user.created_at) - Date.now())).toBeLessThan(60_000)
    await own.close()
    direct.cut()
    await other.drop()
  })

  test('a statement outside of a transaction, of an instance that was killed, ends at statement_timeout of the role', async () => {
    const server = await startServer({
      runtime: 'bun',
      connection: { ...database.connection, host: '127.0.0.1', port: pgbouncer.port },
      env: { DATABASE_BUS_URL: bus.url },
    })
    const { token } = await register(api(server.baseUrl))
    const role = `alter role ${database.connection.user} in database ${database.connection.database}`
    await sql.unsafe(`${role} set statement_timeout = '1s'`)
    // The server connections of the pooler have the limits of the time when they were opened.
    await sql`
      select pg_terminate_backend(pid, 5000) from pg_stat_activity
       where datname = current_database() and pid <> pg_backend_pid()`
    const waiting = async () => {
      const [row] = await sql<{ count: number }[]>`
        select count(*)::int as count from pg_locks where not granted and relation = 'projects'::regclass`
      return row?.count ?? 0
    }
    const limited = async () => (await api(server.baseUrl).get('/api/v1/projects', { token })).status === 200
    await until(limited, 'the instance has new connections')
    const holder = connectOnce(database.connection)
    await holder.begin(async (tx) => {
      await tx`lock table projects in access exclusive mode`
      const request = api(server.baseUrl)
        .get('/api/v1/projects', { token })
        .catch(() => undefined)
      await until(async () => (await waiting()) === 1, 'a statement waits for the table')
      await server.kill('SIGKILL')
      await request
      await until(async () => (await waiting()) === 0, 'no statement waits any more, though the table is locked')
    })
    await holder.end()
    await sql.unsafe(`${role} reset statement_timeout`)
  }, 30_000)

  for (const runtime of ['bun', 'deno'] as const) {
    test(`a process of ${runtime} starts, answers and stops`, async () => {
      const server = await startServer({
        runtime,
        connection: { ...database.connection, host: '127.0.0.1', port: pgbouncer.port },
        env: { DATABASE_BUS_URL: bus.url },
      })
      const { token } = await register(api(server.baseUrl))
      const project = await api(server.baseUrl).post('/api/v1/projects', { name: 'One' }, { token })
      expect(project.status).toBe(201)
      expect(await server.stop()).toBe(0)
    })
  }
})

describe.skipIf(newer === undefined)('a PgBouncer that Velro cannot work with is refused with what to set', () => {
  let database: TestDatabase
  beforeAll(async () => {
    database = await createDatabase()
  })
  afterAll(() => database.drop())

  const reasonFor = async (program: string, settings: Readonly<Record<string, string>>) => {
    const pgbouncer = await startPgbouncer(database.connection, { program, settings })
    const connection = { ...database.connection, host: '127.0.0.1', port: pgbouncer.port }
    const reason = await findRoute(connection).then(
      (route) => (route.pooled ? 'pooled' : 'direct'),
      (error: Error) => error.message,
    )
    await pgbouncer.stop()
    return reason
  }
  const noPrepared =
    'DATABASE_URL leads to a pooler that keeps no prepared statements. Use PgBouncer 1.21 or later with max_prepared_statements = 200, or pool_mode = session, or connect to Postgres directly.'

  test('in statement mode', async () => {
    const reason = await reasonFor(newer ?? '', { pool_mode: 'statement' })
    expect(reason).toStartWith(
      'DATABASE_URL leads to a pooler in statement mode, which runs no transactions. Set pool_mode',
    )
  })

  test('in transaction mode without max_prepared_statements', async () => {
    expect(await reasonFor(newer ?? '', { max_prepared_statements: '0' })).toBe(noPrepared)
  })

  test('with room for one server connection, without max_prepared_statements', async () => {
    expect(await reasonFor(newer ?? '', { max_prepared_statements: '0', default_pool_size: '1' })).toBe(noPrepared)
  })

  test('in session mode it is accepted, with or without prepared statements', async () => {
    expect(await reasonFor(newer ?? '', { pool_mode: 'session', max_prepared_statements: '0' })).toBe('pooled')
  })

  test.skipIf(older === undefined)('older than 1.21', async () => {
    const version = (await startPgbouncer(database.connection, { program: older })).version
    const reason = await reasonFor(older ?? '', {})
    expect([version, reason]).toEqual([expect.stringMatching(/^PgBouncer 1\.(1\d|20)/), noPrepared])
    expect(await reasonFor(older ?? '', { pool_mode: 'session' })).toBe('pooled')
  })
})

test('without a pooler the route is direct, and the pools limit their statements on the server', async () => {
  const database = await createDatabase()
  const route = await findRoute(database.connection)
  expect(route).toEqual({ pooled: false, schema: 'public', serverVersion: expect.any(Number) })
  const pools = createPools({ connection: database.connection, route, budget: 6 })
  const [row] = await pools.auth`select current_setting('statement_timeout') as "limit"`
  expect(row?.['limit']).toBe('2s')
  await pools.close(0)
  await database.drop()
})
