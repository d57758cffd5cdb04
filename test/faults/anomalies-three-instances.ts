/**
 * Attacks on three instances of the service that share one Redis, each request to another one: ids that are guessed, and leaked
 * passwords. Prints after how long each attacker is limited, and what people behind the same address notice.
 *
 * Usage: bun test/faults/anomalies-three-instances.ts [--runtime deno] [--alone]
 * `--alone`: without Redis.
 */
import { randomUUID } from 'node:crypto'
import { parseArgs } from 'node:util'
import { api, register } from '../harness/api.ts'
import { createDatabase } from '../harness/database.ts'
import { startRedis } from '../harness/redis.ts'
import { startServer } from '../harness/server.ts'

const { values } = parseArgs({
  options: { runtime: { type: 'string', default: 'bun' }, alone: { type: 'boolean', default: false } },
})
const runtime = values.runtime === 'deno' ? 'deno' : 'bun'
const longestMs = 90_000

const own = await createDatabase()
const redis = await startRedis()
const env = {
  ...(!values.alone && { REDIS_URL: redis.url }),
  LIMITS: 'on',
  ANOMALY: 'enforce',
  TRUSTED_PROXIES: '127.0.0.1',
  DB_CONNECTIONS: '12',
  LOG_LEVEL: 'error',
}
const servers = await Promise.all(
  [1, 2, 3].map(() => startServer({ runtime, connection: own.connection, env, readyWithinMs: 60_000 })),
)
const clients = servers.map(({ baseUrl }) => api(baseUrl))
let turn = 0
const next = () => {
  turn += 1
  return clients[turn % clients.length] ?? api('')
}
const from = (address: string) => ({ headers: { 'x-forwarded-for': address } })

/** Sends at a rate until the attacker is limited; returns after how many milliseconds, or undefined. */
const attack = async (perMinute: number, send: () => Promise<boolean>): Promise<number | undefined> => {
  const startedMs = performance.now()
  while (performance.now() - startedMs < longestMs) {
    if (await send()) return performance.now() - startedMs
    await Bun.sleep(60_000 / perMinute)
  }
  return undefined
}

const office = '198.51.100.7'
const signIn = (email: string, password: string) => next().post('/api/v1/auth/login', { email, password }, from(office))
const registered = await register({
  ...next(),
  post: (path, body) => next().post(path, body, from(office)),
})
const guesser = await register({ ...next(), post: (path, body) => next().post(path, body, from('203.0.113.1')) })

const [guessed, stuffed] = await Promise.all([
  attack(40, async () => {
    const { headers } = await next().get(`/api/v1/generations/${randomUUID()}`, { token: guesser.token })
    const limit = Number(/q=(\d+)/.exec(headers.get('ratelimit-policy') ?? '')?.[1] ?? 120)
    return limit < 120
  }),
  attack(40, async () => {
    const { status } = await signIn(`leaked-${randomUUID()}@example.com`, 'another password')
    return status === 429
  }),
])
const seconds = (ms: number | undefined) => (ms === undefined ? 'never' : `${(ms / 1_000).toFixed(1)} s`)
console.log(`${runtime}, ${values.alone ? 'without Redis' : 'with Redis'}`)
console.log(`guessing 40 ids a minute: limited after ${seconds(guessed)}`)
console.log(`40 leaked passwords a minute behind the address of an office: limited after ${seconds(stuffed)}`)
const known = await signIn(registered.email, registered.password)
const me = await next().get('/api/v1/auth/me', { token: registered.token, ...from(office) })
console.log(`in that office: a sign-in to an account with a session there ${known.status}, a session ${me.status}`)

for (const server of servers) await server.kill('SIGTERM')
await redis.stop()
await own.drop()
process.exit(0)
