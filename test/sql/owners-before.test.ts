import { afterAll, beforeAll, expect, test } from 'bun:test'
import { cp, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { newId } from '../../src/kit/id.ts'
import { migrate } from '../../src/platform/migrate.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

let database: TestDatabase
let sql: Sql
beforeAll(async () => {
  database = await createDatabase({ migrated: false })
  sql = connectOnce(database.connection)
})
afterAll(async () => {
  await sql.end()
  await database.drop()
})

test('the migration passes teams whose owner was suspended or deleted before, and deletes those without another member', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-sql-'))
  await cp(new URL('../../sql/', import.meta.url), folder, { recursive: true })
  for (const name of await readdir(folder)) if (name >= '000025' && name < '1') await rm(join(folder, name))
  // Functions that need what the removed migrations create.
  const later = ['decision-locks', 'job-turns', 'project-access', 'redis-registry', 'restrictions', 'second-factor']
  for (const name of [...later, 'team-succession']) await rm(join(folder, 'functions', `${name}.sql`))
  await migrate(sql, pathToFileURL(`${folder}/`))
  await rm(folder, { recursive: true })
  const person = async (status = 'active') => {
    const id = newId()
    const kept = status === 'deleted' ? null : 'x'
    await sql`
      insert into users (id, email, display_name, password_hash, status)
      values (${id}, ${kept && `${id}@example.com`}, 'P', ${kept}, ${status})`
    return id
  }
  const teamOf = async (...members: (readonly [string, string])[]) => {
    const id = newId()
    await sql`insert into teams (id, name) values (${id}, 'T')`
    for (const [userId, role] of members)
      await sql`insert into team_members (team_id, user_id, role) values (${id}, ${userId}, ${role})`
    return id
  }
  const [deleted, suspended, active] = [await person('deleted'), await person('suspended'), await person()]
  const left = await teamOf([deleted, 'owner'], [active, 'viewer'])
  const alone = await teamOf([deleted, 'owner'])
  const paused = await teamOf([suspended, 'owner'], [active, 'admin'])
  const kept = await teamOf([suspended, 'owner'])
  await migrate(sql)
  const rows = await sql<{ team_id: string; user_id: string; role: string }[]>`
    select team_id, user_id, role from team_members order by team_id, role`
  expect([...rows]).toEqual([
    { team_id: left, user_id: active, role: 'owner' },
    { team_id: paused, user_id: suspended, role: 'admin' },
    { team_id: paused, user_id: active, role: 'owner' },
    { team_id: kept, user_id: suspended, role: 'owner' },
  ])
  expect(await sql`select from teams where id = ${alone}`).toHaveLength(0)
})
