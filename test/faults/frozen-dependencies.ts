/**
 * `bun test/faults/frozen-dependencies.ts [--seconds 20] [--rounds 1] [--runtime bun|deno|mixed] [--only postgres|redis] [--load 300]`: three
 * instances over one Postgres and one Redis, under the load of the storm (requests a second). The postmaster and all backends are stopped (SIGSTOP)
 * for that time, then Redis is. Reports when each instance opened its breaker and answered from memory, its answers
 * meanwhile, how long it took to be well again, and every wrong answer. Exits with 1 after a wrong answer or a figure beyond its
 * limit.
 */
import { parseArgs } from 'node:util'
import { connectOnce } from '../../src/platform/postgres.ts'
import { report } from '../consistency/report.ts'
import { type StormParts, storm } from '../consistency/storm.ts'
import { createFreezer, findPostmaster } from '../harness/postgres-server.ts'
import { reapAll } from '../harness/reaper.ts'
import { type Api, api, type Person, type Runtime, register } from '../harness.ts'
import { until } from './support.ts'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '20' },
    rounds: { type: 'string', default: '1' },
    runtime: { type: 'string', default: 'mixed' },
    only: { type: 'string', default: '' },
    load: { type: 'string', default: '300' },
  },
})
const frozenMs = Number(values.seconds) * 1_000
const maxOpenMs = 2_000
const maxRecoveryMs = 5_000
const everyMs = 20

const lines: string[] = []
const problems: string[] = []
const tell = (line: string) => void lines.push(line)
const limit = (what: string, figure: number, most: number) => {
  if (!(figure <= most)) problems.push(`${what}: ${figure.toFixed(0)} ms, must be ${most} ms at most`)
}
const quantile = (all: readonly number[], share: number): number => {
  const sorted = all.toSorted((one, other) => one - other)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
}
const spread = (all: readonly number[]) =>
  `${all.length}, P50 ${quantile(all, 0.5).toFixed(1)} ms, P99 ${quantile(all, 0.99).toFixed(1)} ms, max ${Math.max(...all).toFixed(1)} ms`

type World = {
  readonly clients: readonly Api[]
  readonly ada: Person
  readonly project: string
  readonly names: readonly string[]
}

/** A person who is an operator, with a project that everybody may read. */
const prepare = async ({ sql, instances }: StormParts): Promise<World> => {
  const clients = instances.map(({ server }) => api(server.baseUrl))
  const [client] = clients as [Api]
  let ada: Person | undefined
  // On a busy machine the load of the start may leave no room.
  await until(async () => {
    ada = await register(client).catch(() => undefined)
    return ada !== undefined
  }, 'a person is registered')
  if (ada === undefined) throw new Error('The registration failed')
  await sql`update users set role = 'admin' where id = ${ada.id}`
  const { body } = await client.post('/api/v1/projects', { name: 'p', visibility: 'public' }, { token: ada.token })
  return { clients, ada, project: body.id, names: instances.map(({ name }) => name) }
}

const check = (client: Api, { ada, project }: World, action = 'read') =>
  client.post(
    '/api/v1/authorization/check',
    { action, resource: { type: 'project', id: project } },
    { token: ada.token },
  )
const stateOf = async (client: Api, { ada }: World, name: string) => {
  const { body } = await client.get('/api/v1/security/breakers', { token: ada.token })
  return body?.breakers?.find((breaker: { name: string }) => breaker.name === name)?.state
}

type Sample = { readonly atMs: number; readonly ms: number; readonly answer: string }

/** Sends one request after the other until `stop`. */
const sample = (send: () => Promise<string>) => {
  const samples: Sample[] = []
  let isRunning = true
  const running = (async () => {
    while (isRunning) {
      const atMs = performance.now()
      const answer = await send()
      samples.push({ atMs, ms: performance.now() - atMs, answer })
      await Bun.sleep(everyMs)
    }
  })()
  return {
    samples,
    stop: async () => {
      isRunning = false
      await running
    },
  }
}
const countAnswers = (samples: readonly Sample[]): string => {
  const counts = new Map<string, number>()
  for (const { answer } of samples) counts.set(answer, (counts.get(answer) ?? 0) + 1)
  return [...counts].map(([answer, count]) => `${count} ${answer}`).join(', ')
}

