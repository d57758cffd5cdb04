import { afterAll, beforeAll, expect, test } from 'bun:test'
import { readDatabaseIdentity } from '../../src/access/invalidation/database-identity-store.ts'
import { readEvent, readSnapshot } from '../../src/access/invalidation/event-store.ts'
import { createPendingInvalidations } from '../../src/access/invalidation/pending-invalidations.ts'
import { factKey } from '../../src/access/policy/facts/registry.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createLog } from '../../src/platform/log.ts'
import { listen, type Notifications } from '../../src/platform/notifications.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

let database: TestDatabase
let writer: Sql
let notifications: Notifications
/** A connection as the bus has it, without fetched types. */
let bus: Sql

beforeAll(async () => {
  database = await createDatabase()
  writer = connectOnce(database.connection)
  bus = await new Promise((resolve) => {
    notifications = listen({
      connection: database.connection,
      senderConnection: database.connection,
      channels: ['velro'],
      identify: async () => undefined,
      onMessage: () => {},
      onOpen: () => resolve(notifications.sender()),
      onLost: () => {},
      onUnreachable: () => {},
      log: createLog('silent'),
    })
  })
})
afterAll(async () => {
  await notifications.close()
  await writer.end()
  await database.drop()
})

const leave = async (keys: string[]): Promise<string> => {
  const [row] = await writer<{ id: string }[]>`insert into access_events (keys) values (${keys}) returning id`
  return row?.id ?? ''
}

test('an event read on the connection of the bus has its keys, and a star means everything', async () => {
  const few = await leave(['grant:a/b', 'project:b'])
  const all = await leave(['*'])
  const events = [
    { id: few, keys: ['grant:a/b', 'project:b'] },
    { id: all, keys: 'everything' },
  ]
  expect(await readSnapshot(bus)).toEqual({
    identity: await readDatabaseIdentity(writer),
    position: 2,
    pendingInvalidations: events as never,
  })
  expect([await readEvent(bus, few), await readEvent(bus, all)]).toEqual(events as never)
})

test('an event of another database with an id that comes again is pending beside the known one', () => {
  const [first, second] = [factKey('project', 'a'), factKey('project', 'b')]
  const pending = createPendingInvalidations(manualClock())
  pending.add({ id: '7', keys: [first] })
  pending.renumber()
  pending.add({ id: '7', keys: [second] })
  expect([pending.size, pending.has(first), pending.has(second)]).toEqual([2, true, true])
  pending.remove(['7'])
  expect([pending.size, pending.has(first), pending.has(second)]).toEqual([1, true, false])
  const [known] = [...pending.list()]
  expect(Number(known?.id)).toBeLessThan(0)
})
