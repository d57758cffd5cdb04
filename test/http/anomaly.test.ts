import { afterAll, beforeAll, expect, test } from 'bun:test'
import { randomUUID } from 'node:crypto'
import type { Anomalies } from '../../src/anomaly/service.ts'
import { createAnomalyStore } from '../../src/anomaly/store.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { until } from '../faults/support.ts'
import { type Api, api, type Person, register } from '../harness/api.ts'
import { startApp, type TestApp } from '../harness/app.ts'

let app: TestApp
let client: Api
let anomalies: Anomalies
/** How far the clock of the windows is ahead; limits count by the clock of the machine. */
let aheadMs = 0
const clock = { ...systemClock, now: () => systemClock.now() + aheadMs }

beforeAll(async () => {
  app = await startApp({ clock, config: { limits: 'on', anomaly: 'enforce', trustedProxies: ['127.0.0.1'] } })
  client = api(app.baseUrl)
  if (app.services.anomalies === undefined) throw new Error('ANOMALY is off')
  anomalies = app.services.anomalies
})
afterAll(() => app?.close())

/** A slot of the window passes. */
const passSlot = async () => {
  await anomalies.tick()
  aheadMs += 5_000
}

/** A verdict on an address may wait for a statement. */
const judged = async (address: string) => {
  await passSlot()
  const untilMs = performance.now() + 10_000
  while (anomalies.find('address', address) === undefined && performance.now() < untilMs) await Bun.sleep(10)
  return anomalies.find('address', address)
}

const from = (address: string) => ({ headers: { 'x-forwarded-for': address } })
const registerFrom = (address: string) =>
  register({ ...client, post: (path, body, sending) => client.post(path, body, { ...from(address), ...sending }) })
const incidentsAbout = async (subject: string) => {
  await app.services.incidentReports.flush()
  return await app.services.database.admin<
    { kind: string; severity: string }[]
  >`select kind, severity from incidents where subject_id = ${subject}`
}
const signIn = (address: string, email: string, password = 'seven green bottles hanging') =>
  client.post('/api/v1/auth/login', { email, password }, from(address))
const guessPasswords = async (address: string, times: number) => {
  for (let at = 0; at < times; at += 1) await signIn(address, `leaked-${randomUUID()}@example.com`, 'another password')
}
const check = (person: Person, id: string) =>
  client.post(
    '/api/v1/authorization/check',
    { action: 'read', resource: { type: 'generation', id } },
    { token: person.token },
  )

test('a person who asks for ids that are not there gets a part of the budget, until it expires', async () => {
  const person = await registerFrom('198.51.100.1')
  for (let slot = 0; slot < 6; slot += 1) {
    await client.get(`/api/v1/generations/${randomUUID()}`, { token: person.token })
    await check(person, randomUUID())
    await check(person, randomUUID())
    await passSlot()
  }
  const verdict = anomalies.find('user', person.id)
  expect(verdict).toMatchObject({ reason: 'resources.guessed', kind: 'user' })
  expect([...(await incidentsAbout(person.id))]).toMatchObject([{ kind: 'anomaly.ids_enumerated' }])
  const { headers } = await check(person, randomUUID())
  const limit = Math.floor(120 * anomalies.factorOf('user', person.id))
  expect(limit).toBeLessThan(120)
  expect(headers.get('ratelimit-policy')).toStartWith(`"api";q=${limit};`)
  aheadMs += 600_000
  expect(anomalies.find('user', person.id)).toBeUndefined()
  expect((await check(person, randomUUID())).headers.get('ratelimit-policy')).toStartWith('"api";q=120;')
})

test('a person who asks again and again for one resource that is gone is not limited', async () => {
  const person = await registerFrom('198.51.100.2')
  const gone = randomUUID()
  for (let slot = 0; slot < 8; slot += 1) {
    for (let times = 0; times < 4; times += 1) await check(person, gone)
    await passSlot()
  }
  expect(anomalies.find('user', person.id)).toBeUndefined()
})

