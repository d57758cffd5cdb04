import { afterAll, beforeAll, expect, test } from 'bun:test'
import { randomBytes } from 'node:crypto'
import { argon2Options } from '../../src/identity/passwords.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { type Api, api, register, startApp, type TestApp } from '../harness.ts'

const dayMs = 86_400_000
const clock = manualClock()
let app: TestApp
let client: Api
let sql: Sql

beforeAll(async () => {
  app = await startApp({ clock, passwordCost: argon2Options })
  client = api(app.baseUrl)
  sql = connectOnce(app.connection)
})
afterAll(async () => {
  await sql.end()
  await app.close()
})

const signUp = (password: string) =>
  client.post('/api/v1/auth/register', { email: `chosen-${randomBytes(6).toString('hex')}@example.com`, password })

/** Every character from the space to the tilde. */
const printable = String.fromCharCode(...Array.from({ length: 95 }, (_, index) => 32 + index))

test('a database that was just migrated has no account', async () => {
  const [row] = await sql<{ accounts: number }[]>`select count(*)::int as accounts from users`
  expect(row?.accounts).toBe(0)
})

test('a password may be of letters, digits, blanks or signs alone, and of every printable ASCII character', async () => {
  const passwords = ['lqzvkwjxbn', '73920184656', '          ', '}{|~`^$#@!', 'LQZVKWJXBN', printable]
  for (const password of passwords) expect([password, (await signUp(password)).status]).toEqual([password, 201])
})

test('a refused password is answered with the reason and with what to choose instead', async () => {
  const { status, body } = await signUp('iloveyou')
  expect([status, body.code]).toEqual([422, 'identity.password_common'])
  expect(body.detail).toMatch(/common/)
  expect(body.detail).toMatch(/choose|use/)
})

test('a password is stored as a salted argon2id hash with its parameters, the same password differently each time', async () => {
  const password = 'seven green bottles hanging'
  const people = [await register(client, { password }), await register(client, { password })]
  const rows = await sql<{ password_hash: string }[]>`
    select password_hash from users where id in ${sql(people.map(({ id }) => id))}`
  const { memoryCost, timeCost, parallelism } = argon2Options
  const form = /^\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$([A-Za-z0-9+/]{22,})\$([A-Za-z0-9+/]{43})$/
  for (const { password_hash } of rows)
    expect(form.exec(password_hash)?.slice(1, 4)).toEqual([`${memoryCost}`, `${timeCost}`, `${parallelism}`])
  expect(new Set(rows.map(({ password_hash }) => form.exec(password_hash)?.[4])).size).toBe(2)
})

test('a password is still valid after five years', async () => {
  const { email, password } = await register(client)
  clock.advance(5 * 365 * dayMs)
  expect((await client.post('/api/v1/auth/login', { email, password })).status).toBe(200)
})
