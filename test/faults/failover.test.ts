import { afterAll, beforeAll, expect, test } from 'bun:test'
import { chmod, mkdtemp } from 'node:fs/promises'
import { createServer, connect as dial, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { factQuery } from '../../src/access/policy/facts/queries.ts'
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/platform/embedded-postgres/embedded-postgres.ts'
import { migrate } from '../../src/platform/migrate.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { startCaches, type TestCaches } from '../access/caches.ts'
import { idOf } from '../access/random.ts'
import { reapCluster, reapFolder } from '../harness/reaper.ts'
import { createDatabase, type TestConnection, type TestDatabase } from '../harness.ts'

const ada = idOf('user', 1)
let first: TestDatabase
let second: EmbeddedPostgres
let onFirst: Sql
let onSecond: Sql
/** Connects to the server that is the primary at that moment, and keeps the connections it has, as HAProxy does. */
let proxy: Server
let primary: TestConnection
let caches: TestCaches

const insertUser = (sql: Sql, status: string) => sql`
  insert into users (id, email, display_name, password_hash, status) values (${ada}, 'ada@example.com', 'a', 'x', ${status})`

beforeAll(async () => {
  first = await createDatabase()
  const { database, port } = first.connection
  const directory = await mkdtemp(join(tmpdir(), 'velro-failover-'))
  await chmod(directory, 0o755)
  reapCluster(directory)
  second = await startEmbeddedPostgres({
    directory,
    settings: { fsync: 'off', max_connections: '60' },
    supervise: false,
  })
  reapFolder(second.connection.host)
  const admin = connectOnce(second.connection)
  await admin`create database ${admin(database)}`
  await admin.end()
  onFirst = connectOnce(first.connection)
  onSecond = connectOnce({ ...second.connection, database })
  await migrate(onSecond)
  await insertUser(onFirst, 'active')
  await insertUser(onSecond, 'suspended')

  primary = first.connection
  const folder = await mkdtemp(join(tmpdir(), 'velro-primary-'))
  reapFolder(folder)
  proxy = createServer((near) => {
    const far = dial(join(primary.host, `.s.PGSQL.${primary.port}`))
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      from.pipe(to)
      from.on('error', () => {})
      from.on('close', () => to.destroy())
    }
  })
  await new Promise<void>((resolve) => proxy.listen(join(folder, `.s.PGSQL.${port}`), resolve))
  caches = await startCaches({ ...first.connection, host: folder })
}, 60_000)
afterAll(async () => {
  await caches?.close()
  proxy?.close()
  await onFirst?.end()
  await onSecond?.end()
  await first?.drop()
  await second?.stop()
})

const readStatus = async () => {
  const view = await caches.facts.gather([factQuery('account', ada)], caches.within())
  return [view.find('account', ada)?.status, view.tier]
}

test('an instance whose bus moves to another primary reads nothing more over its connections to the one before', async () => {
  expect([await readStatus(), await readStatus()]).toEqual([
    ['active', 'l3'],
    ['active', 'l1'],
  ])
  primary = second.connection
  // The bus moves; the pools could go on reading from the first server.
  await onFirst`
    select pg_terminate_backend(pid) from pg_stat_activity
     where application_name like 'velro:bus%' and datname = current_database()`
  await caches.until(
    async () =>
      (await onSecond`select from pg_stat_activity where application_name = 'velro:bus-sender'`).length > 0 &&
      caches.bus.noLeaseReason() === undefined,
  )
  await caches.leasedAnew()
  expect(await readStatus()).toEqual(['suspended', 'l3'])
  await caches.setStatus(ada, 'active')
  expect(await readStatus()).toEqual(['active', 'l3'])
  await caches.setStatus(ada, 'suspended')
  const statusOn = async (sql: Sql) => (await sql<{ status: string }[]>`select status from users`)[0]?.status
  expect([await statusOn(onFirst), await statusOn(onSecond)]).toEqual(['active', 'suspended'])
  const [left] = await onFirst<{ count: number }[]>`
    select count(*)::int from pg_stat_activity
     where application_name like 'velro:%' and application_name <> 'velro:start' and datname = current_database()`
  expect(left?.count).toBe(0)
}, 60_000)
