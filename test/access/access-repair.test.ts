import { afterAll, beforeAll, describe, expect, spyOn, test } from 'bun:test'
import { accessCheckPollMs, createAccessRepair, pauseAfter } from '../../src/access/cache/effective-access-check.ts'
import { createEffectiveAccessStore, findAccessDifferences } from '../../src/access/cache/effective-access-store.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { newId } from '../../src/kit/id.ts'
import { countMigrations } from '../../src/platform/migrate.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { api, type Person, startApp, type TestApp } from '../harness.ts'
import { startTeamFixture, type TeamFixture } from '../teams/fixture.ts'

type Line = { event?: string } & Record<string, unknown>

let fixture: TeamFixture
let other: TestApp
let sql: Sql
let owner: Person
let member: Person
let team: string
let project: string
let repair: ReturnType<typeof createAccessRepair>
const lines: Line[] = []

beforeAll(async () => {
  // The tests run the check: instances that poll would mend before a test has looked.
  const start = globalThis.setInterval
  const intervals = spyOn(globalThis, 'setInterval')
  intervals.mockImplementation(((call: () => void, ms: number) =>
    ms === accessCheckPollMs ? undefined : start(call, ms)) as never)
  fixture = await startTeamFixture()
  other = await startApp({ connection: fixture.connection })
  intervals.mockRestore()
  sql = connectOnce(fixture.connection)
  owner = await fixture.person()
  member = await fixture.person()
  const quiet = () => {}
  repair = createAccessRepair({
    store: createEffectiveAccessStore(sql, await countMigrations()),
    changes: fixture.services.caches.changes,
    startDeadline: createDeadlines(systemClock),
    clock: systemClock,
    log: { debug: quiet, info: quiet, warn: quiet, error: (fields) => void lines.push({ ...fields }) },
  })
})
afterAll(async () => {
  await sql.end()
  await other.close()
  await fixture.close()
})

const mayOn = async ({ baseUrl }: TestApp, person: Person) => {
  const question = { action: 'read', resource: { type: 'project', id: project } }
  const { body } = await api(baseUrl).post('/api/v1/authorization/check', question, { token: person.token })
  return body.allowed
}

/** A member whose access every instance has cached. */
const share = async () => {
  team = await fixture.createTeam(owner, [[member, 'editor']])
  project = await fixture.shareProject(owner, team, 'read')
  for (const app of [fixture, other]) expect(await mayOn(app, member)).toBe(true)
  lines.length = 0
}

/** What an operator can do by hand so that no trigger takes the access away. */
const byHand: Record<string, () => Promise<unknown>> = {
  'with session_replication_role = replica': () =>
    sql.begin(async (tx) => {
      await tx`set local session_replication_role = replica`
      await tx`delete from team_members where team_id = ${team} and user_id = ${member.id}`
    }),
  'with a disabled trigger': () =>
    sql.begin(async (tx) => {
      await tx`alter table team_members disable trigger all`
      await tx`delete from team_members where team_id = ${team} and user_id = ${member.id}`
    }),
  'in project_access itself': () =>
    sql.begin(async (tx) => {
      await tx`set local session_replication_role = replica`
      await tx`delete from project_grants where project_id = ${project}`
      await tx`update project_access set actions = 127 where user_id = ${member.id} and project_id = ${project}`
    }),
}

describe('access taken away by hand', () => {
  for (const [how, takeAway] of Object.entries(byHand)) {
    test(`${how} is gone on every instance when the check has run, and is logged with its cost`, async () => {
      await share()
      await takeAway()
      expect(await mayOn(fixture, member)).toBe(true)
      await repair.run()
      for (const app of [fixture, other]) expect(await mayOn(app, member)).toBe(false)
      expect(await findAccessDifferences(sql)).toEqual([])
      const line = lines.find(({ event }) => event === 'access.rows_differ')
      expect(line).toMatchObject({ found: 1, differences: [{ user_id: member.id, project_id: project }] })
      expect(line?.['took_ms']).toBeNumber()
      const disabled = await sql`select from pg_trigger where not tgisinternal and tgenabled <> 'O'`
      expect(disabled).toHaveLength(0)
    })
  }

  test('of another fact, by a suspension without triggers, is gone too when the check finds a difference', async () => {
    await share()
    await sql.begin(async (tx) => {
      await tx`set local session_replication_role = replica`
      await tx`update users set status = 'suspended' where id = ${member.id}`
      await tx`delete from team_members where team_id = ${team} and user_id = ${member.id}`
    })
    await repair.run()
    const { status } = await api(other.baseUrl).get('/api/v1/auth/me', { token: member.token })
    expect(status).toBe(401)
    await sql`update users set status = 'active' where id = ${member.id}`
    await fixture.caughtUp()
  })
})

