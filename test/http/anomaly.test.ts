import { afterAll, beforeAll, expect, test } from 'bun:test'
import { randomUUID } from 'node:crypto'
import type { Anomalies } from '../../src/anomaly/service.ts'
import { systemClock } from '../../src/kit/clock.ts'
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

test('an address without live sessions from which very many accounts are tried is blocked for unknown devices', async () => {
  const address = '192.0.2.4'
  const person = await registerFrom('198.51.100.5')
  await guessPasswords(address, 30)
  expect(await judged(address)).toMatchObject({ level: 3 })
  expect([...(await incidentsAbout(address))]).toEqual([{ kind: 'anomaly.credential_stuffing', severity: 'critical' }])
  const refused = await signIn(address, person.email)
  expect(refused.status).toBe(429)
  expect(refused.body).toMatchObject({ code: 'limit.exceeded', limit: 0 })
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(200)
  expect((await client.get('/api/v1/models', from(address))).status).toBe(429)
  // A session that was opened elsewhere is not concerned.
  expect((await client.get('/api/v1/auth/me', { token: person.token, ...from(address) })).status).toBe(200)
})
