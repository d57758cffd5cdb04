/**
 * 200 orders of one account, then one of each of 20 others: how many of the 200 are completed before the first of the others,
 * and how long the others wait. The first round takes all turns away, so that jobs run first in, first out.
 * `bun test/faults/fair-turns.ts`
 */
import process from 'node:process'
import { connectOnce } from '../../src/platform/postgres.ts'
import { reapAll } from '../harness/reaper.ts'
import { api, register, startApp } from '../harness.ts'
import { until } from './support.ts'

const [many, others] = [200, 20]
const order = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 128, height: 128 } }

for (const turns of [false, true]) {
  const idle = await startApp({ config: { dbConnections: 40 } })
  const sql = connectOnce(idle.connection)
  const client = api(idle.baseUrl)
  const [greedy, ...rest] = await Promise.all(Array.from({ length: 1 + others }, () => register(client)))
  const statuses: Record<string, number> = {}
  const place = async (token: string) => {
    const { status } = await client.post('/api/v1/generations', order, { token })
    statuses[status] = (statuses[status] ?? 0) + 1
  }
  for (let placed = 0; placed < many; placed += 20)
    await Promise.all(Array.from({ length: 20 }, () => place(greedy?.token ?? '')))
  for (const { token } of rest) await place(token)
  if (!turns) await sql`update generation_jobs set turn = 0`
  const startedMs = performance.now()
  const working = await startApp({ connection: idle.connection, config: { jobConcurrency: 2 } })
  await until(async () => (await sql`select from generation_jobs`).length === 0, 'all jobs have ended', 600_000)
  const ended = await sql<{ greedy: boolean }[]>`
    select owner_id = ${greedy?.id ?? ''} as greedy from generations where status = 'completed' order by finished_at`
  const first = ended.findIndex((each) => !each.greedy)
  const last = ended.findLastIndex((each) => !each.greedy)
  console.log(
    JSON.stringify({
      turns,
      accepted: statuses,
      completed_of_the_200_before_the_first_of_others: first,
      before_the_last_of_others: last + 1 - others,
      took_ms: Math.round(performance.now() - startedMs),
    }),
  )
  await sql.end()
  await working.close()
  await idle.close()
}
await reapAll()
process.exit(0)
