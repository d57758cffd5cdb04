import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { factQuery } from '../../src/access/policy/facts/queries.ts'
import type { Log } from '../../src/platform/log.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { pgbouncer, startPgbouncer } from '../harness/pgbouncer.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'
import { startCaches, type TestCaches } from './caches.ts'
import { idOf } from './random.ts'

/** Short leases: each change waits for one wherever an instance cannot acknowledge. */
const timing = { lease: { leaseMs: 200, heartbeatMs: 50 } }
/** `ASKS=500 bun test test/access/bus-setups.test.ts` asks more often. */
const asks = Number(process.env['ASKS'] ?? 24)
const ada = idOf('user', 1)

let database: TestDatabase
let staging: TestDatabase
let sql: Sql

beforeAll(async () => {
  database = await createDatabase()
  staging = await createDatabase()
  sql = connectOnce(database.connection)
  await sql`insert into users (id, email, display_name, password_hash) values (${ada}, 'ada@example.com', 'a', 'x')`
})
afterAll(async () => {
  await sql?.end()
  await database?.drop()
  await staging?.drop()
})

const statusAt = async ({ facts, within }: TestCaches) =>
  (await facts.gather([factQuery('account', ada)], within())).find('account', ada)?.status

/** One instance changes an account, and each of the others is asked right after the change was answered. */
const countWrong = async (instances: readonly TestCaches[]): Promise<number> => {
  let wrong = 0
  for (let asked = 0; asked < asks; ) {
    const writer = instances[asked % instances.length] as TestCaches
    for (const status of ['suspended', 'active'] as const) {
      // Fills memory where it may be used.
      await Promise.all(instances.map(statusAt))
      await writer.setStatus(ada, status)
      for (const seen of await Promise.all(instances.map(statusAt))) {
        asked += 1
        if (seen !== status) wrong += 1
      }
    }
  }
  return wrong
}

type Line = { event?: string; reason?: string; message: string }
const logTo = (lines: Line[]): Log => {
  const take = (fields: object, message: string) => void lines.push({ ...fields, message })
  return { debug: take, info: take, warn: take, error: take }
}

const startThree = async (options: NonNullable<Parameters<typeof startCaches>[3]>, lines: Line[] = []) => {
  const start = () =>
    startCaches(database.connection, undefined, timing, { log: logTo(lines), withLease: false, ...options })
  const instances = [await start(), await start(), await start()]
  return {
    instances,
    reasons: () => instances.map(({ bus }) => bus.noLeaseReason()),
    close: () => Promise.all(instances.map(({ close }) => close())),
  }
}

describe('three instances', () => {
  test.skipIf(pgbouncer === undefined)(
    'whose bus listens through PgBouncer hold no lease, say so once, and are never wrong',
    async () => {
      const lines: Line[] = []
      const pooler = await startPgbouncer(database.connection, { settings: { default_pool_size: '3' } })
      const three = await startThree({ busConnection: pooler.url(), changesConnection: pooler.url() }, lines)
      await three.instances[0]?.until(() => three.reasons().every((reason) => reason === 'pooler'))
      expect(await countWrong(three.instances)).toBe(0)
      expect(three.reasons()).toEqual(['pooler', 'pooler', 'pooler'])
      const told = lines.filter(({ event }) => event === 'bus.no_lease')
      expect(told.map(({ reason }) => reason)).toEqual(['pooler', 'pooler', 'pooler'])
      expect(told[0]?.message).toContain('DATABASE_BUS_URL')
      await three.close()
      await pooler.stop()
    },
    120_000,
  )

  test.skipIf(pgbouncer === undefined)(
    'whose bus sends through PgBouncer and listens directly hold their leases and are never wrong',
    async () => {
      const pooler = await startPgbouncer(database.connection, { settings: { default_pool_size: '1' } })
      const three = await startThree({ changesConnection: pooler.url() })
      for (const { leased } of three.instances) await leased()
      expect(await countWrong(three.instances)).toBe(0)
      const knowEachOther = () => three.instances.every(({ bus }) => bus.members().length === 2)
      await until(knowEachOther, 'each instance knows the two others')
      await three.close()
      await pooler.stop()
    },
    120_000,
  )

  test('whose bus listens to another database hold no lease, say so once, and are never wrong', async () => {
    const lines: Line[] = []
    const three = await startThree({ busConnection: staging.connection }, lines)
    await three.instances[0]?.until(() => three.reasons().every((reason) => reason === 'other_database'))
    expect(await countWrong(three.instances)).toBe(0)
    const told = lines.filter(({ event }) => event === 'bus.no_lease')
    expect(told.map(({ reason }) => reason)).toEqual(['other_database', 'other_database', 'other_database'])
    expect(told[0]?.message).toContain('DATABASE_BUS_URL')
    await three.close()
  }, 120_000)

  test('of which one listens to another database are never wrong', async () => {
    const right = [
      await startCaches(database.connection, undefined, timing),
      await startCaches(database.connection, undefined, timing),
    ]
    const wrong = await startCaches(database.connection, undefined, timing, {
      busConnection: staging.connection,
      withLease: false,
    })
    await wrong.until(() => wrong.bus.noLeaseReason() === 'other_database')
    expect(await countWrong([...right, wrong])).toBe(0)
    await Promise.all([...right, wrong].map(({ close }) => close()))
  }, 120_000)

  test('whose bus and changes are all on another database than their pools commit nothing: bus.mismatch', async () => {
    const three = await startThree({
      busConnection: staging.connection,
      changesConnection: staging.connection,
    })
    for (const { leased } of three.instances) await leased()
    for (const { setStatus } of three.instances) {
      const error = await setStatus(ada, 'suspended').catch((error) => error)
      expect([error.code, error.status]).toEqual(['bus.mismatch', 503])
    }
    expect([...(await sql`select status from users`)]).toEqual([{ status: 'active' }])
    await three.close()
  }, 60_000)
})

test('an instance that lost an event holds no lease until its memory is empty', async () => {
  const [one, other] = [
    await startCaches(database.connection, undefined, timing),
    await startCaches(database.connection, undefined, timing),
  ]
  await statusAt(other)
  expect(other.memory.size).toBe(1)
  // The position of an event without a notification.
  await sql`update event_positions set position = position + 1`
  await other.until(() => one.bus.counts.gaps === 1 && other.bus.counts.gaps === 1)
  expect(other.memory.size).toBe(0)
  await Promise.all([one.leased(), other.leased()])
  expect(await countWrong([one, other])).toBe(0)
  await Promise.all([one.close(), other.close()])
}, 60_000)
