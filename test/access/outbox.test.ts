import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, mock, spyOn, test } from 'bun:test'
import { Redis as Client } from 'ioredis'
import { syncAccessRules } from '../../src/access/cache/effective-access-store.ts'
import type { InvalidationEvent } from '../../src/access/invalidation/model.ts'
import { createOutbox } from '../../src/access/invalidation/outbox.ts'
import { createPendingInvalidations } from '../../src/access/invalidation/pending-invalidations.ts'
import { resourceQuery } from '../../src/access/policy/facts/queries.ts'
import { type FactKey, factKey, partId } from '../../src/access/policy/facts/registry.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createLog } from '../../src/platform/log.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, startRedis, type TestDatabase, type TestRedis } from '../harness.ts'
import { startCaches, type TestCaches } from './caches.ts'
import { idOf } from './random.ts'
import { clear, insertInBulk, removeInBulk, store } from './world.ts'

const bob = idOf('user', 1)
const ofBob = factKey('account', bob)
const profileOfBob = factKey('profile', bob)
/** Short, because most of these tests wait for a lease, a sweep or a takeover. */
const timing = {
  lease: { leaseMs: 400, heartbeatMs: 50 },
  outbox: { flushMs: 50, sweepMs: 200, takeoverAfterMs: 1_200 },
}
const grantOfBob = factKey('grant', partId(bob, idOf('project', 1)))

