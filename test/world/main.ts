/**
 * `bun run test:world [--only TEXT] [--storm 40]`: the black box, and a storm of that many seconds over three instances, on what
 * people run: Postgres 15, the one of the next Debian release and the embedded 18; direct and through PgBouncer; kinds of Redis
 * and Valkey; nginx and HAProxy in front; disk and S3; Bun and Deno. A cell whose programs are missing is skipped and named.
 * Ends with a line for each cell. Exits with 1 after any failure or wrong answer.
 */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { connectOnce } from '../../src/platform/postgres.ts'
import { openClient } from '../consistency/faults.ts'
import { report } from '../consistency/report.ts'
import { storm } from '../consistency/storm.ts'
import { reapAll } from '../harness/reaper.ts'
import { startServer, type TestRedis } from '../harness.ts'
import { blackBoxEnvironment } from '../http/black-box/driver.ts'
import {
  type Cache,
  type Cell,
  caches,
  cells,
  mediaEnvironment,
  missingFor,
  nameOf,
  openWay,
  startFront,
  type Way,
} from './cells.ts'
import { worldFaults } from './faults.ts'

const { values } = parseArgs({
  options: { only: { type: 'string', default: '' }, storm: { type: 'string', default: '40' } },
})

const root = fileURLToPath(new URL('../../', import.meta.url))

type Outcome = { readonly isGood: boolean; readonly summary: string }

/** Prints the output of the black box if a test fails. */
const runBlackBox = (baseUrl: string, subject: object): Promise<Outcome> =>
  new Promise((resolve) => {
    const tests = spawn(process.execPath, ['test', '--timeout', '60000', './test/http/bun.test.ts'], {
      cwd: root,
      env: { ...process.env, BASE_URL: baseUrl, SUBJECT: JSON.stringify(subject) },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let output = ''
    const take = (chunk: Buffer) => {
      output += chunk
    }
    tests.stdout.on('data', take)
    tests.stderr.on('data', take)
    tests.once('close', (code) => {
      const count = (what: string) => Number(new RegExp(`^ *(\\d+) ${what}$`, 'm').exec(output)?.[1] ?? 0)
      const isGood = code === 0 && count('pass') > 0
      if (!isGood) console.log(output.replace(/^\(pass\).*\n/gm, ''))
      resolve({ isGood, summary: `${count('pass')} passed, ${count('fail')} failed, ${count('skip')} skipped` })
    })
  })

const eventsOfNoUse = ['redis.unsuitable', 'redis.full', 'redis.other_server', 'redis.other_secret']

/** How the use of Redis differs from the expected one. Undefined: it does not. */
const misuseOf = async (redis: TestRedis, output: string, unused: string | undefined): Promise<string | undefined> => {
  const client = openClient(redis)
  const entries = await client.dbsize()
  client.disconnect()
  // The first entries may fit into a server that is about to be full.
  if (entries > 10 !== (unused === undefined)) return `${entries} entries in Redis`
  const logged = eventsOfNoUse.filter((event) => output.includes(`"event":"${event}"`))
  return logged.join() === (unused ?? '') ? undefined : `the log has ${logged.join(' and ') || `no ${unused}`}`
}

const testBlackBox = async (cell: Cell, { connection, environment }: Way): Promise<Outcome> => {
  const admin = connectOnce(connection)
  await admin`create database black_box`
  await admin.end()
  const own = { ...connection, database: 'black_box' }
  const cache: Cache = caches[cell.cache]
  const redis = await cache.start?.()
  const server = await startServer({
    runtime: cell.runtime,
    connection: own,
    env: {
      ...blackBoxEnvironment,
      ...(redis && { REDIS_URL: redis.url }),
      ...cache.environment,
      ...(await mediaEnvironment(cell.media)),
      ...(cell.front !== 'no proxy' && { TRUSTED_PROXIES: '127.0.0.1' }),
      DB_CONNECTIONS: '',
      ...environment(own),
    },
  })
  const port = await startFront(cell.front, Number(new URL(server.baseUrl).port))
  const proxy = cell.front === 'no proxy' ? undefined : cell.front
  const outcome = await runBlackBox(`http://127.0.0.1:${port}`, { proxy, connection: own })
  await server.stop()
  const misuse = redis && (await misuseOf(redis, server.output(), cache.unused))
  await redis?.stop()
  return misuse ? { isGood: false, summary: `${outcome.summary}, ${misuse}` } : outcome
}

const testConsistency = async (cell: Cell, { connection, environment, restartPooler }: Way): Promise<Outcome> => {
  process.env['TEST_CLUSTER'] = JSON.stringify(connection)
  const cache: Cache = caches[cell.cache]
  const seconds = Number(values.storm)
  const oracle = await storm({
    seconds,
    faults: seconds >= 28,
    env: { ...cache.environment, ...(cache.start ? {} : { REDIS_URL: '' }) },
    environment,
    ...(cache.start && { redis: cache.start }),
    moreFaults: (parts) => worldFaults({ ...parts, restartPooler }),
  })
  console.log(report(oracle))
  const { counts, wrong, removals, events } = oracle
  const faults = events.filter(({ what }) => what.endsWith(': over')).length
  return {
    isGood: wrong.length === 0 && removals.length > seconds / 2,
    summary: `${wrong.length} wrong of ${counts.checks} checks, ${removals.length} removals, ${faults} faults`,
  }
}

const lines: string[] = []
let failed = false
for (const cell of cells) {
  const name = nameOf(cell)
  if (!name.includes(values.only)) continue
  const missing = missingFor(cell)
  if (missing.length > 0) {
    lines.push(`skipped  ${name}: ${missing.join(' and ')} not installed`)
    continue
  }
  console.log(`\n${name}`)
  try {
    const way = await openWay(cell)
    const blackBox = await testBlackBox(cell, way)
    const consistency = await testConsistency(cell, way)
    const isGood = blackBox.isGood && consistency.isGood
    failed ||= !isGood
    lines.push(`${isGood ? 'passed ' : 'FAILED '}  ${name}: ${blackBox.summary}; storm: ${consistency.summary}`)
  } catch (error) {
    console.error(error)
    failed = true
    lines.push(`FAILED   ${name}: ${error instanceof Error ? error.message.split('\n')[0] : error}`)
  }
  await reapAll()
}
console.log(`\n${lines.join('\n')}`)
process.exit(failed ? 1 : 0)
