import { createAccess } from '../../../src/access/access.ts'
import { createDecisionCounters } from '../../../src/access/cache/decision-counters.ts'
import { findAccessDifferences, syncAccessRules } from '../../../src/access/cache/effective-access-store.ts'
import { createFactCache } from '../../../src/access/cache/fact-cache.ts'
import { createFactStore } from '../../../src/access/cache/fact-store.ts'
import { loadFromStore } from '../../../src/access/cache/tiered-loader.ts'
import { createListing } from '../../../src/access/listing/listing.ts'
import { createListingStore } from '../../../src/access/listing/listing-store.ts'
import { actions } from '../../../src/access/policy/matrix.ts'
import { createLargeWorld, type WorldSize } from '../../../src/boot/seed/large-world.ts'
import { writeWorld } from '../../../src/boot/seed/world-store.ts'
import { systemClock } from '../../../src/kit/clock.ts'
import { createDeadlines } from '../../../src/kit/deadline.ts'
import { createRandom } from '../../../src/kit/random.ts'
import { createTtlMap } from '../../../src/kit/ttl-map.ts'
import { migrate } from '../../../src/platform/migrate.ts'
import { connectOnce, createDatabase, type Sql } from '../../../src/platform/postgres.ts'
import { connectionOf, newExternalDatabase } from '../databases.ts'
import { type Finding, median } from '../report.ts'
import { onEnd } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const startDeadline = createDeadlines(systemClock)

const whole: WorldSize = { users: 100_000, teams: 10_000, projects: 50_000, generations: 1_000_000 }
const hundredth: WorldSize = { users: 1_000, teams: 100, projects: 500, generations: 10_000 }

const blocks = 5

const keys = {
  users: 'id',
  projects: 'id',
  generations: 'id',
  project_access: 'user_id, project_id',
  public_generations: 'id',
}

/** Reads a whole table by its key, so that the process behind the connection has met every page, as one has that lives. */
const touch = (sql: Sql, table: string, key: string) =>
  sql.begin(async (tx) => {
    await tx`set local statement_timeout = 0`
    await tx.unsafe(`select sum(hashtext(t::text)) from (select * from ${table} order by ${key} offset 0) t`)
  })

/** A server that has memory for its data, as one has that is to be fast: the default is 128 MB. */
const settings = { shared_buffers: '1GB' }

const idsOf = async (sql: Sql, table: string): Promise<string[]> => {
  const rows = await sql<{ id: string }[]>`select id from ${sql(table)} order by id`
  return rows.map(({ id }) => id)
}

const prepare = async (size: WorldSize) => {
  const connection = connectionOf(await newExternalDatabase(settings))
  const sql = connectOnce(connection)
  await migrate(sql)
  await syncAccessRules(sql)
  await writeWorld(sql, createLargeWorld(size, 1, 'x').tables, () => {})
  const ids = {
    user: await idsOf(sql, 'users'),
    project: await idsOf(sql, 'projects'),
    generation: await idsOf(sql, 'generations'),
  }
  const owners = await sql<{ owner_id: string }[]>`select owner_id from generations order by id`
  const startedMs = performance.now()
  const differences = await findAccessDifferences(sql)
  const checkMs = performance.now() - startedMs
  await sql.end()
  if (differences.length > 0) throw new Error('The rows of project_access differ from the base tables')
  const pools = createDatabase({ connection, budget: 6 })
  onEnd({ stop: () => pools.close(0) })
  for (const pool of [pools.auth, pools.read])
    for (const [table, key] of Object.entries(keys)) await touch(pool, table, key)
  // A memory in which nothing lives: every decision is a cold one.
  const memory = createTtlMap<never>({ clock: systemClock, ttlMs: 0 })
  const facts = createFactCache({
    load: loadFromStore(createFactStore(pools.auth), { l3: true }),
    memory,
    clock: systemClock,
    lease: { untilMs: Number.NEGATIVE_INFINITY },
    flags: { l1: false },
  })
  return {
    ids,
    owners: owners.map(({ owner_id }) => owner_id),
    checkMs,
    access: createAccess({ facts, clock: systemClock, decisionCounters: createDecisionCounters() }),
    listing: createListing(createListingStore(pools.read)),
  }
}

