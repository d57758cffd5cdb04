/**
 * What requests see under load: `bun test/faults/overload.ts [RUNTIME] [DIRECTORY]`, with another checkout to compare.
 * Lists of projects arrive at 0.3, 1 and 3 times the rate that the server can answer, in turns. Meanwhile sessions are ended,
 * and `/health` and `/ready` are asked. The load comes from another process (`overload-load.ts`), which shares the processors with
 * the server and Postgres. So Bun's server also measures itself (`timed-server.ts`).
 */

import { resolve } from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { connectOnce } from '../../src/platform/postgres.ts'
import { percentile } from '../bench/latencies.ts'
import { reapAll } from '../harness/reaper.ts'
import { api, type Person, type Runtime, register, startServer } from '../harness.ts'
import type { Order, Result, Results } from './overload-load.ts'

const [runtime = 'bun', directory = '.'] = process.argv.slice(2) as [Runtime?, string?]
const people = 20
const projectsEach = 400
const rounds = 3
const phaseMs = 9_000
/** An overload that lasts longer is no burst. */
const onsetMs = 3_000
const pauseMs = 1_500

const server = await startServer({
  runtime,
  directory: resolve(directory),
  ...(runtime === 'bun' && { entry: 'test/faults/timed-server.ts' }),
  env: { LIMITS: 'off', LOG_LEVEL: 'warn' },
})
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

/** One order at a time. */
const load = (() => {
  let answer: ((results: Results) => void) | undefined
  const child = Bun.spawn([process.execPath, fileURLToPath(new URL('overload-load.ts', import.meta.url))], {
    stdio: ['ignore', 'inherit', 'inherit'],
    ipc: (results: Results) => answer?.(results),
  })
  return {
    run: (order: Order) =>
      new Promise<Results>((resolved) => {
        answer = resolved
        child.send(order)
      }),
    end: () => child.kill(),
  }
})()

/** The rate of a closed loop. */
const measureCapacity = async () => {
  let answered = 0
  const untilMs = performance.now() + 4_000
  const work = async (_: unknown, worker: number) => {
    const { token } = persons[worker % people] as Person
    while (performance.now() < untilMs) {
      const response = await fetch(`${server.baseUrl}/api/v1/projects?limit=100`, {
        headers: { authorization: `Bearer ${token}` },
      })
      await response.arrayBuffer()
      if (response.status === 200) answered += 1
    }
  }
  await Promise.all(Array.from({ length: 12 }, work))
  return answered / 4
}

type Phase = Results & { seconds: number; readonly measured: Measured[] }
type Measured = { readonly times: [string, number, ...number[]][]; readonly lagP99Ms: number }
const newPhase = (): Phase => ({ lists: [], revocations: [], probes: [], seconds: 0, measured: [] })
const phases = { light: newPhase(), full: newPhase(), onset: newPhase(), triple: newPhase() }

/** Sessions to end, made beforehand. */
const victim = persons[0] as Person
const sessions: string[] = []
for (let number = 0; number < 3 * rounds * (phaseMs / 100 + 2); number += 1) {
  const { body } = await client.post('/api/v1/auth/login', { email: victim.email, password: victim.password })
  if (body.access_token !== undefined) sessions.push(body.access_token)
}

const measure = async (): Promise<Measured | undefined> => {
  if (runtime !== 'bun') return undefined
  const before = server.output().length
  server.process.kill('SIGUSR2')
  for (;;) {
    const found = /MEASURED (.*)\n/.exec(server.output().slice(before))?.[1]
    if (found !== undefined) return JSON.parse(found)
    await Bun.sleep(10)
  }
}

const run = async (perSecond: number, steady: Phase, onset = steady) => {
  await measure()
  const measuredOnset = onset === steady ? undefined : Bun.sleep(onsetMs).then(measure)
  const results = await load.run({
    baseUrl: server.baseUrl,
    perSecond,
    phaseMs,
    onsetMs,
    listTokens: persons.map(({ token }) => token),
    sessions: sessions.splice(0, phaseMs / 100 + 2),
  })
  const measured = await measure()
  const duringOnset = await measuredOnset
  if (measured !== undefined) steady.measured.push(measured)
  if (duringOnset !== undefined) onset.measured.push(duringOnset)
  for (const kind of ['lists', 'revocations', 'probes'] as const) {
    for (const result of results[kind]) (result.atMs < onsetMs ? onset : steady)[kind].push(result)
  }
  onset.seconds += onsetMs / 1_000
  steady.seconds += (phaseMs - onsetMs) / 1_000
  await Bun.sleep(pauseMs)
}

const quantiles = (results: readonly Result[]) => {
  const all = results.map(({ ms }) => ms)
  return [0.5, 0.95, 0.99].map((q) => percentile(all, q).toFixed(1)).join(' / ')
}
const report = (name: string, { lists, revocations, probes, seconds, measured }: Phase) => {
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
  const last = measured.at(-1)
  if (last === undefined) return
  console.log(`  measured by the server in the last round: event loop late by ${last.lagP99Ms.toFixed(1)} ms (P99)`)
  for (const [request, count, ...ms] of last.times) {
    console.log(`    ${request}: ${count}, P50 / P95 / P99 ${ms.map((each) => each.toFixed(1)).join(' / ')} ms`)
  }
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
load.end()
await server.stop()
await reapAll()
process.exit()
