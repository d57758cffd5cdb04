import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connectOnce } from '../../src/platform/postgres.ts'
import { createDatabase } from '../harness.ts'
import { askAtRandom } from './background.ts'
import { createChanging } from './changing.ts'
import { createFaults, type RedisUnderTest, startOwnRedis } from './faults.ts'
import type { Scene } from './fixture.ts'
import { type Environment, type Instance, startInstance } from './instances.ts'
import { createWitness, type Witness } from './oracle.ts'
import { openPopulation } from './population.ts'
import { createProbes } from './probes.ts'

export type StormOptions = {
  readonly seconds: number
  /** All of them, none, or those whose name has this in it. */
  readonly faults: boolean | string
  readonly env?: Environment
  readonly scenes?: number
  /** Requests a second, over all instances; what follows a change comes on top. */
  readonly requestsPerS?: number
  readonly removalsPerS?: number
}

const askersEach = 8
const changers = 12
/** Members that are gone are waited for, and new ones wait, for two leases and a bit. */
const getsOverMs = 2_200

const range = (length: number) => Array.from({ length }, (_, index) => index)

/**
 * Three real instances over one Postgres and one Redis, asked and changed at full speed while things break.
 *
 * Promise: every answer is judged by what the scene it is about may have been while it was asked; an answer that no such
 * state explains is in `wrong`. Latencies depend on the machine, verdicts do not.
 */
export const storm = async ({
  seconds,
  faults,
  env = {},
  scenes: count = 40,
  requestsPerS = 900,
  removalsPerS = 30,
}: StormOptions): Promise<Witness> => {
  const closers: (() => Promise<unknown>)[] = []
  try {
    const database = await createDatabase()
    closers.push(database.drop)
    const { connection } = database
    const folder = await mkdtemp(join(tmpdir(), 'velro-storm-'))
    closers.push(() => rm(folder, { recursive: true, force: true }))
    const redis: RedisUnderTest = { current: await startOwnRedis(folder), folder }
    closers.push(() => redis.current.stop())
    const sql = connectOnce(connection)
    closers.push(() => sql.end())

    const instances: Instance[] = []
    closers.push(() => Promise.all(instances.map(({ server }) => server.kill('SIGKILL'))))
    for (const name of ['A', 'B', 'C']) {
      instances.push(await startInstance(name, connection, { REDIS_URL: redis.current.url, ...env }))
    }
    const population = await openPopulation(connection)
    closers.push(population.close)
    const scenes: Scene[] = []
    for (const number of range(count)) scenes.push(await population.scene(number))

    const witness = createWitness()
    const probes = createProbes(instances, witness)
    const change = createChanging({ instances, scenes, population, witness, probes })
    let goesOn = true
    const isGoing = () => goesOn
    const askEveryMs = (1_000 * askersEach * instances.length) / requestsPerS
    const changeEveryMs = (1_000 * changers) / removalsPerS
    const load = Promise.all([
      ...instances.flatMap((instance) =>
        range(askersEach).map(() => askAtRandom(instance, scenes, witness, askEveryMs, isGoing)),
      ),
      ...range(changers).map(() => change(changeEveryMs, isGoing)),
    ])

    const settle = async (ms: number) => {
      await Bun.sleep(Math.min(ms, getsOverMs))
      if (ms < getsOverMs) return
      witness.phase = 'healthy'
      await Bun.sleep(ms - getsOverMs)
    }
    const breakThings = async () => {
      if (!faults) return settle(seconds * 1_000)
      const every = createFaults({
        instances: instances as [Instance, Instance, Instance],
        redis,
        sql,
        witness,
        probes,
      })
      const all = every.filter(({ name }) => faults === true || name.includes(faults))
      const endsAtMs = witness.startedMs + seconds * 1_000
      const rounds = Math.max(1, Math.floor(seconds / 60))
      const brokenMs = 16_000
      const calmMs = Math.max(1_000, (seconds * 1_000 - rounds * brokenMs) / (rounds * all.length + 1))
      for (let round = 0; round < rounds; round += 1) {
        for (const { name, inflict } of all) {
          await settle(calmMs)
          witness.tell(name)
          witness.phase = name
          await inflict()
          witness.tell(`${name}: over`)
          witness.phase = name.startsWith('redis') ? 'healthy' : 'getting over it'
        }
      }
      await settle(Math.max(calmMs, endsAtMs - performance.now()))
    }
    await Promise.race([load, breakThings()])
    witness.tell('the end')
    goesOn = false
    await load
    return witness
  } finally {
    for (const close of closers.reverse()) await close().catch(() => {})
  }
}
