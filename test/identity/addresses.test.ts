import { afterAll, beforeAll, expect, test } from 'bun:test'
import { canonicalizeAddresses } from '../../src/identity/address-store.ts'
import { newId } from '../../src/kit/id.ts'
import { createLog } from '../../src/platform/log.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { api, register, startApp, type TestApp } from '../harness.ts'

let app: TestApp
let sql: Sql
beforeAll(async () => {
  app = await startApp()
  sql = connectOnce(app.connection)
})
afterAll(async () => {
  await sql.end()
  await app.close()
})

const password = 'correct horse battery'
const logIn = (email: string) => api(app.baseUrl).post('/api/v1/auth/login', { email, password })

test('an account stored with its domain in Unicode signs in with either spelling, before and after it is converted', async () => {
  const client = api(app.baseUrl)
  const person = await register(client, { email: 'anna@xn--bcher-kva.example', password })
  const owner = await register(client)
  const team = (await client.post('/api/v1/teams', { name: 'T' }, { token: owner.token })).body.id
  await sql`update users set email = 'anna@b\u00fccher.example' where id = ${person.id}`
  const invite = () =>
    client.post(
      `/api/v1/teams/${team}/invitations`,
      { email: 'anna@b\u00fccher.example', role: 'viewer' },
      { token: owner.token },
    )
  const { secret } = (await invite()).body
  for (const email of ['anna@b\u00fccher.example']) expect((await logIn(email)).status).toBe(200)
  const taken = await client.post('/api/v1/auth/register', { email: 'anna@B\u00dcCHER.example', password })
  expect(taken.body.code).toBe('identity.email_taken')
  const accepted = await client.post('/api/v1/teams/invitations/accept', { secret }, { token: person.token })
  expect(accepted.status).toBe(200)
  expect((await invite()).body.code).toBe('team.already_member')

  await canonicalizeAddresses(sql, createLog('silent'))
  const [row] = await sql`select email from users where id = ${person.id}`
  expect(row?.['email']).toBe('anna@xn--bcher-kva.example')
  for (const email of ['anna@b\u00fccher.example', 'anna@xn--bcher-kva.example'])
    expect((await logIn(email)).body.user.id).toBe(person.id)
})

test('of two accounts with spellings of one address each keeps its own, and the conversion is logged', async () => {
  const client = api(app.baseUrl)
  const [first, second] = [await register(client, { email: 'ben@xn--bcher-kva.example', password }), newId()]
  await sql`
    insert into users (id, email, display_name, password_hash)
    select ${second}, 'ben@b\u00fccher.example', 'Ben', password_hash from users where id = ${first.id}`
  const warned: object[] = []
  const quiet = () => {}
  await canonicalizeAddresses(sql, {
    debug: quiet,
    info: quiet,
    error: quiet,
    warn: (fields) => void warned.push(fields),
  })
  expect(warned).toEqual([{ event: 'user.address_taken', user_id: second }])
  expect((await logIn('ben@xn--bcher-kva.example')).body.user.id).toBe(first.id)
  expect((await logIn('ben@b\u00fccher.example')).body.user.id).toBe(second)
})
