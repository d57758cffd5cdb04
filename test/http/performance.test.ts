import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { Redis } from 'ioredis'
import { createLog } from '../../src/platform/log.ts'
import { type Api, api, type Person, register, startApp, startRedis, type TestApp, type TestRedis } from '../harness.ts'

const path = '/api/v1/performance/metrics'
const check = '/api/v1/authorization/check'

let app: TestApp
let client: Api
let admin: Person
let owner: Person
let server: TestRedis
let written = ''
const more: TestApp[] = []

beforeAll(async () => {
  server = await startRedis()
  app = await startApp({
    config: { redisUrl: server.url, l1MaxEntries: 5_000, l1MaxBytes: 2_000_000 },
    log: createLog('error', {
      write: (line: string) => {
        written += line
      },
    }),
  })
  client = api(app.baseUrl)
  admin = await register(client)
  owner = await register(client)
  await app.services.database.admin`update users set role = 'admin' where id = ${admin.id}`
  await until(async () => (await client.get(path, { token: admin.token })).status === 200)
  await until(async () => (await metrics()).caches.l2.state === 'up')
})
afterAll(async () => {
  await app?.close()
  await server?.stop()
})
afterEach(async () => {
  for (const each of more.splice(0)) await each.close()
})

const until = async (holds: () => boolean | Promise<boolean>) => {
  for (const giveUpAt = performance.now() + 5_000; !(await holds()); ) {
    if (performance.now() > giveUpAt) throw new Error('It never came to that')
    await Bun.sleep(5)
  }
}
const metrics = async (of: Api = client) => {
  const { status, body } = await of.get(path, { token: admin.token })
  expect(status).toBe(200)
  return body
}
const newProject = async (visibility = 'private') => {
  const { body } = await client.post('/api/v1/projects', { name: 'p', visibility }, { token: owner.token })
  return { type: 'project', id: body.id as string }
}
const ask = (resource: object, { token }: Person = owner, of = client) =>
  of.post(check, { action: 'read', resource }, { token })
/** How much each decision counter grew during `work`. */
const decided = async (work: () => Promise<unknown>) => {
  const { caches: before } = await metrics()
  await work()
  const { caches: after } = await metrics()
  const grown = Object.entries(after.decisions).map(([tier, count]) => [tier, Number(count) - before.decisions[tier]])
  return Object.fromEntries(grown.filter(([, count]) => count !== 0))
}

/** Retries, because these figures are updated off the request path and may be late on a busy machine. */
const comesFromRedis = (project: object) =>
  until(async () => {
    app.services.caches.facts.invalidate('everything')
    const grown = await decided(() => ask(project))
    expect(grown.total).toBe(1)
    return grown.l2 === 1
  })

describe('the metrics', () => {
  test('are readable by operators and by services whose key has the scope, and by no other caller', async () => {
    const keyWith = async (scope: string) => {
      const input = { name: scope, scopes: [scope] }
      return (await client.post('/api/v1/service-keys', input, { token: admin.token })).body.key as string
    }
    const answers = await Promise.all(
      [
        admin.token,
        await keyWith('performance:read'),
        owner.token,
        await keyWith('authorization:check'),
        'nonsense',
        `vsk_${'A'.repeat(64)}`,
        undefined,
      ].map((token) => client.get(path, token === undefined ? {} : { token })),
    )
    expect(answers.map(({ status, body }) => (status === 200 ? 200 : `${status} ${body.code}`))).toEqual([
      200,
      200,
      '403 access.admins_only',
      '403 service_key.scope_missing',
      '401 identity.not_signed_in',
      '401 identity.not_signed_in',
      '401 identity.not_signed_in',
    ])
  })

  test('are all that a key with their scope may read', async () => {
    const input = { name: 'watch', scopes: ['performance:read'] }
    const { body } = await client.post('/api/v1/service-keys', input, { token: admin.token })
    const token = body.key as string
    expect((await ask({ type: 'project', id: body.id }, { ...owner, token })).status).toBe(403)
    expect((await client.get('/api/v1/security/flags', { token })).status).toBe(403)
  })
})

