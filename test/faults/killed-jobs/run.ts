import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { defaultLeaseMs as leaseMs } from '../../../src/jobs/runner.ts'
import { connectOnce } from '../../../src/platform/postgres.ts'
import { reapFolder } from '../../harness/reaper.ts'
import { api, createDatabase, freePort, type Person, register, startServer, type TestServer } from '../../harness.ts'
import { createCustomers } from './customers.ts'
import { inspect, recordEnds } from './inspection.ts'
import { startProvider } from './provider.ts'

export type RunOptions = {
  readonly jobs: number
  readonly instances: number
  readonly killEveryS: number
  /** Shortens leases to this. Default: the real length. */
  readonly leaseS?: number
}

const welcome = 1_000_000
const people = 5
const submitters = 6
/** Unfinished jobs per instance, so that a kill always interrupts some. */
const backlog = 8
const pollMs = 50
const expireEveryMs = 1_000
/** A lease with a heartbeat this recent belongs to a running worker, or to one that was killed a moment ago. */
const heartbeatWithinMs = 3_500
const endWithinMs = 120_000
/** Killing continues after the last order until this many. */
const minKills = 4

const range = (length: number) => Array.from({ length }, (_, index) => index)

/**
 * Several instances over one database: random ones are killed (-9) and restarted while customers order, cancel and delete
 * pictures, and leases of running workers are expired.
 *
 * Guarantee: `violations` lists each order that did not end exactly once or was not settled or refunded exactly once, each
 * balance that is not the sum of its ledger, each missing object and each orphan.
 */
export const run = async ({ jobs, instances, killEveryS, leaseS }: RunOptions) => {
  const closers: (() => unknown)[] = []
  const startedMs = performance.now()
  let stopped = false
  try {
    const database = await createDatabase()
    closers.push(database.drop)
    const { connection } = database
    const sql = connectOnce(connection)
    closers.push(() => sql.end())
    await recordEnds(sql)
    const folder = await mkdtemp(join(tmpdir(), 'velro-media-'))
    reapFolder(folder)
    const provider = await startProvider()
    closers.push(provider.close)

    const env = {
      MEDIA_DIR: folder,
      OPENAI_API_KEY: 'sk-test',
      OPENAI_BASE_URL: `${provider.baseUrl}/v1`,
      WELCOME_CREDITS: String(welcome),
      WELCOME_CREDITS_AFTER: 'registration',
      WELCOME_CREDITS_PER_ADDRESS: '0',
      ACCESS_TOKEN_SECONDS: '3600',
      JOB_CONCURRENCY: '4',
      RENDER_WORKERS: '1',
      LOG_LEVEL: 'fatal',
    }
    const start = (port: string) => startServer({ runtime: 'bun', connection, env: { ...env, PORT: port } })
    const servers: TestServer[] = []
    closers.push(() => Promise.all(servers.map((server) => server.kill('SIGKILL'))))
    for (const _ of range(instances)) servers.push(await start(String(await freePort())))
    const randomServer = () => servers[Math.floor(Math.random() * instances)] as TestServer
    const persons: Person[] = []
    for (const _ of range(people)) persons.push(await register(api(randomServer().baseUrl)))

    let left = 0
    let expired = 0
    const monitoring = (async () => {
      for (let expiredAtMs = 0; !stopped; await Bun.sleep(pollMs)) {
        const [row] = await sql<{ left: number }[]>`select count(*)::int as left from generation_jobs`
        left = row?.left ?? 0
        if (leaseS !== undefined) {
          await sql`
            update generation_jobs set lease_until = clock_timestamp()
             where lease_until < clock_timestamp() + ${leaseMs - 1_000 * leaseS}::float8 * interval '1 millisecond'
               and lease_until > clock_timestamp()`
        }
        if (performance.now() - expiredAtMs < expireEveryMs) continue
        expiredAtMs = performance.now()
        const { count } = await sql`
          with expired as (
            update generation_jobs set lease_until = clock_timestamp() where generation_id = (
              select generation_id from generation_jobs
               where lease_until > clock_timestamp() + ${leaseMs - heartbeatWithinMs}::float8 * interval '1 millisecond'
               order by random() limit 1)
            returning generation_id, attempt
          ) insert into expired_leases select * from expired`
        expired += count
      }
    })()
    closers.push(() => monitoring)

    const customers = createCustomers({ persons, baseUrl: () => randomServer().baseUrl })
    let next = 0
    const submit = async () => {
      for (let number = next++; number < jobs; number = next++) {
        while (left > backlog * instances) await Bun.sleep(pollMs)
        await customers.order(number)
      }
    }
    let ordered = false
    const ordering = Promise.all(range(submitters).map(submit))
      .then(customers.done)
      .finally(() => {
        ordered = true
      })
    ordering.catch(() => {})

    let kills = 0
    for (;;) {
      const pause = Bun.sleep(killEveryS * 1_000)
      await (ordered ? pause : Promise.race([ordering, pause]))
      if (ordered && kills >= minKills) break
      const victim = randomServer()
      await victim.kill('SIGKILL')
      kills += 1
      servers[servers.indexOf(victim)] = await start(new URL(victim.baseUrl).port)
    }
    await ordering
    const timeoutAtMs = performance.now() + endWithinMs
    do await Bun.sleep(4 * pollMs)
    while (left > 0 && performance.now() < timeoutAtMs)
    stopped = true
    await monitoring
    const found = await inspect({ sql, connection, folder }, customers.orders, welcome)
    return {
      ...found,
      violations: [...customers.violations, ...found.violations],
      repeated: customers.repeated,
      kills,
      expired,
      seconds: Math.round((performance.now() - startedMs) / 1_000),
    }
  } finally {
    stopped = true
    for (const close of closers.reverse()) await close()
  }
}

export type Outcome = Awaited<ReturnType<typeof run>>
