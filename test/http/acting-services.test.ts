import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { defaultPolicy, type Policy } from '../../src/limits/policy.ts'
import { createLog } from '../../src/platform/log.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { hold, holdUser } from '../faults/support.ts'
import { type Answer, api, type Person, register, startApp, type TestApp } from '../harness.ts'

/* What authorization-matrix.test.ts does not ask: which user may do what through a service is all there. */

const outcomeOf = ({ status, body }: Answer) => (body?.code === undefined ? String(status) : `${status} ${body.code}`)
const scopes = ['users:read', 'users:write', 'teams:write', 'projects:write', 'generations:write']
const order = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 64, height: 64 } }
const projects = '/api/v1/projects'
const perPlan = (figure: number) => ({ free: figure, pro: figure, enterprise: figure })
const policy: Policy = {
  ...defaultPolicy,
  budgets: { ...defaultPolicy.budgets, api: perPlan(6), generation: perPlan(2) },
}

type Key = { id: string; key: string }

let app: TestApp
/** Another instance on the same database. */
let other: TestApp
/** One with limits. */
let limited: TestApp
/** One that lets only people with a verified address sign in. */
let strict: TestApp
let sql: Sql
let operator: Person
let ada: Person
let key: Key
const clock = manualClock(Date.now())
const statements: string[] = []
const written: string[] = []
const at = (on: TestApp = app) => api(on.baseUrl)

beforeAll(async () => {
  app = await startApp({
    clock,
    config: { dbConnections: 40 },
    onStatement: (text) => void statements.push(text),
    log: createLog('info', { write: (line: string) => void written.push(line) }),
  })
  other = await startApp({ clock, connection: app.connection, config: { dbConnections: 40 } })
  limited = await startApp({ clock, connection: app.connection, config: { limits: 'on', policy, dbConnections: 8 } })
  strict = await startApp({
    clock,
    connection: app.connection,
    config: { requireVerifiedEmail: true, dbConnections: 8 },
  })
  sql = connectOnce(app.connection)
  operator = await register(at())
  await sql`update users set role = 'admin' where id = ${operator.id}`
  await app.caughtUp()
})
afterAll(async () => {
  await sql.end()
  await strict.close()
  await limited.close()
  await other.close()
  await app.close()
})

const makeKey = async (input: object = {}, on = app): Promise<Key> => {
  const { token } = await signedIn(on)
  const { status, body } = await at(on).post('/api/v1/service-keys', { name: 'k', scopes, ...input }, { token })
  expect(status).toBe(201)
  return body
}
const signedIn = async (on: TestApp) => {
  const { email, password } = operator
  return { token: (await at(on).post('/api/v1/auth/login', { email, password })).body.access_token as string }
}
const revoke = async ({ id }: Key, on = app) => at(on).delete(`/api/v1/service-keys/${id}`, await signedIn(on))
const allowFrom = async (allowed_networks: string[], on = app) =>
  at(on).patch(`/api/v1/service-keys/${key.id}`, { allowed_networks }, await signedIn(on))
/** The credential and the header of a request for a user. */
const by = (user: { id: string }, used: Key = key) => ({ token: used.key, headers: { 'velro-user': user.id } })
const nowOf = (on: TestApp) => on.services.clock.now()

beforeEach(async () => {
  ada = await register(at())
  key = await makeKey()
})

