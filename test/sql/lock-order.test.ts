import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createLeaseStore } from '../../src/jobs/lease-store.ts'
import { newId } from '../../src/kit/id.ts'
import { connect, type Sql, type TransactionSql } from '../../src/platform/postgres.ts'
import { createProjectStore } from '../../src/projects/store.ts'
import { createTeamStore } from '../../src/teams/store.ts'
import { until } from '../faults/support.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

let database: TestDatabase
let sql: Sql
beforeAll(async () => {
  database = await createDatabase()
  sql = connect(database.connection, { max: 8 })
})
afterAll(async () => {
  await sql.end({ timeout: 1 })
  await database.drop()
})

const addUser = async () => {
  const id = newId()
  await sql`
    insert into users (id, email, display_name, password_hash) values (${id}, ${`${id}@example.com`}, 'Ada', 'x')`
  return id
}
const addSession = async (userId: string) => {
  const id = newId()
  await sql`
    insert into sessions (id, user_id, user_agent, address, created_at, last_seen_at, idle_expires_at, expires_at)
    values (${id}, ${userId}, '', '', now(), now(), now() + interval '1 day', now() + interval '1 day')`
  return id
}
const addProject = async (ownerId: string) => {
  const id = newId()
  await sql`insert into projects ${sql({ id, owner_id: ownerId, name: 'P', visibility: 'team-only' })}`
  return id
}
const addTeam = async (ownerId: string, ...members: string[]) => {
  const id = newId()
  await sql`insert into teams (id, name) values (${id}, 'T')`
  await sql`insert into team_members (team_id, user_id, role) values (${id}, ${ownerId}, 'owner')`
  for (const member of members) await sql`insert into team_members values (${id}, ${member}, 'editor')`
  return id
}
const grant = (on: Sql | TransactionSql, projectId: string, teamId: string, by: string) => on`
  insert into project_grants (project_id, team_id, access_level, granted_by)
  values (${projectId}, ${teamId}, 'read', ${by})`

/** A transaction that goes on as the test says. `begin` runs the statements, `commit` ends it. */
const transaction = async () => {
  const opened = Promise.withResolvers<TransactionSql>()
  const ended = Promise.withResolvers<void>()
  const result = sql.begin(async (tx) => {
    opened.resolve(tx)
    await ended.promise
  })
  const tx = await opened.promise
  return {
    tx,
    commit: async () => {
      ended.resolve()
      await result
    },
  }
}
/** Resolves when this number of sessions wait for a lock. */
const waiting = (count: number) =>
  until(async () => {
    const [row] = await sql<{ count: number }[]>`
      select count(*)::int from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
    return row?.count === count
  }, `${count} sessions wait for a lock`)

describe('without a deadlock', () => {
  test('a write waits for the new project of a moved generation, while that project is deleted', async () => {
    const owner = await addUser()
    const [session, from, to] = [await addSession(owner), await addProject(owner), await addProject(owner)]
    const generation = newId()
    await sql`
      insert into generations (id, owner_id, model, prompt, project_id) values (${generation}, ${owner}, 'm', 'p', ${from})`
    const [move, write, remove] = [await transaction(), await transaction(), await transaction()]
    await move.tx`update generations set project_id = ${to} where id = ${generation}`
    const locked = write.tx<{ done: boolean }[]>`
      select lock_generation_decision(${owner}, ${session}, '{}', '{}', '{}', ${[generation]}::uuid[], '{}') as done`
    void locked.execute()
    await waiting(1)
    await remove.tx`select from projects where id = ${to} for no key update`
    // The move has locked the access to its new project for share.
    const access = remove.tx`select lock_project_access(${to})`
    void access.execute()
    await waiting(2)
    await move.commit()
    await access
    await waiting(1)
    await createProjectStore(sql, { readableProjects: () => sql`` }).remove(remove.tx, to)
    await remove.commit()
    expect([...(await locked)]).toEqual([{ done: true }])
    await write.commit()
  })

  test('a team is removed while a project that was just granted to it changes', async () => {
    const owner = await addUser()
    const [team, project] = [await addTeam(owner), await addProject(owner)]
    const teams = createTeamStore(sql, sql)
    const [granting, removing, changing] = [await transaction(), await transaction(), await transaction()]
    await grant(granting.tx, project, team, owner)
    const locked = teams.lockForRemoval(removing.tx, team, owner)
    await waiting(1)
    const change = changing.tx`select from projects where id = ${project} for no key update`
    void change.execute()
    await waiting(2)
    await granting.commit()
    // Either may get the project first.
    const finishChange = async () => {
      await change
      await changing.tx`select lock_teams_of_project(${project})`
      await changing.commit()
    }
    const finishRemoval = async () => {
      await locked
      await teams.remove(removing.tx, team)
      await removing.commit()
    }
    await Promise.all([finishChange(), finishRemoval()])
    expect(await sql`select from teams where id = ${team}`).toHaveLength(0)
  })

  test('two teams pass between the same two members, in opposite directions', async () => {
    const [ada, bea] = [await addUser(), await addUser()]
    const [first, second] = [await addTeam(ada, bea), await addTeam(bea, ada)]
    const project = await addProject(ada)
    for (const team of [first, second]) await grant(sql, project, team, ada)
    const teams = createTeamStore(sql, sql)
    const [blocking, one, two] = [await transaction(), await transaction(), await transaction()]
    await blocking.tx`select pg_advisory_xact_lock(hashtextextended(${ada}, user_access_lock_seed()))`
    const transferred = [teams.transfer(one.tx, first, ada, bea), teams.transfer(two.tx, second, bea, ada)]
    await waiting(2)
    await blocking.commit()
    const [toBea, toAda] = transferred.map((transfer, at) => transfer.then([one, two][at]?.commit))
    await Promise.all([toBea, toAda])
    const owners = await sql`
      select team_id, user_id from team_members where role = 'owner' and team_id in (${first}, ${second}) order by team_id`
    expect([...owners]).toEqual([
      { team_id: first, user_id: bea },
      { team_id: second, user_id: ada },
    ])
  })

  test('a job ends while the account of its owner is closed', async () => {
    const owner = await addUser()
    const generation = newId()
    await sql`insert into generations (id, owner_id, model, prompt) values (${generation}, ${owner}, 'm', 'p')`
    const [closing, ending] = [await transaction(), await transaction()]
    await closing.tx`select from users where id = ${owner} for update`
    const worker = createLeaseStore(sql, 'one', { models: ['m'], strandedMs: 60_000 })
    const ended = worker.complete(ending.tx, { generationId: generation, attempt: 1 })
    await waiting(1)
    await closing.tx`select from generations where id = ${generation} for no key update`
    await closing.commit()
    expect(await ended).toBe(false)
    await ending.commit()
  })

  test('a write to a generation of another waits for the closing of its owner before it locks the generation', async () => {
    const [owner, other] = [await addUser(), await addUser()]
    const session = await addSession(other)
    const generation = newId()
    await sql`insert into generations (id, owner_id, model, prompt) values (${generation}, ${owner}, 'm', 'p')`
    const [closing, writing] = [await transaction(), await transaction()]
    await closing.tx`select from users where id = ${owner} for update`
    const locked = writing.tx`
      select lock_generation_decision(${other}, ${session}, '{}', '{}', '{}', ${[generation]}::uuid[], '{}')`
    void locked.execute()
    await waiting(1)
    await closing.tx`select from generations where id = ${generation} for no key update nowait`
    await closing.commit()
    await locked
    await writing.commit()
  })
})
