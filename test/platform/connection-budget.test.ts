import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { connectionBudget, readConnectionLimits } from '../../src/platform/connection-budget.ts'
import { retryWhileBusy, warnOfPlainText } from '../../src/platform/first-connection.ts'
import { connect, connectOnce, createDatabase as createPools, isBusy, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { pgbouncer, startPgbouncer } from '../harness/pgbouncer.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

describe('the connection budget of a process', () => {
  const none = { role: undefined, database: undefined }
  const cases: [of: string, budget: number, expected: number][] = [
    ['100 connections of the server, so that two instances fit', connectionBudget({ server: 97, ...none }, 1), 43],
    ['two processes of that', connectionBudget({ server: 97, ...none }, 2), 20],
    ['the limit of the role, where it is less', connectionBudget({ server: 97, role: 40, database: 60 }, 1), 15],
    ['the limit of the database, where it is less', connectionBudget({ server: 97, role: 60, database: 40 }, 1), 15],
    [
      'the server, where role and database allow more',
      connectionBudget({ server: 97, role: 500, database: 500 }, 1),
      43,
    ],
    ['a limit too low for its pools', connectionBudget({ server: 97, role: 10, database: undefined }, 1), 0],
  ]
  test.each(cases)('is a share of %s', (_, budget, expected) => {
    expect(budget).toBe(expected)
  })

  test('leaves room for a second instance of as many processes, and for operators', () => {
    for (let server = 40; server <= 500; server += 1) {
      for (const processes of [1, 2, 3, 8]) {
        const perProcess = connectionBudget({ server, ...none }, processes) + 3
        expect(2 * processes * perProcess).toBeLessThanOrEqual(server - 4)
      }
    }
  })
})

describe('on a server with limits', () => {
  const role = `budget_${process.pid}`
  let database: TestDatabase
  let admin: Sql
  const open: Sql[] = []

  /** A pool of the limited role. */
  const pool = (options: Parameters<typeof connect>[1]): Sql => {
    const sql = connect({ ...database.connection, user: role }, { fetch_types: false, ...options })
    open.push(sql)
    return sql
  }
  const setLimit = (count: number) => admin.unsafe(`alter role ${role} connection limit ${count}`)
  const opened = async (): Promise<number> => {
    const [row] = await admin<{ count: number }[]>`
      select count(*)::int from pg_stat_activity where usename = ${role}`
    return row?.count ?? 0
  }
  const codeOf = (error: { code?: string }) => error.code
  const allOf = (count: number, work: () => PromiseLike<unknown>) =>
    Promise.all(Array.from({ length: count }, () => Promise.resolve(work()).then(() => 'done', codeOf)))

  beforeAll(async () => {
    database = await createDatabase()
    admin = connectOnce(database.connection)
    await admin.unsafe(`create role ${role} login`)
  })
  afterEach(async () => {
    await Promise.all(open.splice(0).map((sql) => sql.end({ timeout: 0 })))
    await until(async () => (await opened()) === 0, 'all connections of the role are closed')
  })
  afterAll(async () => {
    await admin.unsafe(`drop role ${role}`)
    await admin.end()
    await database.drop()
  })

  test('the limits of server, role and database are read', async () => {
    const [server] = await admin<{ allowed: number }[]>`
      select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
           - coalesce(nullif(current_setting('reserved_connections', true), '')::int, 0) as allowed`
    const allowed = server?.allowed ?? 0
    expect(await readConnectionLimits(admin)).toEqual({ server: allowed, role: undefined, database: undefined })
    await setLimit(20)
    await admin.unsafe(`alter database ${database.connection.database} connection limit 30`)
    expect(await readConnectionLimits(pool({ max: 1 }))).toEqual({ server: allowed, role: 20, database: 30 })
    await admin.unsafe(`alter database ${database.connection.database} connection limit -1`)
  })

  test('a server without a free connection fails no query of a pool that has one', async () => {
    await setLimit(4)
    const refusals: unknown[] = []
    const sql = pool({ max: 20, refused_timeout: 30, onrefused: (error) => void refusals.push(error) })
    expect(await allOf(60, () => sql`select pg_sleep(0.02)`)).toEqual(Array(60).fill('done'))
    expect(await allOf(30, () => sql.begin((tx) => tx`select pg_sleep(0.02)`))).toEqual(Array(30).fill('done'))
    expect(refusals[0]).toMatchObject({ code: '53300' })
    // Not one attempt per query: the pool holds back once it knows.
    expect(refusals.length).toBeLessThan(60)
    expect(await opened()).toBe(4)
  })

  test.skipIf(pgbouncer === undefined)(
    'a pooler that accepts no further client fails no query of a pool that has one',
    async () => {
      const pooler = await startPgbouncer(database.connection, { settings: { max_client_conn: '5' } })
      const refusals: unknown[] = []
      const onrefused = (error: unknown) => void refusals.push(error)
      const sql = connect(pooler.url(), { max: 20, prepare: false, fetch_types: false, refused_timeout: 30, onrefused })
      try {
        expect(await allOf(60, () => sql.unsafe('select pg_sleep(0.02)'))).toEqual(Array(60).fill('done'))
        expect(String(refusals[0])).toContain('no more connections allowed')
        expect(isBusy(refusals[0])).toBe(true)
      } finally {
        await sql.end({ timeout: 0 })
        await pooler.stop()
      }
    },
  )

  test('a pool opens more connections again when the server has some', async () => {
    await setLimit(2)
    const sql = pool({ max: 6, refused_timeout: 30 })
    expect(await allOf(20, () => sql`select pg_sleep(0.02)`)).toEqual(Array(20).fill('done'))
    await setLimit(-1)
    await until(async () => {
      await allOf(12, () => sql`select pg_sleep(0.1)`)
      return (await opened()) === 6
    }, 'the pool has its six connections')
  })

  test('a pool without a connection waits for one, and fails only after its limit', async () => {
    await setLimit(1)
    const holder = pool({ max: 1 })
    await holder`select 1`
    const patient = pool({ max: 3, refused_timeout: 30 })
    const waiting = allOf(5, () => patient`select 1`)
    expect(await pool({ max: 3, refused_timeout: 0.4 })`select 1`.then(() => 'done', codeOf)).toBe('53300')
    await holder.end()
    expect(await waiting).toEqual(Array(5).fill('done'))
  })

  test('without a limit a query fails at once, as the start and the probe of the server expect', async () => {
    await setLimit(0)
    expect(await pool({ max: 3 })`select 1`.then(() => 'done', codeOf)).toBe('53300')
  })

  test('the six pools fail no query where the server allows fewer connections than they were given', async () => {
    await setLimit(9)
    const refused = new Set<string>()
    const pools = createPools({
      connection: { ...database.connection, user: role },
      budget: 60,
      onRefused: (_, name) => void refused.add(name),
    })
    const names = ['auth', 'read', 'write'] as const
    await Promise.all(names.map((name) => pools[name]`select 1`))
    const results = await Promise.all(names.map((name) => allOf(40, () => pools[name]`select pg_sleep(0.01)`)))
    expect(results.flat().filter((result) => result !== 'done')).toEqual([])
    expect(refused.size).toBeGreaterThan(0)
    await pools.close(0)
  })

  test('connections that a burst opened are closed while the pool is in use, down to its minimum', async () => {
    await setLimit(-1)
    const sql = pool({ max: 8, min: 2, idle_timeout: 1 })
    await allOf(8, () => sql`select pg_sleep(0.1)`)
    expect(await opened()).toBe(8)
    await until(async () => {
      await sql`select 1`
      return (await opened()) === 2
    }, 'six connections are closed')
    await Bun.sleep(1_500)
    expect(await opened()).toBe(2)
    expect(await allOf(8, () => sql`select pg_sleep(0.05)`)).toEqual(Array(8).fill('done'))
  })

  test('work at the start is tried again with growing pauses while no connection is left, and says so', async () => {
    await setLimit(1)
    const holder = pool({ max: 1 })
    await holder`select 1`
    const lines: string[] = []
    const connection = { ...database.connection, user: role }
    const report = (line: string) => {
      lines.push(line)
      if (lines.length === 2) void holder.end()
    }
    const work = async () => {
      const sql = connectOnce(connection)
      return sql`select 1 as one`.finally(() => sql.end({ timeout: 0 }))
    }
    expect([...(await retryWhileBusy(work, { connection, report, firstDelayMs: 20 }))]).toEqual([{ one: 1 }])
    expect(lines.slice(0, 2)).toEqual([
      expect.stringMatching(
        /^Postgres at .+ has no connection left or is starting\. Next try in 0\.0 s; the start gives up in 60 s\.$/,
      ),
      expect.stringMatching(/no connection left/),
    ])
    await setLimit(0)
    const failed = retryWhileBusy(work, { connection, report, firstDelayMs: 20, limitMs: 100 })
    await expect(failed).rejects.toMatchObject({ code: '53300' })
    const other = () => Promise.reject(new Error('another error'))
    await expect(retryWhileBusy(other, { connection, report })).rejects.toThrow('another error')
  })
})

test('plain text is warned of where the address is public, by the name of the variable', () => {
  const warned: unknown[] = []
  const log = { debug: () => {}, info: () => {}, error: () => {}, warn: (fields: object) => void warned.push(fields) }
  for (const address of [undefined, '127.0.0.1', '10.1.2.3', '192.168.0.9', '100.64.0.1', '::1', 'fd12::1']) {
    warnOfPlainText({ encrypted: false, address }, 'DATABASE_URL', log)
  }
  warnOfPlainText({ encrypted: true, address: '8.8.8.8' }, 'DATABASE_URL', log)
  expect(warned).toEqual([])
  for (const address of ['8.8.8.8', '2606:4700::1111'])
    warnOfPlainText({ encrypted: false, address }, 'DATABASE_BUS_URL', log)
  expect(warned).toMatchObject([
    { event: 'database.plain_text', variable: 'DATABASE_BUS_URL', address: '8.8.8.8' },
    { variable: 'DATABASE_BUS_URL', address: '2606:4700::1111' },
  ])
})
