import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createServer, type Socket } from 'node:net'
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
  poolNames,
  readConnectionBudget,
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

describe('sharing a budget of connections', () => {
  const sum = (budget: number) => poolNames.reduce((total, name) => total + sizePools(budget)[name].max, 0)
  const budgets = fc.integer({ min: poolNames.length, max: 1_000 })

  test('the maxima never add up to more than the budget', () => {
    fc.assert(fc.property(budgets, (budget) => expect(sum(budget)).toBeLessThanOrEqual(budget)))
  })

  test('each pool has at least one, none more than its own maximum, and no minimum is above its maximum', () => {
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

  test('each pool has its share in proportion to its maximum, to within one connection', () => {
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

  test('a larger budget makes no pool smaller', () => {
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

  test('with room for all, the pools are what they were meant to be', () => {
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

describe('the fault behind an error', () => {
  const error = (code: unknown) => Object.assign(new Error('x'), { code })

  test('of a database that cannot be reached is database.unavailable', () => {
    for (const code of [
      ...['08000', '08006', '08P01', '40001', '40P01', '53000', '53100', '53200', '53300', '57P01', '57P02', '57P03'],
      ...['CONNECT_TIMEOUT', 'CONNECTION_CLOSED', 'CONNECTION_DESTROYED', 'CONNECTION_ENDED'],
      ...['ECONNREFUSED', 'ECONNRESET', 'ECONNABORTED', 'EPIPE', 'EHOSTUNREACH', 'ENETUNREACH', 'ETIMEDOUT'],
      ...['ENOTFOUND', 'EAI_AGAIN'],
    ]) {
      expect([code, codeOf(error(code))]).toEqual([code, 'database.unavailable'])
    }
  })

  test('of work that was cut off is request.timeout', () => {
    for (const code of ['57014', '55P03', '25P03'])
      expect([code, codeOf(error(code))]).toEqual([code, 'request.timeout'])
    expect(codeOf(new DeadlinePassed())).toBe('request.timeout')
  })

  test('is none for our own mistakes and for what is not of the database', () => {
    for (const code of ['23505', '42601', '42P01', '22P02', '57000', 'EACCES', 'ERR_X', '', 8, null]) {
      expect([code, codeOf(error(code))]).toEqual([code, undefined])
    }
    for (const other of [undefined, null, 'ECONNREFUSED', 7, new Error('connection closed'), {}]) {
      expect(databaseFault(other)).toBeUndefined()
    }
  })

  test('keeps the error for the log', () => {
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

  test('a statement that the server cuts off is request.timeout', async () => {
    const error = await errorOf(
      pools.read.begin(async (tx) => {
        await tx`set local statement_timeout = 20`
        await tx`select pg_sleep(10)`
      }),
    )
    expect(codeOf(error)).toBe('request.timeout')
  })

  test('a wait for a lock that takes too long is request.timeout', async () => {
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

  test('a statement whose deadline passes is cut off at the server', async () => {
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

  test('a connection that an operator ends is database.unavailable, and the pool is well again', async () => {
    const error = await errorOf(pools.read`select pg_terminate_backend(pg_backend_pid())`)
    expect(codeOf(error)).toBe('database.unavailable')
    expect([...(await pools.read`select 1 as one`)]).toEqual([{ one: 1 }])
  })

  test('a transaction whose connection dies sends nothing more, not even on the connection that takes its place', async () => {
    const pool = connect(database.connection, { max: 1 })
    const refused: unknown[] = []
    const note = (error: unknown) => void refused.push(codeOf(error))
    let next: PromiseLike<unknown> | undefined
    const lost = pool.begin(async (tx) => {
      await tx`select pg_terminate_backend(pg_backend_pid())`.catch(note)
      // Somebody else gets the place; what is said now would be said there.
      next = pool`select pg_sleep(0.2)`.then(() => 'well')
      for (let count = 0; count < 3; count += 1) {
        await Bun.sleep(40)
        await tx`create table out_of_place ()`.catch(note)
      }
    })
    expect(codeOf(await errorOf(lost))).toBe('database.unavailable')
    expect(await next).toBe('well')
    await Bun.sleep(200)
    expect(refused).toEqual(Array(4).fill('database.unavailable'))
    expect([...(await pool`select to_regclass('out_of_place') as found`)]).toEqual([{ found: null }])
    await pool.end()
  })

  test('a server that is not there, or says nothing, is database.unavailable', async () => {
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

  test('a server can be reached whatever happened to the connections it had', async () => {
    const { connection } = database
    const own = createPools({ connection, budget: poolNames.length })
    const error = await errorOf(own.auth`select pg_terminate_backend(pg_backend_pid())`)
    expect([codeOf(error), isConnectFailure(error)]).toEqual(['database.unavailable', false])
    expect(await own.isReachable()).toBe(true)
    await own.close(0)
    expect(await own.isReachable()).toBe(true)
  })

  test('a server that is not there, says nothing or hangs up cannot be reached', async () => {
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

  test('the violation of a named constraint is the fault it stands for, and of another one stays what it is', async () => {
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

  test('each pool has its size and its own limit on statements, and says which it is', async () => {
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

  test('warming opens the minimum of each pool, and no more than the maximum', async () => {
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
      // The pools of the other tests are open too; one of admin was opened by asking.
      const opened = (after.get(`velro:${name}`) ?? 0) - (before.get(`velro:${name}`) ?? 0) + (name === 'admin' ? 1 : 0)
      expect(opened).toBeGreaterThanOrEqual(cold.sizes[name].min)
      expect(opened).toBeLessThanOrEqual(cold.sizes[name].max)
    }
    expect(cold.sizes.read.min).toBeGreaterThan(1)
    await cold.close(0)
  })

  test('every statement is told to who counts them, without the values in it', async () => {
    statements.length = 0
    await pools.read`select ${'a value'}::text as value`
    expect(statements.filter((text) => text.includes('as value')).length).toBe(1)
    expect(statements.join()).not.toContain('a value')
  })

  test('the budget of a process is its share of what the server allows, less what that keeps and four for operators', async () => {
    const [row] = await pools.admin<{ settings: number }[]>`
      select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int as settings`
    const allowed = (row?.settings ?? 0) - 4
    for (const processes of [1, 2, 3, 64]) {
      // Two of each process are not for its pools.
      const budget = await readConnectionBudget(pools.admin, processes)
      expect(budget).toBe(Math.floor(allowed / processes) - 2)
    }
  })
})
