import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { parseConfig } from '../../src/config.ts'
import { createLog } from '../../src/platform/log.ts'
import { createServices } from '../../src/services.ts'
import { type Api, api, type Person, redis, register, startApp, type TestApp, testSecret } from '../harness.ts'

const path = '/api/v1/security/flags'
const allOn = { l1: true, l2: true, l3: true, warm_up: true }
type Flags = typeof allOn

/** Two instances of one service: flags are switched on one and observed on the other. */
let here: TestApp
let there: TestApp
let client: Api
let other: Api
let admin: Person
let owner: Person
let member: Person
let stranger: Person
/** Of the other instance. */
const statements: string[] = []

beforeAll(async () => {
  const config = { redisUrl: (await redis()).url }
  here = await startApp({ config })
  there = await startApp({
    config,
    connection: here.connection,
    onStatement: (text) => void statements.push(text),
  })
  // An instance learns of the other members from their next heartbeat.
  await until(() => [here, there].every(({ services }) => services.caches.bus.members().length === 1))
  client = api(here.baseUrl)
  other = api(there.baseUrl)
  ;[admin, owner, member, stranger] = (await Promise.all(Array.from({ length: 4 }, () => register(client)))) as [
    Person,
    Person,
    Person,
    Person,
  ]
  await here.services.database.admin`update users set role = 'admin' where id = ${admin.id}`
  await until(() => client.get(path, { token: admin.token }).then(({ status }) => status === 200))
})
afterAll(async () => {
  await there?.close()
  await here?.close()
})
beforeEach(async () => {
  expect((await put(allOn)).body).toEqual(allOn)
})

const until = async (holds: () => boolean | Promise<boolean>) => {
  for (const giveUpAt = performance.now() + 5_000; !(await holds()); ) {
    if (performance.now() > giveUpAt) throw new Error('the condition did not hold within 5 s')
    await Bun.sleep(2)
  }
}
const put = (flags: object, { token }: { token: string } = admin, by = client) => by.put(path, flags, { token })

describe('a flag', () => {
  test('is on by default, is reported as stored, and switching it leaves the others unchanged', async () => {
    expect((await put({ l2: false })).body).toEqual({ ...allOn, l2: false })
    expect((await put({ warm_up: false, l3: true })).body).toEqual({ ...allOn, l2: false, warm_up: false })
    for (const by of [client, other]) {
      const { status, body } = await by.get(path, { token: admin.token })
      expect([status, body]).toEqual([200, { ...allOn, l2: false, warm_up: false }])
    }
    const [row] = await here.services.database.admin`select enabled, updated_by from flags where name = 'warm_up'`
    expect(row as object).toEqual({ enabled: false, updated_by: admin.id })
  })

  test('is in force on the other instance when the call that switched it returns', async () => {
    const { current } = there.services.caches.flags
    for (let round = 0; round < 25; round += 1) {
      const wanted = Object.fromEntries(
        Object.keys(allOn).map((name, bit) => [name, ((round * 7) & (1 << bit)) === 0]),
      ) as Flags
      const [writer, currentFlags] = round % 2 === 0 ? [client, current] : [other, here.services.caches.flags.current]
      expect((await put(wanted, admin, writer)).status).toBe(200)
      expect(currentFlags).toEqual(wanted)
    }
  })

  test('switched by concurrent calls ends with the same value on all instances and in the database', async () => {
    const both = [
      { l1: false, l2: false, warm_up: false },
      { warm_up: true, l2: true, l1: true },
    ] as const
    for (let round = 0; round < 10; round += 1) {
      const answers = await Promise.all([put(both[0]), put(both[1], admin, other), put(both[0], admin, other)])
      expect(answers.map(({ status }) => status)).toEqual([200, 200, 200])
      const { body: stored } = await client.get(path, { token: admin.token })
      for (const { services } of [here, there]) expect(services.caches.flags.current).toEqual(stored)
    }
  })

  test('is refused with 422 when it is missing, unknown or not a boolean, and with 403 from a caller who is not an operator', async () => {
    for (const wrong of [{}, { l4: true }, { l1: 'off' }, { l1: null }, { l1: false, updated_by: admin.id }, []]) {
      const { status, body } = await put(wrong)
      expect([wrong, status, body.code]).toEqual([wrong, 422, 'request.invalid'])
    }
    for (const answer of [await put({ l1: false }, owner), await client.get(path, { token: owner.token })]) {
      expect([answer.status, answer.body.code]).toEqual([403, 'access.admins_only'])
    }
    expect((await client.get(path, { token: admin.token })).body).toEqual(allOn)
  })
})

describe('an instance', () => {
  test('that lost the bus applies the flags switched meanwhile before its lease begins again', async () => {
    const { caches, database } = there.services
    // The pool is busy, so only the bus connections can read the flags in time.
    const asked = Array.from({ length: 3 }, () => database.admin`select pg_sleep(1)`)
    const { database: sql } = here.services
    await sql.write.begin(async (tx) => {
      await tx`select pg_terminate_backend(pid) from pg_stat_activity
                where datname = current_database() and application_name = 'velro:bus'`
      await tx`insert into flags (name, enabled) values ('l3', false)
                   on conflict (name) do update set enabled = excluded.enabled`
    })
    // Further than heartbeats sent before the cut could extend the lease.
    const before = caches.bus.lease.untilMs + 400
    await until(() => caches.bus.lease.untilMs > before)
    expect(caches.flags.current).toEqual({ ...allOn, l3: false })
    await Promise.all(asked)
  })

  test('that starts applies the stored flags, even when it cannot reach the bus', async () => {
    await put({ l3: false, warm_up: false })
    const config = { ...parseConfig({ SECRET: testSecret, DB_CONNECTIONS: '6', HASH_WORKERS: '1' }) }
    const withoutBus = { ...config, secret: testSecret, databaseBusUrl: 'postgres://unreachable@127.0.0.1:1/nowhere' }
    const services = await createServices(withoutBus, here.connection, { log: createLog('silent') })
    try {
      expect(services.caches.flags.current).toEqual({ ...allOn, l3: false, warm_up: false })
    } finally {
      await services.close()
    }
  })
})

