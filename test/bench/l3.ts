/**
 * `bun test/bench/l3.ts`: what a decision costs that comes from Postgres, at a million generations, a hundred thousand
 * users and ten thousand teams, against a hundredth of each; and what the lists cost there.
 *
 * Both databases stand on one cluster, everything is asked of both in turn, and the first rounds do not count. Ends with 1
 * where a decision takes 1.3 times as long in the large one.
 */
import { createAccess } from '../../src/access/access.ts'
import { createFactCache } from '../../src/access/facts.ts'
import { createListing } from '../../src/access/listing.ts'
import { createListingStore } from '../../src/access/listing-store.ts'
import { actions } from '../../src/access/model.ts'
import { createFactStore, findAccessDifferences, syncAccessRules } from '../../src/access/store.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadline } from '../../src/kit/deadline.ts'
import { createTtlMap } from '../../src/kit/ttl-map.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createRandom, idOf } from '../access/random.ts'
import { reapAll } from '../harness/reaper.ts'
import { createDatabase } from '../harness.ts'

type Size = { users: number; teams: number; projects: number; generations: number }

const whole: Size = { users: 100_000, teams: 10_000, projects: 100_000, generations: 1_000_000 }
const hundredth: Size = { users: 1_000, teams: 100, projects: 1_000, generations: 10_000 }

const most = 1.3

/** An id by its number, as `idOf` spells it. */
const idIn = (sql: Sql, kind: Parameters<typeof idOf>[0], number: string) =>
  sql.unsafe(`('${idOf(kind, 0).slice(0, 24)}' || lpad(to_hex(${number}), 12, '0'))::uuid`)

/**
 * Fills a database past its triggers and computes the rows of access once, at the end. Every team has 20 members and is
 * let into 20 projects; a project has ten generations; one project in fifty is public, half of the others are private.
 */
const fill = async (sql: Sql, { users, teams, projects, generations }: Size) => {
  await sql.begin(async (tx) => {
    const on = tx as unknown as Sql
    await tx`set local session_replication_role = replica`
    await tx`
      insert into users (id, email, display_name, password_hash)
      select ${idIn(on, 'user', 'n')}, n || '@example.com', 'u', 'x' from generate_series(0, ${users - 1}) n`
    await tx`insert into teams (id, name) select ${idIn(on, 'team', 'n')}, 't' from generate_series(0, ${teams - 1}) n`
    await tx`
      insert into team_members (team_id, user_id, role)
      select ${idIn(on, 'team', 'n')}, ${idIn(on, 'user', `(n * 7919 + m * 104729) % ${users}`)},
             (array['owner', 'admin', 'editor', 'contributor', 'viewer'])[case m when 0 then 1 else 2 + m % 4 end]
        from generate_series(0, ${teams - 1}) n, generate_series(0, 19) m on conflict do nothing`
    await tx`
      insert into projects (id, owner_id, name, visibility)
      select ${idIn(on, 'project', 'n')}, ${idIn(on, 'user', `n * 31 % ${users}`)}, 'p',
             case when n % 50 = 0 then 'public' when n % 2 = 0 then 'private' else 'team-only' end
        from generate_series(0, ${projects - 1}) n`
    await tx`
      insert into project_grants (project_id, team_id, access_level, granted_by)
      select ${idIn(on, 'project', `(n * 6151 + m * 12289) % ${projects}`)}, ${idIn(on, 'team', 'n')},
             (array['read', 'write', 'admin'])[1 + m % 3], ${idIn(on, 'user', '0')}
        from generate_series(0, ${teams - 1}) n, generate_series(0, 19) m on conflict do nothing`
    await tx`
      insert into generations (id, owner_id, project_id, model, prompt, status)
      select ${idIn(on, 'generation', 'n')}, ${idIn(on, 'user', `n * 17 % ${users}`)},
             case when n % 10 = 9 then null else ${idIn(on, 'project', `n * 13 % ${projects}`)} end, 'm', 'p', 'completed'
        from generate_series(0, ${generations - 1}) n`
    await tx`insert into project_access select * from project_access_expected`
  })
  await sql`vacuum analyze`
}

