/**
 * `bun test/faults/lockdown-storm.ts [--seconds 60] [--control]`: three instances, two on Bun and one on Deno, whose operator sets and
 * lifts a lockdown in turns, while Redis is frozen, an instance is frozen, and all LISTEN connections are cut. A check that began
 * after the call had answered, and was answered before the next call was sent, must not allow; and the other way round must not be
 * denied by the lockdown. Exits with 1 after a wrong allow. `--control` switches acknowledgements off: then there must be some.
 */
import { parseArgs } from 'node:util'
import { connectOnce } from '../../src/platform/postgres.ts'
import { reapAll } from '../harness/reaper.ts'
import { type Api, api, createDatabase, register, startRedis, startServer } from '../harness.ts'
import { until } from './support.ts'

const { values } = parseArgs({
  options: { seconds: { type: 'string', default: '60' }, control: { type: 'boolean', default: false } },
})
const endMs = performance.now() + 1_000 * Number(values.seconds)

const database = await createDatabase()
const sql = connectOnce(database.connection)
const redis = await startRedis()
const servers = await Promise.all(
  (['bun', 'bun', 'deno'] as const).map((runtime) => {
    const more = values.control ? { ACKNOWLEDGEMENTS: 'off' } : {}
    const env = { REDIS_URL: redis.url, DB_CONNECTIONS: '18', LOG_LEVEL: 'fatal', ...more }
    return startServer({ runtime, connection: database.connection, env })
  }),
)
const clients = servers.map(({ baseUrl }) => api(baseUrl))
const [client] = clients as [Api]
const operator = await register(client)
const person = await register(client)
await sql`update users set role = 'admin' where id = ${operator.id}`
const as = { token: operator.token }
const { body: project } = await client.post('/api/v1/projects', { name: 'p', visibility: 'public' }, as)
const question = { action: 'read', resource: { type: 'project', id: project.id } }

/** The mode that holds since a call has answered; undefined while a call is under way. */
let mode: 'normal' | 'lockdown' | undefined = 'normal'
let change = 0
const counts = { checks: 0, allows: 0, denies: 0, unanswered: 0, ambiguous: 0 }
const wrong = { allows: 0, denies: 0 }

const ask = async (by: Api): Promise<void> => {
  const [expected, begun] = [mode, change]
  const { status, body } = await by.post('/api/v1/authorization/check', question, { token: person.token })
  counts.checks += 1
  if (status !== 200) counts.unanswered += 1
  else if (expected === undefined || begun !== change) counts.ambiguous += 1
  else {
    counts[body.allowed ? 'allows' : 'denies'] += 1
    if (body.allowed && expected === 'lockdown') wrong.allows += 1
    if (!body.allowed && expected === 'normal') wrong.denies += 1
  }
}
const isRunning = () => performance.now() < endMs
const askers = clients.flatMap((by) =>
  Array.from({ length: 6 }, async () => {
    while (isRunning()) {
      await ask(by).catch(() => {
        counts.unanswered += 1
      })
      await Bun.sleep(2)
    }
  }),
)

let changes = 0
const changer = (async () => {
  for (let turn = 0; isRunning(); turn += 1) {
    const next = turn % 2 === 0 ? 'lockdown' : 'normal'
    // An instance that is frozen answers nothing.
    const by = clients[turn % clients.length] as Api
    mode = undefined
    change += 1
    const set = () => by.put('/api/v1/security/mode', { mode: next }, as).catch(() => undefined)
    await until(async () => (await set())?.status === 200, 'the mode is set')
    mode = next
    changes += 1
    await Bun.sleep(300)
  }
})()

const stopped = async (pid: number, forMs: number) => {
  process.kill(pid, 'SIGSTOP')
  await Bun.sleep(forMs)
  process.kill(pid, 'SIGCONT')
}
const faults = [
  () => stopped(redis.pid, 2_000),
  () => stopped(servers[1]?.pid as number, 2_500),
  () =>
    sql`select pg_terminate_backend(pid) from pg_stat_activity where query like 'listen%' and datname = current_database()`,
  () => stopped(servers[2]?.pid as number, 700),
]
let injected = 0
while (isRunning()) {
  await Bun.sleep(1_500)
  await faults[injected % faults.length]?.()
  injected += 1
}
await Promise.all([...askers, changer])
console.log(`${changes} changes of the mode, ${injected} faults; ${JSON.stringify(counts)}`)
console.log(`wrong allows: ${wrong.allows}, wrong denies: ${wrong.denies}`)
const isWell = values.control ? wrong.allows > 0 : wrong.allows === 0 && counts.allows > 0 && counts.denies > 0
await sql.end()
await reapAll()
process.exit(isWell ? 0 : 1)
