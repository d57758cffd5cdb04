import { findAccessDifferences, syncAccessRules } from '../../src/access/cache/effective-access-store.ts'
import { accessLevels, teamRoles, visibilities } from '../../src/access/policy/matrix.ts'
import { connectOnce, type Sql, type TransactionSql } from '../../src/platform/postgres.ts'
import type { TestConnection } from '../harness.ts'
import { createRandom, idOf, type Random } from './random.ts'

export const range = (length: number) => Array.from({ length }, (_, index) => index)

/** Small enough that any two writers contend for the same rows. */
const size = { users: 12, teams: 5, projects: 6 }

const users = range(size.users).map((number) => idOf('user', number))
const teams = range(size.teams).map((number) => idOf('team', number))
const projects = range(size.projects).map((number) => idOf('project', number))

const givenRoles = teamRoles.filter((role) => role !== 'owner')

type Write = (tx: TransactionSql, random: Random) => PromiseLike<unknown>

/** Every kind of write that changes access, including some that no service makes. */
const writes: readonly (readonly [weight: number, write: Write])[] = [
  [
    8,
    (tx, { pick }) => tx`
      insert into team_members (team_id, user_id, role)
      select id, ${pick(users)}, ${pick(givenRoles)} from teams where id = ${pick(teams)} on conflict do nothing`,
  ],
  [
    5,
    (tx, { pick }) => tx`
      update team_members set role = ${pick(givenRoles)}
       where team_id = ${pick(teams)} and user_id = ${pick(users)} and role <> 'owner'`,
  ],
  [
    5,
    (tx, { pick }) => tx`
      delete from team_members where team_id = ${pick(teams)} and user_id = ${pick(users)} and role <> 'owner'`,
  ],
  [
    1,
    (tx, { pick }) => tx`
      update team_members set team_id = ${pick(teams)}
       where team_id = ${pick(teams)} and user_id = ${pick(users)} and role <> 'owner'
         and not exists (select from team_members where user_id = ${pick(users)})`,
  ],
  [
    5,
    (tx, { pick }) => tx`
      insert into project_grants (project_id, team_id, access_level, granted_by)
      select p.id, t.id, ${pick(accessLevels)}, ${pick(users)} from projects p, teams t
       where p.id = ${pick(projects)} and t.id = ${pick(teams)} on conflict do nothing`,
  ],
  [
    4,
    (tx, { pick }) => tx`
      update project_grants set access_level = ${pick(accessLevels)}
       where project_id = ${pick(projects)} and team_id = ${pick(teams)}`,
  ],
  [
    4,
    (tx, { pick }) => tx`delete from project_grants where project_id = ${pick(projects)} and team_id = ${pick(teams)}`,
  ],
  [5, (tx, { pick }) => tx`update projects set visibility = ${pick(visibilities)} where id = ${pick(projects)}`],
  [3, (tx, { pick }) => tx`update projects set owner_id = ${pick(users)} where id = ${pick(projects)}`],
  [1, (tx, { pick }) => tx`delete from projects where id = ${pick(projects)}`],
  [
    2,
    (tx, { pick }) => tx`
      insert into projects (id, owner_id, name, visibility)
      values (${pick(projects)}, ${pick(users)}, 'p', ${pick(visibilities)}) on conflict do nothing`,
  ],
  [
    2,
    (tx, { pick }) => {
      const user = pick(users)
      return tx`
        insert into passkeys (id, user_id, credential_id, public_key, counter, transports, backup_eligible, backed_up, name, created_at)
        values (${user}, ${user}, ${user}::text::bytea, 'x'::bytea, 0, '{}', false, false, 'k', now()) on conflict do nothing`
    },
  ],
  [2, (tx, { pick }) => tx`delete from passkeys where user_id = ${pick(users)}`],
  [
    2,
    (tx, { pick, chance }) => tx`
      update teams set requires_second_factor = ${chance(0.5)} where id = ${pick(teams)}`,
  ],
  [1, (tx, { pick }) => tx`delete from teams where id = ${pick(teams)}`],
  [
    2,
    (tx, { pick }) => tx`
      with made as (insert into teams (id, name) values (${pick(teams)}, 't') on conflict do nothing returning id)
      insert into team_members (team_id, user_id, role) select id, ${pick(users)}, 'owner' from made`,
  ],
]

