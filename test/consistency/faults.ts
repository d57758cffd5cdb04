import { Redis } from 'ioredis'
import type { Sql } from '../../src/platform/postgres.ts'
import { startRedis } from '../harness.ts'
import type { Instance } from './instances.ts'
import type { Oracle } from './oracle.ts'
import type { Probes } from './probes.ts'

/** Shorter than a lease: an instance frozen this long resumes with a valid lease. */
const withinLeaseMs = 600
/** Slightly less than a server takes to become ready. */
const startsInMs = 250
/** Two leases and a margin: after this a killed instance is no longer a member. */
const membershipEndsMs = 2_200

type OwnRedis = Awaited<ReturnType<typeof startRedis>>

export type StartRedis = typeof startRedis

/** The Redis of the storm. It has a folder, so that a restart can restore a snapshot. */
export type RedisUnderTest = { current: OwnRedis; start(port?: number): Promise<OwnRedis> }

/** `start` makes another kind of Redis than the default. */
export const startOwnRedis = async (folder: string, start: StartRedis = startRedis): Promise<RedisUnderTest> => {
  const flags = ['--dir', folder, '--dbfilename', 'storm.rdb']
  const restart = (port?: number) => start({ ...(port && { port }), flags })
  return { current: await restart(), start: restart }
}

/** The caller must disconnect it. */
export const openClient = ({ url }: Pick<OwnRedis, 'url'>): Redis =>
  new Redis(url, url.startsWith('rediss:') ? { tls: { rejectUnauthorized: false } } : {})

export type Fault = { readonly name: string; readonly inject: () => Promise<void> }

export const createFaults = ({
  instances,
  redis,
  sql,
  oracle,
  probes,
}: {
  instances: readonly [Instance, Instance, Instance]
  redis: RedisUnderTest
  sql: Sql
  oracle: Oracle
  probes: Probes
}): readonly Fault[] => {
  const [first, second, third] = instances

  const restartRedis = async (awayMs: number) => {
    const port = Number(new URL(redis.current.url).port)
    await redis.current.stop()
    await Bun.sleep(awayMs)
    redis.current = await redis.start(port)
    oracle.logEvent('redis is back')
  }

  const frozenMs = 5_000
  const freeze = async (instance: Instance) => {
    const sinceMs = performance.now()
    instance.freeze()
    await Bun.sleep(frozenMs)
    // Some requests are queued when it resumes, others arrive right after.
    const waiting = probes.checkRecentChanges(instance, sinceMs)
    await Bun.sleep(5)
    instance.thaw()
    oracle.logEvent(`instance ${instance.name} resumes`)
    await Promise.all([waiting, probes.checkRecentChanges(instance, sinceMs)])
  }

  return [
    { name: 'redis killed', inject: () => restartRedis(800) },
    {
      name: 'one LISTEN connection cut',
      inject: async () => {
        await sql`
          select pg_terminate_backend(pid) from pg_stat_activity
           where application_name = 'velro:bus' and datname = current_database() order by random() limit 1`
        await Bun.sleep(1_200)
      },
    },
    { name: `instance ${second.name} frozen`, inject: () => freeze(second) },
    {
      name: 'redis frozen',
      inject: async () => {
        process.kill(redis.current.pid, 'SIGSTOP')
        await Bun.sleep(2_000)
        process.kill(redis.current.pid, 'SIGCONT')
        await Bun.sleep(200)
      },
    },
    {
      name: 'redis killed, restored from disk',
      inject: async () => {
        const client = openClient(redis.current)
        await client.save()
        client.disconnect()
        await restartRedis(300)
      },
    },
    {
      name: 'all LISTEN connections cut',
      inject: async () => {
        await sql`
          select pg_terminate_backend(pid) from pg_stat_activity
           where application_name = 'velro:bus' and datname = current_database()`
        await Bun.sleep(1_200)
      },
    },
    {
      name: `instance ${third.name} killed`,
      inject: async () => {
        await third.kill()
        await third.restart()
        oracle.logEvent(`instance ${third.name} is back`)
        await probes.checkRecentChanges(third, performance.now() - 3_000)
        await Bun.sleep(1_000)
      },
    },
    {
      // The new instance does not know its members yet, and the other resumes late with a valid lease.
      name: `instance ${third.name} killed, ${second.name} frozen while it comes back`,
      inject: async () => {
        await third.kill()
        await Bun.sleep(membershipEndsMs)
        const back = third.restart()
        await Bun.sleep(startsInMs)
        const sinceMs = performance.now()
        // Changes go only to the new instance.
        first.responds = false
        second.freeze()
        await Bun.sleep(withinLeaseMs)
        const waiting = probes.checkRecentChanges(second, sinceMs)
        second.thaw()
        first.responds = true
        await Promise.all([waiting, back])
        await Bun.sleep(500)
      },
    },
    {
      name: `instance ${first.name} frozen for a moment`,
      inject: async () => {
        // Shorter than a lease: it resumes late with a valid lease.
        first.freeze()
        await Bun.sleep(withinLeaseMs)
        first.thaw()
        await probes.checkRecentChanges(first, performance.now() - withinLeaseMs)
      },
    },
  ]
}
