import { startRedis } from '../../harness/redis.ts'
import { newDatabase } from '../databases.ts'
import { percentile } from '../latencies.ts'
import type { Measured } from '../load/send.ts'
import { checkPath, ownCheck, type Person, signUp } from '../people.ts'
import { onEnd, startVelro } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const rounds = 6
const load = { connections: 20, perSecond: 2_000 }
const coldChecks = 200

/** Checks of uncached resources, one after the other. */
const timeCold = async (url: string, { headers }: Person): Promise<number[]> => {
  const latenciesMs: number[] = []
  for (let asked = 0; asked < coldChecks; asked += 1) {
    const body = JSON.stringify({ action: 'read', resource: { type: 'project', id: crypto.randomUUID() } })
    const sentMs = performance.now()
    const response = await fetch(url + checkPath, {
      method: 'POST',
      headers: { ...headers, 'content-type': 'application/json' },
      body,
    })
    await response.arrayBuffer()
    latenciesMs.push(performance.now() - sentMs)
  }
  return latenciesMs
}

/** Whether requests slow down when Redis accepts connections and never answers. */
export const redisStalled: Scenario = async ({ seconds, send }) => {
  const redis = onEnd(await startRedis())
  const velro = await startVelro({ ...(await newDatabase()), REDIS_URL: redis.url })
  const person = await signUp(velro.url)
  const warm = { url: velro.url + checkPath, ...ownCheck(person), ...load }
  await send({ ...warm, seconds: 1 })
  await timeCold(velro.url, person)

  const measure = async () => ({ warm: await send({ ...warm, seconds }), cold: await timeCold(velro.url, person) })
  const well: Awaited<ReturnType<typeof measure>>[] = []
  const stalled: typeof well = []
  // Which comes first changes from round to round, so that what drifts falls on both alike.
  for (let round = 0; round < rounds; round += 1) {
    const sides = [
      async () => {
        well.push(await measure())
      },
      async () => {
        process.kill(redis.pid, 'SIGSTOP')
        try {
          stalled.push(await measure())
        } finally {
          process.kill(redis.pid, 'SIGCONT')
          await Bun.sleep(1_500)
        }
      },
    ]
    for (const side of round % 2 === 0 ? sides : sides.reverse()) await side()
  }
  const warmRuns = (runs: typeof well): Measured[] => runs.map((run) => run.warm)
  const p99s = (runs: typeof well) => runs.map((run) => percentile(run.cold, 0.99))
  const slower = (fraction: number) =>
    stalled.map(({ cold }, round) => percentile(cold, fraction) - percentile(well[round]?.cold ?? [], fraction))
  return {
    about: `${load.perSecond} warm checks a second, and ${coldChecks} cold ones in a row, with Redis well and with Redis frozen`,
    sides: [
      { name: 'warm, Redis well', runs: warmRuns(well) },
      { name: 'warm, Redis frozen', runs: warmRuns(stalled) },
    ],
    findings: [
      {
        what: 'P99 of a warm check, frozen / well',
        unit: 'ratio',
        values: stalled.map((run, round) => run.warm.p99Ms / (well[round]?.warm.p99Ms ?? Number.NaN)),
        target: { below: 1.1 },
      },
      { what: 'P99 of a cold check, Redis well', unit: 'ms', values: p99s(well) },
      { what: 'P99 of a cold check, Redis frozen', unit: 'ms', values: p99s(stalled) },
      {
        what: 'what a frozen Redis adds to P95 of a cold check',
        unit: 'ms',
        values: slower(0.95),
        target: { below: 25 },
      },
      {
        what: 'what a frozen Redis adds to P99 of a cold check',
        unit: 'ms',
        values: slower(0.99),
        target: { below: 25 },
      },
    ],
  }
}