test('the metrics name each reader and how long the oldest entry waits that it has not read, and the queue for notifications', async () => {
  const lagOf = async (name: string): Promise<number | null> => {
    await app.services.monitoring.measureQueues()
    const { readers } = await metrics()
    return readers.find((reader: { name: string }) => reader.name === name).lag_ms
  }
  const { readers } = await metrics()
  for (const name of ['jobs', 'outbound', 'webhooks', 'cancellations', 'invalidations'])
    expect(readers.map((reader: { name: string }) => reader.name)).toContain(name)
  expect(await lagOf('outbound')).toBeNull()
  // No handler has this kind, so it stays.
  await app.services.database.admin`
    insert into outbound_tasks (id, kind, payload, created_at, run_at)
    values (gen_random_uuid(), 'kept', '{}', now(), now() - interval '1 minute'),
           (gen_random_uuid(), 'kept', '{}', now(), now() + interval '1 minute')`
  expect(await lagOf('outbound')).toBeGreaterThanOrEqual(60_000)
  await app.services.database.admin`delete from outbound_tasks where kind = 'kept'`
  expect(await lagOf('outbound')).toBeNull()
  await app.services.notificationQueue.measure()
  expect((await metrics()).bus.notification_queue_usage).toBeLessThan(0.1)
})

describe('the metrics of the caches', () => {
  test('have null rates before the first decision', async () => {
    const fresh = await startApp({ connection: app.connection })
    more.push(fresh)
    const { caches } = await metrics(api(fresh.baseUrl))
    expect(caches).toMatchObject({ hit_rate: null, l1_share: null, stale_facts: 0 })
    expect(caches.decisions).toEqual({ total: 0, l1: 0, l2: 0, l3: 0, database: 0 })
    expect(caches.l2).toMatchObject({ enabled: true, state: 'none', hits: 0, misses: 0 })
    expect(caches.l1).toMatchObject({ enabled: true, max_entries: 10_000, max_bytes: 64 * 1_048_576 })
  })

  test('count each decision once, under the slowest tier it needed', async () => {
    const project = await newProject()
    expect(await decided(() => ask(project))).toEqual({ total: 1, l3: 1 })
    const often = async () => {
      for (let times = 0; times < 20; times += 1) await ask(project)
    }
    expect(await decided(often)).toEqual({ total: 20, l1: 20 })
    await comesFromRedis(project)
    const checks = Array.from({ length: 30 }, () => ({ action: 'read', resource: project }))
    const batch = () => client.post(`${check}/batch`, { checks }, { token: owner.token })
    expect(await decided(batch)).toEqual({ total: 30, l1: 30 })
  })

  test('count no decision for a refused request', async () => {
    const checks = Array.from({ length: 5 }, () => ({
      user_id: admin.id,
      action: 'read',
      resource: { type: 'project', id: '00000000-0000-7000-8000-000000000009' },
    }))
    for (let times = 0; times < 3; times += 1) {
      app.services.caches.facts.invalidate('everything')
      const { status } = await client.post(`${check}/batch`, { checks }, { token: owner.token })
      expect(status).toBe(403)
    }
    const { caches } = await metrics()
    for (const count of Object.values(caches.decisions)) expect(count).toBeGreaterThanOrEqual(0)
  })

  test('have rates that equal their counts, beside the count of stale facts', async () => {
    const project = await newProject()
    for (let times = 0; times < 30; times += 1) await ask(project)
    const { caches } = await metrics()
    const { total, l1, l2, l3, database } = caches.decisions
    expect(l1 + l2 + l3 + database).toBe(total)
    expect(caches.hit_rate).toBeCloseTo((l1 + l2) / total, 10)
    expect(caches.l1_share).toBeCloseTo(l1 / total, 10)
    expect(caches.stale_facts).toBe(0)
  })

  test('report memory with its bounds and Redis with its hits and misses', async () => {
    const before = await metrics()
    await ask(await newProject())
    const { caches } = await metrics()
    expect(caches.l1).toEqual({
      enabled: true,
      entries: app.services.caches.memory.size,
      max_entries: 5_000,
      bytes: app.services.caches.memory.bytes,
      max_bytes: 2_000_000,
    })
    expect(caches.l1.entries).toBeGreaterThan(2)
    expect(caches.l1.bytes).toBeGreaterThan(caches.l1.entries * 200)
    expect(caches.l2.misses).toBeGreaterThan(before.caches.l2.misses)
    expect(caches.l2).toMatchObject({ enabled: true, state: 'up', errors: 0, unreadable: 0 })
  })

  test('report a tier that is switched off', async () => {
    const put = (flags: object) => client.put('/api/v1/security/flags', flags, { token: admin.token })
    await put({ l1: false, l3: false })
    const project = await newProject()
    await comesFromRedis(project)
    expect((await put({ l2: false })).status).toBe(200)
    expect(await decided(() => ask(project))).toEqual({ total: 1, database: 1 })
    const { caches } = await metrics()
    expect([caches.l1.enabled, caches.l2.enabled, caches.l3.enabled]).toEqual([false, false, false])
    await put({ l1: true, l2: true, l3: true })
  })
})

