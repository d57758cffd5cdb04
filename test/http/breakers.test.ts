import { afterAll, beforeAll, expect, test } from 'bun:test'
import { until } from '../faults/support.ts'
import { type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const path = '/api/v1/security/breakers'

/** Two instances: policies are set on one and observed on the other. */
let here: TestApp
let there: TestApp
let client: Api
let other: Api
let admin: Person

beforeAll(async () => {
  here = await startApp()
  there = await startApp({ connection: here.connection })
  const areMembers = () => [here, there].every(({ services }) => services.caches.bus.members().length === 1)
  await until(areMembers, 'the instances know each other')
  client = api(here.baseUrl)
  other = api(there.baseUrl)
  admin = await register(client)
  await here.services.database.admin`update users set role = 'admin' where id = ${admin.id}`
  await here.caughtUp()
})
afterAll(async () => {
  await there?.close()
  await here?.close()
})

const set = (dependency: string, change: object) =>
  client.patch(`${path}/${dependency}`, change, { token: admin.token })
const policyOn = async (by: Api, of: string) => {
  const { body } = await by.get(path, { token: admin.token })
  const found = body.policies.find(({ dependency }: { dependency: string }) => dependency === of)
  return [found.mode, found.failures, found.probe_after_ms]
}

test('a policy is in effect on every instance when the call that set it returns, and parts that a change leaves out stay', async () => {
  for (let failures = 1; failures <= 10; failures += 1) {
    expect((await set('storage', { failures })).status).toBe(200)
    for (const { services } of [here, there])
      expect(services.breakers.policy('storage')).toEqual({ mode: 'automatic', failures, probeAfterMs: 5_000 })
  }
  await set('storage', { probe_after_ms: 700 })
  await set('storage', { mode: 'closed' })
  for (const by of [client, other]) expect(await policyOn(by, 'storage')).toEqual(['closed', 10, 700])
  expect(await policyOn(client, 'redis')).toEqual(['automatic', 5, 1_000])
})

test('a breaker that is held open refuses calls on every instance until it is not', async () => {
  await set('storage', { mode: 'open' })
  for (const { services } of [here, there]) {
    await expect(services.objects.head('00/'.padEnd(67, '0'))).rejects.toThrow('is open')
  }
  const { body } = await other.get(path, { token: admin.token })
  expect(body.breakers).toContainEqual({
    name: 'storage',
    dependency: 'storage',
    state: 'open',
    changed_at: expect.any(String),
    reason: 'held_open',
    opened: 1,
    failed: 0,
    refused: 1,
  })
  await set('storage', { mode: 'automatic' })
  expect(await there.services.objects.head('00/'.padEnd(67, '0'))).toBeUndefined()
})

test('a breaker that opens by itself opens an incident, and one that is held open does not', async () => {
  const found = async () => {
    await here.services.incidentReports.flush()
    const incidents = '/api/v1/security/incidents?kind=dependency.unavailable'
    const { body } = await client.get(incidents, { token: admin.token })
    return body.items.map(({ subject, severity }: { subject: object; severity: string }) => [subject, severity])
  }
  await set('storage', { mode: 'open' })
  await set('storage', { mode: 'automatic' })
  expect(await found()).toEqual([])
  const storage = here.services.breakers.list().find(({ name }) => name === 'storage')
  storage?.trip(new Error('it is away'))
  expect(await found()).toEqual([[{ type: 'dependency', id: 'storage' }, 'high']])
  storage?.renew()
})

test('a breaker that opens and closes is in the audit log afterwards', async () => {
  const storage = there.services.breakers.list().find(({ name }) => name === 'storage')
  storage?.trip(new Error('it is away'))
  storage?.renew()
  await there.services.auditSink.flush()
  const rows = await here.services.database.admin<{ action: string; actor_kind: string }[]>`
    select action, actor_kind from audit_events where target_type = 'breaker' and target_id = 'storage' and actor_kind = 'system'
     order by id desc limit 2`
  expect(rows.map(({ action, actor_kind }) => [action, actor_kind]).sort()).toEqual([
    ['breaker.closed', 'system'],
    ['breaker.opened', 'system'],
  ])
})

test('an instance that starts, and one that missed a change by SQL, read the stored policies', async () => {
  await set('mail', { failures: 9 })
  const late = await startApp({ connection: here.connection })
  try {
    await until(() => late.services.breakers.policy('mail').failures === 9, 'the policies are read')
    await here.services.database.admin`update breaker_policies set failures = 4 where dependency = 'mail'`
    await late.services.breakerService.reload()
    expect(late.services.breakers.policy('mail').failures).toBe(4)
    await here.services.database.admin`delete from breaker_policies`
    await late.services.breakerService.reload()
    expect(late.services.breakers.policy('mail').failures).toBe(5)
  } finally {
    await late.close()
  }
})