test('an office from which many accounts are tried is not locked out: sessions and known devices go on', async () => {
  const office = '198.51.100.3'
  const people = [await registerFrom(office), await registerFrom(office), await registerFrom(office)]
  const newcomer = await registerFrom('203.0.113.9')
  // Accounts that signed in speak for an address; they did so earlier.
  aheadMs += 120_000
  await guessPasswords(office, 30)
  expect(await judged(office)).toMatchObject({ reason: 'sign_in.many_accounts', level: 2 })
  for (const { email, token } of people) {
    expect((await signIn(office, email)).status).toBe(200)
    expect((await client.get('/api/v1/auth/me', { token, ...from(office) })).status).toBe(200)
  }
  // Unknown devices share what one account has, at its factor: one attempt a minute.
  expect((await signIn(office, newcomer.email)).status).toBe(200)
  const refused = await signIn(office, `leaked-${randomUUID()}@example.com`, 'another password')
  expect(refused.status).toBe(429)
  expect(refused.body).toMatchObject({ code: 'limit.exceeded', budget: 'auth_account_and_address', limit: 1 })
  // The newcomer is known there now.
  expect((await signIn(office, newcomer.email)).status).toBe(200)
})

/** An operator, whose sign-in is recent. Its address is its own. */
const registerOperator = async (address: string) => {
  const operator = await registerFrom(address)
  await app.services.database.admin`update users set role = 'admin' where id = ${operator.id}`
  const signedIn = await signIn(address, operator.email, operator.password)
  return { ...operator, token: signedIn.body.access_token as string }
}
const blocksOf = (operator: Person, address: string) =>
  client
    .get('/api/v1/security/blocks?kind=address&limit=100', { token: operator.token, ...from('198.51.100.77') })
    .then(({ body }) => body.items.filter(({ value }: { value: string }) => value === address))
const eventsOfBlock = (id: string) =>
  app.services.database.admin<{ action: string; actor_kind: string; source: string }[]>`
    select action, actor_kind, coalesce(after, before) ->> 'source' as source
      from audit_events where target_type = 'block' and target_id = ${id} order by id`
const codeOf = ({ status, body }: { status: number; body: { code?: string } }) => `${status} ${body?.code}`

test('an address without live sessions from which very many accounts are tried is blocked with reason and expiry, audited, until an operator lifts it', async () => {
  const address = '192.0.2.4'
  const operator = await registerOperator('198.51.100.77')
  const person = await registerFrom('198.51.100.5')
  await guessPasswords(address, 30)
  expect(await judged(address)).toMatchObject({ level: 3 })
  expect([...(await incidentsAbout(address))]).toEqual([{ kind: 'anomaly.credential_stuffing', severity: 'critical' }])
  await until(async () => (await blocksOf(operator, address)).length > 0, 'the address is blocked')
  const [block] = await blocksOf(operator, address)
  expect(block).toMatchObject({ source: 'anomaly', reason: 'sign_in.many_accounts', created_by: null })
  // The clock of the windows has gone on by a slot.
  expect(Date.parse(block.expires_at) - Date.parse(block.created_at)).toBe(295_000)
  expect([...(await eventsOfBlock(block.id))]).toEqual([
    { action: 'block.added', actor_kind: 'system', source: 'anomaly' },
  ])
  const answers = () =>
    Promise.all([
      signIn(address, person.email),
      client.get('/api/v1/models', from(address)),
      client.get('/api/v1/auth/me', { token: person.token, ...from(address) }),
    ]).then((all) => all.map(codeOf))
  expect(await answers()).toEqual(Array(3).fill('403 access.blocked'))
  // Every instance has the same finding, and asks for the block that is there already.
  const again = [{ address, reason: 'sign_in.many_accounts', lastsS: 310 }]
  await Promise.all([1, 2, 3].map(() => app.services.restrictions.blockAnomalous(again)))
  expect([...(await eventsOfBlock(block.id))]).toHaveLength(1)

  const lift = () =>
    client.delete(`/api/v1/security/blocks/${block.id}`, { token: operator.token, ...from('198.51.100.77') })
  expect((await lift()).status).toBe(204)
  expect((await eventsOfBlock(block.id)).map(({ action, actor_kind }) => [action, actor_kind])).toEqual([
    ['block.added', 'system'],
    ['block.removed', 'user'],
  ])
  await until(() => anomalies.find('address', address) === undefined, 'the verdict is lifted too')
  expect(await answers()).toEqual(['200 undefined', '200 undefined', '200 undefined'])
  // The failed sign-ins are still in the window, and block nothing.
  await guessPasswords(address, 1)
  await passSlot()
  await passSlot()
  expect(await blocksOf(operator, address)).toEqual([])
})

