import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { findAccessDifferences, syncAccessRules } from '../../src/access/cache/effective-access-store.ts'
import { type Action, actionBit, actions } from '../../src/access/policy/matrix.ts'
import { createAccessFrequencyStore, type SampledPair } from '../../src/access/warm-up/access-frequency-store.ts'
import { createViewStore, type ViewStore, views } from '../../src/access/warm-up/materialized-view-store.ts'
import { createViewRefresh } from '../../src/access/warm-up/materialized-views.ts'
import { connectOnce, type Sql, type TransactionSql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'
import { idOf } from './random.ts'
import { clear, store } from './world.ts'

let database: TestDatabase
let sql: Sql
let other: Sql
let one: ViewStore
let two: ViewStore

const user = (number: number) => idOf('user', number)
const lab = idOf('project', 1)
const den = idOf('project', 2)
const work = idOf('generation', 1)
const people = 8

beforeAll(async () => {
  database = await createDatabase()
  sql = connectOnce(database.connection)
  other = connectOnce(database.connection)
  one = createViewStore(sql)
  two = createViewStore(other)
  await syncAccessRules(sql)
})
afterAll(async () => {
  await sql.end()
  await other.end()
  await database.drop()
})
beforeEach(async () => {
  await sql`truncate access_heat, view_refreshes`
  await sql`refresh materialized view hottest_pairs`
  await clear(sql)
  await store(sql, {
    users: Array.from({ length: people }, (_, number) => ({ id: user(number), status: 'active', role: 'user' })),
    teams: [{ id: idOf('team', 1) }],
    members: (['owner', 'admin', 'editor', 'contributor', 'viewer'] as const).map((role, number) => ({
      team_id: idOf('team', 1),
      user_id: user(number),
      role,
    })),
    projects: [
      { id: lab, owner_id: user(7), visibility: 'team-only', allow_derivatives: true },
      { id: den, owner_id: user(7), visibility: 'private', allow_derivatives: true },
    ],
    grants: [{ project_id: lab, team_id: idOf('team', 1), access_level: 'admin' }],
    generations: [1, 2, 3].map((number) => ({
      id: idOf('generation', number),
      owner_id: user(0),
      project_id: number === 3 ? null : lab,
      completed: false,
    })),
  })
})

const pairOf = (number: number, id: string, hits: number): SampledPair => ({
  userId: user(number),
  type: id.startsWith('00000000-0000-7000-8003') ? 'project' : 'generation',
  id,
  hits,
})

/** A store inside an open transaction. */
const inside = (tx: TransactionSql): ViewStore =>
  createViewStore({ begin: (work: (on: TransactionSql) => unknown) => work(tx) } as unknown as Sql)

const hottest = async (on = sql) =>
  (await on<{ user_id: string; resource_id: string }[]>`select * from hottest_pairs order by heat desc`).map(
    ({ user_id, resource_id }) => `${user_id} ${resource_id}`,
  )

test('every view of a newly migrated database can be refreshed concurrently', async () => {
  for (const view of views) expect([view, await one.refresh(view, 0)]).toEqual([view, true])
})

describe('the hottest pairs', () => {
  test('are of active users and existing resources, hottest first', async () => {
    await createAccessFrequencyStore(sql).add([
      pairOf(0, work, 64),
      pairOf(1, lab, 640),
      pairOf(2, lab, 320),
      pairOf(3, idOf('project', 99), 6_400),
      pairOf(4, idOf('generation', 99), 6_400),
      pairOf(5, lab, 6_400),
      pairOf(99, lab, 6_400),
    ])
    await sql`update users set status = 'suspended' where id = ${user(5)}`
    await one.refresh('hottest_pairs', 0)
    expect(await hottest()).toEqual([`${user(1)} ${lab}`, `${user(2)} ${lab}`, `${user(0)} ${work}`])
  })

  test('are at most 5,000', async () => {
    await sql`
      insert into generations (id, owner_id, model, prompt)
      select gen_random_uuid(), ${user(0)}, 'm', 'p' from generate_series(1, 1000)`
    await sql`
      insert into access_heat (user_id, resource_type, resource_id, hits, last_at)
      select u.id, 'generation', g.id, 64 + row_number() over (), now() from users u, generations g`
    await one.refresh('hottest_pairs', 0)
    const [row] = await sql<{ held: number; coldest: number; all: number }[]>`
      select (select count(*)::int from hottest_pairs) as held, (select min(heat) from hottest_pairs) as coldest,
             (select count(*)::int from access_heat) as all`
    expect(row).toMatchObject({ held: 5_000, all: people * 1_003 })
    expect(row?.coldest).toBeCloseTo(64 + people * 1_003 - 4_999, 0)
  })
})

describe('a refresh of a view', () => {
  test('does not block reads, which see the new contents once it commits', async () => {
    await createAccessFrequencyStore(sql).add([pairOf(1, lab, 640)])
    await sql.begin(async (tx) => {
      await inside(tx).refresh('hottest_pairs', 0)
      // The refresh is not committed yet, so all its locks are held.
      await other`set statement_timeout = 2000`
      expect(await hottest(other)).toEqual([])
    })
    expect(await hottest(other)).toEqual([`${user(1)} ${lab}`])
  })

  test('is done by one instance at a time, and skipped by another meanwhile', async () => {
    await sql.begin(async (tx) => {
      expect(await inside(tx).refresh('hottest_pairs', 0)).toBe(true)
      expect(await two.refresh('hottest_pairs', 0)).toBe(false)
      // The other view has a lock for itself.
      expect(await two.refresh('access_statistics', 0)).toBe(true)
    })
    expect(await two.refresh('hottest_pairs', 0)).toBe(true)
  })

  test('is done once by many instances with the same schedule', async () => {
    const done = await Promise.all([one, two, one, two].map((views) => views.refresh('hottest_pairs', 60_000)))
    expect(done.filter(Boolean)).toHaveLength(1)
    await sql`update view_refreshes set refreshed_at = refreshed_at - interval '61 s'`
    expect(await two.refresh('hottest_pairs', 60_000)).toBe(true)
  })

  test('leaves the view unchanged when it fails, and is due again', async () => {
    await createAccessFrequencyStore(sql).add([pairOf(1, lab, 640)])
    await other.begin(async (tx) => {
      await tx`lock table access_heat in access exclusive mode`
      await sql`set statement_timeout = 100`
      expect(await one.refresh('hottest_pairs', 60_000).catch(({ code }) => code)).toBe('57014')
      await sql`set statement_timeout = 0`
    })
    expect(await hottest()).toEqual([])
    expect(await one.refresh('hottest_pairs', 60_000)).toBe(true)
    expect(await hottest()).toEqual([`${user(1)} ${lab}`])
  })

  test('of the hottest pairs is followed by one purge, by the instance that refreshed', async () => {
    await createAccessFrequencyStore(sql).add([pairOf(1, lab, 640), pairOf(3, idOf('project', 99), 640)])
    let swept = 0
    const purge = async () => {
      swept += 1
      return createAccessFrequencyStore(sql).purge()
    }
    await Promise.all([
      createViewRefresh({ store: one, frequencies: { purge } })(),
      createViewRefresh({ store: two, frequencies: { purge } })(),
    ])
    expect(swept).toBe(1)
    expect((await sql`select from access_heat`).count).toBe(1)
    expect(await hottest()).toEqual([`${user(1)} ${lab}`])
  })
})

describe('the access statistics', () => {
  const statistics = async () => {
    await one.refresh('access_statistics', 0)
    return sql<Record<string, unknown>[]>`select * from access_statistics order by project_id`
  }

  test('count the active users with each action, as project_access has them', async () => {
    await sql`update users set status = 'suspended' where id = ${user(4)}`
    const [ofLab, ofDen] = await statistics()
    for (const action of actions) {
      const [expected] = await sql<{ count: string }[]>`
        select count(*) from project_access a join users u on u.id = a.user_id and u.status = 'active'
         where a.project_id = ${lab} and a.actions & ${actionBit[action]} <> 0`
      expect([action, ofLab?.[`may_${action}`]]).toEqual([action, expected?.count])
    }
    const may = (row: Record<string, unknown> | undefined, action: Action) => Number(row?.[`may_${action}`])
    expect([may(ofLab, 'read'), may(ofLab, 'create'), may(ofLab, 'write'), may(ofLab, 'admin')]).toEqual([5, 5, 4, 3])
    expect([may(ofDen, 'read'), may(ofDen, 'admin')]).toEqual([1, 1])
    expect(await findAccessDifferences(sql)).toEqual([])
  })

  test('count the teams and generations of a project', async () => {
    await sql`update generations set status = 'completed' where id = ${work}`
    const [ofLab, ofDen] = await statistics()
    expect(ofLab).toMatchObject({ visibility: 'team-only', teams: '1', generations: '2', completed: '1' })
    expect(ofDen).toMatchObject({ visibility: 'private', teams: '0', generations: '0', newest_at: null })
  })
})
