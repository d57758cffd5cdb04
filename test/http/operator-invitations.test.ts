import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { randomBytes } from 'node:crypto'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { type Answer, type Api, api, createMailbox, type Person, register, startApp, type TestApp } from '../harness.ts'

const mailbox = createMailbox()
let app: TestApp
let client: Api
let sql: Sql
let operator: Person
beforeAll(async () => {
  app = await startApp(mailbox.options)
  client = api(app.baseUrl)
  sql = connectOnce(app.connection)
  operator = await register(client)
  await sql`update users set role = 'admin' where id = ${operator.id}`
  await app.caughtUp()
})
afterEach(() => {
  mailbox.mails.length = 0
})
afterAll(async () => {
  await sql.end()
  await app.close()
})

const users = '/api/v1/users'
const password = 'eight blue bottles standing'
const newAddress = () => `invited-${randomBytes(6).toString('hex')}@example.com`
const outcomeOf = ({ status, body }: Answer) => (body?.code === undefined ? String(status) : `${status} ${body.code}`)
const asOperator = () => ({ token: operator.token })
const invite = (email: string, more: object = {}) => client.post(users, { email, ...more }, asOperator())
const accept = (token: string, new_password = password) =>
  client.post('/api/v1/auth/account-invitation/confirm', { token, new_password })
const logIn = (email: string, given = password) => client.post('/api/v1/auth/login', { email, password: given })
const tokenTo = (email: string, page = 'choose-password') => mailbox.tokenTo(app, email, page)

describe('a person whom an operator invites', () => {
  test('chooses a password by the mail, and signs in with a verified address and welcome credits', async () => {
    const email = newAddress()
    const { status, body } = await invite(email.toUpperCase(), { display_name: 'Ada', plan: 'pro' })
    expect([status, body]).toEqual([
      201,
      expect.objectContaining({ email, display_name: 'Ada', plan: 'pro', role: 'user', email_verified: false }),
    ])
    expect(JSON.stringify(body)).not.toContain('token')
    for (const guess of [password, 'null', ' '])
      expect(outcomeOf(await logIn(email, guess))).toBe('401 identity.credentials_wrong')
    const token = await tokenTo(email)
    expect(outcomeOf(await accept(token, 'password123'))).toBe('422 identity.password_common')
    expect(outcomeOf(await accept(token, email))).toBe('422 identity.password_predictable')
    expect(outcomeOf(await accept(token))).toBe('204')
    const signedIn = await logIn(email)
    expect([signedIn.status, signedIn.body.user]).toEqual([
      200,
      expect.objectContaining({ id: body.id, email_verified: true, plan: 'pro' }),
    ])
    const balance = await client.get('/api/v1/credits/balance', { token: signedIn.body.access_token })
    expect(balance.body).toEqual({ balance: 1_000 })
  })

  test('gets another mail, by which the link of the first one is gone', async () => {
    const email = newAddress()
    const { id } = (await invite(email)).body
    const first = await tokenTo(email)
    mailbox.mails.length = 0
    expect(outcomeOf(await client.post(`${users}/${id}/invitation`, undefined, asOperator()))).toBe('204')
    const second = await tokenTo(email)
    expect([outcomeOf(await accept(first)), outcomeOf(await accept(second))]).toEqual([
      '410 one_time_token.gone',
      '204',
    ])
    expect(outcomeOf(await client.post(`${users}/${id}/invitation`, undefined, asOperator()))).toBe(
      '409 user.has_password',
    )
  })

  test('who has chosen a password by a reset meanwhile keeps it: the link of the invitation is gone', async () => {
    const email = newAddress()
    await invite(email)
    const invitation = await tokenTo(email)
    await client.post('/api/v1/auth/password-reset', { email })
    const reset = await tokenTo(email, 'reset-password')
    const confirm = { token: reset, new_password: 'chosen by a reset 1' }
    expect(outcomeOf(await client.post('/api/v1/auth/password-reset/confirm', confirm))).toBe('204')
    expect(outcomeOf(await accept(invitation))).toBe('410 one_time_token.gone')
    expect((await logIn(email, 'chosen by a reset 1')).status).toBe(200)
  })

  test('must have no account yet, and an operator must invite', async () => {
    const person = await register(client)
    expect(outcomeOf(await invite(person.email))).toBe('409 identity.email_taken')
    const byPerson = await client.post(users, { email: newAddress() }, { token: person.token })
    expect(outcomeOf(byPerson)).toBe('403 access.admins_only')
    expect(outcomeOf(await invite('not an address'))).toBe('422 request.invalid')
    expect(outcomeOf(await invite(newAddress(), { role: 'admin' }))).toBe('422 request.invalid')
    expect(mailbox.mails.filter(({ to }) => to === person.email).length).toBeLessThan(2)
  })

  test('of 100 invitations of one address at once has one account', async () => {
    const email = newAddress()
    const answers = await Promise.all(Array.from({ length: 100 }, () => invite(email)))
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(1)
    expect((await sql`select from users where email = ${email}`).count).toBe(1)
  })
})

describe('a password that an operator resets', () => {
  const reset = (id: string) => client.post(`${users}/${id}/password-reset`, undefined, asOperator())

  test('is worth nothing, every session ends, and the owner chooses a new one by the mail', async () => {
    const person = await register(client)
    expect(outcomeOf(await reset(person.id))).toBe('204')
    expect((await client.get('/api/v1/auth/me', { token: person.token })).status).toBe(401)
    expect(outcomeOf(await client.post('/api/v1/auth/refresh', { refresh_token: person.refreshToken }))).toBe(
      '401 identity.refresh_token_invalid',
    )
    expect(outcomeOf(await logIn(person.email, person.password))).toBe('401 identity.credentials_wrong')
    const token = await tokenTo(person.email, 'reset-password')
    const confirm = { token, new_password: password }
    expect(outcomeOf(await client.post('/api/v1/auth/password-reset/confirm', confirm))).toBe('204')
    expect((await logIn(person.email)).body.user.id).toBe(person.id)
    const [row] = await sql`select end_reason from sessions where user_id = ${person.id} order by id limit 1`
    expect(row).toEqual({ end_reason: 'ended_by_operator' })
  })

  test('must be of an active account', async () => {
    const [suspended, closed] = [await register(client), await register(client)]
    await client.patch(`${users}/${suspended.id}`, { status: 'suspended' }, asOperator())
    await client.delete('/api/v1/auth/me', { token: closed.token })
    expect(outcomeOf(await reset(suspended.id))).toBe('409 user.suspended')
    expect(outcomeOf(await reset(closed.id))).toBe('409 user.deleted')
    expect(outcomeOf(await reset('01890000-0000-7000-8000-000000000000'))).toBe('404 user.not_found')
  })
})

test('without a mail server an invitation and a reset are refused before anything is changed', async () => {
  const silent = await startApp({ config: { mail: undefined }, connection: app.connection })
  try {
    const there = api(silent.baseUrl)
    const email = newAddress()
    const person = await register(client)
    for (const [path, body] of [
      ['', { email }],
      [`/${person.id}/invitation`, undefined],
      [`/${person.id}/password-reset`, undefined],
    ] as const)
      expect(outcomeOf(await there.post(users + path, body, asOperator()))).toBe('503 mail.not_configured')
    expect((await sql`select from users where email = ${email}`).count).toBe(0)
    expect((await logIn(person.email, person.password)).status).toBe(200)
  } finally {
    await silent.close()
  }
})
