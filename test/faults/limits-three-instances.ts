/**
 * Three instances of the service share one Redis, and one person sends 5 times the limit for a minute: first with Redis, then
 * while Redis is killed in the middle of it, then when it is back empty. Prints what was admitted and how long requests took.
 *
 * Usage: bun test/faults/limits-three-instances.ts
 */
import { parseArgs } from 'node:util'
import { api, register } from '../harness/api.ts'
import { createDatabase } from '../harness/database.ts'
import { startRedis } from '../harness/redis.ts'
import { startServer } from '../harness/server.ts'

const { values } = parseArgs({ options: { limit: { type: 'string', default: '120' } } })
const limit = Number(values.limit)
const windowMs = 60_000
const overload = 5

const own = await createDatabase()
let redis = await startRedis()
const port = Number(new URL(redis.url).port)
const env = {
  REDIS_URL: redis.url,
  LIMITS: 'on',
  LIMIT_API_FREE: String(limit),
  LIMIT_MEDIA_FREE: String(limit),
  DB_CONNECTIONS: '12',
  LOG_LEVEL: 'error',
}
const servers = await Promise.all(
  [1, 2, 3].map(() => startServer({ runtime: 'bun', connection: own.connection, env, readyWithinMs: 60_000 })),
)
// Membership: each instance has heard the heartbeats of the others.
await Bun.sleep(3_000)

type Sent = { readonly atMs: number; readonly tookMs: number; readonly status: number }

/** Sends evenly to the instances in turn, `overload` times the limit in each window. */
const overloadFor = async (ms: number, send: (base: string) => Promise<Response>): Promise<Sent[]> => {
  const sent: Promise<Sent>[] = []
  const startedMs = performance.now()
  const perMs = (limit * overload) / windowMs
  for (let count = 0; performance.now() - startedMs < ms; ) {
    while (count < (performance.now() - startedMs) * perMs) {
      const base = servers[count % servers.length]?.baseUrl ?? ''
      const atMs = performance.now()
      sent.push(
        send(base).then(async (response) => {
          await response.arrayBuffer()
          return { atMs, tookMs: performance.now() - atMs, status: response.status }
        }),
      )
      count += 1
    }
    await Bun.sleep(2)
  }
  return Promise.all(sent)
}

const admittedIn = (sent: readonly Sent[]) => sent.filter(({ status }) => status !== 429)
/** The most that were admitted in any window. */
const mostInAWindow = (sent: readonly Sent[]) => {
  const times = admittedIn(sent).map(({ atMs }) => atMs)
  return times.reduce(
    (most, from) => Math.max(most, times.filter((at) => at >= from && at < from + windowMs).length),
    0,
  )
}
const p = (sent: readonly Sent[], share: number) => {
  const sorted = sent.map(({ tookMs }) => tookMs).toSorted((one, other) => one - other)
  return Math.round((sorted[Math.floor(sorted.length * share)] ?? 0) * 10) / 10
}
const report = (what: string, sent: readonly Sent[]) =>
  console.log(
    `${what}: sent ${sent.length}, admitted ${admittedIn(sent).length}, most in a minute ${mostInAWindow(sent)} ` +
      `(${((100 * mostInAWindow(sent)) / limit).toFixed(1)} % of ${limit}), P50 ${p(sent, 0.5)} ms, P99 ${p(sent, 0.99)} ms, ` +
      `longest ${p(sent, 0.9999)} ms`,
  )

const senders = {
  'api, by memory': (token: string) => (base: string) =>
    fetch(`${base}/api/v1/authorization/check`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: JSON.stringify({
        action: 'read',
        resource: { type: 'project', id: '00000000-0000-7000-8000-000000000001' },
      }),
    }),
  'media, exact': (token: string) => (base: string) =>
    fetch(`${base}/api/v1/media/01890000-0000-7000-8000-000000000000/content`, {
      headers: { authorization: `Bearer ${token}` },
    }),
}

const client = api(servers[0]?.baseUrl ?? '')
try {
  const people = await Promise.all(Object.values(senders).map(async (make) => make((await register(client)).token)))
  const withRedis = await Promise.all(people.map((send) => overloadFor(windowMs, send)))
  for (const [at, name] of Object.keys(senders).entries()) report(`${name}, with Redis`, withRedis[at] ?? [])

  const others = await Promise.all(Object.values(senders).map(async (make) => make((await register(client)).token)))
  const killed = Bun.sleep(windowMs / 4).then(() => redis.stop())
  const before = await Promise.all(others.map((send) => overloadFor(windowMs, send)))
  await killed
  for (const [at, name] of Object.keys(senders).entries())
    report(`${name}, Redis killed after a quarter (at most ${3 * limit})`, before[at] ?? [])

  redis = await startRedis({ port })
  const after = await Promise.all(others.map((send) => overloadFor(windowMs / 4, send)))
  for (const [at, name] of Object.keys(senders).entries()) {
    report(`${name}, Redis back`, after[at] ?? [])
    report(`${name}, over all of it`, [...(before[at] ?? []), ...(after[at] ?? [])])
  }
} finally {
  for (const server of servers) await server.kill('SIGTERM')
  await redis.stop()
  await own.drop()
}
process.exit(0)