describe('with the tiers switched', () => {
  const actions = ['read', 'download', 'create', 'write', 'share', 'delete', 'admin']
  let resources: { type: string; id: string }[]

  beforeAll(async () => {
    const createAt = async (about: string, body: object, { token }: Person = owner) => {
      const answer = await client.post(`/api/v1${about}`, body, { token })
      expect(answer.status).toBeLessThan(300)
      return answer.body
    }
    const { id: team_id } = await createAt('/teams', { name: 'A team' })
    const guest = await createAt(`/teams/${team_id}/invitations`, { email: member.email, role: 'contributor' })
    await createAt('/teams/invitations/accept', { secret: guest.secret }, member)
    resources = []
    for (const visibility of ['private', 'team-only', 'public']) {
      const { id } = await createAt('/projects', { name: visibility, visibility })
      await createAt(`/projects/${id}/teams`, { team_id, access_level: 'write' })
      const generation = await createAt('/generations', { model: 'local/procedural', prompt: 'p', project_id: id })
      resources.push({ type: 'project', id }, { type: 'generation', id: generation.id })
    }
  })

  /** The decisions of the other instance for every user, resource and action. */
  const decisions = async () => {
    const checks = resources.flatMap((resource) => actions.map((action) => ({ action, resource })))
    const answers = await Promise.all(
      [owner, member, stranger].map(({ token }) =>
        other.post('/api/v1/authorization/check/batch', { checks }, { token }),
      ),
    )
    return answers.map(({ status, body }) => [status, body.results])
  }
  const tierOf = async (resource: object) => {
    const question = { action: 'read', resource }
    const { body } = await other.post('/api/v1/authorization/explain', question, { token: owner.token })
    return body.layers.find(({ layer }: { layer: number }) => layer === 7).tier
  }

  test('{"l1":false,"l2":true}, a check that Redis answers sends no statement, and a mode is in force at once', async () => {
    await put({ l1: false })
    const [resource] = resources
    const check = () => other.post('/api/v1/authorization/check', { action: 'read', resource }, { token: owner.token })
    await until(async () => (await tierOf(resource as object)) === 'l2')
    const before = { ...there.services.decisionCounters.decisions }
    // Until then Redis may not have the account and the session.
    await until(async () => {
      statements.length = 0
      for (let times = 0; times < 20; times += 1) expect((await check()).body.allowed).toBe(true)
      return statements.filter((text) => /restrictions|sessions|project/.test(text)).length === 0
    })
    expect(there.services.decisionCounters.decisions.l2 - before.l2).toBeGreaterThanOrEqual(20)
    expect(there.services.decisionCounters.decisions.l1).toBe(before.l1)

    const set = (mode: string) => client.put('/api/v1/security/mode', { mode }, { token: admin.token })
    const write = async () =>
      (await other.post('/api/v1/projects', { name: 'x' }, { token: owner.token })).body.code ?? 'allowed'
    for (const mode of ['read-only', 'normal', 'read-only', 'normal']) {
      expect((await set(mode)).status).toBe(200)
      expect(await write()).toBe(mode === 'normal' ? 'allowed' : 'mode.read_only')
    }
  })

  const all = [true, false].flatMap((l1) => [true, false].flatMap((l2) => [true, false].map((l3) => ({ l1, l2, l3 }))))
  for (const { l1, l2, l3 } of all) {
    const tier = l1 ? 'l1' : l2 ? 'l2' : l3 ? 'l3' : 'database'
    test(`${JSON.stringify({ l1, l2, l3 })}, decisions stay the same and come from ${tier}`, async () => {
      const expected = await decisions()
      expect(expected.flatMap(([status]) => status)).toEqual([200, 200, 200])
      await put({ l1, l2, l3 })
      for (let times = 0; times < 3; times += 1) expect(await decisions()).toEqual(expected)
      for (const resource of resources) {
        // Memory and Redis are filled by the first miss; the tiers behind them need no fill.
        if (l1 || l2) await until(async () => (await tierOf(resource)) === tier)
        // The fill of Redis may be late on a busy machine.
        if (tier !== 'l2') for (let times = 0; times < 3; times += 1) expect(await tierOf(resource)).toBe(tier)
      }
    })

    test(`${JSON.stringify({ l1, l2, l3 })}, a revoked permission is denied at once`, async () => {
      await put({ l1, l2, l3 })
      const { body } = await client.post('/api/v1/projects', { name: 'x' }, { token: owner.token })
      const resource = { type: 'project', id: body.id }
      const allowed = async () =>
        (await other.post('/api/v1/authorization/check', { action: 'read', resource }, { token: stranger.token })).body
          .allowed
      for (const visibility of ['public', 'private', 'public', 'private']) {
        await client.patch(`/api/v1/projects/${body.id}`, { visibility }, { token: owner.token })
        for (let times = 0; times < 3; times += 1) expect(await allowed()).toBe(visibility === 'public')
      }
    })
  }
})
