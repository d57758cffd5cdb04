/**
 * What the check of effective access costs, and how long it takes to mend: `bun test/faults/access-repair-cost.ts [PROJECTS]`.
 * Each project has an owner and is granted to one of 1,000 teams with nine members: ten rows of access a project.
 */
import process from 'node:process'
import { createAccessRepair } from '../../src/access/cache/effective-access-check.ts'
import { createEffectiveAccessStore, findAccessDifferences } from '../../src/access/cache/effective-access-store.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { countMigrations } from '../../src/platform/migrate.ts'
import { connectOnce } from '../../src/platform/postgres.ts'
import { reapAll } from '../harness/reaper.ts'
import { startApp } from '../harness.ts'

const projects = Number(process.argv[2] ?? 10_000)
const app = await startApp()
const sql = connectOnce(app.connection)
await sql.begin(async (tx) => {
  await tx`set local session_replication_role = replica`
  await tx`
    insert into users (id, email, display_name, password_hash)
    select gen_random_uuid(), i || '@example.com', 'U', 'x' from generate_series(1, 9000) i`
  await tx`insert into teams (id, name) select gen_random_uuid(), 'T' from generate_series(1, 1000)`
  await tx`
    insert into team_members (team_id, user_id, role)
    select t.id, u.id, case (u.n - 1) % 9 when 0 then 'owner' else 'editor' end
      from (select id, row_number() over (order by id) as n from teams) t
      join (select id, row_number() over (order by id) as n from users) u on (u.n - 1) / 9 = t.n - 1`
  await tx`
    insert into projects (id, owner_id, name, visibility)
    select gen_random_uuid(), (select id from users limit 1), 'P', 'team-only' from generate_series(1, ${projects}::int)`
  await tx`
    insert into project_grants (project_id, team_id, access_level, granted_by)
    select p.id, t.id, 'write', p.owner_id
      from (select id, owner_id, row_number() over (order by id) as n from projects) p
      join (select id, row_number() over (order by id) as n from teams) t on t.n = p.n % 1000 + 1`
  await tx`insert into project_access (user_id, project_id, actions, owned) select user_id, project_id, actions, owned from project_access_expected`
})
await sql`analyze`
const repair = createAccessRepair({
  store: createEffectiveAccessStore(sql, await countMigrations()),
  changes: app.services.caches.changes,
  startDeadline: createDeadlines(systemClock),
  clock: systemClock,
  log: {
    debug: (fields) => console.log(JSON.stringify(fields)),
    info: () => {},
    warn: () => {},
    error: (fields) => console.log(JSON.stringify({ ...fields, differences: undefined })),
  },
})
const [rows] = await sql`select count(*)::int as rows from project_access`
console.log(`${projects} projects, ${rows?.['rows']} rows of access`)
for (let round = 0; round < 3; round += 1) await repair.run()
await sql.begin(async (tx) => {
  await tx`set local session_replication_role = replica`
  await tx`delete from team_members where team_id in (select id from teams limit 10) and role = 'editor'`
})
await repair.run()
console.log(`differences afterwards: ${(await findAccessDifferences(sql)).length}`)
await sql.end()
await app.close()
await reapAll()
process.exit(0)
