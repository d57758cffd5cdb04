import { syncAccessRules } from '../../../src/access/cache/effective-access-store.ts'
import { createFactCache } from '../../../src/access/cache/fact-cache.ts'
import { createFactStore } from '../../../src/access/cache/fact-store.ts'
import { createRedisCache, scripts } from '../../../src/access/cache/redis-cache.ts'
import { loadFromStore, loadThroughRedis } from '../../../src/access/cache/tiered-loader.ts'
import { createPendingInvalidations } from '../../../src/access/invalidation/pending-invalidations.ts'
import { factQuery, resourceQuery } from '../../../src/access/policy/facts/queries.ts'
import type { Fact, FactKind } from '../../../src/access/policy/facts/registry.ts'
import type { ResourceRef } from '../../../src/access/policy/matrix.ts'
import { systemClock } from '../../../src/kit/clock.ts'
import { createDeadlines } from '../../../src/kit/deadline.ts'
import { newId } from '../../../src/kit/id.ts'
import { createTtlMap } from '../../../src/kit/ttl-map.ts'
import { createLog } from '../../../src/platform/log.ts'
import { migrate } from '../../../src/platform/migrate.ts'
import { connectOnce, createDatabase } from '../../../src/platform/postgres.ts'
import { createRedis } from '../../../src/platform/redis.ts'
import { createSecrets } from '../../../src/platform/secrets.ts'
import { createDatabase as createTestDatabase } from '../../harness/database.ts'
import { startRedis } from '../../harness/redis.ts'
import { percentile, timeAtRate } from '../latencies.ts'
import { onEnd } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const startDeadline = createDeadlines(systemClock)

const rounds = 4
const things = 2_000
const perSecond = 1_000
const memoryReads = 1_000_000
const lease = { untilMs: Number.POSITIVE_INFINITY }
const flags = { l1: true, l2: true, l3: true }

const within = () => startDeadline(60_000)

/** What each tier takes to give the facts of one question, in this process, without HTTP around it. */
export const tiers: Scenario = async ({ seconds }) => {
  const database = await createTestDatabase()
  onEnd({ stop: database.drop })
  const sql = connectOnce(database.connection)
  await migrate(sql)
  await syncAccessRules(sql)
  const owner = newId()
  await sql`insert into users (id, email, display_name, password_hash) values (${owner}, 'o@example.com', 'o', 'x')`
  const member = newId()
  await sql`insert into users (id, email, display_name, password_hash) values (${member}, 'm@example.com', 'm', 'x')`
  const refs: ResourceRef[] = []
  for (let made = 0; made < things; made += 1) {
    const [project, generation] = [newId(), newId()]
    await sql`insert into projects (id, owner_id, name, visibility) values (${project}, ${owner}, 'p', 'public')`
    await sql`
      insert into generations (id, owner_id, project_id, model, prompt)
      values (${generation}, ${owner}, ${project}, 'm', 'p')`
    refs.push({ type: 'generation', id: generation })
  }
  await sql`vacuum analyze`
  await sql.end()

  const pools = createDatabase({ connection: database.connection, budget: 12 })
  onEnd({ stop: () => pools.close(0) })
  const server = onEnd(await startRedis())
  const redis = createRedis({ url: server.url, clock: systemClock, log: createLog('silent'), scripts })
  onEnd({ stop: () => redis.close() })
  while (redis.serverRunId === undefined) await Bun.sleep(5)

  const macs = createSecrets('a secret of benchmarks').macs('redis-fact')
  const fromStore = loadFromStore(createFactStore(pools.auth), flags)
  const throughOuter = loadThroughRedis({
    redisCache: createRedisCache({
      redis,
      registry: { placeFor: () => ({ prefix: 'velro:3:bench:', keyId: macs[0].keyId }), epoch: 'bench' },
      macs,
      onForged: ({ what }) => {
        throw new Error(`A forged ${what} in Redis`)
      },
      clock: systemClock,
      log: createLog('silent'),
    }),
    fromStore,
    flags,
    clock: systemClock,
    lease,
    pendingInvalidations: createPendingInvalidations(systemClock),
  })
  const cacheOf = (load: typeof fromStore, ttlMs: number) =>
    createFactCache({
      load,
      memory: createTtlMap<Fact[FactKind]>({ clock: systemClock, ttlMs }),
      clock: systemClock,
      lease,
      flags,
    })
  const remembering = cacheOf(fromStore, 3_600_000)
  const byRedis = cacheOf(throughOuter, 0)
  const byPostgres = cacheOf(fromStore, 0)
  const refOf = (number: number) => refs[(number * 7) % refs.length] as ResourceRef
  const ask = (facts: typeof byRedis) => (number: number) =>
    facts.gather([factQuery('account', member), resourceQuery(refOf(number), member)], within())

  for (let number = 0; number < things; number += 1) {
    await ask(remembering)(number)
    // The first response names its project, the second is written back whole.
    for (let time = 0; time < 3; time += 1) await ask(byRedis)(number)
  }
  await ask(byPostgres)(0)

  const readMemory = () => {
    const startedMs = performance.now()
    for (let number = 0; number < memoryReads; number += 1) {
      if (remembering.peekResource(refOf(number), member) === undefined) throw new Error('Not in memory')
    }
    return ((performance.now() - startedMs) * 1_000) / memoryReads
  }
  readMemory()
  const l1: number[] = []
  const l2: number[][] = []
  const l3: number[][] = []
  let asked = 0
  let past = 0
  for (let round = 0; round < rounds; round += 1) {
    l1.push(readMemory())
    const load = { perSecond, forMs: seconds * 1_000 }
    const askRedis = ask(byRedis)
    l2.push(
      await timeAtRate(async (number) => {
        const { tier } = await askRedis(number)
        asked += 1
        // Late by more than the deadline of a look, as on a busy machine.
        if (tier !== 'l2') past += 1
      }, load),
    )
    l3.push(await timeAtRate(ask(byPostgres), load))
  }
  const all = (fraction: number, runs: readonly number[][]) => runs.map((run) => percentile(run, fraction))
  return {
    about: `all facts of one question about a generation in another user’s project, ${perSecond} questions a second`,
    sides: [],
    findings: [
      { what: 'L1, a hit', unit: 'us', values: l1, target: { below: 1 } },
      { what: 'L2, P50', unit: 'ms', values: all(0.5, l2) },
      { what: 'L2, P95', unit: 'ms', values: all(0.95, l2), target: { below: 1 } },
      {
        what: 'questions to L2 that it answered',
        unit: 'share',
        values: [1 - past / asked],
        target: { atLeast: 0.99 },
      },
      { what: 'L3, P50', unit: 'ms', values: all(0.5, l3) },
      { what: 'L3, P95', unit: 'ms', values: all(0.95, l3), target: { below: 5 } },
    ],
  }
}
