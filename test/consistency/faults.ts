import type { Sql } from '../../src/platform/postgres.ts'
import { startRedis } from '../harness.ts'
import type { Instance } from './instances.ts'
import type { Witness } from './oracle.ts'
import type { Probes } from './probes.ts'

/** Whoever is frozen for so long wakes up with what it remembers, and believes it. */
const lessThanLeaseMs = 600
/** About what a server takes until it is ready, less a bit. */
const startsInMs = 250
/** After this nobody waits for an instance that is gone. */
const forgottenAfterMs = 2_200

type OwnRedis = Awaited<ReturnType<typeof startRedis>>

/** The Redis of the storm, on disk so that a restart can bring back what it had. */
export type RedisUnderTest = { current: OwnRedis; readonly folder: string }

export const startOwnRedis = (folder: string, port?: number): Promise<OwnRedis> =>
  startRedis({ ...(port && { port }), flags: ['--dir', folder, '--dbfilename', 'storm.rdb'] })

export type Fault = { readonly name: string; readonly inflict: () => Promise<void> }

export const createFaults = ({
  instances,
  redis,
  sql,
  witness,
  probes,
}: {
  instances: readonly [Instance, Instance, Instance]
  redis: RedisUnderTest
  sql: Sql
  witness: Witness
  probes: Probes
}): readonly Fault[] => {
  const [first, second, third] = instances

  const restartRedis = async (awayMs: number) => {
    const port = Number(new URL(redis.current.url).port)
    await redis.current.stop()
    await Bun.sleep(awayMs)
    redis.current = await startOwnRedis(redis.folder, port)
    witness.tell('redis is back')
  }

  const frozenMs = 5_000
  const freeze = async (instance: Instance) => {
    const sinceMs = performance.now()
    instance.freeze()
    await Bun.sleep(frozenMs)
    // Some are there when it wakes, some come right after.
    const waiting = probes.askAboutLately(instance, sinceMs)
    await Bun.sleep(5)
    instance.thaw()
    witness.tell(`instance ${instance.name} thaws`)
    await Promise.all([waiting, probes.askAboutLately(instance, sinceMs)])
  }

  return [
    { name: 'redis killed', inflict: () => restartRedis(800) },
    {
      name: 'one LISTEN connection cut',
      inflict: async () => {
        await sql`
          select pg_terminate_backend(pid) from pg_stat_activity
           where application_name = 'velro:bus' and datname = current_database() order by random() limit 1`
        await Bun.sleep(1_200)
      },
    },
    { name: `instance ${second.name} frozen`, inflict: () => freeze(second) },
    {
      name: 'redis frozen',
      inflict: async () => {
        process.kill(redis.current.pid, 'SIGSTOP')
        await Bun.sleep(2_000)
        process.kill(redis.current.pid, 'SIGCONT')
        await Bun.sleep(200)
      },
    },
    {
      name: 'redis killed, restored from disk',
      inflict: async () => {
        const { Redis } = await import('ioredis')
        const client = new Redis(redis.current.url)
        await client.save()
        client.disconnect()
        await restartRedis(300)
      },
    },
    {
      name: 'all LISTEN connections cut',
      inflict: async () => {
        await sql`
          select pg_terminate_backend(pid) from pg_stat_activity
           where application_name = 'velro:bus' and datname = current_database()`
        await Bun.sleep(1_200)
      },
    },
    {
      name: `instance ${third.name} killed`,
      inflict: async () => {
        await third.kill()
        await third.restart()
        witness.tell(`instance ${third.name} is back`)
        await probes.askAboutLately(third, performance.now() - 3_000)
        await Bun.sleep(1_000)
      },
    },
    {
      // Who has just come does not know yet whom to wait for; the other wakes up believing, and late.
      name: `instance ${third.name} killed, ${second.name} frozen while it comes back`,
      inflict: async () => {
        await third.kill()
        await Bun.sleep(forgottenAfterMs)
        const back = third.restart()
        await Bun.sleep(startsInMs)
        const sinceMs = performance.now()
        // Only the newcomer is told of changes.
        first.responds = false
        second.freeze()
        await Bun.sleep(lessThanLeaseMs)
        const waiting = probes.askAboutLately(second, sinceMs)
        second.thaw()
        first.responds = true
        await Promise.all([waiting, back])
        await Bun.sleep(500)
      },
    },
    {
      name: `instance ${first.name} frozen for a moment`,
      inflict: async () => {
        // Shorter than a lease: it wakes up believing, and late.
        first.freeze()
        await Bun.sleep(lessThanLeaseMs)
        first.thaw()
        await probes.askAboutLately(first, performance.now() - lessThanLeaseMs)
      },
    },
  ]
}
