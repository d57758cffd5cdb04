/**
 * Kills instances while they send events: `bun test/faults/webhooks-killed.ts [EVENTS]`. One instance on Bun and one on Deno share
 * a database; one of them is killed every 5 seconds and started again, while events are recorded and the receiver is slow, fails
 * or is away. Every event must come in, and the first arrival of each in the order of its resource. About two minutes, because the
 * deliveries of a killed instance are sent again after one.
 */
import process from 'node:process'
import { connectOnce } from '../../src/platform/postgres.ts'
import { reapAll } from '../harness/reaper.ts'
import { api, createDatabase, type Runtime, register, startServer, type TestServer } from '../harness.ts'
import { startReceiver, verify } from '../webhooks/receiver.ts'

const events = Number(process.argv[2] ?? 600)
const resources = 20
const kills = 6

const { connection, drop } = await createDatabase()
const sql = connectOnce(connection)
const receiver = await startReceiver()
const start = (runtime: Runtime) =>
  startServer({ runtime, connection, env: { WEBHOOK_INTERNAL_HOSTS: receiver.host, JOB_CONCURRENCY: '0' } })
const runtimes: Runtime[] = ['bun', 'deno']
const servers: TestServer[] = await Promise.all(runtimes.map(start))
const client = api(servers[0]?.baseUrl ?? '')
const operator = await register(client)
await sql`update users set role = 'admin' where id = ${operator.id}`
while ((await client.get('/api/v1/webhooks', operator)).status !== 200) await Bun.sleep(20)
const made = await client.post('/api/v1/webhooks', { url: receiver.url('/in'), events: ['user.created'] }, operator)
if (made.status !== 201) throw new Error(JSON.stringify(made.body))
const { secret } = made.body

let requests = 0
receiver.setReply(() => {
  requests += 1
  if (requests % 50 === 0) return 'close'
  return requests % 17 === 0 ? 503 : 200
})

const recordAll = async () => {
  for (let at = 0; at < events; at += 1) {
    await sql`select record_webhook_event('user.created', 'user', ${String(at % resources)}, ${sql.json({ user_id: String(at) })}, '{}', true)`
    await Bun.sleep(30)
  }
}
const killAll = async () => {
  for (let at = 0; at < kills; at += 1) {
    await Bun.sleep(5_000)
    const index = at % servers.length
    await servers[index]?.kill('SIGKILL')
    servers[index] = await start(runtimes[index] as Runtime)
  }
}
const startedMs = performance.now()
await Promise.all([recordAll(), killAll()])
const isPending = async () => {
  const [row] = await sql<{ count: number }[]>`
    select count(*)::int as count from webhook_deliveries where state <> 'delivered'`
  return (row?.count ?? 0) > 0
}
while ((await isPending()) && performance.now() - startedMs < 300_000) await Bun.sleep(500)

const received = receiver.received('/in')
for (const request of received) verify(request, secret)
/** By resource, the numbers of events in the order of their first arrival. */
const first = new Map<number, number[]>()
for (const { data } of received) {
  const event = Number(data.user_id)
  const list = first.get(event % resources) ?? []
  if (!list.includes(event)) list.push(event)
  first.set(event % resources, list)
}
const outOfOrder = [...first.values()].filter((list) => list.some((event, at) => at > 0 && event < (list[at - 1] ?? 0)))
const distinct = new Set(received.map(({ id }) => id)).size
const report = {
  events,
  kills,
  delivered: distinct,
  missing: events - distinct,
  requests: received.length,
  resources_out_of_order: outOfOrder.length,
  seconds: Math.round((performance.now() - startedMs) / 1_000),
}
console.log(JSON.stringify(report))
await Promise.all(servers.map((server) => server.stop()))
await receiver.close()
await sql.end()
await drop()
await reapAll()
process.exit(report.missing === 0 && outOfOrder.length === 0 ? 0 : 1)
