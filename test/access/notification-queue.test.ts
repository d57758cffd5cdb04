import { afterAll, beforeAll, expect, test } from 'bun:test'
import { createNotificationQueue } from '../../src/access/invalidation/notification-queue.ts'
import { createNotificationQueueStore } from '../../src/access/invalidation/notification-queue-store.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { type PostgresServer, startPostgres } from '../harness/postgres-server.ts'

let postgres: PostgresServer
let sql: Sql

beforeAll(async () => {
  // The smallest queue: half a megabyte.
  postgres = await startPostgres({ settings: { max_notify_queue_pages: '64' } })
  sql = connectOnce(postgres.connection)
})
afterAll(async () => {
  await sql?.end()
  await postgres?.stop()
})

test('a listener that is idle in a transaction raises an alarm long before the queue is full, which ends with the transaction', async () => {
  const alarms: number[] = []
  const lines: Record<string, unknown>[] = []
  const write = (fields: object) => void lines.push(fields as Record<string, unknown>)
  const queue = createNotificationQueue({
    store: createNotificationQueueStore(sql),
    log: { error: write, info: write },
    onFilling: (usage) => void alarms.push(usage),
  })
  await queue.measure()
  expect([queue.usage, queue.isFilling]).toEqual([0, false])

  const other = connectOnce(postgres.connection)
  await other`set application_name = 'a forgotten session'`
  await other`listen anything`
  const begun = Promise.withResolvers<void>()
  const held = Promise.withResolvers<void>()
  const idle = other.begin(async (tx) => {
    await tx`select 1`
    begun.resolve()
    await held.promise
  })
  await begun.promise
  const notify = async (count: number) => {
    for (let sent = 0; sent < count; sent += 1) await sql`select pg_notify('anything', ${'x'.repeat(7_900)})`
  }
  await notify(2)
  await queue.measure()
  expect([queue.usage, queue.isFilling]).toEqual([expect.any(Number), false])
  expect(queue.usage).toBeGreaterThan(0)
  // Until the transaction counts as long.
  const store = createNotificationQueueStore(sql)
  await until(async () => (await store.listOpenTransactions()).length > 0, 'the transaction is listed')
  await notify(8)
  await queue.measure()
  await queue.measure()
  expect(queue.isFilling).toBeTrue()
  expect(queue.usage).toBeLessThan(0.5)
  expect(lines).toEqual([
    {
      event: 'bus.queue_filling',
      usage: expect.any(Number),
      open_transactions: [{ pid: expect.any(Number), application: 'a forgotten session', seconds: expect.any(Number) }],
    },
  ])
  expect(alarms.length).toBe(1)
  held.resolve()
  await idle
  await other.end()
  await until(async () => {
    // A notification has Postgres free what every listener has read.
    await notify(1)
    await queue.measure()
    return !queue.isFilling
  }, 'the queue is read')
  expect(lines.map(({ event }) => event)).toEqual(['bus.queue_filling', 'bus.queue_drained'])
}, 60_000)
