import { createRandom } from '../../../src/kit/random.ts'
import { connect, type Sql } from '../../../src/platform/postgres.ts'
import { newRedis } from '../crowd.ts'
import { connectionOf } from '../databases.ts'
import { percentile, timeCalls } from '../latencies.ts'
import { type Measured, measure, type Requests } from '../load/send.ts'
import { checkRequest, createDraft, type Mix, prepareMix, startMix, tokensOf } from '../mix.ts'
import { onEnd, type Server } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const instances = 3
const changers = 24
const rounds = 3
const drawn = 20_000

/** Changes that take access away and give it back on all instances; half of the requests are checks that are held against them. */
const changePlan = (mix: Mix, seconds: number): Requests => {
  const random = createRandom(19)
  const draft = createDraft(tokensOf(mix))
  const shared = mix.projects.filter(({ visibility }) => visibility === 'team-only')
  const slots = new Map(shared.map(({ id }, slot) => [id, slot]))
  const next = (): number => {
    if (random.chance(0.5)) {
      let question = mix.ask(random)
      for (let tries = 0; tries < 100 && !slots.has(question.projectId ?? ''); tries += 1) question = mix.ask(random)
      return checkRequest(mix, draft, question, 'token', slots)
    }
    const { id, owner_id } = random.pick(shared)
    const toggles = { slot: slots.get(id) ?? 0, openingBody: '{"visibility":"team-only"}' }
    const request = {
      method: 'PATCH',
      path: `/api/v1/projects/${id}`,
      body: '{"visibility":"private"}',
      toggles,
    } as const
    return draft.add('change', request, mix.people.get(owner_id)?.access_token)
  }
  const lane = Array.from({ length: drawn }, next)
  return draft.plan([lane], [{ connections: changers, seconds }], { warmUpSeconds: 1 })
}

/** As many clients that each change a row of their own and notify, and nothing else. */
const commitAndNotify = async (sql: Sql, forMs: number) => {
  const latenciesMs = await timeCalls(
    (worker) =>
      sql.begin(async (tx) => {
        await tx`update bench_rows set turn = turn + 1 where id = ${worker}`
        await tx`select pg_notify('bench', ${String(worker)})`
      }),
    { workers: changers, forMs },
  )
  return { perSecond: latenciesMs.length / (forMs / 1_000), p99Ms: percentile(latenciesMs, 0.99) }
}

/** How many changes of access three instances do a second, while all of them are asked about what changes. */
export const changes: Scenario = async ({ seconds }) => {
  const mix = await prepareMix()
  const env = { ...(await newRedis()), DB_CONNECTIONS: '24' }
  const servers: Server[] = []
  while (servers.length < instances) servers.push(await startMix(mix, env))
  const pool = connect(connectionOf(mix.env), { max: changers })
  onEnd({ stop: () => pool.end({ timeout: 1 }) })
  await pool`create table bench_rows (id int primary key, turn int not null default 0)`
  await pool`insert into bench_rows (id) select generate_series(0, ${changers - 1})`
  const [setting] = await pool<{ fsync: string }[]>`select current_setting('fsync') as fsync`
  const plan = changePlan(mix, Math.max(4, seconds))
  const urls = servers.map(({ url }) => url)
  await measure(urls, plan)
  const runs: Measured[] = []
  const controls: Awaited<ReturnType<typeof commitAndNotify>>[] = []
  for (let round = 0; round < rounds; round += 1) {
    controls.push(await commitAndNotify(pool, seconds * 1_000))
    runs.push(await measure(urls, plan, { sql: mix.sql }))
  }
  const changed = runs.map(
    ({ kinds, perSecond, requests }) => ((kinds?.['change']?.requests ?? 0) / requests) * perSecond,
  )
  return {
    about: `changes of access to projects over ${instances} instances, as many checks about them, fsync ${setting?.fsync}`,
    sides: [{ name: 'Velro, changes and checks', runs }],
    findings: [
      {
        what: 'changes that take access away, a second',
        unit: 'count',
        values: changed.map((perSecond) => perSecond / 2),
        target: { atLeast: 300 },
      },
      { what: 'all changes a second', unit: 'count', values: changed },
      {
        what: '  / commit and NOTIFY alone',
        unit: 'ratio',
        values: changed.map((perSecond, round) => perSecond / (controls[round]?.perSecond ?? Number.NaN)),
      },
      {
        what: 'P99 of a change',
        unit: 'ms',
        values: runs.map(({ kinds }) => kinds?.['change']?.p99Ms ?? Number.NaN),
        target: { below: 100 },
      },
      { what: 'P99 of a commit with NOTIFY alone', unit: 'ms', values: controls.map(({ p99Ms }) => p99Ms) },
      { what: 'answers that had to be no', unit: 'count', values: runs.map(({ verdicts }) => verdicts?.judged ?? 0) },
      {
        what: '  of them yes',
        unit: 'count',
        values: runs.map(({ verdicts }) => verdicts?.staleAllows ?? 0),
        target: { below: 1 },
      },
    ],
  }
}