describe('a trigger disabled by hand', () => {
  const disabled = async () => [
    ...(await sql<{ name: string }[]>`
      select tgname as name from pg_trigger where not tgisinternal and tgenabled <> 'O' order by 1`),
  ]

  test('is enabled by the next poll though no check is due, and what was revoked meanwhile is gone everywhere', async () => {
    await share()
    await sql`update access_checks set due_at = clock_timestamp() + interval '1 hour'`
    await sql`alter table team_members disable trigger user`
    const { status } = await api(fixture.baseUrl).delete(`/api/v1/teams/${team}/members/${member.id}`, {
      token: owner.token,
    })
    expect(status).toBe(204)
    expect(await mayOn(other, member)).toBe(true)
    await repair.poll()
    for (const app of [fixture, other]) expect(await mayOn(app, member)).toBe(false)
    expect(await disabled()).toEqual([])
    expect(lines.map(({ event }) => event)).toEqual(['access.triggers_disabled', 'access.rows_differ'])
    lines.length = 0
    await sql`update access_checks set due_at = clock_timestamp() + interval '1 hour'`
    await repair.poll()
    expect(lines).toEqual([])
    expect(accessCheckPollMs).toBeLessThan(30_000)
  })

  test('that this role may not enable is logged by each check that is due, and by no other poll', async () => {
    const store = createEffectiveAccessStore(sql, await countMigrations())
    const errors: Line[] = []
    const quiet = () => {}
    const { poll } = createAccessRepair({
      store: { ...store, enableTrigger: () => Promise.reject(new Error('must be owner of table projects')) },
      changes: fixture.services.caches.changes,
      startDeadline: createDeadlines(systemClock),
      clock: systemClock,
      log: { debug: quiet, info: quiet, warn: quiet, error: (fields) => void errors.push({ ...fields }) },
    })
    await sql`alter table projects disable trigger touched_by_delete`
    await sql`update access_checks set due_at = clock_timestamp()`
    for (let polls = 0; polls < 3; polls += 1) await poll()
    expect(errors.map(({ event }) => event)).toEqual(['access.trigger_not_enabled'])
    await repair.poll()
    expect(await disabled()).toEqual([])
  })
})

test('more rights in access_rules by hand are taken back, and so are the rows made from them', async () => {
  await share()
  await sql`update access_rules set actions = 127 where kind = 'role' or kind = 'access_level'`
  await sql`update team_members set role = 'viewer' where team_id = ${team} and user_id = ${member.id}`
  await fixture.caughtUp()
  const mayDelete = () => fixture.isAllowed(member, 'delete', project)
  expect(await mayDelete()).toBe(true)
  await repair.run()
  expect(await mayDelete()).toBe(false)
  expect(lines.map(({ event }) => event)).toContain('access.rules_differ')
  lines.length = 0
  await repair.run()
  expect(lines).toEqual([])
})

test('of many instances one runs the check when it is due, and the next is due after 30 s to an hour', async () => {
  await sql`update access_checks set due_at = clock_timestamp(), finished_at = null`
  const store = createEffectiveAccessStore(sql, await countMigrations())
  const claims = await Promise.all(Array.from({ length: 10 }, () => store.claim()))
  expect(claims.filter(Boolean)).toHaveLength(1)
  await repair.run()
  const [row] = await sql`
    select extract(epoch from due_at - finished_at)::int as pause from access_checks where name = 'effective_access'`
  expect(row?.['pause']).toBe(30)
  expect([1_500, 10_000, 600_000].map(pauseAfter)).toEqual([30_000, 200_000, 3_600_000])
  // So a change by hand is mended within a minute where a check takes up to 1.5 s, as with 10,000 projects.
  expect(30_000 + accessCheckPollMs + 3_000).toBeLessThan(60_000)
})

test('differences in several slices of projects are all found, and rows of projects that do not exist', async () => {
  await share()
  await sql.begin(async (tx) => {
    await tx`set local session_replication_role = replica`
    await tx`
      insert into projects (id, owner_id, name)
      select gen_random_uuid(), ${owner.id}, 'P' from generate_series(1, 5200)`
    await tx`insert into project_access (user_id, project_id, actions) values (${owner.id}, gen_random_uuid(), 127)`
  })
  await repair.run()
  expect(await findAccessDifferences(sql)).toEqual([])
  expect(lines.find(({ event }) => event === 'access.rows_differ')?.['found']).toBe(5_201)
})

test('generations in public projects, changed by hand, are listed as the base tables say when the check has run', async () => {
  const isListed = async (id: string) => {
    const path = '/api/v1/authorization/accessible?type=generation&action=read&limit=100'
    const { body } = await api(fixture.baseUrl).get(path, { token: member.token })
    return body.items.some((item: { id: string }) => item.id === id)
  }
  const [opened, closed, moved, other] = Array.from({ length: 4 }, () => newId())
  const projects = Array.from({ length: 2 }, () => newId())
  const [shown, hidden] = projects as [string, string]
  await sql`
    insert into projects (id, owner_id, name, visibility)
    values (${shown}, ${owner.id}, 'P', 'private'), (${hidden}, ${owner.id}, 'P', 'public')`
  for (const id of [opened, closed, moved, other] as string[]) {
    await sql`
      insert into generations (id, owner_id, project_id, model, prompt)
      values (${id}, ${owner.id}, ${id === opened ? shown : hidden}, 'm', 'p')`
  }
  await fixture.caughtUp()
  expect([await isListed(opened as string), await isListed(closed as string)]).toEqual([false, true])
  await sql.begin(async (tx) => {
    await tx`set local session_replication_role = replica`
    await tx`update generations set project_id = null where id = ${moved as string}`
    await tx`update projects set visibility = 'public' where id = ${shown}`
    await tx`update projects set visibility = 'private' where id = ${hidden}`
  })
  // What is hidden is so at once: a list looks at the project.
  for (const id of [closed, moved, other] as string[]) expect(await isListed(id)).toBe(false)
  lines.length = 0
  await repair.run()
  expect(await isListed(opened as string)).toBe(true)
  expect(lines.find(({ event }) => event === 'access.lists_differ')?.['found']).toBe(4)
  lines.length = 0
  await repair.run()
  expect(lines).toEqual([])
})