const readOf = (client: Api, world: World) => async () => {
  const { status, body } = await check(client, world)
  return status === 200
    ? `${body.allowed ? 'allow' : 'deny'}${body.degraded ? ', marked' : ''}`
    : `${status} ${body?.code}`
}
const writeOf =
  (client: Api, { ada, project }: World) =>
  async () => {
    const answer = await client.patch(
      `/api/v1/projects/${project}`,
      { name: String(Math.random()) },
      { token: ada.token },
    )
    return answer.status === 200 ? 'made' : `${answer.status} ${answer.body?.code}`
  }

const freezePostgres = async (parts: StormParts, world: World) => {
  const { clients, names } = world
  const postgres = createFreezer(() => findPostmaster(parts.connection))
  for (const client of clients)
    await until(async () => (await readOf(client, world)()) === 'allow', 'facts are in memory')
  // The instances must have known each other for two leases.
  await Bun.sleep(2_500)
  const samplers = clients.map((client) => ({
    reads: sample(readOf(client, world)),
    writes: sample(writeOf(client, world)),
    breaker: sample(async () => String(await stateOf(client, world, 'postgres'))),
  }))
  await Bun.sleep(1_000)
  postgres.freeze()
  const sinceMs = performance.now()
  await Bun.sleep(frozenMs)
  postgres.thaw()
  const thawedMs = performance.now()
  const sql = connectOnce(parts.connection)
  /** Statements that run or wait, at moments after the thaw: who is blocked, by whom, and for how long. */
  const waits: string[] = []
  while (performance.now() - thawedMs < maxRecoveryMs + 3_000) {
    await Bun.sleep(700)
    const rows = await sql<{ line: string }[]>`
      select format('%s %s %s/%s %s s, by %s: %s', pid, state, wait_event_type, wait_event,
                    round(extract(epoch from clock_timestamp() - xact_start)::numeric, 1), pg_blocking_pids(pid),
                    left(regexp_replace(query, '\s+', ' ', 'g'), 90)) as line
        from pg_stat_activity
       where xact_start < clock_timestamp() - interval '0.5 s' and pid <> pg_backend_pid()
       order by xact_start limit 12`
    if (rows.length > 0) waits.push(`  ${(performance.now() - thawedMs).toFixed(0)} ms after the thaw:`)
    for (const { line } of rows) waits.push(`    ${line}`)
  }
  await sql.end()
  for (const { reads, writes, breaker } of samplers) await Promise.all([reads.stop(), writes.stop(), breaker.stop()])
  for (const [at, { reads, writes, breaker }] of samplers.entries()) {
    const name = `instance ${names[at]}`
    const first = ({ samples }: typeof reads, fromMs: number, is: (answer: string) => boolean) => {
      const found = samples.find((each) => each.atMs >= fromMs && is(each.answer))
      return found === undefined ? Number.NaN : found.atMs + found.ms - fromMs
    }
    const openMs = first(breaker, sinceMs, (state) => state === 'open' || state === 'half_open')
    const markedMs = first(reads, sinceMs, (answer) => answer === 'allow, marked')
    const during = (samples: readonly Sample[], fromMs: number) =>
      samples.filter(({ atMs, ms }) => atMs >= fromMs && atMs + ms < thawedMs)
    const openedAtMs = sinceMs + openMs
    const readsWhileOpen = during(reads.samples, sinceMs + markedMs)
    const writesWhileOpen = during(writes.samples, openedAtMs)
    const wellMs = Math.max(
      first(reads, thawedMs, (answer) => answer === 'allow'),
      first(writes, thawedMs, (answer) => answer === 'made'),
    )
    tell(
      `${name}: breaker open after ${openMs.toFixed(0)} ms, marked reads after ${markedMs.toFixed(0)} ms, well ${wellMs.toFixed(0)} ms after the thaw`,
    )
    tell(
      `  before that: reads ${countAnswers(during(reads.samples, sinceMs).filter(({ atMs }) => atMs < sinceMs + markedMs))}`,
    )
    tell(`  from then: reads ${countAnswers(readsWhileOpen)}; ${spread(readsWhileOpen.map(({ ms }) => ms))}`)
    tell(
      `  writes begun while it is open: ${countAnswers(writesWhileOpen)}; ${spread(writesWhileOpen.map(({ ms }) => ms))}`,
    )
    tell(`  writes after the thaw: ${countAnswers(writes.samples.filter((each) => each.atMs >= thawedMs))}`)
    limit(`${name}, breaker open`, openMs, maxOpenMs)
    limit(`${name}, marked reads`, markedMs, maxOpenMs + 1_000)
    limit(`${name}, well again`, wellMs, maxRecoveryMs)
    const refused = readsWhileOpen.filter(({ answer }) => answer !== 'allow, marked')
    if (refused.length > 0)
      tell(
        `  reads not marked, ms after the freeze: ${refused.map(({ atMs }) => (atMs - sinceMs).toFixed(0)).join(' ')}`,
      )
    const share = readsWhileOpen.filter(({ answer }) => answer === 'allow, marked').length / readsWhileOpen.length
    if (!(share > 0.99)) problems.push(`${name}: ${(100 * share).toFixed(1)} % of reads went on`)
    if (writesWhileOpen.some(({ answer }) => answer === 'made')) problems.push(`${name}: a change was made meanwhile`)
  }
  if (waits.length > 0) tell(`long transactions:\n${waits.join('\n')}`)
}

