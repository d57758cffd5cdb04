import { afterAll, beforeAll, expect, test } from 'bun:test'
import { chmod, mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/platform/embedded-postgres/embedded-postgres.ts'
import { migrate } from '../../src/platform/migrate.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { startCaches, type TestCaches } from '../access/caches.ts'
import { reapCluster, reapFolder } from '../harness/reaper.ts'

let postgres: EmbeddedPostgres
let sql: Sql
let caches: TestCaches

beforeAll(async () => {
  const directory = await mkdtemp(join(tmpdir(), 'velro-standby-'))
  await chmod(directory, 0o755)
  reapCluster(directory)
  postgres = await startEmbeddedPostgres({
    directory,
    settings: { fsync: 'off', max_connections: '60' },
    supervise: false,
  })
  reapFolder(postgres.connection.host)
  sql = connectOnce(postgres.connection)
  await migrate(sql)
  caches = await startCaches(postgres.connection)
}, 60_000)
afterAll(async () => {
  await caches?.close()
  await sql?.end()
  await postgres?.stop()
})

const setStandbys = async (names: string) => {
  await sql.unsafe(`alter system set synchronous_standby_names = '${names}'`)
  await sql`select pg_reload_conf()`
}

test('a primary cut off from its synchronous standby renews no lease, keeps one waiting heartbeat, and recovers', async () => {
  const { bus, until } = caches
  await setStandbys('absent')
  await until(() => bus.noLeaseReason() !== undefined)
  await sql`select pg_sleep(4.5)`
  expect(bus.noLeaseReason()).toBeDefined()
  const waiting = await sql`
    select pid from pg_stat_activity where application_name = 'velro:bus-sender' and wait_event = 'SyncRep'`
  expect(waiting.length).toBe(1)
  await setStandbys('')
  await until(() => bus.noLeaseReason() === undefined)
}, 60_000)
