import { api, type Runtime, register, startServer } from '../harness.ts'

/**
 * 10,000 wrong passwords for one account from 5,000 addresses, while its owner signs in on a known device, from a known network
 * and on a new device, and another account signs in too. At the real cost of a hash.
 *
 *     bun test/faults/password-guessing.ts [bun|deno] [OTHER_CHECKOUT] [LIMITS]
 */
const attempts = 10_000
const addresses = 5_000
const inFlight = 64
const path = '/api/v1/auth/login'

const runtime: Runtime = process.argv[2] === 'deno' ? 'deno' : 'bun'
const server = await startServer({
  runtime,
  env: { TRUSTED_PROXIES: '127.0.0.1', LIMITS: process.argv[4] ?? 'on', LOG_LEVEL: 'silent' },
  directory: process.argv[3] ?? process.cwd(),
})
const client = api(server.baseUrl)
const from = (address: string) => ({ headers: { 'x-forwarded-for': address } })

const email = 'owner@example.com'
const password = 'seven green bottles hanging'
const registered = await client.post('/api/v1/auth/register', { email, password }, from('203.0.113.1'))
const other = await register(client)

type Outcomes = { readonly counts: Record<string, number>; readonly ms: number[] }
const outcomes = (): Outcomes => ({ counts: {}, ms: [] })
const attack = outcomes()
const knownDevice = outcomes()
const knownNetwork = outcomes()
const newDevice = outcomes()
const others = outcomes()

const record = async (into: Outcomes, body: object, address: string) => {
  const startedMs = performance.now()
  const { status, body: answer } = await client.post(path, body, from(address))
  into.ms.push(performance.now() - startedMs)
  const outcome = `${status} ${answer.code ?? ''}`.trim()
  into.counts[outcome] = (into.counts[outcome] ?? 0) + 1
}

let sent = 0
const guess = async () => {
  while (sent < attempts) {
    sent += 1
    const index = sent % addresses
    await record(attack, { email, password: `guess ${sent}` }, `198.${18 + (index >> 8)}.${index & 255}.9`)
  }
}
const signIn = async () => {
  while (sent < attempts) {
    const known = { email, password, device_token: registered.body.device_token }
    await record(knownDevice, known.device_token === undefined ? { email, password } : known, '192.0.2.1')
    await record(knownNetwork, { email, password }, '203.0.113.77')
    await record(newDevice, { email, password }, '100.66.0.1')
    await record(others, { email: other.email, password: other.password }, '192.0.2.50')
    await Bun.sleep(200)
  }
}
const startedMs = performance.now()
await Promise.all([...Array.from({ length: inFlight }, guess), signIn()])

const describe = (name: string, { counts, ms }: Outcomes) => {
  const sorted = ms.toSorted((one, another) => one - another)
  const at = (fraction: number) => Math.round(sorted[Math.ceil(fraction * sorted.length) - 1] ?? 0)
  console.log(`${name}: ${JSON.stringify(counts)}, P50 ${at(0.5)} ms, P99 ${at(0.99)} ms`)
}
console.log(`${runtime}, ${Math.round((performance.now() - startedMs) / 1_000)} s`)
describe('guesses', attack)
describe('the owner on a known device', knownDevice)
describe('the owner in a known network', knownNetwork)
describe('the owner on a new device', newDevice)
describe('another account', others)
await server.stop()
process.exit(0)