const deck = writes.flatMap(([weight, write]) => Array.from({ length: weight }, () => write))

const codeOf = (error: unknown): unknown => (error as { code?: unknown } | null)?.code

/** Errors expected under concurrency: deadlock, serialization failure, foreign key violation, unique violation. */
const expected = ['40P01', '40001', '23503', '23505']

const rolledBack = Symbol('rolled back')

const isSkipped = (error: unknown): boolean => {
  const code = codeOf(error)
  return error === rolledBack || (typeof code === 'string' && expected.includes(code))
}

export type Storm = { writes: number; transactions: number; rolledBack: number; deadlocks: number; comparisons: number }

export type StormOptions = { connection: TestConnection; writes: number; writers: number; seed: number }

/** Initial rows, so that the first writes find rows to change. */
const insertInitialRows = async (sql: Sql) => {
  await sql`
    insert into users ${sql(users.map((id) => ({ id, email: `${id}@example.com`, display_name: 'u', password_hash: 'x' })))}`
  await sql`insert into teams ${sql(teams.map((id) => ({ id, name: 't' })))}`
  await sql`
    insert into team_members ${sql(teams.map((team_id, at) => ({ team_id, user_id: users[at] as string, role: 'owner' })))}`
  await sql`
    insert into projects ${sql(projects.map((id, at) => ({ id, owner_id: users[at] as string, name: 'p', visibility: 'team-only' })))}`
}

/**
 * Writers on separate connections change members, grants, projects and teams at random, in transactions of one to forty
 * writes, some rolled back in part or in whole. A watcher compares snapshots meanwhile: no snapshot may have a row of
 * project_access that differs from the base tables. Throws at the first difference.
 */
export const storm = async ({ connection, writes: total, writers, seed }: StormOptions): Promise<Storm> => {
  const outcome: Storm = { writes: 0, transactions: 0, rolledBack: 0, deadlocks: 0, comparisons: 0 }
  const open = () => connectOnce(connection)
  const watcher = open()
  await syncAccessRules(watcher)
  await insertInitialRows(watcher)
  const compare = async () => {
    outcome.comparisons += 1
    const [difference] = await findAccessDifferences(watcher)
    if (difference !== undefined) {
      throw new Error(`Seed ${seed}, after ${outcome.writes} writes: ${JSON.stringify(difference)}`)
    }
  }

  /** One transaction. The same seed repeats the same writes. */
  const attempt = (sql: Sql, txSeed: number): Promise<unknown> => {
    const random = createRandom(txSeed)
    const length = random.chance(0.02) ? 40 : 1 + random.below(random.chance(0.5) ? 2 : 8)
    return sql.begin(async (tx) => {
      for (let done = 0; done < length; done += 1) {
        outcome.writes += 1
        if (random.chance(0.05)) {
          const inPart = tx.savepoint(async (part) => {
            await random.pick(deck)(part, random)
            throw rolledBack
          })
          await inPart.catch((error) => {
            if (error !== rolledBack) throw error
          })
        }
        await random.pick(deck)(tx, random)
      }
      if (random.chance(0.12)) throw rolledBack
    })
  }

  const write = async (number: number) => {
    const sql = open()
    const random = createRandom(seed + number)
    await sql`set deadlock_timeout = '10ms'`
    try {
      while (outcome.writes < total) {
        const txSeed = random.below(2 ** 31)
        for (let tries = 1; tries <= 3; tries += 1) {
          const error = await attempt(sql, txSeed).then(
            () => undefined,
            (reason) => reason,
          )
          outcome.transactions += 1
          if (error === undefined) break
          if (!isSkipped(error)) throw error
          outcome.rolledBack += 1
          if (codeOf(error) !== '40P01') break
          outcome.deadlocks += 1
        }
      }
    } finally {
      await sql.end()
    }
  }

  let writing = true
  const watch = async () => {
    while (writing) {
      await compare()
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
  const watched = watch()
  try {
    await Promise.race([watched, Promise.all(range(writers).map(write))])
    writing = false
    await watched
    await compare()
  } finally {
    writing = false
    await watcher.end()
  }
  return outcome
}