describe('a service that acts for a user', () => {
  test('makes what belongs to the user, in whose lists and quotas it counts', async () => {
    const made = await at().post(projects, { name: 'Onboarding' }, by(ada))
    expect([made.status, made.body.owner_id]).toEqual([201, ada.id])
    const { token } = ada
    expect((await at().get(projects, { token })).body.items).toEqual([made.body])
    const quotas = (await at().get('/api/v1/auth/me/quotas', { token })).body
    expect(
      await at()
        .get('/api/v1/auth/me/quotas', by(ada))
        .then(({ body }) => body),
    ).toEqual(quotas)
    expect(JSON.stringify(quotas)).toContain('"used":1')
    const generation = await at().post('/api/v1/generations', { ...order, project_id: made.body.id }, by(ada))
    expect([generation.status, generation.body.owner_id]).toEqual([201, ada.id])
    // A link belongs to a session, which a service does not have.
    await sql`update generations set status = 'completed', finished_at = now() where id = ${generation.body.id}`
    const media = newId()
    const bytes = { sha256: 'ab'.repeat(32), content_type: 'image/webp', bytes: 1, width: 1, height: 1 }
    await sql`insert into media_objects ${sql(bytes)}`
    await sql`
      insert into media (id, generation_id, owner_id, position, sha256)
      values (${media}, ${generation.body.id}, ${ada.id}, 0, ${bytes.sha256})`
    for (const [sending, linked] of [
      [by(ada), false],
      [{ token }, true],
    ] as const) {
      const { items } = (await at().get('/api/v1/generations?include=media&links=original', sending)).body
      expect([items[0].media[0].id, 'links' in items[0].media[0]]).toEqual([media, linked])
    }
    const balance = (await at().get('/api/v1/credits/balance', { token })).body.balance
    expect(balance).toBeLessThan(1_000)
  })

  test('adds a member to a team by an invitation, for the one who invites and for the one who accepts', async () => {
    const ben = await register(at())
    const team = (await at().post('/api/v1/teams', { name: 'A team' }, by(ada))).body.id
    const invited = await at().post(`/api/v1/teams/${team}/invitations`, { email: ben.email, role: 'editor' }, by(ada))
    expect(invited.status).toBe(201)
    const { secret } = invited.body
    expect(outcomeOf(await at().post('/api/v1/teams/invitations/accept', { secret }, by(ada)))).toStartWith('404 ')
    written.length = 0
    const joined = await at().post('/api/v1/teams/invitations/accept', { secret }, by(ben))
    expect([joined.status, joined.body.role]).toEqual([200, 'editor'])
    const raise = (sending: object) => at().patch(`/api/v1/teams/${team}/members/${ben.id}`, { role: 'admin' }, sending)
    expect((await raise(by(ada))).status).toBe(200)
    expect(outcomeOf(await at().post(`/api/v1/teams/${team}/transfer`, { user_id: ben.id }, by(ada)))).toBe(
      '403 access.people_only',
    )
    await at().patch(`/api/v1/teams/${team}/members/${ben.id}`, { role: 'viewer' }, { token: ada.token })
    const events = written.map((line) => JSON.parse(line)).filter(({ event }) => event?.startsWith('team.'))
    expect(events.map(({ event, acting_service_key_id }) => [event, acting_service_key_id])).toEqual([
      ['team.member_joined', key.id],
      ['team.role_changed', key.id],
      ['team.role_changed', undefined],
    ])
  })

  test('is not limited to one user, and a person who names another user stays themselves', async () => {
    const ben = await register(at())
    const me = async (sending: object) => (await at().get('/api/v1/auth/me', sending)).body.id
    expect([await me(by(ada)), await me(by(ben)), await me(by(operator))]).toEqual([ada.id, ben.id, operator.id])
    expect(await me({ token: ada.token, headers: { 'velro-user': ben.id } })).toBe(ada.id)
  })

  test('costs no statement where key and user are in memory, and one for each where they are not in memory', async () => {
    const read = () => at().get('/api/v1/auth/me', by(ada))
    expect((await read()).status).toBe(200)
    await app.leased()
    statements.length = 0
    expect((await read()).status).toBe(200)
    expect(statements).toEqual([])
    const { id } = (await at().post(projects, { name: 'Warm' }, by(ada))).body
    await app.leased()
    app.services.caches.facts.invalidate('everything')
    statements.length = 0
    expect((await at().get(`${projects}/${id}`, by(ada))).status).toBe(200)
    // The key; the account, in the gate; the facts about the project; the project itself.
    expect(statements).toHaveLength(4)
  })

  test('gets the responses of the user by Idempotency-Key, and pays once', async () => {
    const send = (sending: { token: string; headers?: Record<string, string> }) =>
      at().post('/api/v1/generations', order, {
        ...sending,
        headers: { ...sending.headers, 'idempotency-key': 'one' },
      })
    const first = await send(by(ada))
    const again = await send({ token: ada.token })
    expect([first.status, again.status, again.body.id]).toEqual([201, 201, first.body.id])
    const ben = await register(at())
    expect((await send(by(ben))).body.id).not.toBe(first.body.id)
  })
})

