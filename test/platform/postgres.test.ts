import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { execFile } from 'node:child_process'
import { createConnection, createServer, type Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import fc from 'fast-check'
import { Fault } from '../../src/fault.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines, DeadlinePassed } from '../../src/kit/deadline.ts'
import {
  connect,
  connectOnce,
  createDatabase as createPools,
  type Database,
  databaseFault,
  isConnectFailure,
  onViolation,
  PostgresNotAnswering,
  poolNames,
  sizePools,
} from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

const startDeadline = createDeadlines(systemClock)

const errorOf = (promise: PromiseLike<unknown>): Promise<unknown> =>
  Promise.resolve(promise).then(
    () => undefined,
    (error: unknown) => error,
  )
const codeOf = (error: unknown) => databaseFault(error)?.code

describe('sizing the pools from a budget of connections', () => {
  const sum = (budget: number) => poolNames.reduce((total, name) => total + sizePools(budget)[name].max, 0)
  const budgets = fc.integer({ min: poolNames.length, max: 1_000 })

  test('never gives out more connections than the budget', () => {
    fc.assert(fc.property(budgets, (budget) => expect(sum(budget)).toBeLessThanOrEqual(budget)))
  })

  test('gives each pool at least one connection, at most its own maximum, and a minimum below that', () => {
    const full = sizePools(1_000)
    fc.assert(
      fc.property(fc.integer({ min: -10, max: 1_000 }), (budget) => {
        const sizes = sizePools(budget)
        for (const name of poolNames) {
          expect(sizes[name].max).toBeGreaterThanOrEqual(1)
          expect(sizes[name].max).toBeLessThanOrEqual(full[name].max)
          expect(sizes[name].min).toBeGreaterThanOrEqual(0)
          expect(sizes[name].min).toBeLessThanOrEqual(sizes[name].max)
          expect(Number.isInteger(sizes[name].min) && Number.isInteger(sizes[name].max)).toBe(true)
        }
      }),
    )
  })

  test('gives each pool a share proportional to its maximum, to within one connection', () => {
    const full = sizePools(1_000)
    fc.assert(
      fc.property(fc.integer({ min: poolNames.length, max: 210 }), (budget) => {
        const spare = (budget - poolNames.length) / (210 - poolNames.length)
        for (const name of poolNames) {
          const share = 1 + (full[name].max - 1) * spare
          expect(Math.abs(sizePools(budget)[name].max - share)).toBeLessThan(1)
        }
      }),
    )
  })

  test('makes no pool smaller when the budget grows', () => {
    fc.assert(
      fc.property(budgets, (budget) => {
        const [smaller, larger] = [sizePools(budget), sizePools(budget + 1)]
        for (const name of poolNames) {
          expect(larger[name].max).toBeGreaterThanOrEqual(smaller[name].max)
          expect(larger[name].min).toBeGreaterThanOrEqual(smaller[name].min)
        }
      }),
    )
  })

  test('gives each pool its full size when the budget suffices', () => {
    expect(sizePools(210)).toEqual({
      auth: { min: 10, max: 50 },
      read: { min: 20, max: 75 },
      write: { min: 5, max: 25 },
      analytics: { min: 5, max: 20 },
      admin: { min: 2, max: 10 },
      batch: { min: 5, max: 30 },
    })
    expect(sizePools(10_000)).toEqual(sizePools(210))
  })
})

describe('the fault of an error', () => {
  const error = (code: unknown) => Object.assign(new Error('x'), { code })

  test('is database.unavailable when the database cannot be reached', () => {
    for (const code of [
      ...['08000', '08006', '08P01', '40001', '40P01', '53000', '53100', '53200', '53300', '57P01', '57P02', '57P03'],
      ...['CONNECT_TIMEOUT', 'CONNECTION_CLOSED', 'CONNECTION_DESTROYED', 'CONNECTION_ENDED'],
      ...['ECONNREFUSED', 'ECONNRESET', 'ECONNABORTED', 'EPIPE', 'EHOSTUNREACH', 'ENETUNREACH', 'ETIMEDOUT'],
      ...['ENOTFOUND', 'EAI_AGAIN'],
    ]) {
      expect([code, codeOf(error(code))]).toEqual([code, 'database.unavailable'])
    }
  })

  test('is request.timeout when the work was cancelled by a timeout', () => {
    for (const code of ['57014', '55P03', '25P03'])
      expect([code, codeOf(error(code))]).toEqual([code, 'request.timeout'])
    expect(codeOf(new DeadlinePassed())).toBe('request.timeout')
  })

  test('is undefined for programming errors and for errors outside the database', () => {
    for (const code of ['23505', '42601', '42P01', '22P02', '57000', 'EACCES', 'ERR_X', '', 8, null]) {
      expect([code, codeOf(error(code))]).toEqual([code, undefined])
    }
    for (const other of [undefined, null, 'ECONNREFUSED', 7, new Error('connection closed'), {}]) {
      expect(databaseFault(other)).toBeUndefined()
    }
  })

  test('has the original error as its cause', () => {
    const cause = error('57P01')
    expect(databaseFault(cause)?.cause).toBe(cause)
  })
})

describe('against a real server', () => {
  let database: TestDatabase
  let pools: Database
  const statements: string[] = []

  beforeAll(async () => {
    database = await createDatabase()
    pools = createPools({
      connection: database.connection,
      budget: 12,
      onStatement: (text) => void statements.push(text),
    })
  })
  afterAll(async () => {
    await pools.close(0)
    await database.drop()
  })

  test('a statement that exceeds statement_timeout is request.timeout', async () => {
    const error = await errorOf(
      pools.read.begin(async (tx) => {
        await tx`set local statement_timeout = 20`
        await tx`select pg_sleep(10)`
      }),
    )
    expect(codeOf(error)).toBe('request.timeout')
  })

  test('a lock wait that exceeds lock_timeout is request.timeout', async () => {
    const error = await errorOf(
      pools.write.begin(async (holder) => {
        await holder`select pg_advisory_xact_lock(1)`
        await pools.read.begin(async (tx) => {
          await tx`set local lock_timeout = 20`
          await tx`select pg_advisory_xact_lock(1)`
        })
      }),
    )
    expect(codeOf(error)).toBe('request.timeout')
  })

  test('a statement whose deadline passes is cancelled on the server', async () => {
    const running = async () => {
      const [row] = await pools.admin<{ count: number }[]>`
        select count(*)::int from pg_stat_activity where state = 'active' and query like 'select pg_sleep(9)%'`
      return row?.count
    }
    const error = await errorOf(startDeadline(100).run(pools.read`select pg_sleep(9)`))
    expect(codeOf(error)).toBe('request.timeout')
    for (const giveUpAt = Date.now() + 2_000; (await running()) !== 0 && Date.now() < giveUpAt; ) await Bun.sleep(5)
    expect(await running()).toBe(0)
  })

  test('a terminated connection is database.unavailable, and the pool recovers', async () => {
    const error = await errorOf(pools.read`select pg_terminate_backend(pg_backend_pid())`)
    expect(codeOf(error)).toBe('database.unavailable')
    expect([...(await pools.read`select 1 as one`)]).toEqual([{ one: 1 }])
  })

  test('a connection that closes with a write pending is replaced at once', async () => {
    const sockets: Socket[] = []
    const { host, port } = database.connection
    const openSocket = () =>
      new Promise<Socket>((resolve) => {
        const socket = createConnection(`${host}/.s.PGSQL.${port}`, () => resolve(socket))
        sockets.push(socket)
      })
    const pool = connect(database.connection, Object.assign({ max: 1, fetch_types: false }, { socket: openSocket }))
    await pool`select 1`
    const [socket] = sockets
    const lost = errorOf(pool`select 2`.execute())
    // The statement is buffered now and would be written by the next setImmediate.
    await Promise.resolve()
    socket?.emit('close', false)
    socket?.destroy()
    expect(codeOf(await lost)).toBe('database.unavailable')
    const startedMs = performance.now()
    expect([...(await pool`select 3 as three`)]).toEqual([{ three: 3 }])
    expect(performance.now() - startedMs).toBeLessThan(2_000)
    await pool.end()
  })

  test('the first statement on a new connection gets neither the error nor the rows of the connection before', async () => {
    const pool = connect(database.connection, { max: 1, fetch_types: false })
    for (let round = 0; round < 3; round += 1) {
      // Postgres sends a row and then the error, so the driver holds both when the connection closes.
      expect(codeOf(await errorOf(pool`select pg_terminate_backend(pg_backend_pid())`))).toBe('database.unavailable')
      expect([...(await pool`select 1 as one`)]).toEqual([{ one: 1 }])
    }
    await pool.end()
  })

  test('a transaction whose connection dies rejects the statements still waiting to be sent', async () => {
    const pipelined = Object.assign({ max: 1, fetch_types: false }, { max_pipeline: 1 })
    const pool = connect(database.connection, pipelined)
    const results: PromiseLike<unknown>[] = []
    const lost = pool.begin(async (tx) => {
      const [row] = await tx<{ pid: number }[]>`select pg_backend_pid() as pid`
      for (let count = 0; count < 5; count += 1) results.push(errorOf(tx`select pg_sleep(10)`.execute()))
      await Bun.sleep(20)
      await pools.admin`select pg_terminate_backend(${row?.pid ?? 0}::int)`
      await Promise.all(results)
    })
    expect(codeOf(await errorOf(lost))).toBe('database.unavailable')
    const settled = await Promise.race([Promise.all(results), Bun.sleep(2_000).then(() => 'never settled')])
    expect(Array.isArray(settled) ? settled.map(codeOf) : settled).toEqual(Array(5).fill('database.unavailable'))
    await pool.end({ timeout: 0 })
  })

  test('a transaction whose connection dies rejects later statements and never sends them on the next connection', async () => {
    const pool = connect(database.connection, { max: 1 })
    const errors: unknown[] = []
    const collect = (error: unknown) => void errors.push(codeOf(error))
    let next: PromiseLike<unknown> | undefined
    const lost = pool.begin(async (tx) => {
      await tx`select pg_terminate_backend(pg_backend_pid())`.catch(collect)
      // Another caller takes the next connection; a statement sent now would run on it, outside of any transaction.
      next = pool`select pg_sleep(0.2)`.then(() => 'done')
      for (let count = 0; count < 3; count += 1) {
        await Bun.sleep(40)
        await tx`create table out_of_place ()`.catch(collect)
      }
    })
    expect(codeOf(await errorOf(lost))).toBe('database.unavailable')
    expect(await next).toBe('done')
    await Bun.sleep(200)
    expect(errors).toEqual(Array(4).fill('database.unavailable'))
    expect([...(await pool`select to_regclass('out_of_place') as found`)]).toEqual([{ found: null }])
    await pool.end()
  })

  test('a pool whose connections are retired runs later statements on new ones, and running work to its end', async () => {
    const retiring = createPools({ connection: database.connection, budget: 60 })
    const pidOf = async () => {
      const [row] = await retiring.batch<{ pid: number }[]>`select pg_backend_pid() as pid`
      return row?.pid
    }
    const before = new Set(await Promise.all([pidOf(), pidOf(), pidOf()]))
    const begun = Promise.withResolvers<void>()
    const go = Promise.withResolvers<void>()
    const running = retiring.batch.begin(async (tx) => {
      const [first] = await tx<{ pid: number }[]>`select pg_backend_pid() as pid`
      begun.resolve()
      await go.promise
      const [last] = await tx<{ pid: number }[]>`select pg_backend_pid() as pid`
      return [first?.pid, last?.pid]
    })
    await begun.promise
    const statement = retiring.batch`select pg_sleep(0.1)`.then(() => 'done')
    await Bun.sleep(10)
    for (let round = 0; round < 3; round += 1) retiring.retireConnections()
    for (let round = 0; round < 6; round += 1) expect(before.has(await pidOf())).toBeFalse()
    go.resolve()
    const [first, last] = await running
    expect([await statement, first]).toEqual(['done', last])
    // Every connection came back to the pool.
    const { max } = retiring.sizes.batch
    await Promise.all(Array.from({ length: 2 * max }, () => retiring.batch`select pg_sleep(0.02)`))
    retiring.retireConnections()
    expect([...(await retiring.batch`select 1 as one`)]).toEqual([{ one: 1 }])
    await retiring.close(0)
  })

  test('a pool that refuses statements fails those under way and all others at once, and runs later ones on new connections', async () => {
    const cut = createPools({ connection: database.connection, budget: 60 })
    const pidOf = async () => {
      const [row] = await cut.read<{ pid: number }[]>`select pg_backend_pid() as pid`
      return row?.pid
    }
    const before = new Set(await Promise.all([pidOf(), pidOf(), pidOf()]))
    const begun = Promise.withResolvers<void>()
    const transaction = cut.write.begin(async (tx) => {
      await tx`create temp table lost (id int)`
      begun.resolve()
      await tx`select pg_sleep(30)`
    })
    transaction.catch(() => {})
    await begun.promise
    // More than the pool has connections: the others wait for one. The reads would run again on a lost connection.
    const statements = Array.from({ length: 3 * cut.sizes.read.max }, () => cut.read`select pg_sleep(30)`)
    const settled = Promise.all([...statements, transaction].map(errorOf))
    await Bun.sleep(50)
    const { received, underWay } = cut.traffic()
    expect([received > 0, underWay > 0]).toEqual([true, true])
    const refusal = new PostgresNotAnswering()
    cut.refuseStatements(refusal)
    const errors = await Promise.race([settled, Bun.sleep(2_000).then(() => 'never settled')])
    expect(Array.isArray(errors) ? new Set(errors.map(codeOf)) : errors).toEqual(new Set(['database.unavailable']))
    expect(await errorOf(cut.read`select 1`)).toBe(refusal)
    expect(await errorOf(cut.write.begin((tx) => tx`select 1`))).toBe(refusal)
    expect(cut.traffic().underWay).toBe(0)
    cut.admitStatements()
    for (let round = 0; round < 6; round += 1) expect(before.has(await pidOf())).toBeFalse()
    // Every connection came back to the pool, and reads run again on a lost connection.
    const { max } = cut.sizes.read
    await Promise.all(Array.from({ length: 2 * max }, () => cut.read`select pg_sleep(0.02)`))
    expect(cut.traffic().received).toBeGreaterThan(received)
    await cut.close(0)
  })

  test('statements sent to connections that the server is closing run on new ones', async () => {
    const pool = connect(database.connection, { max: 4 })
    const pids = async () =>
      (
        await Promise.all(
          Array.from({ length: 4 }, () => pool<{ pid: number }[]>`select pg_backend_pid() as pid, pg_sleep(0.05)`),
        )
      ).flatMap((rows) => rows.map(({ pid }) => pid))
    for (let round = 0; round < 3; round += 1) {
      const before = await pids()
      expect(new Set(before).size).toBe(4)
      await pools.admin`select pg_terminate_backend(pid) from unnest(${before}::int[]) as pid`
      // The server closes them while this process reads nothing.
      Bun.sleepSync(100)
      const writes = Array.from({ length: 12 }, (_, n) => pool`select ${n}::int as n`)
      const begun = pool.begin(async (tx) => (await tx<{ n: number }[]>`select 12 as n`)[0]?.n)
      expect((await Promise.all(writes)).map(([row]) => row?.['n'])).toEqual(Array.from({ length: 12 }, (_, n) => n))
      expect(await begun).toBe(12)
    }
    await pool.end()
  })

  for (const runtime of ['bun', 'deno'] as const) {
    test(`statements that meet a lost connection settle, and reads run on another, on ${runtime}`, async () => {
      const script = fileURLToPath(new URL('./fixtures/lost-connections.ts', import.meta.url))
      const deno = fileURLToPath(new URL('../../node_modules/deno/deno', import.meta.url))
      const [command, ...args] = runtime === 'bun' ? [process.execPath, script] : [deno, 'run', '-A', script]
      const env = { ...process.env, NO_COLOR: '1', DENO_NO_UPDATE_CHECK: '1' }
      const given = [...args, JSON.stringify(database.connection)]
      const { stdout } = await promisify(execFile)(command as string, given, { env, timeout: 50_000 })
      const { 'writes answered': answered, 'writes failed': failed = 0, ...rest } = JSON.parse(stdout)
      expect(answered + failed).toBe(120)
      expect(rest).toEqual({ 'reads answered': 360, 'writes answered and not made': 0, 'writes made twice': 0 })
    }, 60_000)
  }

  test('a read whose connection closes without an answer is sent twice at most, any other statement once', async () => {
    let sent = 0
    const int32 = (value: number) => Buffer.from([value >> 24, value >> 16, value >> 8, value])
    const greeting = Buffer.concat([Buffer.from('R'), int32(8), int32(0), Buffer.from('Z'), int32(5), Buffer.from('I')])
    const server = createServer((socket) => {
      socket.on('error', () => {})
      socket.once('data', () => {
        socket.write(greeting)
        socket.on('data', () => {
          sent += 1
          socket.end()
        })
      })
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as { port: number }
    const connection = { host: '127.0.0.1', port, user: 'velro', database: 'velro' }
    const pool = connect(connection, { max: 3, repeat_reads: true })
    const plain = connect(connection, { max: 3 })
    const tries = async (statement: PromiseLike<unknown>) => {
      sent = 0
      expect(codeOf(await errorOf(statement))).toBe('database.unavailable')
      return sent
    }
    expect(await tries(pool`select 1`)).toBe(2)
    expect(await tries(pool`with one as (select 1) select * from one`)).toBe(2)
    expect(await tries(pool`update users set role = 'admin'`)).toBe(1)
    expect(await tries(pool`with gone as (delete from users returning id) select id from gone`)).toBe(1)
    expect(await tries(pool.begin((tx) => tx`select 1`))).toBe(1)
    expect(await tries(plain`select 1`)).toBe(1)
    await Promise.all([pool.end({ timeout: 0 }), plain.end({ timeout: 0 })])
    server.close()
  })

  test('a statement that was running when the server closed its connection is not sent again', async () => {
    const pool = connect(database.connection, { max: 1 })
    await pool`create table if not exists runs (n int)`
    const running = errorOf(pool`with run as (insert into runs values (1) returning n) select pg_sleep(20) from run`)
    const pid = async () => {
      const [row] = await pools.admin<{ pid: number }[]>`
        select pid from pg_stat_activity where query like 'with run as%' and state = 'active'`
      return row?.pid
    }
    let found: number | undefined
    while (found === undefined) found = await pid()
    await pools.admin`select pg_terminate_backend(${found}::int)`
    expect(codeOf(await running)).toBe('database.unavailable')
    expect(await pid()).toBeUndefined()
    await pool`drop table runs`
    await pool.end()
  })

  test('a statement that is prepared again sends its JSON as it was', async () => {
    const pool = connect(database.connection, { max: 1 })
    await pool`create table notes (body jsonb)`
    const write = async (body: object) => {
      const [row] = await pool`insert into notes values (${pool.json(body as never)}) returning *`
      return row?.['body']
    }
    expect(await write({ one: 1 })).toEqual({ one: 1 })
    // The plan of the prepared statement is void now, and the driver prepares it again.
    await pool`alter table notes add column more int`
    expect(await write({ two: 2 })).toEqual({ two: 2 })
    await pool`drop table notes`
    await pool.end()
  })

  test('an absent or silent server is database.unavailable', async () => {
    const sockets: Socket[] = []
    const silent = createServer((socket) => void sockets.push(socket))
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
    const { port } = silent.address() as { port: number }
    const mute = connectOnce(`postgres://velro@127.0.0.1:${port}/velro`)
    const connectFails = errorOf(mute`select 1`)
    const absent = connectOnce({ ...database.connection, host: '/nowhere' })
    expect(codeOf(await errorOf(absent`select 1`))).toBe('database.unavailable')
    expect(codeOf(await connectFails)).toBe('database.unavailable')
    await Promise.all([absent.end({ timeout: 0 }), mute.end({ timeout: 0 })])
    for (const socket of sockets) socket.destroy()
    silent.close()
    const refused = connectOnce(`postgres://velro@127.0.0.1:${port}/velro`)
    expect(codeOf(await errorOf(refused`select 1`))).toBe('database.unavailable')
    await refused.end({ timeout: 0 })
  })

  for (const way of ['ends', 'resets'] as const) {
    test(`a connection closed before the server has spoken is a connect failure, at once and for every waiting query (the peer ${way} it)`, async () => {
      let accepted = 0
      // As a proxy does that has no server left.
      const proxy = createServer((socket) => {
        accepted += 1
        socket.on('error', () => {})
        if (way === 'ends') socket.end()
        else socket.resetAndDestroy()
      })
      await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
      const { port } = proxy.address() as { port: number }
      const pool = connect(`postgres://velro@127.0.0.1:${port}/velro`, { max: 2 })
      const all = Promise.all(Array.from({ length: 40 }, () => errorOf(pool`select 1`)))
      const errors = await Promise.race([all, Bun.sleep(2_500).then(() => 'never settled')])
      expect(Array.isArray(errors) ? errors.map(isConnectFailure) : errors).toEqual(Array(40).fill(true))
      expect(accepted).toBeLessThan(10)
      await pool.end({ timeout: 0 })
      proxy.close()
    })
  }

  test('a query fails once each of several hosts has refused the connection', async () => {
    const closed = createServer()
    await new Promise<void>((resolve) => closed.listen(0, '127.0.0.1', resolve))
    const { port } = closed.address() as { port: number }
    await new Promise((resolve) => closed.close(resolve))
    const pool = connect(`postgres://velro@127.0.0.1:${port},localhost:${port}/velro`, { max: 1 })
    const error = await Promise.race([errorOf(pool`select 1`), Bun.sleep(2_500).then(() => 'never settled')])
    expect([codeOf(error), isConnectFailure(error)]).toEqual(['database.unavailable', true])
    await pool.end({ timeout: 0 })
  })

  test('isReachable is true after a connection was terminated and after the pools were closed', async () => {
    const { connection } = database
    const own = createPools({ connection, budget: poolNames.length })
    const error = await errorOf(own.auth`select pg_terminate_backend(pg_backend_pid())`)
    expect([codeOf(error), isConnectFailure(error)]).toEqual(['database.unavailable', false])
    expect(await own.isReachable()).toBe(true)
    await own.close(0)
    expect(await own.isReachable()).toBe(true)
  })

  test('isReachable is false for a server that is absent, silent or hangs up', async () => {
    const silent = createServer(() => {})
    const rude = createServer((socket) => void socket.on('error', () => {}).destroy())
    const urls = await Promise.all(
      [silent, rude].map(async (server) => {
        await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
        return `postgres://velro@127.0.0.1:${(server.address() as { port: number }).port}/velro`
      }),
    )
    const absent = { ...database.connection, host: '/nowhere' }
    const reached = await Promise.all(
      [absent, ...urls].map(async (connection) => {
        const own = createPools({ connection, budget: poolNames.length })
        const can = await own.isReachable()
        await own.close(0)
        return can
      }),
    )
    expect(reached).toEqual([false, false, false])
    silent.close()
    rude.close()
    const refused = connectOnce(absent)
    expect(isConnectFailure(await errorOf(refused`select 1`))).toBe(true)
    await refused.end({ timeout: 0 })
  })

  test('onViolation translates the violation of its constraint and passes on others', async () => {
    const insert = () => pools.write`
      insert into users (id, email, display_name, password_hash)
      values (gen_random_uuid(), 'ada@example.com', 'Ada', 'x')`
    await insert()
    const taken = await errorOf(insert().catch(onViolation('users__email', 'identity.email_taken')))
    expect(taken).toBeInstanceOf(Fault)
    expect(taken).toMatchObject({ code: 'identity.email_taken', cause: { constraint_name: 'users__email' } })
    const other = await errorOf(insert().catch(onViolation('users__plan', 'identity.email_taken')))
    expect(other).toMatchObject({ code: '23505' })
  })

  test('each pool has its size, its statement_timeout and its application_name', async () => {
    expect(pools.sizes).toEqual(sizePools(12))
    const limits: Record<string, unknown> = {}
    for (const name of poolNames) {
      expect(pools[name].options.max).toBe(pools.sizes[name].max)
      const [row] = await pools[name]`
        select current_setting('statement_timeout') as "limit", current_setting('application_name') as name`
      expect(row?.['name']).toBe(`velro:${name}`)
      limits[name] = row?.['limit']
    }
    expect(limits).toEqual({ auth: '2s', read: '5s', write: '5s', analytics: '30s', admin: '10s', batch: '1min' })
  })

  test('a new connection sends no statement of the driver before the first one', async () => {
    const sent: string[] = []
    const pool = connect(database.connection, {
      max: 1,
      debug: (_connection: number, text: string) => void sent.push(text),
    })
    await pool`select 1`
    expect(sent).toEqual(['select 1'])
    await pool.end()
  })

  test('warm opens at least the minimum and at most the maximum of each pool', async () => {
    const cold = createPools({ connection: { ...database.connection }, budget: 60 })
    const open = async () => {
      const rows = await cold.admin<{ name: string; count: number }[]>`
        select application_name as name, count(*)::int from pg_stat_activity
         where datname = current_database() and application_name like 'velro:%' group by 1`
      return new Map(rows.map(({ name, count }) => [name, count]))
    }
    const before = await open()
    await cold.warm()
    const after = await open()
    for (const name of poolNames) {
      // The pools of the other tests are open too; counting opened one admin connection.
      const opened = (after.get(`velro:${name}`) ?? 0) - (before.get(`velro:${name}`) ?? 0) + (name === 'admin' ? 1 : 0)
      expect(opened).toBeGreaterThanOrEqual(cold.sizes[name].min)
      expect(opened).toBeLessThanOrEqual(cold.sizes[name].max)
    }
    expect(cold.sizes.read.min).toBeGreaterThan(1)
    await cold.close(0)
  })

  test('onStatement receives every statement without its parameter values', async () => {
    statements.length = 0
    await pools.read`select ${'a value'}::text as value`
    expect(statements.filter((text) => text.includes('as value')).length).toBe(1)
    expect(statements.join()).not.toContain('a value')
  })
})
