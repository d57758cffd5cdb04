/**
 * What requests see under load: `bun test/faults/overload.ts [RUNTIME] [DIRECTORY]`, with another checkout to compare.
 * Lists of projects arrive at 0.3, 1 and 3 times the rate that the server can answer, in turns. Meanwhile sessions are ended,
 * and `/health` and `/ready` are asked. The load comes from this process, so the figures hold for the rest of the machine.
 */
import { resolve } from 'node:path'
import process from 'node:process'
import { connectOnce } from '../../src/platform/postgres.ts'
import { percentile } from '../bench/latencies.ts'
import { reapAll } from '../harness/reaper.ts'
import { api, type Person, type Runtime, register, startServer } from '../harness.ts'

// Bun sends 256 requests at once by default, so that further ones would wait in this process.
if (process.env['BUN_CONFIG_MAX_HTTP_REQUESTS'] === undefined) {
  const { exitCode } = Bun.spawnSync([process.execPath, ...process.argv.slice(1)], {
    stdio: ['inherit', 'inherit', 'inherit'],
    env: { ...process.env, BUN_CONFIG_MAX_HTTP_REQUESTS: '20000' },
  })
  process.exit(exitCode)
}

const [runtime = 'bun', directory = '.'] = process.argv.slice(2) as [Runtime?, string?]
const people = 20
const projectsEach = 400
const rounds = 3
const phaseMs = 9_000
/** An overload that lasts longer is no burst. */
const onsetMs = 3_000
const pauseMs = 1_500

const server = await startServer({ runtime, directory: resolve(directory), env: { LIMITS: 'off', LOG_LEVEL: 'warn' } })
const client = api(server.baseUrl)
const persons = await Promise.all(Array.from({ length: people }, () => register(client)))
const sql = connectOnce(server.connection)
await sql.begin(async (tx) => {
  await tx`set local session_replication_role = replica`
  await tx`
    insert into projects (id, owner_id, name, visibility)
    select gen_random_uuid(), id, 'P', 'private' from users, generate_series(1, ${projectsEach}::int)`
  await tx`
    insert into project_access (user_id, project_id, actions, owned)
    select user_id, project_id, actions, owned from project_access_expected on conflict do nothing`
})
await sql`vacuum analyze`
await sql.end()

const ask = async (path: string, token?: string, method = 'GET') => {
  const sentMs = performance.now()
  const response = await fetch(server.baseUrl + path, {
    method,
    ...(token !== undefined && { headers: { authorization: `Bearer ${token}` } }),
  })
  const text = await response.text()
  const code = response.status < 400 ? '' : ` ${JSON.parse(text).code ?? ''}`
  return {
    outcome: `${response.status}${code}`,
    retryAfter: response.headers.get('retry-after'),
    ms: performance.now() - sentMs,
  }
}
const list = (number: number) => ask('/api/v1/projects?limit=100', persons[number % people]?.token)

/** The rate of a closed loop. */
const measureCapacity = async () => {
  let answered = 0
  const untilMs = performance.now() + 4_000
  await Promise.all(
    Array.from({ length: 12 }, async (_, worker) => {
      while (performance.now() < untilMs) {
        if ((await list(worker)).outcome === '200') answered += 1
      }
    }),
  )
  return answered / 4
}

type Result = Awaited<ReturnType<typeof ask>>
type Phase = { readonly lists: Result[]; readonly revocations: Result[]; readonly probes: Result[]; seconds: number }
const newPhase = (): Phase => ({ lists: [], revocations: [], probes: [], seconds: 0 })
const phases = { light: newPhase(), full: newPhase(), onset: newPhase(), triple: newPhase() }

/** Sessions to end, made beforehand. */
const victim = persons[0] as Person
const sessions: string[] = []
for (let number = 0; number < 3 * rounds * (phaseMs / 100); number += 1) {
  const { body } = await client.post('/api/v1/auth/login', { email: victim.email, password: victim.password })
  if (body.access_token !== undefined) sessions.push(body.access_token)
}

const run = async (perSecond: number, steady: Phase, onset = steady) => {
  const startedMs = performance.now()
  const underWay: Promise<unknown>[] = []
  let nextMs = startedMs
  let askedAtMs = startedMs
  for (let number = 0; performance.now() < startedMs + phaseMs; ) {
    const phase = performance.now() < startedMs + onsetMs ? onset : steady
    while (nextMs <= performance.now()) {
      underWay.push(list(number).then((result) => phase.lists.push(result)))
      number += 1
      nextMs += (-Math.log(1 - Math.random()) * 1_000) / perSecond
    }
    if (performance.now() >= askedAtMs) {
      askedAtMs += 100
      underWay.push(ask('/api/v1/auth/logout', sessions.pop(), 'POST').then((result) => phase.revocations.push(result)))
      for (const path of ['/health', '/ready']) underWay.push(ask(path).then((result) => phase.probes.push(result)))
    }
    await Bun.sleep(1)
  }
  await Promise.all(underWay)
  onset.seconds += onsetMs / 1_000
  steady.seconds += (phaseMs - onsetMs) / 1_000
  await Bun.sleep(pauseMs)
}

const quantiles = (results: readonly Result[]) => {
  const all = results.map(({ ms }) => ms)
  return [0.5, 0.95, 0.99].map((q) => percentile(all, q).toFixed(1)).join(' / ')
}
const report = (name: string, { lists, revocations, probes, seconds }: Phase) => {
  console.log(`\n${name}`)
  const outcomes = Map.groupBy(lists, ({ outcome }) => outcome)
  for (const [outcome, results] of outcomes) {
    console.log(
      `  ${outcome}: ${(results.length / seconds).toFixed(0)} a second, P50 / P95 / P99 ${quantiles(results)} ms` +
        (outcome === '200' ? '' : `, Retry-After ${results[0]?.retryAfter}`),
    )
  }
  const succeeded = revocations.filter(({ outcome }) => outcome === '204').length
  console.log(`  revocations: ${succeeded} of ${revocations.length}, ${quantiles(revocations)} ms`)
  const well = probes.filter(({ outcome }) => outcome === '200').length
  console.log(`  health and ready: ${well} of ${probes.length}, ${quantiles(probes)} ms`)
}

await measureCapacity()
const capacity = await measureCapacity()
console.log(`${runtime}: ${capacity.toFixed(0)} lists a second at capacity`)
for (let round = 0; round < rounds; round += 1) {
  await run(0.3 * capacity, phases.light)
  await run(capacity, phases.full)
  await run(3 * capacity, phases.triple, phases.onset)
}
report('0.3 × capacity', phases.light)
report('1 × capacity', phases.full)
report(`3 × capacity, the first ${onsetMs / 1_000} s`, phases.onset)
report('3 × capacity, then', phases.triple)
const p99 = ({ lists }: Phase) =>
  percentile(
    lists.filter(({ outcome }) => outcome === '200').map(({ ms }) => ms),
    0.99,
  )
console.log(
  `\nP99 of admitted lists at 3 × capacity: ${(p99(phases.triple) / p99(phases.light)).toFixed(2)} × that at 0.3 ×`,
)
await server.stop()
await reapAll()
process.exit()
