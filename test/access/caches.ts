import { randomBytes } from 'node:crypto'
import { scripts } from '../../src/access/cache/redis-cache.ts'
import { type CacheTiming, createCaches } from '../../src/access/caches.ts'
import { defaultLeaseTiming } from '../../src/access/invalidation/timing.ts'
import { factQuery } from '../../src/access/policy/facts/queries.ts'
import { type FactKey, factKey } from '../../src/access/policy/facts/registry.ts'
import { createTierFlagStore } from '../../src/flags/tiers/store.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { createLog, type Log } from '../../src/platform/log.ts'
import { type Connection, createDatabase as createPools } from '../../src/platform/postgres.ts'
import { createRedis, type Forgery } from '../../src/platform/redis.ts'
import { createSecrets } from '../../src/platform/secrets.ts'
import type { TestConnection } from '../harness.ts'

const clock = systemClock

/** The caches of one instance, with helpers to read and change an account. Redis gets two seconds to answer. */
export const startCaches = async (
  connection: TestConnection,
  redisUrl?: string,
  timing?: CacheTiming,
  {
    busConnection = connection,
    changesConnection = connection,
    log = createLog('silent'),
    withLease = true,
    secret = 'one secret for every instance of it',
    previousSecret,
  }: {
    /** As DATABASE_BUS_URL. */
    busConnection?: Connection
    /** What the bus takes for DATABASE_URL; the pools are connected directly. */
    changesConnection?: Connection
    log?: Log
    /** Whether to wait for a lease. */
    withLease?: boolean
    secret?: string
    previousSecret?: string
  } = {},
) => {
  const pools = createPools({ connection, budget: 12 })
  const redis =
    redisUrl === undefined ? undefined : createRedis({ url: redisUrl, clock, log, scripts, deadlineMs: 2_000 })
  const forgeries: Forgery[] = []
  const caches = createCaches({
    instance: randomBytes(9).toString('hex'),
    database: pools,
    busThread: new URL('../../src/boot/compose/bus-thread.ts', import.meta.url),
    busConnection,
    changesConnection,
    redis,
    secrets: createSecrets(secret, previousSecret),
    onForged: (forgery) => void forgeries.push(forgery),
    clock,
    realClock: clock,
    leaseClock: clock,
    log,
    limits: { maxEntries: 1_000, maxBytes: 1e9, ttlMs: 60_000 },
    acknowledge: true,
    tierSwitches: {
      stored: { l1: true, l2: true, l3: true, warm_up: true },
      read: (sql) => createTierFlagStore(sql).list(),
    },
    timing,
  })
  const { facts, changes, bus } = caches
  const startDeadline = createDeadlines(clock)
  const within = () => startDeadline(30_000)
  const until = async (isSo: () => boolean | Promise<boolean>) => {
    for (const giveUpAt = Date.now() + 30_000; !(await isSo()); await Bun.sleep(5)) {
      if (Date.now() > giveUpAt) throw new Error('The condition did not become true within 30 s')
    }
  }
  const leased = () => until(() => clock.monotonic() < bus.lease.untilMs)
  /** Waits for a lease whose heartbeat was sent after this call. */
  const leasedAnew = () => {
    const untilMs = clock.monotonic() + (timing?.lease ?? defaultLeaseTiming).leaseMs
    return until(() => bus.lease.untilMs > untilMs)
  }
  if (withLease) await leased()
  return {
    ...caches,
    pools,
    redis,
    forgeries,
    within,
    until,
    leased,
    leasedAnew,
    /** The status of an account and the tier below memory it came from. */
    readStatus: async (userId: string) => {
      await leased()
      facts.invalidate([factKey('account', userId)])
      const view = await facts.gather([factQuery('account', userId)], within())
      return `${view.find('account', userId)?.status} by ${view.tier}`
    },
    /** Changes the status of an account as a service does. */
    setStatus: (userId: string, status: 'active' | 'suspended') =>
      changes.commitAndInvalidate(within(), async (tx) => {
        await tx`update users set status = ${status} where id = ${userId}`
      }),
    pendingInvalidations: async (): Promise<string[]> => {
      const rows = await pools.batch<{ keys: FactKey[] }[]>`select keys from access_events order by id`
      return rows.flatMap(({ keys }) => keys)
    },
    close: async () => {
      await caches.close()
      await redis?.close()
      await pools.close(0)
    },
  }
}

export type TestCaches = Awaited<ReturnType<typeof startCaches>>
