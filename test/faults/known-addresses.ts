import { randomBytes } from 'node:crypto'
import { parseArgs } from 'node:util'
import { argon2Options } from '../../src/identity/passwords.ts'
import { connectOnce } from '../../src/platform/postgres.ts'
import { createMailbox } from '../harness/mailbox.ts'
import { mannWhitney } from '../harness/mann-whitney.ts'
import { type Answer, api, startApp } from '../harness.ts'
import { median } from './support.ts'

/**
 * `bun test/faults/known-addresses.ts [--pairs N] [--only NAME]` asks, for each flow that takes an e-mail address, with the address of an
 * account and with one that has none, in interleaved pairs. It prints how long both take and how likely their difference is where
 * both take equally long (Mann-Whitney U test), and exits with 1 where they differ: `p` of at most 0.01.
 */
const { values: options } = parseArgs({
  args: process.argv.slice(2),
  options: { pairs: { type: 'string', default: '500' }, only: { type: 'string', default: '' } },
})
const pairs = Number(options.pairs)
const warmUp = 30
const password = 'seven green bottles hanging'

const mailbox = createMailbox()
const app = await startApp({
  ...mailbox.options,
  config: { ...mailbox.options.config, requireVerifiedEmail: true },
  passwordCost: argon2Options,
})
const client = api(app.baseUrl)
const sql = connectOnce(app.connection)

const newAddress = () => `person-${randomBytes(8).toString('hex')}@example.com`

/** Accounts with verified addresses, all with the hash of one password. */
const createAccounts = async (count: number): Promise<string[]> => {
  const emails = Array.from({ length: count }, newAddress)
  const [email = ''] = emails
  await client.post('/api/v1/auth/register', { email, password })
  await app.services.outbound.drain()
  const [first] = await sql<{ password_hash: string }[]>`select password_hash from users where email = ${email}`
  for (const other of emails.slice(1)) {
    await sql`
      insert into users (id, email, display_name, password_hash)
      values (${crypto.randomUUID()}, ${other}, 'Person', ${first?.password_hash ?? ''})`
  }
  await sql`update users set email_verified_at = now() where email_verified_at is null`
  await app.caughtUp()
  return emails
}

const known = await createAccounts(pairs + warmUp)
const [caller = ''] = await createAccounts(1)
/** A change of the address needs a recent sign-in. */
const signIn = async (): Promise<string> =>
  (await client.post('/api/v1/auth/login', { email: caller, password })).body.access_token
let token = await signIn()
const { body: team } = await client.post('/api/v1/teams', { name: 'Keepers' }, { token })

/** The request that carries an address, and the status of its answer. */
const flows: Readonly<Record<string, { status: number; ask: (email: string) => Promise<Answer> }>> = {
  'sign in': {
    status: 401,
    ask: (email) => client.post('/api/v1/auth/login', { email, password: 'not the password' }),
  },
  register: { status: 202, ask: (email) => client.post('/api/v1/auth/register', { email, password }) },
  'ask for a reset': { status: 202, ask: (email) => client.post('/api/v1/auth/password-reset', { email }) },
  'ask for a verification': { status: 202, ask: (email) => client.post('/api/v1/auth/verify-email', { email }) },
  'invite to a team': {
    status: 201,
    ask: (email) => client.post(`/api/v1/teams/${team.id}/invitations`, { email, role: 'viewer' }, { token }),
  },
  'change the address': { status: 202, ask: (email) => client.post('/api/v1/auth/email', { email }, { token }) },
}

const timed = async ({ status, ask }: (typeof flows)[string], email: string): Promise<number> => {
  const startedMs = performance.now()
  const answer = await ask(email)
  const tookMs = performance.now() - startedMs
  if (answer.status !== status) throw new Error(`Answered ${answer.status}: ${JSON.stringify(answer.body)}`)
  return tookMs
}

let distinguishable = 0
for (const [name, flow] of Object.entries(flows).filter(([each]) => each.includes(options.only))) {
  token = await signIn()
  const samples = { known: [] as number[], unknown: [] as number[] }
  for (const [index, email] of known.entries()) {
    const ask = [
      async () => ({ of: samples.known, ms: await timed(flow, email) }),
      async () => ({ of: samples.unknown, ms: await timed(flow, newAddress()) }),
    ]
    for (const one of index % 2 === 0 ? ask : ask.toReversed()) {
      const { of, ms } = await one()
      if (index >= warmUp) of.push(ms)
    }
  }
  // The mails of one flow are not sent beside the next one.
  await app.services.outbound.drain()
  const { u, p } = mannWhitney(samples.known, samples.unknown)
  const differs = p <= 0.01
  if (differs) distinguishable += 1
  const [first, second] = [median(samples.known), median(samples.unknown)]
  console.log(
    `${name.padEnd(24)} known ${first.toFixed(3)} ms, unknown ${second.toFixed(3)} ms, U ${u}, p ${p.toFixed(3)}${differs ? ': distinguishable' : ''}`,
  )
}
await sql.end()
await app.close()
process.exit(distinguishable === 0 ? 0 : 1)
