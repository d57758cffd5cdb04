import { afterAll, beforeAll, expect, test } from 'bun:test'
import { createChanges } from '../../src/access/invalidation/committed-change.ts'
import { readDatabaseIdentity } from '../../src/access/invalidation/database-identity-store.ts'
import { type Clock, manualClock, systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { connectOnce, type Queryable, type Sql, type TransactionSql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'
import { idOf } from './random.ts'

const startDeadline = createDeadlines(systemClock)

let database: TestDatabase
let sql: Sql

beforeAll(async () => {
  database = await createDatabase()
  sql = connectOnce(database.connection)
  await sql`insert into users (id, email, display_name, password_hash) values (${ada}, 'ada@example.com', 'a', 'x')`
})
afterAll(async () => {
  await sql?.end()
  await database?.drop()
})

const ada = idOf('user', 1)
const suspend = (tx: Queryable) => tx`update users set status = 'suspended' where id = ${ada} and status = 'active'`

/** Changes whose acknowledgements arrive when the test says so. */
const withheld = ({
  busIdentity,
  on = sql,
  clock = systemClock,
}: {
  busIdentity?: string
  on?: Sql
  clock?: Clock
} = {}) => {
  const announced: { id: string; hear: () => void }[] = []
  const changes = createChanges({
    sql: on,
    clock,
    facts: { invalidate: () => {} },
    bus: {
      instance: 'me',
      databaseIdentity: () => busIdentity,
      registerCommit: (id) => {
        const { promise, resolve } = Promise.withResolvers<void>()
        announced.push({ id, hear: resolve })
        return { acknowledgedByAll: () => promise, abandon: () => {} }
      },
    },
    sendEvents: async () => {},
    onCommitted: () => {},
  })
  const run = (work: (tx: Queryable) => Promise<unknown>, options?: { grantsOnly: true }) => {
    let answered = false
    const done = changes
      .commitAndInvalidate(startDeadline(10_000), (tx) => work(tx), options)
      .then(() => {
        answered = true
      })
    return { done, isAnswered: () => answered }
  }
  return { announced, run }
}

const until = async (isSo: () => boolean) => {
  while (!isSo()) await Bun.sleep(2)
}

test('a change that was committed by another writer just before waits for acknowledgements too', async () => {
  const { announced, run } = withheld()
  const first = run(suspend)
  await until(() => announced.length === 1)
  const second = run(suspend)
  await until(() => announced.length === 2)
  await Bun.sleep(20)
  expect([first.isAnswered(), second.isAnswered()]).toEqual([false, false])
  for (const { hear } of announced) hear()
  await Promise.all([first.done, second.done])
})

test('a change that only grants and invalidates no fact does not wait', async () => {
  const { announced, run } = withheld()
  await run((tx) => tx`insert into projects (id, owner_id, name) values (${idOf('project', 1)}, ${ada}, 'p')`, {
    grantsOnly: true,
  }).done
  expect(announced).toEqual([])
})

test('a change on the database of the bus is committed', async () => {
  const { announced, run } = withheld({ busIdentity: await readDatabaseIdentity(sql) })
  const { done } = run((tx) => tx`update users set plan = 'pro' where id = ${ada}`)
  await until(() => announced.length === 1)
  announced[0]?.hear()
  await done
  expect([...(await sql`select plan from users`)]).toEqual([{ plan: 'pro' }])
})

test('a change on another database than that of the bus is rolled back: bus.mismatch', async () => {
  const { announced, run } = withheld({ busIdentity: '1-2-3-4' })
  const error = await run((tx) => tx`update users set plan = 'free' where id = ${ada}`).done.catch((error) => error)
  expect([error.code, error.status]).toEqual(['bus.mismatch', 503])
  expect([...(await sql`select plan from users`)]).toEqual([{ plan: 'pro' }])
  expect(announced).toEqual([])
})

test('a change is rolled back while another commit of the instance has not ended for 1.5 s', async () => {
  const clock = manualClock()
  const { promise: commit, resolve: endCommit } = Promise.withResolvers<void>()
  let began = 0
  const own = connectOnce(database.connection)
  const { begin } = own
  const stuck = Object.assign(own, {
    begin: async <T>(work: (tx: TransactionSql) => Promise<T>) => {
      const result = await begin(work)
      began += 1
      if (began === 1) await commit
      return result
    },
  })
  const { run } = withheld({ on: stuck, clock })
  const change = () => run(async () => {}, { grantsOnly: true }).done
  const first = change()
  await until(() => began === 1)
  clock.advance(1_500)
  await change()
  clock.advance(1)
  const refused = await change().catch((error) => error)
  expect([refused.code, refused.status, began]).toEqual(['request.timeout', 503, 2])
  endCommit()
  await first
  await change()
  expect(began).toBe(3)
  await own.end()
})
