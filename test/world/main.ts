/**
 * `bun run test:world [--only TEXT] [--storm 12]`: the black box and a short storm on what people run: Postgres 15, the one of
 * the next Debian release and the embedded 18; direct and through PgBouncer; Redis and Valkey; nginx and HAProxy in front.
 * A cell whose programs are missing is skipped and named. Exits with 1 after any failure or wrong answer.
 */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { connectOnce } from '../../src/platform/postgres.ts'
import { report } from '../consistency/report.ts'
import { storm } from '../consistency/storm.ts'
import { createTemplate, startCluster } from '../harness/database.ts'
import { reapAll } from '../harness/reaper.ts'
import { startRedis, startServer, type TestConnection } from '../harness.ts'
import {
  findHaproxy,
  findNginx,
  findPgbouncer,
  findPostgres,
  findValkey,
  startHaproxy,
  startNginx,
  startPgbouncer,
  startPostgres,
  unprivileged,
} from './programs.ts'

const { values } = parseArgs({
  options: { only: { type: 'string', default: '' }, storm: { type: 'string', default: '12' } },
})

type Cell = {
  /** Major version; `embedded` is the one of the npm package. */
  readonly postgres: number | 'embedded'
  readonly route: 'direct' | 'PgBouncer'
  readonly cache: 'Redis' | 'Valkey'
  readonly front: 'no proxy' | 'nginx' | 'HAProxy'
}

const cells: readonly Cell[] = [
  { postgres: 15, route: 'direct', cache: 'Redis', front: 'nginx' },
  { postgres: 15, route: 'PgBouncer', cache: 'Redis', front: 'no proxy' },
  { postgres: 16, route: 'PgBouncer', cache: 'Redis', front: 'nginx' },
  { postgres: 17, route: 'direct', cache: 'Valkey', front: 'no proxy' },
  { postgres: 17, route: 'PgBouncer', cache: 'Valkey', front: 'HAProxy' },
  { postgres: 'embedded', route: 'direct', cache: 'Valkey', front: 'HAProxy' },
]

const nameOf = ({ postgres, route, cache, front }: Cell): string =>
  `Postgres ${postgres === 'embedded' ? '18 (embedded)' : postgres}, ${route}, ${cache}, ${front}`

const missingFor = ({ postgres, route, cache, front }: Cell): string[] => [
  ...(postgres !== 'embedded' && findPostgres(postgres) === undefined ? [`Postgres ${postgres}`] : []),
  ...(route === 'PgBouncer' && findPgbouncer('newer') === undefined ? ['PgBouncer 1.21 or newer'] : []),
  ...(cache === 'Valkey' && findValkey() === undefined ? ['Valkey'] : []),
  ...(front === 'nginx' && findNginx() === undefined ? ['nginx'] : []),
  ...(front === 'HAProxy' && findHaproxy() === undefined ? ['HAProxy'] : []),
]

type Route = {
  readonly connection: TestConnection
  /** What an instance gets for a database of this server. */
  environment(connection: TestConnection): Readonly<Record<string, string>>
}

const openRoute = async ({ postgres, route }: Cell): Promise<Route> => {
  if (postgres === 'embedded') return { connection: await startCluster(), environment: () => ({}) }
  const server = await startPostgres(postgres, { max_connections: '300' })
  console.log(server.version)
  const connection = { host: '127.0.0.1', port: server.port, user: server.user, database: 'postgres' }
  await createTemplate(connection)
  const command = findPgbouncer('newer')
  if (route === 'direct' || command === undefined) return { connection, environment: () => ({}) }
  const pgbouncer = await startPgbouncer(command, server, await unprivileged(), { max_prepared_statements: '200' })
  console.log(pgbouncer.version)
  return {
    connection,
    environment: ({ database }) => ({ DATABASE_URL: pgbouncer.url(database), DATABASE_BUS_URL: server.url(database) }),
  }
}

const root = fileURLToPath(new URL('../../', import.meta.url))

const runBlackBox = (baseUrl: string, env: Readonly<Record<string, string>>): Promise<number> =>
  new Promise((resolve) => {
    spawn(process.execPath, ['test', '--timeout', '60000', './test/http/bun.test.ts'], {
      cwd: root,
      env: { ...process.env, ...env, BASE_URL: baseUrl },
      stdio: 'inherit',
    }).once('close', (code) => resolve(code ?? 1))
  })

const runCell = async (cell: Cell): Promise<boolean> => {
  const { connection, environment } = await openRoute(cell)
  const program = cell.cache === 'Valkey' ? findValkey() : undefined
  const redis = await startRedis({ ...(program && { program }) })
  const admin = connectOnce(connection)
  await admin`create database black_box`
  await admin.end()
  const own = { ...connection, database: 'black_box' }
  const server = await startServer({
    runtime: 'bun',
    connection: own,
    env: { REDIS_URL: redis.url, DB_CONNECTIONS: '', ...environment(own) },
  })
  const port = Number(new URL(server.baseUrl).port)
  const proxy =
    cell.front === 'nginx'
      ? await startNginx(port)
      : cell.front === 'HAProxy'
        ? await startHaproxy(port, 'http')
        : undefined
  const code = await runBlackBox(`http://127.0.0.1:${proxy?.port ?? port}`, {})
  await server.stop()
  await proxy?.stop()
  await redis.stop()

  process.env['TEST_CLUSTER'] = JSON.stringify(connection)
  const seconds = Number(values.storm)
  const oracle = await storm({ seconds, faults: seconds >= 28, environment, redis: program })
  console.log(report(oracle))
  return code === 0 && oracle.wrong.length === 0
}

const results: string[] = []
let failed = false
for (const cell of cells) {
  const name = nameOf(cell)
  if (!name.includes(values.only)) continue
  const missing = missingFor(cell)
  if (missing.length > 0) {
    results.push(`skipped  ${name}: ${missing.join(' and ')} not installed`)
    continue
  }
  console.log(`\n${name}`)
  const isGood = await runCell(cell).catch((error) => {
    console.error(error)
    return false
  })
  failed ||= !isGood
  results.push(`${isGood ? 'passed ' : 'FAILED '}  ${name}`)
  await reapAll()
}
console.log(`\n${results.join('\n')}`)
process.exit(failed ? 1 : 0)
