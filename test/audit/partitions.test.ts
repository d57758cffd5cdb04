import { afterEach, beforeEach, expect, test } from 'bun:test'
import { listAuditKeys } from '../../src/audit/chain-store.ts'
import { type AuditEntry, prepareEvent, taskContext } from '../../src/audit/event.ts'
import { createMaintenance } from '../../src/audit/maintenance.ts'
import { createMaintenanceStore } from '../../src/audit/maintenance-store.ts'
import { insertEvent } from '../../src/audit/store.ts'
import { type Clock, systemClock } from '../../src/kit/clock.ts'
import { createLog } from '../../src/platform/log.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { openDatabase, type TestDatabase } from '../harness.ts'
import { type AuditLog, createAuditLog } from './log.ts'

const dayMs = 86_400_000
const retentionMs = 400 * dayMs

let database: TestDatabase & { sql: Sql }
let sql: Sql
let log: AuditLog
beforeEach(async () => {
  database = await openDatabase()
  sql = database.sql
  log = await createAuditLog(sql)
})
afterEach(() => database.drop())

const maintain = (by: Sql = sql, clock: Clock = systemClock) =>
  createMaintenance({
    store: createMaintenanceStore(by),
    keys: log.keys,
    listKeys: () => listAuditKeys(by),
    retentionMs,
    clock,
    log: createLog('fatal'),
  })()

/** From now on events are recorded this much later or earlier than now: as if the clock of Postgres stood there. */
const moveClock = (interval: string) =>
  sql.unsafe(`alter table audit_events alter column at set default clock_timestamp() + interval '${interval}'`)

const entry = (): AuditEntry => ({
  action: 'audit.chain_restarted',
  actor: 'system',
  target: { type: 'audit', id: null },
  address: '203.0.113.7',
  context: taskContext(log.source, 'a change'),
})

const partitionsOf = async (): Promise<string[]> => {
  const rows = await sql<{ name: string }[]>`
    select inhrelid::regclass::text as name from pg_inherits
     where inhparent = 'audit_events'::regclass and inhrelid <> 'audit_events_default'::regclass order by 1`
  return rows.map(({ name }) => name)
}
const dropPartitions = async (): Promise<void> => {
  for (const name of await partitionsOf())
    for (const table of ['audit_events', 'audit_details', 'audit_links'])
      await sql.unsafe(`drop table ${name.replace('audit_events', table)}`)
}
const countDefault = async () =>
  (await sql<{ count: number }[]>`select count(*)::int as count from audit_events_default`)[0]?.count
const months = (count: number, from = 0) =>
  Array.from({ length: count }, (_, at) => {
    const now = new Date()
    const month = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + from + at))
    return month.toISOString().slice(0, 7).replace('-', '_')
  })
const heads = async () => [
  ...(await sql<{ month: string; dropped: boolean }[]>`
    select to_char(month at time zone 'UTC', 'YYYY_MM') as month, dropped_at is not null as dropped
      from audit_heads h order by h.month`),
]

test('events of a month without a partition move into it when it is created, while changes go on, and the chain stays whole', async () => {
  await dropPartitions()
  await log.write(300)
  expect(await countDefault()).toBe(300)
  const others = [1, 2, 3].map(() => connectOnce(database.connection))
  let isWriting = true
  const writing = (async () => {
    let written = 0
    for (; isWriting; written += 1) await log.add(1)
    return written
  })()
  await Promise.all([maintain(), ...others.map((other) => maintain(other))])
  isWriting = false
  const written = await writing
  await log.link()
  expect(await partitionsOf()).toEqual(months(3).map((month) => `audit_events_${month}`))
  expect(await countDefault()).toBe(0)
  expect(await log.verify()).toMatchObject({ problems: [], verified: 300 + written, pending: 0 })
  for (const other of others) await other.end()
}, 30_000)