describe('the access of a service to a user ends on every instance', () => {
  const both = () => [app, other]
  const read = async (on: TestApp, used = key) => outcomeOf(await at(on).get('/api/v1/teams', by(ada, used)))
  const warm = async (used = key) => {
    for (const on of both()) expect(await read(on, used)).toBe('200')
  }

  test('with the key', async () => {
    await warm()
    expect((await revoke(key)).status).toBe(204)
    for (const on of both()) expect(await read(on)).toBe('401 identity.not_signed_in')
  })

  test('at the expiry of the key', async () => {
    const short = await makeKey({ expires_at: new Date(nowOf(app) + 60_000).toISOString() })
    await warm(short)
    clock.advance(61_000)
    for (const on of both()) expect(await read(on, short)).toBe('401 service_key.expired')
  })

  test('when the account is suspended, and when it is closed', async () => {
    for (const end of [
      async () => at().patch(`/api/v1/users/${ada.id}`, { status: 'suspended' }, await signedIn(app)),
      async () => at().delete('/api/v1/auth/me', { token: ada.token }),
    ]) {
      ada = await register(at())
      await warm()
      expect((await end()).status).toBeLessThan(300)
      for (const on of both()) expect(await read(on)).toBe('403 service_key.user_not_active')
    }
  })

  test('and not with a session of the user', async () => {
    await warm()
    await at().post('/api/v1/auth/logout-all', undefined, { token: ada.token })
    await warm()
  })
})

test('with REQUIRE_VERIFIED_EMAIL a service acts only for users whose e-mail address is verified, from that moment on', async () => {
  const read = (on: TestApp) => at(on).get('/api/v1/teams', by(ada)).then(outcomeOf)
  for (let time = 0; time < 2; time += 1)
    expect([await read(app), await read(strict)]).toEqual(['200', '403 service_key.user_not_active'])
  const { token } = await signedIn(app)
  const verified = await at().patch(`/api/v1/users/${ada.id}`, { email_verified: true }, { token })
  expect(verified.status).toBe(200)
  for (let time = 0; time < 2; time += 1) expect([await read(app), await read(strict)]).toEqual(['200', '200'])
})

