/**
 * `bun test/world/cold-start.ts [--postgres 15] [--bursts 5] [--rounds 20] [--runtime bun]`: starts on a Postgres as a package
 * manager ships it, just-in-time compilation included. Sends 60 requests at once right after a start, 40 after the server ended
 * all backends and 40 while it ends them, and starts five instances at once on an empty database, in each of the rounds. Exits
 * with 1 after any 503 or failed start.
 */
import { parseArgs } from 'node:util'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { reapAll } from '../harness/reaper.ts'
import { api, type Runtime, register, startServer, type TestConnection } from '../harness.ts'
import { startPostgres } from './programs.ts'

const { values } = parseArgs({
  options: {
    postgres: { type: 'string', default: '15' },
    rounds: { type: 'string', default: '20' },
    runtime: { type: 'string', default: 'bun' },
    /** Of the bursts. */
    bursts: { type: 'string', default: '5' },
  },
})
const runtime = values.runtime as Runtime

type Burst = { readonly statuses: Readonly<Record<string, number>>; readonly slowestMs: number }

/** Requests at once, or one after each millisecond without waiting for their answers. */
const burst = async (baseUrl: string, token: string, count: number, pauseMs = 0): Promise<Burst> => {
  const statuses: Record<string, number> = {}
  let slowestMs = 0
  const ask = async (_: unknown, index: number) => {
    if (pauseMs > 0) await Bun.sleep(index * pauseMs)
    const startedMs = performance.now()
    const { status } = await api(baseUrl).get('/api/v1/auth/sessions', { token })
    statuses[status] = (statuses[status] ?? 0) + 1
    slowestMs = Math.max(slowestMs, performance.now() - startedMs)
  }
  await Promise.all(Array.from({ length: count }, ask))
  return { statuses, slowestMs: Math.round(slowestMs) }
}

let failed = false
const report = (what: string, count: number, { statuses, slowestMs }: Burst) => {
  if (statuses['200'] !== count) failed = true
  console.log(`${what}: ${JSON.stringify(statuses)}, slowest ${slowestMs} ms`)
}

const endBackends = async (admin: Sql, database: string, meanwhile: () => Promise<unknown> = async () => {}) => {
  const ending = admin<{ pid: number }[]>`
    select pid, pg_terminate_backend(pid) from pg_stat_activity where datname = ${database}`.execute()
  await meanwhile()
  const pids = (await ending).map(({ pid }) => pid)
  const areGone = async () => (await admin`select from pg_stat_activity where pid = any (${pids}::int[])`).length === 0
  await until(areGone, 'the backends have ended')
}

try {
  const postgres = await startPostgres(Number(values.postgres))
  console.log(postgres.version)
  const { host, port, user } = postgres
  const admin = connectOnce({ host, port, user, database: 'postgres' })
  const [jit] = await admin`select current_setting('jit') as jit, pg_jit_available() as available`
  console.log(`jit ${jit?.['jit']}, available: ${jit?.['available']}`)
  const createDatabase = async (name: string): Promise<TestConnection> => {
    await admin`create database ${admin(name)}`
    return { host: '127.0.0.1', port, user, database: name }
  }
  const connection = await createDatabase('velro')
  const start = () => startServer({ runtime, connection, env: { DB_CONNECTIONS: '80', LOG_LEVEL: 'fatal' } })
  const first = await start()
  const { token } = await register(api(first.baseUrl))
  await first.stop()
  for (let round = 0; round < Number(values.bursts); round += 1) {
    const server = await start()
    report('60 requests right after the start', 60, await burst(server.baseUrl, token, 60))
    await endBackends(admin, 'velro')
    report('40 requests after all backends ended', 40, await burst(server.baseUrl, token, 40))
    await until(() => fetch(`${server.baseUrl}/ready`).then(({ ok }) => ok), 'the instance is ready')
    for (const pauseMs of [0, 1, 0.5]) {
      await endBackends(admin, 'velro', async () => {
        const what = `40 requests while all backends end, ${pauseMs} ms apart`
        report(what, 40, await burst(server.baseUrl, token, 40, pauseMs))
      })
      await until(() => fetch(`${server.baseUrl}/ready`).then(({ ok }) => ok), 'the instance is ready')
    }
    await until(() => fetch(`${server.baseUrl}/ready`).then(({ ok }) => ok), 'the instance is ready')
    await server.stop()
  }
  let started = 0
  for (let round = 0; round < Number(values.rounds); round += 1) {
    const empty = await createDatabase(`empty_${round}`)
    const servers = await Promise.allSettled(
      Array.from({ length: 5 }, () =>
        startServer({
          runtime,
          connection: empty,
          env: { DB_CONNECTIONS: '8', LOG_LEVEL: 'fatal' },
          readyWithinMs: 60_000,
        }),
      ),
    )
    for (const server of servers) {
      if (server.status === 'rejected') console.log(String(server.reason).slice(0, 600))
      else {
        started += 1
        await server.value.kill('SIGKILL')
      }
    }
  }
  const wanted = 5 * Number(values.rounds)
  if (started !== wanted) failed = true
  console.log(`five instances at once on an empty database: ${started} of ${wanted} started`)
  await admin.end()
} catch (error) {
  console.error(error)
  failed = true
} finally {
  await reapAll()
}
process.exit(failed ? 1 : 0)
