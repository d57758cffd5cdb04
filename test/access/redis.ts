import { Redis as Client } from 'ioredis'
import { createRedisCache, scripts } from '../../src/access/cache/redis-cache.ts'
import { type Clock, systemClock } from '../../src/kit/clock.ts'
import { createLog } from '../../src/platform/log.ts'
import { createRedis } from '../../src/platform/redis.ts'
import { startRedis } from '../harness.ts'

/** The outer cache as an instance has it, on a Redis that may be anybody's; patient, because the machine may be busy. */
export const connectOuter = async (url: string, { clock = systemClock }: { clock?: Clock } = {}) => {
  const redis = createRedis({ url, clock: systemClock, log: createLog('silent'), scripts, deadlineMs: 5_000 })
  while (redis.serverRunId === undefined) await Bun.sleep(2)
  return { redis, redisCache: createRedisCache({ redis, clock }), close: () => redis.close() }
}

/** A Redis of one's own with the outer cache on it, and a client to look at it from outside. */
export const startOuter = async ({ flags, clock }: { flags?: readonly string[]; clock?: Clock } = {}) => {
  const server = await startRedis(flags && { flags })
  const client = new Client(server.url)
  const connected = await connectOuter(server.url, clock && { clock })
  return {
    ...connected,
    server,
    client,
    /** What the outer cache calls the place of a fact. */
    nameOf: (key: string) => `velro:1:${connected.redis.serverRunId?.slice(0, 12)}:${key}`,
    close: async () => {
      await connected.close()
      client.disconnect()
      await server.stop()
    },
  }
}

export type TestOuter = Awaited<ReturnType<typeof startOuter>>