type Side = Awaited<ReturnType<typeof prepare>>
type Ask = (side: Side) => unknown

const within = () => startDeadline(60_000)

const { below, pick } = createRandom(1)
const someId = (kind: 'user' | 'project' | 'generation', { ids }: Side) => pick(ids[kind])

/** Half of the questions are about something of one's own: a plan that only ever finds nothing proves little. */
const onGeneration: Ask = (side) => {
  const number = below(side.ids.generation.length)
  const userId = number % 2 === 0 ? (side.owners[number] as string) : someId('user', side)
  const resource = { type: 'generation', id: side.ids.generation[number] as string } as const
  return side.access.decide(userId, pick(actions), resource, within())
}

const onProject: Ask = (side) =>
  side.access.decide(someId('user', side), pick(actions), { type: 'project', id: someId('project', side) }, within())

const batch: Ask = (side) => {
  const userId = someId('user', side)
  const questions = Array.from({ length: 200 }, () => ({
    userId,
    action: pick(actions),
    resource: { type: 'generation', id: someId('generation', side) } as const,
  }))
  return side.access.decideMany(questions, within())
}

const place = { after: null, limit: 20 }

const lists: readonly (readonly [name: string, ask: Ask])[] = (['project', 'generation'] as const).flatMap((type) => {
  const half = ({ ids }: Side) => ({ after: ids[type][ids[type].length >> 1] as string, limit: 20 })
  const accessible = (action: 'read' | 'delete', from: (side: Side) => { after: string | null; limit: number }) => {
    return (side: Side) => side.listing.accessible(within(), someId('user', side), { type, action }, from(side))
  }
  return [
    [`${type}s one may read, the first page`, accessible('read', () => place)],
    [`${type}s one may read, a page in the middle`, accessible('read', half)],
    [`${type}s one may delete, the first page`, accessible('delete', () => place)],
    [
      `who may read a ${type}`,
      (side: Side) => side.listing.who(within(), { type, id: someId(type, side) }, 'read', place),
    ],
  ] as const
})

/** Asks both sides in turn, and gives the median times of each block of questions. The first block does not count. */
const compare = async (ask: Ask, small: Side, large: Side, asks: number) => {
  const medians = { small: [] as number[], large: [] as number[] }
  for (let block = 0; block <= blocks; block += 1) {
    const times = { small: [] as number[], large: [] as number[] }
    for (let round = 0; round < asks; round += 1) {
      for (const side of round % 2 === 0 ? (['small', 'large'] as const) : (['large', 'small'] as const)) {
        const startedMs = performance.now()
        await ask(side === 'small' ? small : large)
        times[side].push(performance.now() - startedMs)
      }
    }
    if (block === 0) continue
    medians.small.push(median(times.small))
    medians.large.push(median(times.large))
  }
  return medians
}

/**
 * What a decision costs that comes from Postgres, at a million generations, a hundred thousand users and ten thousand
 * teams, against a hundredth of each; and what the lists cost there. Takes some minutes and 1 GB of disk.
 */
export const growth: Scenario = async () => {
  const small = await prepare(hundredth)
  const large = await prepare(whole)
  const findings: Finding[] = []
  const measure = async (what: string, ask: Ask, asks: number, below?: number) => {
    const medians = await compare(ask, small, large, asks)
    findings.push(
      { what, unit: 'ms', values: medians.large },
      {
        what: '  against a hundredth of the size',
        unit: 'ratio',
        values: medians.large.map((ms, block) => ms / (medians.small[block] ?? Number.NaN)),
        ...(below !== undefined && { target: { below } }),
      },
    )
  }
  await measure('cold decision on a generation', onGeneration, 1_000, 1.3)
  await measure('cold decision on a project', onProject, 1_000, 1.3)
  await measure('cold batch of 200', batch, 100, 1.3)
  for (const [name, ask] of lists) await measure(name, ask, 100, 1.3)
  findings.push({ what: 'recomputation of every row of access', unit: 'ms', values: [large.checkMs] })
  return {
    about: 'decisions and lists from Postgres, at 10^6 generations, 10^5 users and 10^4 teams',
    sides: [],
    findings,
  }
}
