/**
 * What the count of each quota costs for an account with many rows, and what the counter adds to an upload:
 * `bun test/faults/quota-cost.ts [ROWS]`
 */
import process from 'node:process'
import { systemClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { createQuotaStore } from '../../src/limits/quota-store.ts'
import { createUsageRecount } from '../../src/limits/usage-recount.ts'
import { createUsageStore } from '../../src/limits/usage-store.ts'
import { createLog } from '../../src/platform/log.ts'
import { connect } from '../../src/platform/postgres.ts'
import { reapAll } from '../harness/reaper.ts'
import { createDatabase } from '../harness.ts'

const rounds = 20
const { connection, drop } = await createDatabase()
const sql = connect(connection, { max: 1 })
const store = createQuotaStore(sql)
const owner = newId()
const sha256 = 'a'.repeat(64)
await sql`insert into users (id, email, display_name, password_hash) values (${owner}, 'a@example.com', 'A', 'x')`
await sql`insert into media_objects (sha256, content_type, bytes, width, height) values (${sha256}, 'image/webp', 1000, 1, 1)`

const median = async (work: () => Promise<unknown>) => {
  const took: number[] = []
  for (let round = 0; round < rounds; round += 1) {
    const startedMs = performance.now()
    await work()
    took.push(performance.now() - startedMs)
  }
  return `${took.sort((a, b) => a - b)[rounds / 2]?.toFixed(2)} ms`
}
const measure = async () => {
  const costs: Record<string, string> = {}
  for (const quota of ['projects', 'teams', 'sessions', 'jobs_under_way', 'stored_bytes'] as const)
    costs[quota] = await median(() => sql.begin((tx) => store.lockUsage(tx, owner, [quota])))
  const insert = () => sql`insert into media (id, owner_id, sha256) values (${newId()}, ${owner}, ${sha256})`
  costs['media row with its count'] = await median(insert)
  await sql`alter table media disable trigger usage_by_insert`
  costs['media row without'] = await median(insert)
  await sql`alter table media enable trigger usage_by_insert`
  await sql`select recount_usage()`
  return costs
}

console.log(JSON.stringify({ rows: 0, ...(await measure()) }))
const rows = Number(process.argv[2] ?? 100_000)
await sql`set session_replication_role = replica`
await sql`
  insert into projects (id, owner_id, name) select gen_random_uuid(), ${owner}, 'P' from generate_series(1, ${rows}::int)`
await sql`insert into teams (id, name) select gen_random_uuid(), 'T' from generate_series(1, ${rows}::int)`
await sql`insert into team_members (team_id, user_id, role) select id, ${owner}, 'owner' from teams`
await sql`
  insert into sessions (id, user_id, user_agent, address, created_at, last_seen_at, idle_expires_at, expires_at)
  select gen_random_uuid(), ${owner}, '', '', now(), now(), now() + interval '1 day', now() + interval '1 day'
    from generate_series(1, ${rows}::int)`
await sql`
  insert into media (id, owner_id, sha256) select gen_random_uuid(), ${owner}, ${sha256} from generate_series(1, ${rows}::int)`
await sql`set session_replication_role = origin`
await sql`vacuum analyze`
const startedMs = performance.now()
await sql`select recount_usage()`
console.log(JSON.stringify({ recounted_in_ms: Math.round(performance.now() - startedMs) }))

/**
 * The scheduled recount with a tenth as many other accounts, each with ten media: where all counters are right and where one is
 * wrong.
 */
await sql`
  insert into users (id, email, display_name, password_hash)
  select gen_random_uuid(), n || '@example.com', 'B', 'x' from generate_series(1, ${rows / 10}::int) n`
await sql`
  insert into media (id, owner_id, sha256)
  select gen_random_uuid(), u.id, ${sha256} from users u cross join generate_series(1, 10) n where u.id <> ${owner}`
await sql`vacuum analyze`
const recount = createUsageRecount({
  store: createUsageStore(sql),
  clock: systemClock,
  log: createLog('debug', { write: (line: string) => void console.log(line.trim().slice(0, 300)) }),
})
await recount.run()
await sql`update account_usage set media_bytes = 7 where user_id = ${owner}`
await recount.run()
console.log(JSON.stringify({ rows, ...(await measure()) }))
await sql.end()
await drop()
await reapAll()
process.exit(0)
