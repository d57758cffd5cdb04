import { afterAll, beforeAll, expect, test } from 'bun:test'
import { randomBytes } from 'node:crypto'
import { connectOnce } from '../../src/platform/postgres.ts'
import { createMailbox } from '../harness/mailbox.ts'
import { startApp, type TestApp } from '../harness.ts'

const password = 'seven green bottles hanging'
const newAddress = () => `person-${randomBytes(8).toString('hex')}@example.com`
const mailbox = createMailbox()
let app: TestApp
let token: string
/** Addresses of an active account, and of accounts that are suspended and not verified yet. */
const known = { active: newAddress(), suspended: newAddress(), unverified: newAddress() }

type Sent = { readonly status: number; readonly headers: Headers; readonly text: string }
const send = async (path: string, body: unknown): Promise<Sent> => {
  const response = await fetch(app.baseUrl + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(token !== undefined && { authorization: `Bearer ${token}` }) },
    body: JSON.stringify(body),
  })
  return { status: response.status, headers: response.headers, text: await response.text() }
}

/** All bytes of an answer that do not differ between two answers to the same request. */
const bytesOf = ({ status, headers, text }: Sent, email: string): string => {
  const own = [...headers].filter(([name]) => name !== 'date' && name !== 'x-request-id')
  const steady = text.replaceAll(email, 'EMAIL').replaceAll(/"request_id":"[0-9a-f]{32}"/g, '"request_id":""')
  return [status, JSON.stringify(own), steady].join('\n')
}

beforeAll(async () => {
  app = await startApp({ ...mailbox.options, config: { ...mailbox.options.config, requireVerifiedEmail: true } })
  for (const email of Object.values(known)) await send('/api/v1/auth/register', { email, password })
  await app.services.outbound.drain()
  const sql = connectOnce(app.connection)
  await sql`update users set email_verified_at = now() where email <> ${known.unverified}`
  await sql`update users set status = 'suspended' where email = ${known.suspended}`
  await sql.end()
  await app.caughtUp()
  const signedIn = await send('/api/v1/auth/login', { email: known.active, password })
  token = JSON.parse(signedIn.text).access_token
})
afterAll(() => app.close())

const flows: [name: string, status: number, path: string, body: (email: string) => unknown][] = [
  ['signing in', 401, 'login', (email) => ({ email, password: 'not the password' })],
  ['registering', 202, 'register', (email) => ({ email, password, display_name: 'Person' })],
  ['asking for a reset', 202, 'password-reset', (email) => ({ email })],
  ['asking for a verification', 202, 'verify-email', (email) => ({ email })],
  ['changing the address', 202, 'email', (email) => ({ email })],
]

test.each(flows)('%s gets the same bytes whether the address has an account or not', async (_, status, path, body) => {
  const ask = async (email: string) => bytesOf(await send(`/api/v1/auth/${path}`, body(email)), email)
  const unknown = await ask(newAddress())
  expect(unknown).toStartWith(`${status}\n`)
  for (const [state, email] of Object.entries(known)) expect([state, await ask(email)]).toEqual([state, unknown])
})

test('inviting to a team gets the same bytes whether the address has an account or not', async () => {
  const team = JSON.parse((await send('/api/v1/teams', { name: 'Keepers' })).text)
  const invite = async (email: string) => {
    const sent = await send(`/api/v1/teams/${team.id}/invitations`, { email, role: 'viewer' })
    const { id, secret, created_at, expires_at, ...same } = JSON.parse(sent.text)
    expect([id, secret, created_at, expires_at].map((text) => text.length)).toEqual([36, 43, 24, 24])
    const headers = new Headers(sent.headers)
    headers.set('location', headers.get('location')?.replace(id, 'ID') ?? '')
    return bytesOf({ ...sent, headers, text: JSON.stringify(same) }, email)
  }
  const unknown = await invite(newAddress())
  expect(unknown).toStartWith('201\n')
  for (const [state, email] of Object.entries(known))
    if (state !== 'active') expect([state, await invite(email)]).toEqual([state, unknown])
  const other = newAddress()
  await send('/api/v1/auth/register', { email: other, password })
  await app.services.outbound.drain()
  expect(await invite(other)).toBe(unknown)
})
