import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, mock, spyOn, test } from 'bun:test'
import { Redis as Client } from 'ioredis'
import { syncAccessRules } from '../../src/access/cache/effective-access-store.ts'
import type { RedisCache } from '../../src/access/cache/redis-cache.ts'
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

  const start = async (redisUrl?: string) => {
    const started = await startCaches(database.connection, redisUrl, timing)
    if (redisUrl === server.url) await started.until(() => started.redis?.serverRunId !== undefined)
    running.push(started)
    return started
  }
  /** Both have been asked, so that Redis knows that he is active. */
  const fill = async (...instances: TestCaches[]) => {
    for (const instance of instances) {
      await instance.until(async () => (await instance.ask(bob)) === 'active by l2')
    }
  }
  const inRedis = async () => (await client.keys('*')).filter((name) => name.endsWith(ofBob)).length
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

  test('a change is forgotten in Redis, confirmed and removed, and Redis is believed about it again', async () => {
    const [a, b] = [await start(server.url), await start(server.url)]
    await fill(a, b)
    await a.become(bob, 'suspended')
    for (const instance of [a, b]) expect(await instance.ask(bob)).toStartWith('suspended')
    await a.until(async () => (await a.pendingInvalidations()).length === 0)
    await b.until(async () => (await b.ask(bob)) === 'suspended by l2')
    await a.until(async () => (await a.ask(bob)) === 'suspended by l2')
  })

  test('a change while Redis is gone stands everywhere until it is back', async () => {
    const [a, b] = [await start(server.url), await start(server.url)]
    await fill(a, b)
    await server.stop()
    for (const { redis, until } of [a, b]) await until(() => redis?.serverRunId === undefined)
    await a.become(bob, 'suspended')
    expect(await a.pendingInvalidations()).toEqual([ofBob])
    for (const instance of [a, b]) expect(await instance.ask(bob)).toBe('suspended by l3')
    server = await startRedis({ port })
    await a.until(async () => (await a.pendingInvalidations()).length === 0)
    for (const instance of [a, b]) await instance.until(async () => (await instance.ask(bob)) === 'suspended by l2')
  }, 60_000)

  test('a change by an instance that cannot reach Redis is believed of nobody’s Redis until another has seen to it', async () => {
    const [a, b] = [await start('redis://127.0.0.1:1'), await start(server.url)]
    await fill(b)
    await a.become(bob, 'suspended')
    // What is there is what was.
    expect(await inRedis()).toBe(1)
    expect(await b.ask(bob)).toBe('suspended by l3')
    expect(await b.pendingInvalidations()).toEqual([ofBob])
    await b.until(async () => (await b.pendingInvalidations()).length === 0)
    await b.until(async () => (await b.ask(bob)) === 'suspended by l2')
  }, 60_000)

  test('a change by one that dies after its commit is seen to by another', async () => {
    const b = await start(server.url)
    await fill(b)
    await sql.begin(async (tx) => {
      await tx`update users set status = 'suspended' where id = ${bob}`
      await tx`select from publish_access_event('dead', false)`
    })
    await b.until(async () => (await b.ask(bob)) === 'suspended by l3')
    await b.until(async () => (await b.pendingInvalidations()).length === 0)
    await b.until(async () => (await b.ask(bob)) === 'suspended by l2')
  }, 60_000)

  test('one that starts knows of changes that were made before, and believes Redis of nothing they touched', async () => {
    const a = await start(server.url)
    await fill(a)
    await a.close()
    running.length = 0
    await sql`update users set status = 'suspended' where id = ${bob}`
    expect(await inRedis()).toBe(1)
    const b = await start(server.url)
    expect(await b.ask(bob)).toBe('suspended by l3')
    await b.until(async () => (await b.ask(bob)) === 'suspended by l2')
    expect(await b.pendingInvalidations()).toEqual([])
  }, 60_000)

  test('what one Redis has confirmed is not believed of another until that has forgotten too', async () => {
    const second = await startRedis()
    const other = new Client(second.url)
    try {
      const [a, b] = [await start(server.url), await start(second.url)]
      await fill(a, b)
      // It takes its time to forget.
      const must = spyOn(b.redis as NonNullable<TestCaches['redis']>, 'runBypassingBreaker').mockResolvedValue(false)
      await a.become(bob, 'suspended')
      await a.until(async () => (await a.pendingInvalidations()).length === 0)
      await a.until(async () => (await a.ask(bob)) === 'suspended by l2')
      expect((await other.keys('*')).filter((name) => name.endsWith(ofBob))).toHaveLength(1)
      expect(await b.ask(bob)).toBe('suspended by l3')
      // Nor after it had to begin anew.
      const [row] = await sql`
        select count(pg_terminate_backend(pid)) from pg_stat_activity
         where application_name = 'velro:bus' and datname = current_database()`
      expect(Number(row?.['count'])).toBe(2)
      await b.leasedAnew()
      expect(await b.ask(bob)).toBe('suspended by l3')
      must.mockRestore()
      await b.until(async () => (await b.ask(bob)) === 'suspended by l2')
    } finally {
      for (const instance of running.splice(0)) await instance.close()
      other.disconnect()
      await second.stop()
    }
  }, 60_000)

  test('a change of more than a notification takes is read by those who hear of it, and by those who start', async () => {
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
    await b.until(async () => (await b.ask(last)) === 'active by l2')
    expect(inMemory()).toBe('active')
    await a.changes.commitAndInvalidate(a.within(), async (tx) => {
      await tx`update users set status = 'suspended' where id = any (${many}::uuid[])`
    })
    expect(inMemory()).toBe('miss')
    expect(await b.ask(last)).toBe('suspended by l3')
    expect(await a.pendingInvalidations()).toHaveLength(400)
    const c = await start(server.url)
    expect(await c.ask(last)).toBe('suspended by l3')
  })

  test('a change of a transaction that told of it long before it committed stands until it is forgotten', async () => {
    const a = await start(server.url)
    await fill(a)
    // It takes its time to forget.
    const must = spyOn(a.redis as NonNullable<TestCaches['redis']>, 'runBypassingBreaker').mockResolvedValue(false)
    await sql.begin(async (tx) => {
      await tx`update users set status = 'suspended' where id = ${bob}`
      await tx`set constraints all immediate`
      await tx`update access_events set created_at = created_at - interval '16 minutes'`
    })
    await a.until(() => must.mock.calls.length > 0)
    const callsSoFar = must.mock.calls.length
    await a.until(() => must.mock.calls.length >= callsSoFar + 2)
    expect(await a.ask(bob)).toBe('suspended by l3')
    expect(await a.pendingInvalidations()).toEqual([ofBob])
    must.mockRestore()
    await a.until(async () => (await a.ask(bob)) === 'suspended by l2')
    expect(await a.pendingInvalidations()).toEqual([])
  }, 60_000)

  test('a change of more grants than are told one by one is felt by who was granted many, past what Redis has of each', async () => {
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
    expect((await a.pendingInvalidations()).sort()).toEqual([`grants:${bob}`, `grants:${cyd}`])
    for (const instance of [a, b]) expect(await granted(instance)).toBe('0 by l3')
    // Redis is believed about everything else.
    await b.until(async () => (await b.ask(cyd)) === 'active by l2')
    await removeInBulk(sql)
  }, 60_000)

  test('without Redis nothing stands for long', async () => {
    const a = await start()
    await a.become(bob, 'suspended')
    await a.until(async () => (await a.pendingInvalidations()).length === 0)
    expect(await a.ask(bob)).toBe('suspended by l3')
  })
})