test('at the border of a month no event is lost while changes and two instances that link go on', async () => {
  const [now] = await sql<{ left: string }[]>`
    select (date_trunc('month', now() at time zone 'UTC') + interval '1 month' - now() at time zone 'UTC' - interval '400 ms')::text as left`
  await moveClock(now?.left ?? '')
  // A transaction that began before the border, and records its second event after it.
  const slow = connectOnce(database.connection)
  const open = slow.begin(async (tx) => {
    await insertEvent(tx, prepareEvent(entry()))
    await Bun.sleep(700)
    await insertEvent(tx, prepareEvent(entry()))
  })
  const other = log.newChainer()
  let isRunning = true
  const chainers = [log.chainer, other].map(async (chainer) => {
    for (; isRunning; await Bun.sleep(5)) await chainer.poll()
  })
  let written = 2
  const writers = [1, 2].map(async () => {
    for (; isRunning; written += 1) await log.add(1)
  })
  await Bun.sleep(1_000)
  isRunning = false
  await open
  await Promise.all([...chainers, ...writers])
  await slow.end()
  await log.link()
  expect(await log.verify()).toMatchObject({ problems: [], verified: written, pending: 0 })
  expect(await heads()).toEqual(months(2).map((month) => ({ month, dropped: false })))
}, 30_000)

test('months are dropped when their time is over, by two instances at once, and the rest still verifies', async () => {
  for (const interval of ['-480 days', '-440 days', '-380 days', '0 days']) {
    await moveClock(interval)
    await log.write(20)
  }
  const other = connectOnce(database.connection)
  await Promise.all([maintain(), maintain(other)])
  await other.end()
  const found = await heads()
  expect(found.map(({ dropped }) => dropped)).toEqual([true, true, false, false])
  expect(await log.verify()).toMatchObject({ problems: [], verified: 40, pending: 0 })
  // A head of a dropped month that is removed as well is missed by the month after it.
  await sql`delete from audit_heads where to_char(month at time zone 'UTC', 'YYYY_MM') = ${found[1]?.month ?? ''}`
  expect((await log.verify()).problems).toEqual([expect.objectContaining({ problem: 'month_removed' })])
}, 30_000)

test('an instance whose clock is years ahead drops no month', async () => {
  await moveClock('-40 days')
  await log.write(20)
  await moveClock('0 days')
  await log.write(20)
  await maintain(sql, { ...systemClock, now: () => Date.now() + 3_650 * dayMs })
  expect((await heads()).map(({ dropped }) => dropped)).toEqual([false, false])
  expect(await log.verify()).toMatchObject({ problems: [], verified: 40 })
})

test('events of a clock that ran ahead and was set back stay verifiable, and get their partition when their month comes near', async () => {
  await log.write(20)
  await moveClock('100 days')
  await log.write(20)
  await moveClock('0 days')
  await log.write(20)
  expect(await countDefault()).toBe(20)
  await maintain()
  expect(await log.verify()).toMatchObject({ problems: [], verified: 60, pending: 0 })
  await sql`select create_audit_partitions(5)`
  expect(await countDefault()).toBe(0)
  expect(await log.verify()).toMatchObject({ problems: [], verified: 60, pending: 0 })
})

test('a month is dropped while changes go on, of which none fails', async () => {
  await moveClock('-450 days')
  await log.write(20)
  await moveClock('0 days')
  let isRunning = true
  let written = 0
  const writers = [1, 2, 3].map(async () => {
    const own = connectOnce(database.connection)
    for (; isRunning; written += 1) await own.begin((tx) => insertEvent(tx, prepareEvent(entry())))
    await own.end()
  })
  // Where other transactions hold the tables it gives up after 0.3 s, so that changes wait no longer.
  await until(async () => {
    await maintain().catch(() => {})
    return (await heads())[0]?.dropped === true
  }, 'the month is dropped')
  isRunning = false
  await Promise.all(writers)
  await log.link()
  expect(await log.verify()).toMatchObject({ problems: [], verified: written })
}, 30_000)