describe('a write for a user', () => {
  const writes = (team: string) => [
    at().post(projects, { name: 'Late' }, by(ada)),
    at().post('/api/v1/teams', { name: 'Late' }, by(ada)),
    at().patch(`/api/v1/teams/${team}`, { name: 'Late' }, by(ada)),
    at().post(`/api/v1/teams/${team}/invitations`, { email: 'late@example.com', role: 'viewer' }, by(ada)),
    at().post('/api/v1/generations', order, by(ada)),
  ]

  test('that passed the guard is refused once the key was revoked, allowed elsewhere alone, or the account suspended', async () => {
    for (const end of ['revoked', 'restricted', 'suspended'] as const) {
      ada = await register(at())
      key = await makeKey()
      const team = (await at().post('/api/v1/teams', { name: 'A team' }, by(ada))).body.id
      const held = await holdUser(app.connection, ada.id)
      const sent = writes(team)
      await held.waiting(sent.length)
      // By the other instance: the connections for writes of this one are all waiting.
      if (end === 'revoked') expect((await revoke(key, other)).status).toBe(204)
      if (end === 'restricted') expect((await allowFrom(['192.0.2.0/24'], other)).status).toBe(200)
      await held.release(async (tx) => {
        if (end === 'suspended') await tx`update users set status = 'suspended' where id = ${ada.id}`
      })
      expect(new Set((await Promise.all(sent)).map(outcomeOf))).toEqual(new Set(['401 identity.not_signed_in']))
    }
  })

  test('under way is waited for by the revocation of its key, and not by that of another key', async () => {
    const held = await hold(
      app.connection,
      (tx) => tx`select from credit_balances where user_id = ${ada.id} for update`,
    )
    const answered: string[] = []
    const ordering = at()
      .post('/api/v1/generations', order, by(ada))
      .then((answer) => answered.push(`order ${answer.status}`))
    await held.waiting(1)
    expect((await revoke(await makeKey())).status).toBe(204)
    const revoking = revoke(key).then((answer) => answered.push(`revocation ${answer.status}`))
    await held.waiting(2)
    expect(answered).toEqual([])
    await held.release()
    await Promise.all([ordering, revoking])
    expect(answered.toSorted()).toEqual(['order 201', 'revocation 204'])
    expect(outcomeOf(await at().post('/api/v1/generations', order, by(ada)))).toBe('401 identity.not_signed_in')
  })

  test('with a key that has allowed networks is made from these', async () => {
    await allowFrom(['127.0.0.0/8', '::1'])
    const made = await at().post(projects, { name: 'From here' }, by(ada))
    expect([made.status, made.body.owner_id]).toEqual([201, ada.id])
    expect((await at().patch('/api/v1/auth/me', { display_name: 'From here' }, by(ada))).status).toBe(200)
    expect((await at().post('/api/v1/generations', order, by(ada))).status).toBe(201)
  })

  test('under way is waited for by new networks of its key', async () => {
    const held = await hold(
      app.connection,
      (tx) => tx`select from credit_balances where user_id = ${ada.id} for update`,
    )
    const answered: string[] = []
    const ordering = at()
      .post('/api/v1/generations', order, by(ada))
      .then((answer) => answered.push(`order ${answer.status}`))
    await held.waiting(1)
    const restricting = allowFrom(['192.0.2.0/24']).then((answer) => answered.push(`restriction ${answer.status}`))
    await held.waiting(2)
    expect(answered).toEqual([])
    await held.release()
    await Promise.all([ordering, restricting])
    expect(answered.toSorted()).toEqual(['order 201', 'restriction 200'])
    expect(outcomeOf(await at().post('/api/v1/generations', order, by(ada)))).toBe('403 service_key.network_refused')
  })

  test('by many at once does not hold up the revocation of the key', async () => {
    let running = true
    const flood = Array.from({ length: 8 }, async () => {
      const outcomes = new Set<string>()
      while (running) outcomes.add(outcomeOf(await at().patch('/api/v1/auth/me', { display_name: newId() }, by(ada))))
      return outcomes
    })
    expect((await revoke(key, other)).status).toBe(204)
    running = false
    for (const outcomes of await Promise.all(flood))
      expect([...outcomes].filter((each) => !['200', '401 identity.not_signed_in'].includes(each))).toEqual([])
    expect(outcomeOf(await at().get('/api/v1/auth/me', by(ada)))).toBe('401 identity.not_signed_in')
  })
})

describe('with limits, a request for a user', () => {
  const exceeded = ({ status, body }: Answer) => (status === 429 ? body.budget : status)

  test('counts on the budgets of the user, together with those of the user', async () => {
    const outcomes: unknown[] = []
    for (let index = 0; index < 8; index += 1)
      outcomes.push(exceeded(await at(limited).get('/api/v1/teams', index % 2 ? by(ada) : { token: ada.token })))
    expect(outcomes).toEqual([...Array(6).fill(200), 'api', 'api'])
    const orders: unknown[] = []
    for (let index = 0; index < 3; index += 1)
      orders.push(exceeded(await at(limited).post('/api/v1/generations', order, by(ada))))
    expect(orders).toEqual([201, 201, 'generation'])
    const ben = await register(at())
    expect((await at(limited).get('/api/v1/teams', by(ben))).status).toBe(200)
  })

  test('counts on the limit of the key', async () => {
    const slow = await makeKey({ limit_per_second: 1 })
    const people = await Promise.all([1, 2, 3, 4].map(() => register(at())))
    const answers = await Promise.all(people.map((person) => at(limited).get('/api/v1/teams', by(person, slow))))
    expect(answers.map(exceeded).filter((each) => each === 'service_key').length).toBeGreaterThan(0)
  })
})
