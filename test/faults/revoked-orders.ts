/**
 * Orders into a project against the removal of their caller from its team, on two instances: how many orders were accepted
 * after the removal was answered. `bun test/faults/revoked-orders.ts [ROUNDS]`
 */
import process from 'node:process'
import { connectOnce } from '../../src/platform/postgres.ts'
import { reapAll } from '../harness/reaper.ts'
import { api, register, startApp } from '../harness.ts'

const rounds = Number(process.argv[2] ?? 300)
const ordersPerRound = 4
const here = await startApp({ config: { dbConnections: 60 } })
const there = await startApp({ connection: here.connection, config: { dbConnections: 60 } })
const sql = connectOnce(here.connection)
const [owner, caller] = await Promise.all([register(api(here.baseUrl)), register(api(here.baseUrl))])
const post = (path: string, body: object, token = owner.token) =>
  api(here.baseUrl).post(`/api/v1${path}`, body, { token })
const team = (await post('/teams', { name: 'T' })).body.id
const project = (await post('/projects', { name: 'P', visibility: 'team-only' })).body.id
await post(`/projects/${project}/teams`, { team_id: team, access_level: 'write' })

const outcomes: Record<string, number> = {}
let late = 0
for (let round = 0; round < rounds; round += 1) {
  await sql`insert into team_members (team_id, user_id, role) values (${team}, ${caller.id}, 'editor')`
  await here.caughtUp()
  await there.caughtUp()
  let isRevoked = false
  const order = { model: 'local/procedural', prompt: 'a lighthouse', project_id: project }
  const orders = Array.from({ length: ordersPerRound }, async (_, index) => {
    await Bun.sleep((round % 8) / 2 + index)
    const { status } = await api((index % 2 ? here : there).baseUrl).post('/api/v1/generations', order, caller)
    outcomes[status] = (outcomes[status] ?? 0) + 1
    if (status === 201 && isRevoked) late += 1
  })
  await Bun.sleep(2)
  const removed = await api(here.baseUrl).delete(`/api/v1/teams/${team}/members/${caller.id}`, { token: owner.token })
  isRevoked = removed.status === 204
  await Promise.all(orders)
}
console.log(JSON.stringify({ rounds, orders: rounds * ordersPerRound, outcomes, accepted_after_the_removal: late }))
await sql.end()
await there.close()
await here.close()
await reapAll()
process.exit(0)
