import type { Sql } from '../../src/platform/postgres.ts'
import { type Fault, openClient, type RedisUnderTest } from '../consistency/faults.ts'

/** Faults of a storm that the suite has no time for. */
export const worldFaults = ({
  sql,
  redis,
  restartPooler,
}: {
  sql: Sql
  redis: RedisUnderTest
  restartPooler: (() => Promise<void>) | undefined
}): readonly Fault[] => [
  {
    name: 'all backends of the instances ended',
    inject: async () => {
      await sql`
        select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
           and application_name <> 'velro:start'`
      await Bun.sleep(1_200)
    },
  },
  {
    name: 'redis full',
    inject: async () => {
      const client = openClient(redis.current)
      const limit = await client.config('GET', 'maxmemory')
      await client.config('SET', 'maxmemory', 1)
      await Bun.sleep(2_000)
      await client.config('SET', 'maxmemory', String((limit as string[])[1]))
      client.disconnect()
    },
  },
  ...(restartPooler
    ? [
        {
          name: 'pooler restarted',
          inject: async () => {
            await restartPooler()
            await Bun.sleep(1_200)
          },
        },
      ]
    : []),
]