const freezeRedis = async ({ redis }: StormParts, world: World) => {
  const { clients, names } = world
  const samplers = clients.map((client) => ({
    reads: sample(readOf(client, world)),
    writes: sample(writeOf(client, world)),
  }))
  await Bun.sleep(5_000)
  const sinceMs = performance.now()
  process.kill(redis.current.pid, 'SIGSTOP')
  await Bun.sleep(frozenMs)
  process.kill(redis.current.pid, 'SIGCONT')
  const thawedMs = performance.now()
  for (const { reads, writes } of samplers) await Promise.all([reads.stop(), writes.stop()])
  for (const [at, { reads, writes }] of samplers.entries()) {
    for (const [what, { samples }] of Object.entries({ reads, writes })) {
      const before = samples.filter(({ atMs }) => atMs < sinceMs)
      const during = samples.filter(({ atMs }) => atMs >= sinceMs && atMs < thawedMs)
      tell(`instance ${names[at]}, ${what}: before ${countAnswers(before)}; ${spread(before.map(({ ms }) => ms))}`)
      tell(`  while Redis is frozen ${countAnswers(during)}; ${spread(during.map(({ ms }) => ms))}`)
      const other = samples.filter(({ answer }) => answer !== 'allow' && answer !== 'made')
      if (other.length > 0) problems.push(`instance ${names[at]}: ${countAnswers(other)}`)
    }
  }
}

const runtimes: Record<string, readonly [Runtime, Runtime, Runtime]> = {
  bun: ['bun', 'bun', 'bun'],
  deno: ['deno', 'deno', 'deno'],
  mixed: ['bun', 'bun', 'deno'],
}

try {
  for (let round = 1; round <= Number(values.rounds); round += 1) {
    let world: World | undefined
    const names = ['postgres', 'redis'].filter((name) => name.includes(values.only))
    const oracle = await storm({
      seconds: 10,
      faults: ' is frozen',
      runtimes: runtimes[values.runtime] ?? runtimes['mixed'] ?? ['bun', 'bun', 'bun'],
      requestsPerS: Number(values.load),
      removalsPerS: Number(values.load) / 10,
      moreFaults: (parts) =>
        names.map((name) => ({
          name: `${name} is frozen`,
          inject: async () => {
            world ??= await prepare(parts)
            await (name === 'postgres' ? freezePostgres(parts, world) : freezeRedis(parts, world))
          },
        })),
    })
    console.log(lines.splice(0).join('\n'))
    console.log(report(oracle))
    if (oracle.wrong.length > 0) problems.push(`round ${round}: ${oracle.wrong.length} wrong answers`)
  }
  for (const problem of problems) console.log(`PROBLEM: ${problem}`)
  if (problems.length > 0) process.exitCode = 1
} catch (error) {
  console.error(error)
  process.exitCode = 1
} finally {
  await reapAll()
}
process.exit()
