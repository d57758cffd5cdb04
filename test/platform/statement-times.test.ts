import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { createDatabase as createPools, type Database, type StatementTimes } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

let server: TestDatabase
let pools: Database
let seen: StatementTimes[] = []

beforeAll(async () => {
  server = await createDatabase()
  // One connection for each pool.
  pools = createPools({ connection: server.connection, budget: 6, onAnswered: (times) => seen.push(times) })
  await pools.warm()
})
afterEach(() => {
  seen = []
})
afterAll(async () => {
  await pools?.close()
  await server?.drop()
})

describe('a statement', () => {
  test('is timed from its turn on a connection to its answer, and its wait apart', async () => {
    seen = []
    await Promise.all([pools.read`select pg_sleep(0.4)`, pools.read`select 1`])
    expect(seen.map(({ pool, failed }) => [pool, failed])).toEqual([
      ['read', false],
      ['read', false],
    ])
    const [slow, next] = seen as [StatementTimes, StatementTimes]
    expect(slow.ms).toBeGreaterThan(390)
    expect(slow.waitMs).toBeLessThan(300)
    expect(next.ms).toBeLessThan(300)
    expect(next.waitMs).toBeGreaterThan(390)
  })

  test('that is refused by a constraint or for its text is answered, not failed', async () => {
    await pools.admin`select 1/0`.catch(() => {})
    await pools.admin`select nothing from nowhere`.catch(() => {})
    expect(seen.map(({ failed }) => failed)).toEqual([false, false])
  })

  test('that is cancelled, or whose connection is lost, has failed', async () => {
    await pools.batch`select pg_cancel_backend(pg_backend_pid())`.catch(() => {})
    await pools.batch`select pg_terminate_backend(pg_backend_pid())`.catch(() => {})
    expect(seen.map(({ failed }) => failed)).toEqual([true, true])
    expect(seen.every(({ ms }) => ms !== undefined)).toBe(true)
  })

  test('of a transaction is timed like any other', async () => {
    await pools.write.begin(async (tx) => {
      await tx`select pg_sleep(0.05)`
    })
    expect(seen.map(({ pool }) => pool)).toEqual(['write', 'write', 'write'])
    expect(seen[1]?.ms).toBeGreaterThan(45)
  })

  test('that a server was never sent, because it refused the connection, has no time', async () => {
    const gone = createPools({
      connection: { host: '127.0.0.1', port: 1, user: 'x', database: 'x' },
      budget: 6,
      onAnswered: (times) => seen.push(times),
    })
    await gone.auth`select 1`.catch(() => {})
    expect(seen).toEqual([{ pool: 'auth', ms: undefined, waitMs: expect.any(Number), failed: true }])
    await gone.close()
  })
})

test('a pool reports its connections, and the statements that wait for one', async () => {
  const slow = pools.read`select pg_sleep(0.2)`.execute()
  const waiting = [pools.read`select 1`.execute(), pools.read`select 2`.execute()]
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(pools.pools().read).toEqual({ max: 1, idle: 0, busy: 1, connecting: 0, waiting: 2 })
  await Promise.all([slow, ...waiting])
  expect(pools.pools().read).toEqual({ max: 1, idle: 1, busy: 0, connecting: 0, waiting: 0 })
})