const prepare = async (size: Size) => {
  const { connection } = await createDatabase()
  const sql = connectOnce(connection)
  await syncAccessRules(sql)
  const startedMs = performance.now()
  await fill(sql, size)
  const filledMs = performance.now()
  const differences = await findAccessDifferences(sql)
  const [rows] = await sql<{ access: number; bytes: number }[]>`
    select (select count(*)::int from project_access) as access, pg_database_size(current_database())::float8 as bytes`
  console.log({
    ...size,
    project_access: rows?.access,
    megabytes: Math.round((rows?.bytes ?? 0) / 2 ** 20),
    fill_s: Math.round((filledMs - startedMs) / 100) / 10,
    check_of_all_rows_s: Math.round((performance.now() - filledMs) / 100) / 10,
    differences: differences.length,
  })
  // A memory in which nothing lives: every decision is a cold one.
  const memory = createTtlMap<never>({ clock: systemClock, ttlMs: 0 })
  const facts = createFactCache({ store: createFactStore(sql), memory })
  return {
    size,
    sql,
    access: createAccess({ facts, clock: systemClock }),
    listing: createListing(createListingStore(sql)),
  }
}

type Side = Awaited<ReturnType<typeof prepare>>

const within = () => createDeadline(systemClock, 60_000)

const { below, pick } = createRandom(1)
const someId = (kind: 'user' | 'project' | 'generation', { size }: Side) => idOf(kind, below(size[`${kind}s`]))

type Scenario = readonly [name: string, ask: (side: Side) => Promise<unknown>]

/** Half of the questions are about what somebody has to do with, or the plan would only ever be asked for nothing. */
const decision = async (side: Side) => {
  const number = below(side.size.generations)
  const userId = number % 2 === 0 ? idOf('user', (number * 17) % side.size.users) : someId('user', side)
  await side.access.decide(userId, pick(actions), { type: 'generation', id: idOf('generation', number) }, within())
}

const batch = (side: Side) => {
  const userId = someId('user', side)
  const questions = Array.from({ length: 200 }, () => ({
    userId,
    action: pick(actions),
    resource: { type: 'generation', id: someId('generation', side) } as const,
  }))
  return side.access.decideMany(questions, within())
}

const place = { after: null, limit: 20 }
const middle = (kind: 'project' | 'generation', side: Side) => ({
  after: idOf(kind, Math.floor(side.size[`${kind}s`] / 2)),
  limit: 20,
})

const decisions: readonly Scenario[] = [
  ['decision on a generation', decision],
  [
    'decision on a project',
    async (side) =>
      side.access.decide(someId('user', side), 'write', { type: 'project', id: someId('project', side) }, within()),
  ],
  ['batch of 200', batch],
]

const lists: readonly Scenario[] = (['project', 'generation'] as const).flatMap((type) => [
  [
    `${type}s one may read`,
    (side: Side) => side.listing.accessible(within(), someId('user', side), { type, action: 'read' }, place),
  ] as const,
  [
    `${type}s one may read, from the middle`,
    (side: Side) =>
      side.listing.accessible(within(), someId('user', side), { type, action: 'read' }, middle(type, side)),
  ] as const,
  [
    `${type}s one may delete`,
    (side: Side) => side.listing.accessible(within(), someId('user', side), { type, action: 'delete' }, place),
  ] as const,
  [
    `who may read a ${type}`,
    (side: Side) => side.listing.who(within(), { type, id: someId(type, side) }, 'read', place),
  ] as const,
])

const quantile = (sorted: readonly number[], share: number) => sorted[Math.floor(sorted.length * share)] ?? 0

/** Milliseconds of each ask, one side after the other, in an order that changes. */
const measure = async ([name, ask]: Scenario, sides: readonly [Side, Side], rounds: number) => {
  const times: [number[], number[]] = [[], []]
  for (let round = 0; round < rounds; round += 1) {
    for (const at of round % 2 === 0 ? ([0, 1] as const) : ([1, 0] as const)) {
      const startedMs = performance.now()
      await ask(sides[at])
      if (round >= rounds / 5) times[at].push(performance.now() - startedMs)
    }
  }
  const [small, large] = times.map((list) => list.sort((one, other) => one - other)) as [number[], number[]]
  const ms = (value: number) => Math.round(value * 1_000) / 1_000
  const ratio = ms(quantile(large, 0.5) / quantile(small, 0.5))
  console.log({
    what: name,
    p50_ms: [ms(quantile(small, 0.5)), ms(quantile(large, 0.5))],
    p95_ms: [ms(quantile(small, 0.95)), ms(quantile(large, 0.95))],
    ratio,
  })
  return ratio
}

try {
  const sides = [await prepare(hundredth), await prepare(whole)] as const
  for (const scenario of decisions) {
    const ratio = await measure(scenario, sides, scenario[0].startsWith('batch') ? 500 : 5_000)
    if (scenario[0].startsWith('decision') && ratio >= most) process.exitCode = 1
  }
  for (const scenario of lists) await measure(scenario, sides, 500)
} finally {
  await reapAll()
}
process.exit()