describe('the metrics of the bus', () => {
  test('report the lease, the members, the received events and the committed changes', async () => {
    const before = (await metrics()).bus
    const second = await startApp({ connection: app.connection })
    more.push(second)
    const instance = second.services.caches.bus.instance
    await until(async () => (await metrics()).bus.members.includes(instance))
    const project = await newProject()
    const { bus: sooner } = await metrics()
    for (const visibility of ['public', 'private', 'public']) {
      await client.patch(`/api/v1/projects/${project.id}`, { visibility }, { token: owner.token })
    }
    const { bus } = await metrics()
    expect(bus).toMatchObject({ instance: before.instance, lease_held: true })
    expect(bus.changes_committed - sooner.changes_committed).toBe(3)
    expect(bus.events_received - sooner.events_received).toBe(3)
    expect(bus.waits.acknowledged - sooner.waits.acknowledged).toBe(3)
    expect(bus.waits.lapsed).toBe(0)
    expect(bus.waits.p50_ms).toBeGreaterThan(0)
    expect(bus.waits.p50_ms).toBeLessThanOrEqual(bus.waits.p99_ms)
    expect(bus.waits.p99_ms).toBeLessThanOrEqual(bus.waits.max_ms)
    const secondly = api(second.baseUrl)
    await until(async () => (await metrics(secondly)).bus.members.includes(bus.instance))
    const theirs = (await metrics(secondly)).bus
    expect(theirs).toMatchObject({ instance, members: [bus.instance], changes_committed: 0 })
    expect(theirs.events_received).toBeGreaterThanOrEqual(3)
    expect(theirs.waits).toEqual({ acknowledged: 0, lapsed: 0, p50_ms: null, p99_ms: null, max_ms: null })
  })

  test('count a change that a member did not acknowledge as lapsed', async () => {
    const project = await newProject()
    const before = (await metrics()).bus.waits
    // A member that sent one heartbeat and never acknowledges.
    await app.services.database.admin`select pg_notify('velro', 'beat 0123456789abcdef01 1.1')`
    await client.patch(`/api/v1/projects/${project.id}`, { visibility: 'public' }, { token: owner.token })
    const { waits } = (await metrics()).bus
    expect([waits.lapsed - before.lapsed, waits.acknowledged - before.acknowledged]).toEqual([1, 0])
    expect(waits.max_ms).toBeGreaterThan(990)
  })

  test('report pending invalidations and the state of Redis while Redis is down', async () => {
    await server.stop()
    await until(async () => (await metrics()).caches.l2.state === 'down')
    const project = await newProject()
    await client.patch(`/api/v1/projects/${project.id}`, { visibility: 'public' }, { token: owner.token })
    expect((await metrics()).bus.pending_invalidations).toBeGreaterThan(0)
    server = await startRedis({ port: Number(new URL(server.url).port) })
    await until(async () => (await metrics()).caches.l2.state === 'up')
    await until(async () => (await metrics()).bus.pending_invalidations === 0)
  })
})

