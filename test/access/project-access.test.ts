import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { createEffectiveAccessCheck } from '../../src/access/cache/effective-access-check.ts'
import { findAccessDifferences, syncAccessRules } from '../../src/access/cache/effective-access-store.ts'
import { connectOnce, type Queryable, type Sql, type TransactionSql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'
import { idOf } from './random.ts'
import { storm } from './storm.ts'

const touchedFacts = async (tx: TransactionSql): Promise<string[]> =>
  (await tx<{ name: string }[]>`select touched_facts() as name`).map(({ name }) => name)

let database: TestDatabase
let sql: Sql
let first: Sql
let second: Sql

beforeAll(async () => {
  database = await createDatabase()
  const open = () => connectOnce(database.connection)
  sql = open()
  first = open()
  second = open()
  await syncAccessRules(sql)
  const people = [ada, bob, cyd].map((id) => ({
    id,
    email: `${id}@example.com`,
    display_name: 'u',
    password_hash: 'x',
  }))
  await sql`insert into users ${sql(people)}`
})
beforeEach(() => beginAgain())
afterAll(async () => {
  await Promise.all([sql, first, second].map((connection) => connection?.end()))
  await database?.drop()
})

const ada = idOf('user', 1)
const bob = idOf('user', 2)
const cyd = idOf('user', 3)
const red = idOf('team', 1)
const blue = idOf('team', 2)
const lab = idOf('project', 1)
const den = idOf('project', 2)

/** As the service adds one: under its locks. */
const addPasskey = async (tx: Queryable, user: string) => {
  await tx`select from users where id = ${user} for update`
  await tx`select lock_teams_of_member(${user}, false)`
  await tx`
    insert into passkeys (id, user_id, credential_id, public_key, counter, transports, backup_eligible, backed_up, name, created_at)
    values (${user}, ${user}, ${user}::text::bytea, 'x'::bytea, 0, '{}', false, false, 'k', now()) on conflict do nothing`
}
const setRequirement = async (tx: Queryable, team: string, required: boolean) => {
  await tx`
    select lock_projects_and_teams(array(select project_id from project_grants where team_id = ${team}), ${[team]}::uuid[])`
  await tx`update teams set requires_second_factor = ${required} where id = ${team}`
}

/**
 * Ada owns everything. Bob is in both teams, Cyd in none; red reads the lab and the den, blue may write in the den, and requires a
 * second factor, which Bob has.
 */
const beginAgain = () =>
  sql.begin((tx) => [
    tx`delete from projects`,
    tx`delete from teams`,
    tx`delete from passkeys`,
    tx`insert into teams ${tx([red, blue].map((id) => ({ id, name: 't' })))}`,
    tx`
      insert into team_members (team_id, user_id, role)
      values (${red}, ${ada}, 'owner'), (${blue}, ${ada}, 'owner'), (${red}, ${bob}, 'editor'), (${blue}, ${bob}, 'viewer')`,
    tx`
      insert into projects (id, owner_id, name, visibility)
      values (${lab}, ${ada}, 'lab', 'team-only'), (${den}, ${ada}, 'den', 'public')`,
    tx`
      insert into project_grants (project_id, team_id, access_level, granted_by)
      values (${lab}, ${red}, 'read', ${ada}), (${den}, ${red}, 'read', ${ada}), (${den}, ${blue}, 'write', ${ada})`,
    tx`update teams set requires_second_factor = true where id = ${blue}`,
    addPasskey(tx, bob),
  ])

type Change = (tx: Queryable) => PromiseLike<unknown>

const changes: Record<string, Change> = {
  'Cyd joins red': (tx) => tx`insert into team_members (team_id, user_id, role) values (${red}, ${cyd}, 'viewer')`,
  'Cyd joins blue': (tx) => tx`insert into team_members (team_id, user_id, role) values (${blue}, ${cyd}, 'admin')`,
  'Bob leaves red': (tx) => tx`delete from team_members where team_id = ${red} and user_id = ${bob}`,
  'Bob rises in red': (tx) => tx`update team_members set role = 'admin' where team_id = ${red} and user_id = ${bob}`,
  'Bob leaves blue': (tx) => tx`delete from team_members where team_id = ${blue} and user_id = ${bob}`,
  'Bob changes from red to blue as Cyd': (tx) => tx`
    update team_members set team_id = ${blue}, user_id = ${cyd} where team_id = ${red} and user_id = ${bob}`,
  'blue is let into the lab': (tx) => tx`
    insert into project_grants (project_id, team_id, access_level, granted_by) values (${lab}, ${blue}, 'admin', ${ada})`,
  'red is put out of the lab': (tx) => tx`delete from project_grants where project_id = ${lab} and team_id = ${red}`,
  'red may write in the lab': (tx) => tx`
    update project_grants set access_level = 'write' where project_id = ${lab} and team_id = ${red}`,
  'the grant of red on the lab becomes one of blue on it': (tx) => tx`
    update project_grants set team_id = ${blue} where project_id = ${lab} and team_id = ${red}`,
  'the grant of blue on the den becomes one on the lab': (tx) => tx`
    update project_grants set project_id = ${lab} where project_id = ${den} and team_id = ${blue}`,
  'the den turns private': (tx) => tx`update projects set visibility = 'private' where id = ${den}`,
  'the lab turns private': (tx) => tx`update projects set visibility = 'private' where id = ${lab}`,
  'the lab is given to Bob': (tx) => tx`update projects set owner_id = ${bob} where id = ${lab}`,
  'the lab is deleted': (tx) => tx`delete from projects where id = ${lab}`,
  'red is deleted': (tx) => tx`delete from teams where id = ${red}`,
  'blue is deleted as the service does it': async (tx) => {
    await tx`
      select from projects where id in (select project_id from project_grants where team_id = ${blue}) order by id
         for no key update`
    await tx`delete from project_grants where team_id = ${blue}`
    await tx`delete from teams where id = ${blue}`
  },
  'Cyd creates a project and grants it to red': async (tx) => {
    await tx`insert into projects (id, owner_id, name, visibility) values (${idOf('project', 4)}, ${cyd}, 'p', 'team-only')`
    await tx`
      insert into project_grants (project_id, team_id, access_level, granted_by)
      values (${idOf('project', 4)}, ${red}, 'admin', ${cyd})`
  },
  'Bob removes the only passkey': (tx) => tx`delete from passkeys where user_id = ${bob}`,
  'Cyd adds a passkey': (tx) => addPasskey(tx, cyd),
  'Ada adds a passkey': (tx) => addPasskey(tx, ada),
  'red requires a second factor': (tx) => setRequirement(tx, red, true),
  'blue does not require a second factor any more': (tx) => setRequirement(tx, blue, false),
  'Cyd creates a project': (tx) => tx`
    insert into projects (id, owner_id, name) values (${idOf('project', 3)}, ${cyd}, 'attic')`,
}

const isWaiting = async (pid: number): Promise<boolean> => {
  const waits = await sql`select from pg_locks where pid = ${pid} and not granted`
  return waits.count > 0
}

/** Starts the second change while the first is uncommitted; then the first commits or rolls back. */
const overlap = async (one: Change, other: Change, end: 'commit' | 'rollback') => {
  const [backend] = await second<{ pid: number }[]>`select pg_backend_pid() as pid`
  const pid = backend?.pid ?? 0
  const tookBack = new Error('taken back')
  let later: Promise<unknown> = Promise.resolve()
  await first
    .begin(async (tx) => {
      await one(tx)
      let settled = false
      later = second
        .begin((on) => other(on))
        .finally(() => {
          settled = true
        })
      later.catch(() => {})
      while (!settled && !(await isWaiting(pid))) await new Promise((resolve) => setTimeout(resolve, 1))
      if (end === 'rollback') throw tookBack
    })
    .catch((error) => {
      if (error !== tookBack) throw error
    })
  // A reference to a deleted row is refused; any other error fails the test.
  await later.catch((error) => {
    if (!['23503', '23505'].includes(error.code)) throw error
  })
}

describe('effective access equals the access derived from the base tables', () => {
  test('after each single change, and the transaction records the keys of the grants it changed', async () => {
    for (const [name, change] of Object.entries(changes)) {
      const rollback = new Error('only looking')
      await sql
        .begin(async (tx) => {
          const rows = () => tx<{ id: string; actions: number }[]>`
            select user_id || '/' || project_id as id, actions from project_access`
          const granted = async () => {
            const listed = await tx<{ id: string; actions: number }[]>`
              select user_id || '/' || project_id as id, actions from project_access where not owned`
            return new Map(listed.map(({ id, actions }) => [id, actions]))
          }
          const before = new Map((await rows()).map(({ id, actions }) => [id, actions]))
          const grantedBefore = await granted()
          await change(tx)
          expect([name, await findAccessDifferences(tx)]).toEqual([name, []])
          const after = new Map((await rows()).map(({ id, actions }) => [id, actions]))
          const changed = [...new Set([...before.keys(), ...after.keys()])].filter(
            (id) => before.get(id) !== after.get(id),
          )
          const named = new Set(await touchedFacts(tx))
          // The owner’s access to a new project: no cache can hold it yet.
          const isNew = name.includes('creates a project')
          const unnamed = isNew ? [] : changed.filter((id) => !named.has(`grant:${id}`))
          expect([name, unnamed]).toEqual([name, []])
          // A grant on a new project: a cache may hold that nothing was granted.
          const grantedAfter = await granted()
          const regranted = [...new Set([...grantedBefore.keys(), ...grantedAfter.keys()])].filter(
            (id) => grantedBefore.get(id) !== grantedAfter.get(id),
          )
          expect([name, regranted.filter((id) => !named.has(`grant:${id}`))]).toEqual([name, []])
          throw rollback
        })
        .catch((error) => {
          if (error !== rollback) throw error
        })
    }
  })

  for (const end of ['commit', 'rollback'] as const) {
    for (const [one, change] of Object.entries(changes)) {
      test(`after each change concurrent with an uncommitted one: ${one} (${end})`, async () => {
        for (const [other, overtaking] of Object.entries(changes)) {
          await beginAgain()
          await overlap(change, overtaking, end)
          expect([one, other, await findAccessDifferences(sql)]).toEqual([one, other, []])
        }
      })
    }
  }
})

test('a change of thousands of rows records every key, and leaves none for the next transaction', async () => {
  await sql`
    insert into projects (id, owner_id, name)
    select gen_random_uuid(), ${ada}, 'p' from generate_series(1, 2000)`
  const [{ known }] = await sql<[{ known: number }]>`select count(*)::integer as known from projects`
  await sql.begin(async (tx) => {
    for (let done = 0; done < 10; done += 1) {
      await tx`
        update projects set owner_id = ${bob}
         where id in (select id from projects where owner_id <> ${bob} limit ${Math.ceil(known / 10)})`
    }
    // For each project: its own key, and the grants of its old and its new owner.
    const touched = new Set(await touchedFacts(tx))
    expect([...touched].filter((name) => name.startsWith('project:')).length).toBeGreaterThanOrEqual(2_000)
    expect([...touched].filter((name) => name.startsWith('grant:')).length).toBeGreaterThanOrEqual(4_000)
    await tx
      .savepoint((part) => part`delete from projects`.then(() => Promise.reject(new Error('undone'))))
      .catch(() => {})
    expect(new Set(await touchedFacts(tx))).toEqual(touched)
  })
  await sql.begin(async (tx) => expect(await touchedFacts(tx)).toEqual([]))
})

test('a wrong effective row of any kind is found by the check and logged as an error', async () => {
  const cried: object[] = []
  const quiet = () => {}
  const log = { debug: quiet, info: quiet, warn: quiet, error: (fields: object) => cried.push(fields) }
  const check = createEffectiveAccessCheck({ findDifferences: () => findAccessDifferences(sql), log })
  await check()
  expect(cried).toEqual([])
  await sql`update project_access set actions = 127 where user_id = ${bob} and project_id = ${lab}`
  await sql`delete from project_access where user_id = ${ada} and project_id = ${lab}`
  // With triggers the row would be skipped.
  await sql.begin(async (tx) => {
    await tx`set local session_replication_role = replica`
    await tx`insert into project_access (user_id, project_id, actions) values (${cyd}, ${den}, 1)`
  })
  await check()
  const [{ event, differences }] = cried as [{ event: string; differences: object[] }]
  expect(event).toBe('access.rows_differ')
  expect(differences).toHaveLength(3)
  expect(differences).toContainEqual({ user_id: bob, project_id: lab, actual: 127, expected: 3 })
  expect(differences).toContainEqual({ user_id: ada, project_id: lab, actual: null, expected: 127 })
  expect(differences).toContainEqual({ user_id: cyd, project_id: den, actual: 1, expected: null })
})

test('a changed matrix is written again and every row recomputed; an unchanged one costs one statement', async () => {
  await sql`update access_rules set actions = 1 where kind = 'role' and name = 'editor'`
  await sql`update project_access set actions = 1 where user_id = ${bob} and project_id = ${lab}`
  expect(await findAccessDifferences(sql)).toEqual([])
  await syncAccessRules(sql)
  const [row] = await sql`select actions from project_access where user_id = ${bob} and project_id = ${lab}`
  expect(row?.['actions']).toBe(3)
  expect(await findAccessDifferences(sql)).toEqual([])
  await Promise.all([first, second, sql].map(syncAccessRules))
})

test('a change at an isolation level other than read committed is refused', async () => {
  const change = sql.begin('isolation level repeatable read', (tx) => changes['Cyd joins red']?.(tx))
  expect(change).rejects.toThrow('read committed')
})

test('during ten thousand random writes by eight concurrent writers no row is ever wrong', async () => {
  const own = await createDatabase()
  try {
    const outcome = await storm({ connection: own.connection, writes: 10_000, writers: 8, seed: Date.now() % 2 ** 31 })
    expect(outcome.deadlocks).toBeGreaterThan(0)
    expect(outcome.rolledBack).toBeGreaterThan(outcome.deadlocks)
    expect(outcome.comparisons).toBeGreaterThan(10)
  } finally {
    await own.drop()
  }
}, 120_000)
