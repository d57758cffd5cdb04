import { systemClock } from '../../../src/kit/clock.ts'
import { createBudgets } from '../../../src/limits/budgets.ts'
import type { Exchange } from '../../../src/limits/exchange.ts'
import { newDatabase } from '../databases.ts'
import { interleave, ratiosTo } from '../interleave.ts'
import { checkPath, fillMemory, ownCheck, signUp } from '../people.ts'
import { startVelro } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const connections = 50
const maxWarmUpS = 2
const facts = 1_000
const repeats = 1_000_000
const rounds = 7

/** Answers at once, as a Redis that is not in the way. */
const idle: Exchange = {
  exchange: async (reports) => reports.map(() => ({ total: 0, taken: 0, retryAfterMs: 0 })),
  isAvailable: () => true,
  epoch: 'one',
  forget: async () => true,
  list: async () => [],
}

/** Nanoseconds for a demand that memory decides, with reports in the background. */
const nanosecondsPerDemand = async (): Promise<number[]> => {
  const budgets = createBudgets({ clock: systemClock, exchange: idle, instances: () => 1 })
  const demands = Array.from({ length: 500 }, (_, id) => ({
    budget: 'api',
    id: `01890000-0000-7000-8000-${String(id).padStart(12, '0')}`,
    limit: 1_000_000_000,
    windowMs: 60_000,
    cost: 1,
  }))
  await Promise.all(demands.map((demand) => budgets.take([demand])))
  const measured: number[] = []
  for (let round = 0; round < rounds; round += 1) {
    const startedMs = performance.now()
    for (let at = 0; at < repeats; at += 1) {
      const demand = demands[at % demands.length]
      if (demand !== undefined) budgets.takeLocally(demand)
    }
    measured.push(((performance.now() - startedMs) * 1e6) / repeats)
    await Bun.sleep(50)
  }
  await budgets.close()
  // The first rounds compile it.
  return measured.slice(2)
}

/** What the limits cost a warm check: all of them on, with figures that refuse nothing, against all of them off. */
export const limits: Scenario = async ({ seconds, send }) => {
  const nanoseconds = await nanosecondsPerDemand()
  const sideOf = async (env: Readonly<Record<string, string>>) => {
    const server = await startVelro({ ...(await newDatabase()), ...env })
    const person = await signUp(server.url)
    await fillMemory(server.url, person, facts)
    const load = { url: server.url + checkPath, ...ownCheck(person), connections }
    await send({ ...load, seconds: Math.min(maxWarmUpS, seconds) })
    return () => send(load)
  }
  const off = await sideOf({ LIMITS: 'off' })
  const on = await sideOf({
    LIMITS: 'on',
    LIMIT_API_FREE: '1000000',
    LIMIT_MEDIA_FREE: '1000000',
    LIMIT_GENERATION_FREE: '1000000',
  })
  const runs = await interleave({ name: 'limits off', run: off }, { on: { name: 'limits on', run: on } })
  return {
    about: `a warm authorized check at ${connections} connections, with limits and without`,
    sides: [runs.on, runs.control],
    findings: [
      { what: 'on / off', unit: 'ratio', values: ratiosTo(runs.control, runs.on), target: { atLeast: 0.95 } },
      { what: 'a demand decided by memory', unit: 'ns', values: nanoseconds, target: { below: 300 } },
    ],
  }
}