describe('a stale fact in memory', () => {
  let staleBefore: number
  beforeEach(async () => {
    staleBefore = (await metrics()).caches.stale_facts
    await until(async () => (await metrics()).bus.pending_invalidations === 0)
  })
  /** A change that publishes no event, because its triggers are off. */
  const silently = async (visibility: string, id: string) => {
    await app.services.database.write.begin(async (tx) => {
      await tx`set local session_replication_role = replica`
      await tx`update projects set visibility = ${visibility} where id = ${id}`
    })
  }
  const found = () =>
    until(async () => {
      await app.services.caches.staleDetector.run()
      return (await metrics()).caches.stale_facts > staleBefore
    })
  const allowed = async (resource: object) => (await ask(resource, admin)).body.allowed

  test('is detected, counted beside the hit rate, logged, and removed from both caches', async () => {
    const project = await newProject('public')
    expect(await allowed(project)).toBe(true)
    await silently('private', project.id)
    expect(await allowed(project)).toBe(true)
    await found()
    const { caches } = await metrics()
    expect(caches.stale_facts).toBe(staleBefore + 1)
    expect(caches.facts_compared).toBeGreaterThan(0)
    expect(written).toContain('"event":"cache.stale_fact"')
    expect(written).toContain(`"key":"project:${project.id}"`)
    // Redis held the same value.
    expect(await allowed(project)).toBe(false)
  })

  test('is served by no tier although Redis refuses to delete it, and is deleted there later', async () => {
    const project = await newProject('public')
    expect(await allowed(project)).toBe(true)
    const redis = new Redis(server.url)
    try {
      await redis.call('ACL', 'SETUSER', 'default', '-unlink', '-del')
      await silently('private', project.id)
      await found()
      expect((await metrics()).bus.pending_invalidations).toBeGreaterThan(0)
      expect(await allowed(project)).toBe(false)
    } finally {
      await redis.call('ACL', 'SETUSER', 'default', '+unlink', '+del')
      redis.disconnect()
    }
    await until(async () => (await metrics()).bus.pending_invalidations === 0)
    expect(await allowed(project)).toBe(false)
  })

  test('is searched for every few seconds in the background', async () => {
    const project = await newProject('public')
    await allowed(project)
    await silently('private', project.id)
    await until(async () => (await metrics()).caches.facts_compared > 0)
    for (const giveUpAt = performance.now() + 20_000; await allowed(project); await Bun.sleep(50)) {
      if (performance.now() > giveUpAt) throw new Error('Nobody looked')
    }
    expect((await metrics()).caches.stale_facts).toBe(staleBefore + 1)
  }, 30_000)

  test('never occurs for changes made by the services, however many run during the search', async () => {
    const projects = await Promise.all(Array.from({ length: 10 }, () => newProject('public')))
    const { counts, run } = app.services.caches.staleDetector
    const comparedBefore = counts.compared
    let going = true
    const changing = projects.map(async ({ id }, index) => {
      for (let times = index; going; times += 1) {
        const visibility = ['public', 'private', 'team-only'][times % 3]
        await client.patch(`/api/v1/projects/${id}`, { visibility }, { token: owner.token })
      }
    })
    const asking = projects.map(async (project) => {
      while (going) await Promise.all([ask(project), ask(project, admin)])
    })
    for (const endAt = performance.now() + 4_000; performance.now() < endAt; await Bun.sleep(1)) await run()
    going = false
    await Promise.all([...changing, ...asking])
    expect(counts.compared - comparedBefore).toBeGreaterThan(30)
    expect(counts.stale).toBe(staleBefore)
  }, 30_000)
})
