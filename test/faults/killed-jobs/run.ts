import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { defaultLeaseMs as leaseMs } from '../../../src/jobs/runner.ts'
import { connectOnce } from '../../../src/platform/postgres.ts'
import { reapFolder } from '../../harness/reaper.ts'
import { api, createDatabase, freePort, type Person, register, startServer, type TestServer } from '../../harness.ts'
import { createCustomers } from './customers.ts'
import { inspect, keepWatch } from './inspection.ts'
import { startProvider } from './provider.ts'

export type RunOptions = {
  readonly jobs: number
  readonly instances: number
  readonly killEveryS: number
  /** As if leases were so long. Default: they are as long as they are. */
  readonly leaseS?: number
}

const welcome = 1_000_000
const people = 5
const submitters = 6
/** Jobs that wait or are worked on, for each instance: each has something to lose at any time, and orders keep coming. */
const backlog = 8
const lookMs = 50
const stealEveryMs = 1_000
/** A lease that was renewed not longer ago than those who live do it: its worker was not killed, but for the last moments. */
const renewedWithinMs = 3_500
const overWithinMs = 120_000
/** Also when the last order was taken sooner. */
const leastKills = 4

const range = (length: number) => Array.from({ length }, (_, index) => index)

/**
 * Instances over one database, one or another of which is killed (-9) and started again all the time, while people order
 * pictures from them, call some off and delete some. Now and then a lease runs out under somebody who works.
 *
 * Promise: what is not as it must be in the end is in `wrong`: each accepted order ended once, was paid for or refunded once,
 * every balance is the sum of its ledger, and every picture that is shown is there, and nothing else.
 */
export const run = async ({ jobs, instances, killEveryS, leaseS }: RunOptions) => {
  const closers: (() => unknown)[] = []
  const startedMs = performance.now()
  let over = false
  try {
    const database = await createDatabase()
    closers.push(database.drop)
    const { connection } = database
    const sql = connectOnce(connection)
    closers.push(() => sql.end())
    await keepWatch(sql)
    const folder = await mkdtemp(join(tmpdir(), 'velro-media-'))
    reapFolder(folder)
    const provider = await startProvider()
    closers.push(provider.close)

    const env = {
      MEDIA_DIR: folder,
      OPENAI_API_KEY: 'sk-test',
      OPENAI_BASE_URL: `${provider.baseUrl}/v1`,
      WELCOME_CREDITS: String(welcome),
      ACCESS_TOKEN_SECONDS: '3600',
      JOB_CONCURRENCY: '4',
      RENDER_WORKERS: '1',
      LOG_LEVEL: 'fatal',
    }
    const start = (port: string) => startServer({ runtime: 'bun', connection, env: { ...env, PORT: port } })
    const servers: TestServer[] = []
    closers.push(() => Promise.all(servers.map((server) => server.kill('SIGKILL'))))
    for (const _ of range(instances)) servers.push(await start(String(await freePort())))
    const one = () => servers[Math.floor(Math.random() * instances)] as TestServer
    const persons: Person[] = []
    for (const _ of range(people)) persons.push(await register(api(one().baseUrl)))

    let left = 0
    let stolen = 0
    const watching = (async () => {
      for (let stoleMs = 0; !over; await Bun.sleep(lookMs)) {
        const [row] = await sql<{ left: number }[]>`select count(*)::int as left from generation_jobs`
        left = row?.left ?? 0
        if (leaseS !== undefined) {
          await sql`
            update generation_jobs set lease_until = clock_timestamp()
             where lease_until < clock_timestamp() + ${leaseMs - 1_000 * leaseS}::float8 * interval '1 millisecond'
               and lease_until > clock_timestamp()`
        }
        if (performance.now() - stoleMs < stealEveryMs) continue
        stoleMs = performance.now()
        const { count } = await sql`
          with stolen as (
            update generation_jobs set lease_until = clock_timestamp() where generation_id = (
              select generation_id from generation_jobs
               where lease_until > clock_timestamp() + ${leaseMs - renewedWithinMs}::float8 * interval '1 millisecond'
               order by random() limit 1)
            returning generation_id, attempt
          ) insert into seen_steals select * from stolen`
        stolen += count
      }
    })()
    closers.push(() => watching)

    const customers = createCustomers({ persons, baseUrl: () => one().baseUrl })
    let next = 0
    const submit = async () => {
      for (let number = next++; number < jobs; number = next++) {
        while (left > backlog * instances) await Bun.sleep(lookMs)
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
      if (ordered && kills >= leastKills) break
      const victim = one()
      await victim.kill('SIGKILL')
      kills += 1
      servers[servers.indexOf(victim)] = await start(new URL(victim.baseUrl).port)
    }
    await ordering
    const giveUpAtMs = performance.now() + overWithinMs
    do await Bun.sleep(4 * lookMs)
    while (left > 0 && performance.now() < giveUpAtMs)
    over = true
    await watching
    const found = await inspect({ sql, connection, folder }, customers.told, welcome)
    return {
      ...found,
      wrong: [...customers.wrong, ...found.wrong],
      repeated: customers.repeated,
      kills,
      stolen,
      seconds: Math.round((performance.now() - startedMs) / 1_000),
    }
  } finally {
    over = true
    for (const close of closers.reverse()) await close()
  }
}

export type Outcome = Awaited<ReturnType<typeof run>>