describe('two instances with one Postgres and one Redis', () => {
  let database: TestDatabase
  let sql: Sql
  let server: TestRedis
  let client: Client
  let port: number
  const running: TestCaches[] = []

  const start = async (redisUrl?: string, options?: Parameters<typeof startCaches>[3]) => {
    const started = await startCaches(database.connection, redisUrl, timing, options)
    if (redisUrl === server.url && options === undefined)
      await started.until(() => started.redisCache?.epoch !== undefined)
    running.push(started)
    return started
  }
  /** Loads the account of Bob through Redis on each instance. */
  const fill = async (...instances: TestCaches[]) => {
    for (const instance of instances) {
      await instance.until(async () => (await instance.readStatus(bob)) === 'active by l2')
    }
  }
  const inRedis = async () => (await client.keys('*')).filter((name) => name.endsWith(ofBob)).length
  const chosenServer = async () => (await sql<{ server: string }[]>`select server from redis_registry`)[0]?.server
  const notedEvents = async () =>
    Promise.all(
      (await client.keys('*:newest_event')).map(async (name) => Number.parseInt((await client.get(name)) ?? '', 10)),
    )
  const connect = () => {
    client = new Client(server.url, { retryStrategy: () => 20 })
    client.on('error', () => {})
  }

  beforeAll(async () => {
    database = await createDatabase()
    sql = connectOnce(database.connection)
  })
  beforeEach(async () => {
    server = await startRedis()
    port = Number(new URL(server.url).port)
    connect()
    await clear(sql)
    await store(sql, {
      users: [{ id: bob, status: 'active', role: 'user' }],
      teams: [],
      members: [],
      projects: [],
      grants: [],
      generations: [],
    })
    await sql`delete from access_events`
  })
  afterEach(async () => {
    for (const instance of running.splice(0)) await instance.close()
    client.disconnect()
    await server.stop()
  })
  afterAll(async () => {
    await sql?.end()
    await database?.drop()
  })

  test('a change is deleted from Redis, confirmed and removed, and then served from Redis again', async () => {
    const [a, b] = [await start(server.url), await start(server.url)]
    await fill(a, b)
    await a.setStatus(bob, 'suspended')
    for (const instance of [a, b]) expect(await instance.readStatus(bob)).toStartWith('suspended')
    await a.until(async () => (await a.pendingInvalidations()).length === 0)
    await b.until(async () => (await b.readStatus(bob)) === 'suspended by l2')
    await a.until(async () => (await a.readStatus(bob)) === 'suspended by l2')
  })

  test('a change while Redis is down stays pending on every instance until Redis is back', async () => {
    const [a, b] = [await start(server.url), await start(server.url)]
    await fill(a, b)
    await server.stop()
    for (const { redis, until } of [a, b]) await until(() => redis?.serverRunId === undefined)
    await a.setStatus(bob, 'suspended')
    expect(await a.pendingInvalidations()).toEqual([ofBob, profileOfBob])
    for (const instance of [a, b]) expect(await instance.readStatus(bob)).toBe('suspended by l3')
    server = await startRedis({ port })
    await a.until(async () => (await a.pendingInvalidations()).length === 0)
    for (const instance of [a, b])
      await instance.until(async () => (await instance.readStatus(bob)) === 'suspended by l2')
  }, 60_000)

  test('a change by an instance that cannot reach Redis stays pending until another instance takes over', async () => {
    const [a, b] = [await start('redis://127.0.0.1:1'), await start(server.url)]
    await fill(b)
    await a.setStatus(bob, 'suspended')
    // Redis still holds the value from before the change.
    expect(await inRedis()).toBe(1)
    expect(await b.readStatus(bob)).toBe('suspended by l3')
    expect(await b.pendingInvalidations()).toEqual([ofBob, profileOfBob])
    await b.until(async () => (await b.pendingInvalidations()).length === 0)
    await b.until(async () => (await b.readStatus(bob)) === 'suspended by l2')
  }, 60_000)

  test('a change by an instance that dies after its commit is taken over by another', async () => {
    const b = await start(server.url)
    await fill(b)
    await sql.begin(async (tx) => {
      await tx`update users set status = 'suspended' where id = ${bob}`
      await tx`select from publish_access_event('dead', false)`
    })
    await b.until(async () => (await b.readStatus(bob)) === 'suspended by l3')
    await b.until(async () => (await b.pendingInvalidations()).length === 0)
    await b.until(async () => (await b.readStatus(bob)) === 'suspended by l2')
  }, 60_000)

  test('an instance that starts does not serve keys of pending events from Redis', async () => {
    const a = await start(server.url)
    await fill(a)
    await a.close()
    running.length = 0
    await sql`update users set status = 'suspended' where id = ${bob}`
    expect(await inRedis()).toBe(1)
    const b = await start(server.url)
    expect(await b.readStatus(bob)).toBe('suspended by l3')
    await b.until(async () => (await b.readStatus(bob)) === 'suspended by l2')
    expect(await b.pendingInvalidations()).toEqual([])
  }, 60_000)

  test('an instance with another Redis server than the others runs without it until those are gone, also after a cut of the bus', async () => {
    const second = await startRedis()
    const other = new Client(second.url)
    try {
      const [a, b] = [await start(server.url), await startCaches(database.connection, second.url, timing)]
      running.push(b)
      await fill(a)
      await b.until(() => b.redisUse() === 'other_server')
      for (let reads = 0; reads < 3; reads += 1) expect(await b.readStatus(bob)).toBe('active by l3')
      expect((await other.keys('*')).filter((name) => name.endsWith(ofBob))).toEqual([])
      // A change of this instance is deleted and confirmed by one that uses the shared server.
      await b.setStatus(bob, 'suspended')
      await a.until(async () => (await a.pendingInvalidations()).length === 0)
      await a.until(async () => (await a.readStatus(bob)) === 'suspended by l2')
      const [row] = await sql`
        select count(pg_terminate_backend(pid)) from pg_stat_activity
         where application_name = 'velro:bus' and datname = current_database()`
      expect(Number(row?.['count'])).toBe(2)
      await a.setStatus(bob, 'active')
      await b.leasedAnew()
      expect(await b.readStatus(bob)).toBe('active by l3')
      await a.close()
      await b.until(async () => (await b.readStatus(bob)) === 'active by l2')
    } finally {
      for (const instance of running.splice(0)) await instance.close()
      other.disconnect()
      await second.stop()
    }
  }, 60_000)

  test('an instance with another SECRET runs without Redis until the others have ended, and nothing counts as forged', async () => {
    const [a, b] = [await start(server.url), await start(server.url, { secret: 'another secret than the others have' })]
    await fill(a)
    await b.until(() => b.redisUse() === 'other_secret')
    for (let reads = 0; reads < 3; reads += 1) {
      await b.leased()
      expect(await b.readStatus(bob)).toBe('active by l3')
    }
    // A change of this instance is deleted and confirmed by one that has the chosen key.
    await b.setStatus(bob, 'suspended')
    await a.until(async () => (await a.readStatus(bob)) === 'suspended by l2')
    const prefixes = async () => new Set((await client.keys('velro:*')).map((name) => name.split(':')[2]))
    expect((await prefixes()).size).toBe(1)
    await a.close()
    await fill()
    await b.until(async () => (await b.readStatus(bob)) === 'suspended by l2')
    expect((await prefixes()).size).toBe(2)
    expect([a.forgeries, b.forgeries]).toEqual([[], []])
  }, 60_000)

  test('instances share their entries in each step of replacing SECRET, and the last step leaves the old key', async () => {
    const [before, after] = ['the secret that is replaced by another', 'the secret that is in use afterwards']
    const steps = [
      { secret: before },
      { secret: before, previousSecret: after },
      { secret: after, previousSecret: before },
    ]
    const keyIds = new Set<string>()
    const instances: TestCaches[] = []
    for (const step of steps) {
      const instance = await start(server.url, step)
      instances.push(instance)
      await fill(...instances)
      keyIds.add((await chosenServer())?.split('/').at(-1) ?? '')
      // Each may confirm what another has changed.
      await instance.setStatus(bob, 'suspended')
      for (const each of instances) await each.until(async () => (await each.readStatus(bob)) === 'suspended by l2')
      await instance.setStatus(bob, 'active')
      if (instances.length > 1) await instances.shift()?.close()
      await fill(...instances)
    }
    expect(keyIds.size).toBe(1)
    const last = await start(server.url, { secret: after })
    await last.until(() => last.redisUse() === 'other_secret')
    for (const instance of instances) await instance.close()
    await fill(last)
    keyIds.add((await chosenServer())?.split('/').at(-1) ?? '')
    expect(keyIds.size).toBe(2)
    expect(running.flatMap(({ forgeries }) => forgeries)).toEqual([])
  }, 60_000)

  test('a forged note of the newest event begins a new epoch and is reported: a lower or higher number, or text', async () => {
    const a = await start(server.url)
    await fill(a)
    const notes = () => client.keys('*:newest_event')
    for (const forge of [
      (noted: string) => noted.replace(/^\d+/, (number) => String(Number(number) - 1)),
      (noted: string) => noted.replace(/^\d+/, '999999999'),
      () => '0',
      () => 'written by hand',
    ]) {
      await a.until(async () => a.redisCache?.epoch !== undefined && (await notes()).length === 1)
      const epoch = a.redisCache?.epoch
      const [key = ''] = await notes()
      const forged = a.forgeries.length
      await client.set(key, forge((await client.get(key)) ?? ''), 'KEEPTTL')
      await a.until(() => a.forgeries.length > forged)
      expect(a.forgeries.at(-1)).toEqual({ what: 'newest_event', key })
      await a.until(() => a.redisCache?.epoch !== undefined && a.redisCache.epoch !== epoch)
      await client.unlink(key)
    }
    await fill(a)
  }, 60_000)

  test('an event too large for a notification is read from its row by every instance, also by one that starts', async () => {
    const many = Array.from({ length: 400 }, (_, at) => idOf('user', 100 + at))
    await sql`
      insert into users ${sql(many.map((id) => ({ id, email: `${id}@example.com`, display_name: 'u', password_hash: 'x' })))}`
    const a = await start('redis://127.0.0.1:1')
    const b = await start(server.url)
    const last = many.at(-1) as string
    const inMemory = () => {
      const known = b.facts.peek('account', last)
      return known.kind === 'hit' ? known.value.status : known.kind
    }
    await b.until(async () => (await b.readStatus(last)) === 'active by l2')
    expect(inMemory()).toBe('active')
    await a.changes.commitAndInvalidate(a.within(), async (tx) => {
      await tx`update users set status = 'suspended' where id = any (${many}::uuid[])`
    })
    expect(inMemory()).toBe('miss')
    expect(await b.readStatus(last)).toBe('suspended by l3')
    expect(await a.pendingInvalidations()).toHaveLength(2 * many.length)
    const c = await start(server.url)
    expect(await c.readStatus(last)).toBe('suspended by l3')
  })

  test('an event published long before its commit stays pending until Redis has deleted its keys', async () => {
    const a = await start(server.url)
    await fill(a)
    // Redis does not delete anything for now.
    const must = spyOn(a.redis as NonNullable<TestCaches['redis']>, 'runBypassingBreaker').mockResolvedValue(false)
    await sql.begin(async (tx) => {
      await tx`update users set status = 'suspended' where id = ${bob}`
      await tx`set constraints all immediate`
      await tx`update access_events set created_at = created_at - interval '16 minutes'`
    })
    await a.until(() => must.mock.calls.length > 0)
    const callsSoFar = must.mock.calls.length
    await a.until(() => must.mock.calls.length >= callsSoFar + 2)
    expect(await a.readStatus(bob)).toBe('suspended by l3')
    expect(await a.pendingInvalidations()).toEqual([ofBob, profileOfBob])
    must.mockRestore()
    await a.until(async () => (await a.readStatus(bob)) === 'suspended by l2')
    expect(await a.pendingInvalidations()).toEqual([])
  }, 60_000)

  test('an event of all grants of a user also covers each of its grants in Redis', async () => {
    const [cyd, dan] = [idOf('user', 2), idOf('user', 3)]
    const [team, other] = [idOf('team', 1), idOf('team', 2)]
    await syncAccessRules(sql)
    await sql`
      insert into users (id, email, display_name, password_hash)
      values (${cyd}, 'cyd@example.com', 'c', 'x'), (${dan}, 'dan@example.com', 'd', 'x')`
    await sql`insert into teams ${sql([team, other].map((id) => ({ id, name: 't' })))}`
    await sql`
      insert into team_members (team_id, user_id, role)
      values (${team}, ${bob}, 'owner'), (${team}, ${cyd}, 'viewer'), (${other}, ${cyd}, 'owner')`
    await insertInBulk(sql, async (tx) => {
      await tx`
        insert into projects (id, owner_id, name, visibility)
        select gen_random_uuid(), ${dan}, case when at <= 10001 then 'p' else 'q' end, 'team-only'
          from generate_series(1, 10300) at`
      await tx`
        insert into project_grants (project_id, team_id, access_level, granted_by)
        select id, case name when 'p' then ${team}::uuid else ${other}::uuid end, 'read', ${dan} from projects`
    })
    await sql`delete from access_events`
    const [project] = await sql<[{ id: string }]>`select id from projects where name = 'p' limit 1`
    const ref = { type: 'project', id: project.id } as const
    const [a, b] = [await start(server.url), await start(server.url)]
    const granted = async (instance: TestCaches) => {
      await instance.leased()
      const view = await instance.facts.gather([resourceQuery(ref, cyd)], instance.within())
      return `${view.resource(ref, cyd).grant} by ${view.tier}`
    }
    await a.until(async () => {
      a.facts.invalidate('everything')
      return (await granted(a)) === '3 by l2'
    })
    await granted(b)
    expect(await granted(b)).toBe('3 by l1')
    await a.changes.commitAndInvalidate(a.within(), async (tx) => {
      await tx`set local statement_timeout = 0`
      await tx`delete from teams where id = ${team}`
    })
    expect((await a.pendingInvalidations()).sort()).toEqual(
      ['grants', 'memberships'].flatMap((kind) => [bob, cyd].map((id) => `${kind}:${id}`)),
    )
    for (const instance of [a, b]) expect(await granted(instance)).toBe('0 by l3')
    // Other keys are still served from Redis.
    await b.until(async () => (await b.readStatus(cyd)) === 'active by l2')
    await removeInBulk(sql)
  }, 60_000)

  test('an instance without Redis leaves confirming to those with one, and one with Redis takes over from it', async () => {
    const a = await start()
    await a.until(async () => (await chosenServer()) === '-')
    const b = await start(server.url)
    expect(await chosenServer()).toStartWith(`${b.redis?.serverRunId}/`)
    await fill(b)
    const must = spyOn(b.redis as NonNullable<TestCaches['redis']>, 'runBypassingBreaker').mockResolvedValue(false)
    await a.setStatus(bob, 'suspended')
    expect(await b.readStatus(bob)).toBe('suspended by l3')
    expect(await a.pendingInvalidations()).toEqual([ofBob, profileOfBob])
    must.mockRestore()
    await b.until(async () => (await b.readStatus(bob)) === 'suspended by l2')
    expect(await a.pendingInvalidations()).toEqual([])
  })

  test('events that were removed by hand begin a new epoch, whose entries are new', async () => {
    const a = await start(server.url)
    await fill(a)
    await a.close()
    running.length = 0
    await sql`update users set status = 'suspended' where id = ${bob}`
    await sql`delete from access_events`
    expect(await inRedis()).toBe(1)
    const b = await start(server.url)
    expect(await b.readStatus(bob)).toBe('suspended by l3')
    await b.until(async () => (await b.readStatus(bob)) === 'suspended by l2')
  })

  test('a database set back to an earlier state finds none of its entries in Redis, with the same tables or with new ones', async () => {
    for (const restoreTables of [false, true]) {
      await sql`update users set status = 'suspended' where id = ${bob}`
      const [{ events }] = await sql<[{ events: string }]>`select last_value as events from access_events_id_seq`
      const a = await start(server.url)
      await a.until(async () => (await a.readStatus(bob)) === 'suspended by l2')
      await a.setStatus(bob, 'active')
      await fill(a)
      // It notes the newest event in Redis when it registers again.
      await a.until(async () => (await notedEvents()).some((noted) => noted > Number(events)))
      await a.close()
      running.length = 0
      await sql.begin(async (tx) => {
        await tx`set local session_replication_role = replica`
        await tx`update users set status = 'suspended' where id = ${bob}`
        await tx`delete from access_events`
        if (restoreTables) {
          await tx`create table copy as select * from users`
          await tx`truncate users cascade`
          await tx`insert into users select * from copy`
          await tx`drop table copy`
        } else await tx`select setval('access_events_id_seq', ${events})`
      })
      expect(await inRedis()).toBeGreaterThan(0)
      const b = await start(server.url)
      expect(await b.readStatus(bob)).toBe('suspended by l3')
      await b.until(async () => (await b.readStatus(bob)) === 'suspended by l2')
      await b.close()
      running.length = 0
    }
  }, 60_000)

  test('a copy of the database that shares the Redis server finds no entry of the original, and leaves it none', async () => {
    const a = await start(server.url)
    await fill(a)
    await a.close()
    running.length = 0
    const name = `${database.connection.database}_staging`
    const admin = connectOnce({ ...database.connection, database: 'postgres' })
    await sql.end()
    try {
      await admin`create database ${admin(name)} template ${admin(database.connection.database)} strategy file_copy`
      sql = connectOnce(database.connection)
      const production = await start(server.url)
      const staging = await startCaches({ ...database.connection, database: name }, server.url, timing)
      running.push(staging)
      await staging.until(() => staging.redisCache?.epoch !== undefined)
      await staging.setStatus(bob, 'suspended')
      expect(await staging.readStatus(bob)).toBe('suspended by l3')
      await staging.until(async () => (await staging.readStatus(bob)) === 'suspended by l2')
      expect(await production.readStatus(bob)).toBe('active by l2')
      await production.setStatus(bob, 'suspended')
      await staging.setStatus(bob, 'active')
      await staging.until(async () => (await staging.readStatus(bob)) === 'active by l2')
      expect(await production.readStatus(bob)).toStartWith('suspended')
    } finally {
      for (const instance of running.splice(0)) await instance.close()
      await admin`drop database if exists ${admin(name)} with (force)`
      await admin.end()
    }
  }, 60_000)

  test('an event is confirmed at once where no Redis is configured', async () => {
    const a = await start()
    await a.setStatus(bob, 'suspended')
    await a.until(async () => (await a.pendingInvalidations()).length === 0)
    expect(await a.readStatus(bob)).toBe('suspended by l3')
  })
})

