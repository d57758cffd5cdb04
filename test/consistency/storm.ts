import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, type Runtime, type TestConnection } from '../harness.ts'
import { sendRandomRequests } from './background.ts'
import { createChangeDriver } from './change-driver.ts'
import { createFaults, type Fault, type RedisUnderTest, type StartRedis, startOwnRedis } from './faults.ts'
import type { Fixture } from './fixture.ts'
import { type Environment, type Instance, startInstance } from './instances.ts'
import { renameRepeatedly } from './names.ts'
import { createOracle, type Oracle } from './oracle.ts'
import { openPopulation } from './population.ts'
import { createProbes } from './probes.ts'

export type StormParts = {
  readonly sql: Sql
  readonly connection: TestConnection
  readonly redis: RedisUnderTest
  readonly instances: readonly Instance[]
  readonly oracle: Oracle
}

export type StormOptions = {
  readonly seconds: number
  /** All faults, none, or those whose name contains this text. */
  readonly faults: boolean | string
  readonly env?: Environment
  /** What each instance gets for the database of the storm: another way to it. */
  readonly environment?: (connection: TestConnection) => Environment
  /** Starts another kind of Redis. */
  readonly redis?: StartRedis | undefined
  /** Faults beside those of every storm. */
  readonly moreFaults?: (parts: StormParts) => readonly Fault[]
  /** Of the three instances. Default: Bun. */
  readonly runtimes?: readonly [Runtime, Runtime, Runtime]
  readonly fixtures?: number
  /** Requests a second over all instances. Probes around changes come on top. */
  readonly requestsPerS?: number
  readonly removalsPerS?: number
}

const readersPerInstance = 8
const writers = 12
/** Two leases and a margin: until then others wait for members that are gone, and new instances for unknown members. */
const recoveryMs = 2_200

const range = (length: number) => Array.from({ length }, (_, index) => index)

/**
 * Three server processes over one Postgres and one Redis, under a load of questions and changes while faults are injected.
 *
 * Guarantee: every answer is compared with the states its fixtures may have had while it was asked; one that none of them
 * explains is in `wrong`. Latencies depend on the machine, verdicts do not.
 */
export const storm = async ({
  seconds,
  faults,
  env = {},
  environment = () => ({}),
  redis: start,
  moreFaults = () => [],
  runtimes = ['bun', 'bun', 'bun'],
  fixtures: count = 40,
  requestsPerS = 900,
  removalsPerS = 30,
}: StormOptions): Promise<Oracle> => {
  const closers: (() => Promise<unknown>)[] = []
  try {
    const database = await createDatabase()
    closers.push(database.drop)
    const { connection } = database
    const folder = await mkdtemp(join(tmpdir(), 'velro-storm-'))
    closers.push(() => rm(folder, { recursive: true, force: true }))
    const redis = await startOwnRedis(folder, start)
    closers.push(() => redis.current.stop())
    const sql = connectOnce(connection)
    closers.push(() => sql.end())

    const instances: Instance[] = []
    closers.push(() => Promise.all(instances.map(({ server }) => server.kill('SIGKILL'))))
    for (const [at, name] of ['A', 'B', 'C'].entries()) {
      const given = { REDIS_URL: redis.current.url, ...environment(connection), ...env }
      instances.push(await startInstance(name, connection, given, runtimes[at]))
    }
    const population = await openPopulation(connection)
    closers.push(population.close)
    const fixtures: Fixture[] = []
    for (const number of range(count)) fixtures.push(await population.insertFixture(number))

    const oracle = createOracle()
    const probes = createProbes(instances, oracle)
    const change = createChangeDriver({ instances, fixtures, population, oracle, probes })
    let isRunning = true
    const stillRunning = () => isRunning
    const requestEveryMs = (1_000 * readersPerInstance * instances.length) / requestsPerS
    const changeEveryMs = (1_000 * writers) / removalsPerS
    const load = Promise.all([
      ...instances.flatMap((instance) =>
        range(readersPerInstance).map(() =>
          sendRandomRequests(instance, fixtures, oracle, requestEveryMs, stillRunning),
        ),
      ),
      ...range(writers).map(() => change(changeEveryMs, stillRunning)),
      renameRepeatedly(instances, population, oracle, stillRunning),
    ])

    const stayHealthy = async (ms: number) => {
      await Bun.sleep(Math.min(ms, recoveryMs))
      if (ms < recoveryMs) return
      oracle.phase = 'healthy'
      await Bun.sleep(ms - recoveryMs)
    }
    const injectFaults = async () => {
      if (!faults) return stayHealthy(seconds * 1_000)
      const every = createFaults({
        instances: instances as [Instance, Instance, Instance],
        redis,
        sql,
        oracle,
        probes,
      })
      const all = [...every, ...moreFaults({ sql, connection, redis, instances, oracle })].filter(
        ({ name }) => faults === true || name.includes(faults),
      )
      const endsAtMs = oracle.startedMs + seconds * 1_000
      const rounds = Math.max(1, Math.floor(seconds / 60))
      const brokenMs = 16_000
      const calmMs = Math.max(1_000, (seconds * 1_000 - rounds * brokenMs) / (rounds * all.length + 1))
      for (let round = 0; round < rounds; round += 1) {
        for (const { name, inject } of all) {
          await stayHealthy(calmMs)
          oracle.logEvent(name)
          oracle.phase = name
          await inject()
          oracle.logEvent(`${name}: over`)
          oracle.phase = name.startsWith('redis') ? 'healthy' : 'recovering'
        }
      }
      await stayHealthy(Math.max(calmMs, endsAtMs - performance.now()))
    }
    await Promise.race([load, injectFaults()])
    oracle.logEvent('end')
    isRunning = false
    await load
    return oracle
  } finally {
    for (const close of closers.reverse()) await close().catch(() => {})
  }
}
