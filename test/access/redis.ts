import { Redis as Client } from 'ioredis'
import { createRedisCache, scripts } from '../../src/access/cache/redis-cache.ts'
import { type Clock, systemClock } from '../../src/kit/clock.ts'
import { createLog } from '../../src/platform/log.ts'
import { createRedis } from '../../src/platform/redis.ts'
import { startRedis } from '../harness.ts'

/** The same prefix for all instances and servers. */
const testRegistry = { prefixFor: () => 'velro:2:test:', epoch: 'test' }

/** The Redis cache of an instance on a given server. The deadline is long, because the machine may be busy. */
export const connectOuter = async (url: string, { clock = systemClock }: { clock?: Clock } = {}) => {
  const redis = createRedis({ url, clock: systemClock, log: createLog('silent'), scripts, deadlineMs: 5_000 })
  while (redis.serverRunId === undefined) await Bun.sleep(2)
  const redisCache = createRedisCache({ redis, registry: testRegistry, clock, log: createLog('silent') })
  return { redis, redisCache, close: () => redis.close() }
}

/** Starts a Redis server with a cache on it, and a second client to inspect it. */
export const startOuter = async ({ flags, clock }: { flags?: readonly string[]; clock?: Clock } = {}) => {
  const server = await startRedis(flags && { flags })
  const client = new Client(server.url)
  const connected = await connectOuter(server.url, clock && { clock })
  return {
    ...connected,
    server,
    client,
    /** The Redis key of a fact. */
    nameOf: (key: string) => testRegistry.prefixFor() + key,
    close: async () => {
      await connected.close()
      client.disconnect()
      await server.stop()
    },
  }
}

export type TestOuter = Awaited<ReturnType<typeof startOuter>>
