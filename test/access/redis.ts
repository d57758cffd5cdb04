import { Redis as Client } from 'ioredis'
import { createRedisCache, scripts } from '../../src/access/cache/redis-cache.ts'
import { type Clock, systemClock } from '../../src/kit/clock.ts'
import { createLog } from '../../src/platform/log.ts'
import { createRedis, type Forgery } from '../../src/platform/redis.ts'
import { createSecrets } from '../../src/platform/secrets.ts'
import { startRedis } from '../harness.ts'

export const testMacs = createSecrets('one secret for every instance of it').macs('redis-fact')
const [mac] = testMacs
const prefix = 'velro:3:test:'
/** The same prefix for all instances and servers. */
const testRegistry = { placeFor: () => ({ prefix, keyId: mac.keyId }), epoch: 'test' }

/** The Redis key of a fact. */
const nameOf = (key: string) => prefix + key
/** What an instance would store for this text, which need not be an entry. */
const authentic = (key: string, text: string) => mac.tag(`${nameOf(key)} ${text}`) + text

/** The Redis cache of an instance on a given server. The deadline is long, because the machine may be busy. */
export const connectOuter = async (url: string, { clock = systemClock }: { clock?: Clock } = {}) => {
  const redis = createRedis({ url, clock: systemClock, log: createLog('silent'), scripts, deadlineMs: 5_000 })
  while (redis.serverRunId === undefined) await Bun.sleep(2)
  const forgeries: Forgery[] = []
  const onForged = (forgery: Forgery) => void forgeries.push(forgery)
  const redisCache = createRedisCache({
    redis,
    registry: testRegistry,
    macs: testMacs,
    onForged,
    clock,
    log: createLog('silent'),
  })
  return { redis, redisCache, forgeries, close: () => redis.close() }
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
    nameOf,
    authentic,
    close: async () => {
      await connected.close()
      client.disconnect()
      await server.stop()
    },
  }
}

export type TestOuter = Awaited<ReturnType<typeof startOuter>>
