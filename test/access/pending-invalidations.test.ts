import { afterAll, beforeAll, expect, test } from 'bun:test'
import { readEvent, readPendingEvents } from '../../src/access/invalidation/event-store.ts'
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
      channels: ['velro'],
      onMessage: () => {},
      onOpen: resolve,
      onLost: () => {},
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
  expect(await readPendingEvents(bus)).toEqual(events as never)
  expect([await readEvent(bus, few), await readEvent(bus, all)]).toEqual(events as never)
})