test('the address of an operator is never blocked, whether a session was opened there or a change was made from there', async () => {
  const home = '192.0.2.50'
  const hotel = '192.0.2.51'
  const operator = await registerOperator(home)
  const { status } = await client.put(
    '/api/v1/security/mode',
    { mode: 'normal' },
    { token: operator.token, ...from(hotel) },
  )
  expect(status).toBe(200)
  for (const address of [home, hotel]) {
    await guessPasswords(address, 30)
    expect([address, (await judged(address))?.level]).toEqual([address, 2])
    expect(await blocksOf(operator, address)).toEqual([])
    expect((await client.get('/api/v1/auth/me', { token: operator.token, ...from(address) })).status).toBe(200)
  }
})

test('who is at an address is found in every spelling of it, and who was there without a live session is not', async () => {
  const { admin, batch } = app.services.database
  const { findStanding } = createAnomalyStore(batch)
  const person = await registerFrom('198.51.100.90')
  const operator = await registerFrom('198.51.100.91')
  await admin`update users set role = 'admin' where id = ${operator.id}`
  const standingAt = async (written: string, counted: string) => {
    await admin`update sessions set address = ${written} where user_id in (${person.id}, ${operator.id})`
    return findStanding(counted)
  }
  const both = { accounts: 2, operator: true }
  for (const [written, counted] of [
    ['192.0.2.90', '192.0.2.90'],
    ['2001:db8:0:1:a:b:c:d', '2001:db8:0:1::/64'],
    ['2001:db8::1', '2001:db8::/64'],
    ['2001:db8::1:2:3:4', '2001:db8::/64'],
    ['2001::1:5:6:7:8', '2001:0:0:1::/64'],
  ] as const)
    expect([written, await standingAt(written, counted)]).toEqual([written, both])
  for (const [written, counted] of [
    ['192.0.2.9', '192.0.2.90'],
    ['2001:db8:0:10:a:b:c:d', '2001:db8:0:1::/64'],
  ] as const)
    expect([written, await standingAt(written, counted)]).toEqual([written, { accounts: 0, operator: false }])
  await admin`update sessions set ended_at = now(), end_reason = 'logout' where user_id in (${person.id}, ${operator.id})`
  // The address of the update above: not in the audit log.
  expect(await standingAt('192.0.2.92', '192.0.2.92')).toEqual({ accounts: 0, operator: false })
  // The operator registered there, which is one of its last events.
  expect(await findStanding('198.51.100.91')).toEqual({ accounts: 0, operator: true })
  await admin`update users set role = 'user' where id = ${operator.id}`
  expect(await findStanding('198.51.100.91')).toEqual({ accounts: 0, operator: false })
})

test('the detection of anomalies blocks at most 4000 networks, and operators can still block others', async () => {
  const { admin } = app.services.database
  const operator = await registerOperator('198.51.100.78')
  await admin`
    insert into blocks (id, kind, network, source, reason, expires_at)
    select gen_random_uuid(), 'network', ('10.' || n / 250 || '.' || n % 250 || '.0/24')::cidr, 'operator', '', now() + interval '1 hour'
      from generate_series(1, 4000) n`
  try {
    const asked = { address: '192.0.2.60', reason: 'sign_in.many_accounts', lastsS: 60 }
    await app.services.restrictions.blockAnomalous([asked, { ...asked, address: '2001:db8:0:60::/64' }])
    const [{ count } = { count: -1 }] = await admin<{ count: number }[]>`
      select count(*)::int as count from blocks where source = 'anomaly' and network in ('192.0.2.60/32', '2001:db8:0:60::/64')`
    expect(count).toBe(0)
    const given = { kind: 'address', value: '192.0.2.61' }
    const added = await client.post('/api/v1/security/blocks', given, {
      token: operator.token,
      ...from('198.51.100.78'),
    })
    expect(added.status).toBe(201)
  } finally {
    await admin`delete from blocks`
  }
  await app.services.restrictions.blockAnomalous([
    { address: '2001:db8:0:60::/64', reason: 'resources.harvested', lastsS: 60 },
  ])
  const { body } = await client.get('/api/v1/security/blocks', { token: operator.token, ...from('198.51.100.78') })
  expect(body.items).toMatchObject([{ kind: 'address', value: '2001:db8:0:60::/64', source: 'anomaly' }])
})