describe('an outbox', () => {
  const settle = () => new Promise<void>((resolve) => setImmediate(resolve))
  const event = (id: string, touched: InvalidationEvent['keys'] = [ofBob]): InvalidationEvent => ({ id, keys: touched })
  let work: Map<number, () => void>
  let removed: { ids: string[]; serverRunId: string }[]
  /** The events that stand in Postgres. */
  let rows: Set<string>
  let clock: ReturnType<typeof manualClock>
  let forgets: { keys: readonly FactKey[]; done: (forgotten: boolean) => void }[]
  let serverRunId: string | undefined
  let pendingInvalidations: ReturnType<typeof createPendingInvalidations>
  /** About how many events Postgres was asked, each time. */
  let looked: number[]

  const create = (withOuter = true) => {
    const redisCache = {
      invalidate: (keys: readonly FactKey[]) => new Promise<boolean>((done) => forgets.push({ keys, done })),
      get serverRunId() {
        return serverRunId
      },
    } as unknown as RedisCache
    return createOutbox({
      redisCache: withOuter ? redisCache : undefined,
      pendingInvalidations,
      clock,
      log: createLog('silent'),
      store: {
        listPending: async (ids) => {
          looked.push(ids.length)
          return new Set(ids.filter((id) => rows.has(id)))
        },
        remove: async (ids, by) => {
          removed.push({ ids: [...ids], serverRunId: by })
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
  const answer = async (forgotten: boolean) => {
    for (const { done } of forgets.splice(0)) done(forgotten)
    await settle()
  }

  beforeEach(() => {
    work = new Map()
    removed = []
    rows = new Set()
    forgets = []
    looked = []
    serverRunId = 'x'
    clock = manualClock()
    pendingInvalidations = createPendingInvalidations(clock)
    spyOn(globalThis, 'setInterval').mockImplementation(
      ((call: () => void, ms: number) => void work.set(ms, call)) as never,
    )
  })
  afterEach(() => void mock.restore())

  test('confirms what was forgotten for certain, by the server that forgot it, in one go', async () => {
    const outbox = create()
    for (const id of ['1', '2']) outbox.enqueue(event(id))
    expect(pendingInvalidations.has(ofBob)).toBeTrue()
    await answer(true)
    outbox.enqueue(event('3'))
    await answer(false)
    await flush()
    expect(removed).toEqual([{ ids: ['1', '2'], serverRunId: 'x' }])
    // It is told of that like everybody else.
    outbox.onConfirmed(['1', '2'], 'x')
    expect([...pendingInvalidations.list()].map(({ id }) => id)).toEqual(['3'])
  })

  test('confirms nothing for a server that took over meanwhile', async () => {
    const outbox = create()
    outbox.enqueue(event('1'))
    await answer(true)
    outbox.enqueue(event('2'))
    serverRunId = 'y'
    await answer(true)
    outbox.enqueue(event('3'))
    await answer(true)
    await flush()
    expect(removed).toEqual([
      { ids: ['1'], serverRunId: 'x' },
      { ids: ['3'], serverRunId: 'y' },
    ])
  })

  test('makes its own server forget what another has confirmed, before it believes it', async () => {
    const outbox = create()
    pendingInvalidations.add(event('1'))
    outbox.onConfirmed(['1', 'unknown'], 'other')
    expect(pendingInvalidations.has(ofBob)).toBeTrue()
    await answer(false)
    expect(pendingInvalidations.has(ofBob)).toBeTrue()
    // It is tried again.
    await sweep()
    serverRunId = 'y'
    await answer(true)
    expect(pendingInvalidations.has(ofBob)).toBeTrue()
    await sweep()
    await answer(true)
    expect(pendingInvalidations.has(ofBob)).toBeFalse()
  })

  test('sees to what nobody has seen to, and to what was confirmed unheard', async () => {
    create()
    rows = new Set(['1', '2'])
    pendingInvalidations.add(event('1'))
    clock.advance(1_999)
    pendingInvalidations.add(event('2', ['project:p']))
    pendingInvalidations.add(event('0', ['project:q']))
    await sweep()
    // It stands no more, and nobody has said by whom it was confirmed.
    expect(forgets.map(({ keys }) => keys)).toEqual([['project:q']])
    await answer(true)
    expect(pendingInvalidations.has('project:q')).toBeFalse()
    clock.advance(1)
    await sweep()
    expect(forgets.map(({ keys }) => keys)).toEqual([[ofBob]])
    await answer(true)
    await flush()
    expect(removed).toEqual([{ ids: ['1'], serverRunId: 'x' }])
    expect(pendingInvalidations.has('project:p')).toBeTrue()
  })

  test.each([
    ['everything', 'everything'],
    ['all that was granted to somebody', [`grants:${bob}`]],
  ] as const)('leaves a change of %s standing until nothing older can be left', async (_what, touched) => {
    const outbox = create()
    outbox.enqueue(event('1', touched))
    await flush()
    rows = new Set(['1'])
    clock.advance(900_000)
    await sweep()
    await flush()
    expect([forgets, removed]).toEqual([[], []])
    expect(pendingInvalidations.has(grantOfBob)).toBeTrue()
    clock.advance(1)
    await sweep()
    await flush()
    expect(removed.flatMap(({ ids }) => ids)).toEqual(['1'])
    outbox.onConfirmed(['1'], 'x')
    expect(pendingInvalidations.has(grantOfBob)).toBeFalse()
  })

  test('keeps what no server can be made to forget until nothing older can be left, whether Postgres has it or not', async () => {
    create()
    rows = new Set(['1'])
    for (const id of ['1', '2']) pendingInvalidations.add(event(id))
    const sweepInVain = async () => {
      await sweep()
      for (let tries = 1; tries <= 2; tries += 1) await answer(false)
      await flush()
    }
    clock.advance(900_000)
    await sweepInVain()
    expect([pendingInvalidations.size, removed]).toEqual([2, []])
    clock.advance(1)
    await sweepInVain()
    expect(forgets).toEqual([])
    expect([...pendingInvalidations.list()].map(({ id }) => id)).toEqual(['1'])
    expect(removed).toEqual([{ ids: ['1'], serverRunId: 'x' }])
  })

  test('looks at 1,000 events at a time, lets others have their turn, and goes on next time where it was', async () => {
    create()
    for (let id = 1; id <= 25_000; id += 1) {
      rows.add(String(id))
      pendingInvalidations.add(event(String(id)))
    }
    /** Until it looks no more. */
    const swept = async () => {
      looked = []
      await sweep()
      const atOnce = looked.length
      for (let asked = -1; asked !== looked.length; await Bun.sleep(20)) asked = looked.length
      return atOnce
    }
    expect(await swept()).toBeLessThan(10)
    expect(looked).toEqual(Array(10).fill(1_000))
    await swept()
    await swept()
    expect(looked).toEqual(Array(5).fill(1_000))
    await swept()
    expect(looked).toHaveLength(10)
  })

  test('writes down what it has left when it is closed, and begins nothing new', async () => {
    const outbox = create()
    outbox.enqueue(event('1'))
    await answer(true)
    await outbox.close()
    expect(removed.map(({ ids }) => ids)).toEqual([['1']])
    outbox.enqueue(event('2'))
    expect(forgets).toEqual([])
    expect(pendingInvalidations.has(ofBob)).toBeTrue()
  })

  test('of an instance without an outer cache confirms at once, in the name of nobody', async () => {
    const outbox = create(false)
    outbox.enqueue(event('1'))
    await settle()
    await flush()
    expect(removed).toEqual([{ ids: ['1'], serverRunId: '-' }])
    outbox.onConfirmed(['1'], 'whoever')
    expect(pendingInvalidations.size).toBe(0)
  })

  test('names no more than 500 in one message', async () => {
    const outbox = create()
    for (let id = 1; id <= 1_200; id += 1) outbox.enqueue(event(String(id)))
    await answer(true)
    await flush()
    expect(removed.map(({ ids }) => ids.length)).toEqual([500, 500, 200])
  })
})
