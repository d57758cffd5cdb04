import { systemClock } from '../../src/kit/clock.ts'
import { type Budgets, createBudgets, type Demand } from '../../src/limits/budgets.ts'
import type { Exchange } from '../../src/limits/exchange.ts'
import { createRedisExchange, limitScripts } from '../../src/limits/redis-exchange.ts'
import { createLog } from '../../src/platform/log.ts'
import { createRedis, type Forgery } from '../../src/platform/redis.ts'
import { createSecrets } from '../../src/platform/secrets.ts'

export type Instance = {
  readonly budgets: Budgets
  readonly forgeries: readonly Forgery[]
  connected(): Promise<void>
  close(): Promise<void>
}

export const [mac] = createSecrets('one secret for every instance of it').macs('redis-units')
let started = 0

/** Waits for Redis as long as a loaded machine may need: after 100 ms an instance would decide by its own count. */
const patient = (exchange: Exchange): Exchange => ({
  ...exchange,
  get epoch() {
    return exchange.epoch
  },
  exchange: (reports, withinMs) => exchange.exchange(reports, Math.max(withinMs, 5_000)),
})

/** Instances that share budgets through the Redis at this URL. */
export const startInstances = async (url: string, count: number): Promise<Instance[]> => {
  const instances = Array.from({ length: count }, (): Instance => {
    const redis = createRedis({ url, clock: systemClock, log: createLog('silent'), scripts: limitScripts })
    const forgeries: Forgery[] = []
    started += 1
    const budgets = createBudgets({
      clock: systemClock,
      instances: () => count,
      exchange: patient(
        createRedisExchange({
          redis,
          prefix: 'test',
          instance: `instance${started}`,
          mac,
          onForged: (forgery) => void forgeries.push(forgery),
          clock: systemClock,
        }),
      ),
    })
    return {
      budgets,
      forgeries,
      connected: async () => {
        while (redis.state() !== 'up') await Bun.sleep(2)
      },
      close: async () => {
        await budgets.close()
        await redis.close()
      },
    }
  })
  await Promise.all(instances.map((instance) => instance.connected()))
  return instances
}

/** Takes as a request does: by memory where it can be decided there, for a budget that permits it. */
export const takeAs = async (kind: 'exact' | 'local', budgets: Budgets, demand: Demand): Promise<boolean> => {
  const decided = kind === 'local' ? budgets.takeLocally(demand) : undefined
  return (decided ?? (await budgets.take([demand]))).admitted
}

/** How many of `times` demands at once, spread over the instances, are admitted. */
export const burst = async (
  kind: 'exact' | 'local',
  instances: readonly Instance[],
  demand: Demand,
  times: number,
): Promise<number> => {
  const taken = Array.from({ length: times }, (_, at) =>
    takeAs(kind, (instances[at % instances.length] as Instance).budgets, demand),
  )
  return (await Promise.all(taken)).filter(Boolean).length
}
