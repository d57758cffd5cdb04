/**
 * What a lease and an order cost with a long queue: `bun test/faults/job-queue-cost.ts [JOBS]`. Each statement was planned on
 * its connection while the queue was empty, and again after `analyze`.
 */
import process from 'node:process'
import { createJobStore } from '../../src/jobs/store.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { newId } from '../../src/kit/id.ts'
import { connect } from '../../src/platform/postgres.ts'
import { reapAll } from '../harness/reaper.ts'
import { createDatabase } from '../harness.ts'

const jobs = Number(process.argv[2] ?? 100_000)
const rounds = 20

for (const owners of [1, 100, jobs]) {
  const { connection, drop } = await createDatabase()
  const sql = connect(connection, { max: 1 })
  const store = createJobStore(sql, 'worker', { models: ['m'], strandedMs: 60_000 })
  const startDeadline = createDeadlines(systemClock)
  await sql`
    insert into users (id, email, display_name, password_hash)
    select gen_random_uuid(), i || '@example.com', 'U', 'x' from generate_series(1, ${owners}::int) i`
  const addGeneration = async () => {
    const id = newId()
    await sql`insert into generations (id, owner_id, model, prompt) select ${id}, id, 'm', 'p' from users limit 1`
    return id
  }
  const lease = async () => {
    const leased = await sql.begin((tx) => store.lease(tx, 2, 60_000))
    if (leased.length === 0) return
    await sql`delete from generation_jobs where generation_id = any (${leased.map((job) => job.generation_id)}::uuid[])`
  }
  const measure = async (name: string, work: () => Promise<unknown>) => {
    const took: number[] = []
    for (let round = 0; round < rounds; round += 1) {
      const startedMs = performance.now()
      await work()
      took.push(performance.now() - startedMs)
    }
    took.sort((a, b) => a - b)
    return { [name]: `${took[rounds / 2]?.toFixed(2)} ms, at most ${took.at(-1)?.toFixed(2)} ms` }
  }
  const measureAll = async () => ({
    ...(await measure('lease of 2', lease)),
    ...(await measure('order', async () => {
      const id = await addGeneration()
      await sql.begin((tx) => store.enqueue(tx, { generationId: id }))
    })),
    ...(await measure('poll', () => store.isAnyDue())),
    ...(await measure('position', async () => {
      const [last] = await sql<{ id: string }[]>`
        select generation_id as id from generation_jobs order by priority desc, turn desc limit 1`
      return store.findPositions(startDeadline(60_000), [last?.id ?? newId()])
    })),
  })
  console.log(JSON.stringify({ owners, jobs: 0, ...(await measureAll()) }))
  await sql`
    insert into generations (id, owner_id, model, prompt)
    select gen_random_uuid(), o.id, 'm', 'p'
      from (select id, row_number() over () as n from users) o
      join generate_series(1, ${jobs}::int) i on i % ${owners}::int + 1 = o.n`
  const startedMs = performance.now()
  // Each owner takes a lock, and a transaction may hold some thousands.
  const waiting = await sql<{ id: string }[]>`
    select id from generations g where not exists (select from generation_jobs where generation_id = g.id)`
  for (let from = 0; from < waiting.length; from += 2_000) {
    const ids = waiting.slice(from, from + 2_000).map(({ id }) => id)
    await sql`insert into generation_jobs (generation_id, priority) select unnest(${ids}::uuid[]), 2`
  }
  console.log(JSON.stringify({ enqueued_all_in_ms: Math.round(performance.now() - startedMs) }))
  console.log(JSON.stringify({ owners, jobs, planned: 'empty', ...(await measureAll()) }))
  await sql`analyze`
  console.log(JSON.stringify({ owners, jobs, planned: 'analyzed', ...(await measureAll()) }))
  const plan = await sql.unsafe(`
    explain (analyze, costs off, timing off) select j.generation_id from generation_jobs j join generations g on g.id = j.generation_id
     where j.run_after <= clock_timestamp() and coalesce(j.lease_until <= clock_timestamp(), true)
       and (g.model = any ('{m}') or greatest(j.run_after, j.lease_until) <= clock_timestamp() - interval '1 day')
     order by j.priority, j.turn, j.created_at, j.generation_id
     limit 2 for update of j skip locked for no key update of g skip locked`)
  console.log(plan.map((line) => line['QUERY PLAN']).join('\n'))
  await sql.end()
  await drop()
}
await reapAll()
process.exit(0)