describe('an outbox', () => {
  const settle = () => new Promise<void>((resolve) => setImmediate(resolve))
  const event = (id: string, keys: InvalidationEvent['keys'] = [ofBob]): InvalidationEvent => ({ id, keys: keys })
  let work: Map<number, () => void>
  let removed: { ids: string[]; epoch: string }[]
  /** The ids of the event rows in Postgres. */
  let rows: Set<string>
  let clock: ReturnType<typeof manualClock>
  let deletions: { keys: readonly FactKey[]; done: (deleted: boolean) => void }[]
  let epoch: string | undefined
  let pendingInvalidations: ReturnType<typeof createPendingInvalidations>
  /** How many ids each query for pending events had. */
  let batchSizes: number[]

  const create = () => {
    const redisCache = {
      invalidate: (keys: readonly FactKey[]) => new Promise<boolean>((done) => deletions.push({ keys, done })),
      get epoch() {
        return epoch
      },
    }
    return createOutbox({
      redisCache,
      pendingInvalidations,
      clock,
      log: createLog('silent'),
      store: {
        listPending: async (ids) => {
          batchSizes.push(ids.length)
          return new Set(ids.filter((id) => rows.has(id)))
        },
        remove: async (ids, by) => {
          removed.push({ ids: [...ids], epoch: by })
          for (const id of ids) rows.delete(id)
        },
      },
    })
  }
  const flush = async () => {
    work.get(100)?.()
    await settle()
  }
  const sweep = async () => {
    work.get(2_000)?.()
    await settle()
  }
  const answerDeletions = async (deleted: boolean) => {
    for (const { done } of deletions.splice(0)) done(deleted)
    await settle()
  }

  beforeEach(() => {
    work = new Map()
    removed = []
    rows = new Set()
    deletions = []
    batchSizes = []
    epoch = 'x'
    clock = manualClock()
    pendingInvalidations = createPendingInvalidations(clock)
    spyOn(globalThis, 'setInterval').mockImplementation(
      ((call: () => void, ms: number) => void work.set(ms, call)) as never,
    )
  })
  afterEach(() => void mock.restore())

  test('confirms deleted events in one statement, under the epoch in which they were deleted', async () => {
    const outbox = create()
    for (const id of ['1', '2']) outbox.enqueue(event(id))
    expect(pendingInvalidations.has(ofBob)).toBeTrue()
    await answerDeletions(true)
    outbox.enqueue(event('3'))
    await answerDeletions(false)
    await flush()
    expect(removed).toEqual([{ ids: ['1', '2'], epoch: 'x' }])
    // Its own pending events change only when the confirmation arrives on the bus.
    outbox.onConfirmed(['1', '2'], 'x')
    expect([...pendingInvalidations.list()].map(({ id }) => id)).toEqual(['3'])
  })

  test('confirms nothing when another epoch began meanwhile', async () => {
    const outbox = create()
    outbox.enqueue(event('1'))
    await answerDeletions(true)
    outbox.enqueue(event('2'))
    epoch = 'y'
    await answerDeletions(true)
    outbox.enqueue(event('3'))
    await answerDeletions(true)
    await flush()
    expect(removed).toEqual([
      { ids: ['1'], epoch: 'x' },
      { ids: ['3'], epoch: 'y' },
    ])
  })

  test('deletes events confirmed under another epoch from its own server before it removes them', async () => {
    const outbox = create()
    pendingInvalidations.add(event('1'))
    outbox.onConfirmed(['1', 'unknown'], 'other')
    expect(pendingInvalidations.has(ofBob)).toBeTrue()
    await answerDeletions(false)
    expect(pendingInvalidations.has(ofBob)).toBeTrue()
    // The next sweep repeats it.
    await sweep()
    await answerDeletions(true)
    expect(pendingInvalidations.has(ofBob)).toBeFalse()
  })

  test('takes over events of a writer that is gone, and those whose confirmation was missed', async () => {
    create()
    rows = new Set(['1', '2'])
    pendingInvalidations.add(event('1'))
    clock.advance(1_999)
    pendingInvalidations.add(event('2', ['project:p']))
    pendingInvalidations.add(event('0', ['project:q']))
    await sweep()
    // Its row is gone, and no confirmation named a server.
    expect(deletions.map(({ keys }) => keys)).toEqual([['project:q']])
    await answerDeletions(true)
    expect(pendingInvalidations.has('project:q')).toBeFalse()
    clock.advance(1)
    await sweep()
    expect(deletions.map(({ keys }) => keys)).toEqual([[ofBob]])
    await answerDeletions(true)
    await flush()
    expect(removed).toEqual([{ ids: ['1'], epoch: 'x' }])
    expect(pendingInvalidations.has('project:p')).toBeTrue()
  })

  test.each([
    ['everything', 'everything'],
    ['all grants of a user', [`grants:${bob}`]],
  ] as const)('keeps an event of %s pending until no older entry can be left in Redis', async (_what, keys) => {
    const outbox = create()
    outbox.enqueue(event('1', keys))
    await flush()
    rows = new Set(['1'])
    clock.advance(900_000)
    await sweep()
    await flush()
    expect([deletions, removed]).toEqual([[], []])
    expect(pendingInvalidations.has(grantOfBob)).toBeTrue()
    clock.advance(1)
    await sweep()
    await flush()
    expect(removed.flatMap(({ ids }) => ids)).toEqual(['1'])
    outbox.onConfirmed(['1'], 'x')
    expect(pendingInvalidations.has(grantOfBob)).toBeFalse()
  })

  test('keeps an event that Redis cannot delete pending until no older entry can be left, with or without its row', async () => {
    create()
    rows = new Set(['1'])
    for (const id of ['1', '2']) pendingInvalidations.add(event(id))
    const sweepInVain = async () => {
      await sweep()
      for (let tries = 1; tries <= 2; tries += 1) await answerDeletions(false)
      await flush()
    }
    clock.advance(900_000)
    await sweepInVain()
    expect([pendingInvalidations.size, removed]).toEqual([2, []])
    clock.advance(1)
    await sweepInVain()
    expect(deletions).toEqual([])
    expect([...pendingInvalidations.list()].map(({ id }) => id)).toEqual(['1'])
    // Under any epoch.
    expect(removed).toEqual([{ ids: ['1'], epoch: '-' }])
  })

  test('sweeps batches of 1,000 events, yields in between, and continues at the next sweep', async () => {
    create()
    for (let id = 1; id <= 25_000; id += 1) {
      rows.add(String(id))
      pendingInvalidations.add(event(String(id)))
    }
    /** Runs a sweep to its end; resolves to how many queries came before it first yielded. */
    const swept = async () => {
      batchSizes = []
      await sweep()
      const atOnce = batchSizes.length
      for (let asked = -1; asked !== batchSizes.length; await Bun.sleep(20)) asked = batchSizes.length
      return atOnce
    }
    expect(await swept()).toBeLessThan(10)
    expect(batchSizes).toEqual(Array(10).fill(1_000))
    await swept()
    await swept()
    expect(batchSizes).toEqual(Array(5).fill(1_000))
    await swept()
    expect(batchSizes).toHaveLength(10)
  })

  test('flushes confirmed events when it is closed, and deletes nothing after', async () => {
    const outbox = create()
    outbox.enqueue(event('1'))
    await answerDeletions(true)
    await outbox.close()
    expect(removed.map(({ ids }) => ids)).toEqual([['1']])
    outbox.enqueue(event('2'))
    expect(deletions).toEqual([])
    expect(pendingInvalidations.has(ofBob)).toBeTrue()
  })

  test('confirms nothing while the instance may not use Redis, and drops events whose rows are gone', async () => {
    const outbox = create()
    epoch = undefined
    outbox.enqueue(event('1'))
    await answerDeletions(true)
    await flush()
    expect(removed).toEqual([])
    outbox.onConfirmed(['1'], 'of the others')
    await answerDeletions(true)
    expect(pendingInvalidations.size).toBe(0)
  })

  test('removes at most 500 events in one statement', async () => {
    const outbox = create()
    for (let id = 1; id <= 1_200; id += 1) outbox.enqueue(event(String(id)))
    await answerDeletions(true)
    await flush()
    expect(removed.map(({ ids }) => ids.length)).toEqual([500, 500, 200])
  })
})
