import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { createEffectiveAccessStore } from '../../src/access/cache/effective-access-store.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createUsageRecount } from '../../src/limits/usage-recount.ts'
import { createUsageStore, type UsageDifference } from '../../src/limits/usage-store.ts'
import { connect, type Sql, type TransactionSql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

const accounts = 2_500
const mediaBytes = 1_000
const idOf = (index: number) => `00000000-0000-7000-8000-${String(index).padStart(12, '0')}`
/** In the first slice, a middle one and the last one. */
const people = [idOf(1), idOf(1_500), idOf(accounts)] as const
const [ada, bob, eve] = people

type Line = { event?: string; differences?: UsageDifference[]; found?: number; next_in_ms?: number }

let database: TestDatabase
let sql: Sql
let recount: ReturnType<typeof createUsageRecount>
const lines: Line[] = []
beforeAll(async () => {
  database = await createDatabase()
  sql = connect(database.connection, { max: 6 })
  const write = (fields: object) => void lines.push({ ...fields })
  recount = createUsageRecount({
    store: createUsageStore(sql),
    clock: systemClock,
    log: { debug: write, info: write, warn: write, error: write },
  })
  await sql`
    insert into users (id, email, display_name, password_hash)
    select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, n || '@example.com', 'A user', 'x'
      from generate_series(1, ${accounts}::int) n`
  await sql`
    insert into media_objects (sha256, content_type, bytes, width, height)
    values (${'a'.repeat(64)}, 'image/png', ${mediaBytes}, 1, 1)`
  for (const owner of people) {
    await addMedia(sql, owner)
    await addProject(sql, owner)
    await addProject(sql, owner)
  }
})
beforeEach(() => {
  lines.length = 0
})
afterAll(async () => {
  await sql?.end({ timeout: 1 })
  await database?.drop()
})

const addMedia = (on: Sql | TransactionSql, owner: string) =>
  on`insert into media (id, owner_id, sha256) values (gen_random_uuid(), ${owner}, ${'a'.repeat(64)})`
const addProject = (on: Sql | TransactionSql, owner: string) =>
  on`insert into projects (id, owner_id, name) values (gen_random_uuid(), ${owner}, 'P')`
/** Without triggers, as a restore or an operator may do it. */
const byHand = (work: (tx: TransactionSql) => Promise<unknown>) =>
  sql.begin(async (tx) => {
    await tx`set local session_replication_role = replica`
    await work(tx)
  })
const usageOf = async (owner: string) => {
  const [row] = await sql<{ bytes: number; projects: number }[]>`
    select media_bytes::int as bytes, projects::int as projects from account_usage where user_id = ${owner}`
  return row
}
const makeDue = () => sql`update access_checks set due_at = clock_timestamp() where name = 'account_usage'`

describe('a recount of usage', () => {
  test('corrects counters that were set wrong by hand, of accounts in every slice, and logs them as an error', async () => {
    await byHand((tx) => tx`update account_usage set media_bytes = 7, projects = 9 where user_id = ${ada}`)
    await byHand((tx) => tx`delete from account_usage where user_id = ${bob}`)
    await byHand((tx) => addMedia(tx, eve))
    await byHand((tx) => tx`insert into account_usage (user_id, projects) values (${idOf(77)}, 3)`)
    await recount.run()
    expect(await Promise.all(people.map(usageOf))).toEqual([
      { bytes: mediaBytes, projects: 2 },
      { bytes: mediaBytes, projects: 2 },
      { bytes: 2 * mediaBytes, projects: 2 },
    ])
    expect(await usageOf(idOf(77))).toEqual({ bytes: 0, projects: 0 })
    const held = { held_bytes: mediaBytes, held_projects: 2 }
    expect(lines).toMatchObject([
      {
        event: 'usage.counters_differ',
        found: 4,
        differences: [
          { user_id: ada, media_bytes: 7, projects: 9, ...held },
          { user_id: idOf(77), media_bytes: 0, projects: 3, held_bytes: 0, held_projects: 0 },
          { user_id: bob, media_bytes: 0, projects: 0, ...held },
          { user_id: eve, media_bytes: mediaBytes, projects: 2, held_bytes: 2 * mediaBytes, held_projects: 2 },
        ],
      },
    ])
  })

  test('finds nothing, changes nothing and logs no error where the counters are right', async () => {
    const rows = () => sql`select user_id, xmin::text as version from account_usage order by user_id`
    const before = await rows()
    await recount.run()
    expect(await rows()).toEqual(before)
    expect(lines).toMatchObject([{ event: 'usage.counted' }])
  })

  test('counts concurrent changes: one that is not committed adds to the new figures', async () => {
    await byHand((tx) => tx`update account_usage set media_bytes = 7, projects = 9 where user_id in ${sql([ada, bob])}`)
    const isAdded = Promise.withResolvers<void>()
    const commit = Promise.withResolvers<void>()
    const change = sql.begin(async (tx) => {
      // Ada's counters are locked by this change, which holds them until it commits. Bob's are not yet.
      await addProject(tx, ada)
      isAdded.resolve()
      await commit.promise
      await addMedia(tx, bob)
    })
    await isAdded.promise
    const counting = recount.run()
    const isWaiting = async () =>
      (await sql`select from pg_stat_activity where wait_event_type = 'Lock' and query like '%recount_usage_of%'`)
        .length > 0
    await until(isWaiting, 'the recount waits for the counters')
    commit.resolve()
    await Promise.all([change, counting])
    expect([await usageOf(ada), await usageOf(bob)]).toEqual([
      { bytes: mediaBytes, projects: 3 },
      { bytes: 2 * mediaBytes, projects: 2 },
    ])
  })

  test('runs on one instance when it is due, and again after an hour at the earliest', async () => {
    await makeDue()
    await Promise.all([recount.poll(), recount.poll(), recount.poll()])
    expect(lines).toMatchObject([{ event: 'usage.counted', next_in_ms: 3_600_000 }])
    await recount.poll()
    expect(lines).toHaveLength(1)
    const [row] = await sql<{ pause: number }[]>`
      select round(extract(epoch from due_at - finished_at))::int as pause from access_checks where name = 'account_usage'`
    expect(row).toEqual({ pause: 3_600 })
  })

  test('is due at once where a trigger was disabled by hand and is enabled again', async () => {
    await sql`alter table projects disable trigger usage_by_insert`
    await addProject(sql, eve)
    await createEffectiveAccessStore(sql, 0).enableTrigger({ table: 'projects', name: 'usage_by_insert' })
    await recount.poll()
    expect(lines).toMatchObject([{ event: 'usage.counters_differ', found: 1, differences: [{ user_id: eve }] }])
    expect(await usageOf(eve)).toEqual({ bytes: 2 * mediaBytes, projects: 3 })
  })
})
