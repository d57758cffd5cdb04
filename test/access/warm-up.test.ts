import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import {
  type FactQuery,
  factQuery,
  principalQueries,
  resourceQuery,
  restrictionQueries,
} from '../../src/access/policy/facts/queries.ts'
import type { ListedRef } from '../../src/access/policy/matrix.ts'
import { createAccessFrequencyStore } from '../../src/access/warm-up/access-frequency-store.ts'
import { createViewStore } from '../../src/access/warm-up/materialized-view-store.ts'
import { createWarmUp, type WarmUp } from '../../src/access/warm-up/warm-up.ts'
import { createWarmUpStore, type HotPair } from '../../src/access/warm-up/warm-up-store.ts'
import { manualClock, systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { createLog } from '../../src/platform/log.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { type Api, api, type Person, register, startApp, startRedis, type TestApp } from '../harness.ts'
import { idOf } from './random.ts'

const user = (number: number) => idOf('user', number)
const session = (number: number) => idOf('session', number)
const project = (number: number): ListedRef => ({ type: 'project', id: idOf('project', number) })

/** Runs all pending callbacks. */
const settle = async () => {
  for (let turn = 0; turn < 50; turn += 1) await new Promise<void>((resolve) => setImmediate(resolve))
}

describe('the warm-up', () => {
  let clock: ReturnType<typeof manualClock>
  let lease: { untilMs: number }
  let current: { warm_up: boolean }
  let memory: { wouldEvict: boolean }
  let room: boolean
  let reloads: number
  let fetched: (readonly FactQuery[])[]
  let pauses: number[]
  /** Resolves each prefetch; tests replace it to delay them. */
  let onFetch: () => Promise<void>
  let hottest: HotPair[]
  let own: (userId: string) => Promise<ListedRef[]>
  let warmUp: WarmUp

  beforeEach(() => {
    clock = manualClock()
    lease = { untilMs: 1_000 }
    current = { warm_up: true }
    memory = { wouldEvict: false }
    room = true
    reloads = 0
    fetched = []
    pauses = []
    onFetch = async () => {}
    hottest = Array.from({ length: 170 }, (_, number) => ({
      userId: user(number),
      sessionId: number % 2 === 0 ? session(number) : null,
      ref: project(number),
    }))
    own = async () => [project(1), project(2)]
    warmUp = createWarmUp({
      store: { hottest: async () => hottest, findOwn: (userId) => own(userId) },
      facts: {
        prefetch: async (wanted) => {
          fetched.push(wanted)
          await onFetch()
        },
      },
      memory,
      hasRoom: () => room,
      lease,
      flags: {
        current,
        reload: async () => {
          reloads += 1
        },
      },
      clock,
      log: createLog('silent'),
      pause: async (ms) => {
        pauses.push(ms)
        await new Promise<void>((resolve) => setImmediate(resolve))
      },
    })
  })

  const pairsOf = (queries: readonly FactQuery[]) => queries.filter(({ userId }) => userId !== null)

  describe('at the start of an instance', () => {
    test('prefetches the hottest pairs and their sessions, in batches one after the other with pauses', async () => {
      let under = 0
      onFetch = async () => {
        under += 1
        expect(under).toBe(1)
        await new Promise<void>((resolve) => setImmediate(resolve))
        under -= 1
      }
      await warmUp.start()
      expect(Math.max(...fetched.map((wanted) => pairsOf(wanted).length))).toBeLessThanOrEqual(100)
      expect(fetched.flatMap(pairsOf).map(({ userId }) => userId)).toEqual(hottest.map(({ userId }) => userId))
      expect(fetched.flat().slice(0, 2)).toEqual(principalQueries(session(0), user(0)))
      expect(fetched.flat()[3]).toEqual(factQuery('account', user(1)))
      expect(pauses.filter((ms) => ms === 10)).toHaveLength(fetched.length)
      expect(warmUp.counts).toMatchObject({ pairs: 170, failed: 0 })
    })

    test('begins only once the instance holds a lease', async () => {
      lease.untilMs = Number.NEGATIVE_INFINITY
      const done = warmUp.start()
      await settle()
      expect([fetched, reloads]).toEqual([[], 0])
      lease.untilMs = 1_000
      await done
      expect([reloads, warmUp.counts.pairs]).toEqual([1, 170])
    })

    test('follows the switch as stored, not its assumed value', async () => {
      const off = createWarmUp({
        store: { hottest: async () => hottest, findOwn: own },
        facts: { prefetch: async (wanted) => void fetched.push(wanted) },
        memory,
        hasRoom: () => true,
        lease,
        flags: {
          current,
          reload: async () => {
            current.warm_up = false
          },
        },
        clock,
        log: createLog('silent'),
      })
      await off.start()
      expect(fetched).toEqual([])
    })

    test('stops when memory has no room left', async () => {
      onFetch = async () => {
        room = false
      }
      await warmUp.start()
      expect(fetched).toHaveLength(1)
    })

    test('ends when it is stopped, also while it waits for the lease', async () => {
      onFetch = async () => warmUp.stop()
      await warmUp.start()
      expect(fetched).toHaveLength(1)
      lease.untilMs = Number.NEGATIVE_INFINITY
      await warmUp.start()
    })

    test('ends without an error after a failure', async () => {
      onFetch = () => Promise.reject(new Error('gone'))
      await warmUp.start()
      expect(warmUp.counts).toMatchObject({ pairs: 0, failed: 1 })
    })
  })

  describe('at a sign-in', () => {
    test('prefetches after the sign-in was answered, the session first and then the resources', async () => {
      warmUp.signedIn({ userId: user(1), sessionId: session(1) })
      expect(fetched).toEqual([])
      await settle()
      expect(fetched).toEqual([
        principalQueries(session(1), user(1)),
        [project(1), project(2)].map((ref) => resourceQuery(ref, user(1))),
      ])
    })

    test('serves two users at a time, each once, and drops sign-ins while 1,000 wait', async () => {
      const { promise, resolve } = Promise.withResolvers<void>()
      onFetch = () => promise
      for (let number = 0; number < 1_100; number += 1) {
        warmUp.signedIn({ userId: user(number), sessionId: session(number) })
        warmUp.signedIn({ userId: user(number), sessionId: session(number + 10_000) })
        if (number === 1) await settle()
      }
      await settle()
      expect(fetched).toHaveLength(2)
      // Two are served and a thousand wait; each of the others was dropped twice.
      expect(warmUp.counts.dropped).toBe(2 * (1_100 - 1_002))
      resolve()
      await settle()
      for (let turn = 0; turn < 100; turn += 1) await settle()
      expect(warmUp.counts.people).toBe(1_002)
      const sessions = fetched.filter(([first]) => first?.kind === 'session')
      expect(sessions).toHaveLength(1_002)
      // Of two sessions of one user, the newer.
      expect(sessions[5]).toEqual(principalQueries(session(10_005), user(5)))
    })

    test('prefetches only the new session of a user who signs in again soon', async () => {
      warmUp.signedIn({ userId: user(1), sessionId: session(1) })
      await settle()
      warmUp.signedIn({ userId: user(1), sessionId: session(2) })
      await settle()
      expect(fetched.slice(2)).toEqual([principalQueries(session(2), user(1))])
      clock.advance(31_000)
      warmUp.signedIn({ userId: user(1), sessionId: session(3) })
      await settle()
      expect(fetched).toHaveLength(5)
    })

    test('prefetches at most 100 resources a statement, and only the ten likeliest while memory is full', async () => {
      own = async () => Array.from({ length: 130 }, (_, number) => project(number))
      warmUp.signedIn({ userId: user(1), sessionId: session(1) })
      await settle()
      expect(fetched.map((wanted) => pairsOf(wanted).length)).toEqual([0, 100, 30])
      memory.wouldEvict = true
      warmUp.signedIn({ userId: user(2), sessionId: session(2) })
      await settle()
      expect(fetched.slice(3).map((wanted) => pairsOf(wanted).length)).toEqual([0, 10])
    })

    test('serves the next user after a failure, and after a prefetch that never ends', async () => {
      own = () => Promise.reject(new Error('gone'))
      warmUp.signedIn({ userId: user(1), sessionId: session(1) })
      await settle()
      expect(warmUp.counts).toMatchObject({ people: 0, failed: 1 })
      own = () => new Promise(() => {})
      warmUp.signedIn({ userId: user(2), sessionId: session(2) })
      warmUp.signedIn({ userId: user(3), sessionId: session(3) })
      await settle()
      clock.advance(5_001)
      await Bun.sleep(60)
      own = async () => [project(1)]
      warmUp.signedIn({ userId: user(4), sessionId: session(4) })
      await settle()
      expect(warmUp.counts).toMatchObject({ people: 1, failed: 3 })
    })

    test('does nothing while switched off or stopped, and queues no user', async () => {
      current.warm_up = false
      warmUp.signedIn({ userId: user(1), sessionId: session(1) })
      await settle()
      expect(fetched).toEqual([])
      current.warm_up = true
      warmUp.signedIn({ userId: user(2), sessionId: session(2) })
      warmUp.stop()
      warmUp.signedIn({ userId: user(3), sessionId: session(3) })
      await settle()
      expect([fetched, warmUp.counts.people]).toEqual([[], 0])
    })
  })
})

describe('in an application, the warm-up', () => {
  let home: TestApp & { client: Api }
  let sql: Sql
  let owner: Person
  let member: Person
  let things: { type: 'project' | 'generation'; id: string }[]
  const apps: TestApp[] = []

  const start = async (options: Parameters<typeof startApp>[0] = {}) => {
    const statements: string[] = []
    const app = await startApp({
      warmUp: true,
      onStatement: (text) => void statements.push(text),
      ...(home && { connection: home.connection }),
      ...options,
    })
    apps.push(app)
    await app.services.database.warm()
    // The first request of an instance without a caller, such as a sign-in, loads them for all that follow.
    await app.services.caches.facts.gather(restrictionQueries, createDeadlines(systemClock)(5_000))
    statements.length = 0
    return { ...app, client: api(app.baseUrl), statements }
  }
  const check = (client: Api, { token }: Pick<Person, 'token'>, resource: object) =>
    client.post('/api/v1/authorization/check', { action: 'read', resource }, { token })
  const login = async (client: Api, { email, password }: Person) => {
    const { status, body } = await client.post('/api/v1/auth/login', { email, password })
    expect(status).toBe(200)
    return { token: body.access_token as string, refreshToken: body.refresh_token as string }
  }
  const served = async (app: TestApp, people: number) => {
    const { counts } = app.services.warmUp
    for (let waited = 0; counts.people < people; waited += 5) {
      if (waited > 5_000) throw new Error(`Not served: ${JSON.stringify(counts)}`)
      await Bun.sleep(5)
    }
  }
  const setFlag = (enabled: boolean) => sql`
    insert into flags (name, enabled) values ('warm_up', ${enabled})
        on conflict (name) do update set enabled = excluded.enabled`

  beforeAll(async () => {
    const app = await startApp()
    home = { ...app, client: api(app.baseUrl) }
    sql = connectOnce(home.connection)
    owner = await register(home.client)
    member = await register(home.client)
    const as = { token: owner.token }
    const team = await home.client.post('/api/v1/teams', { name: 'Team' }, as)
    await sql`insert into team_members (team_id, user_id, role) values (${team.body.id}, ${member.id}, 'viewer')`
    things = []
    for (let number = 0; number < 3; number += 1) {
      const { body } = await home.client.post('/api/v1/projects', { name: 'P', visibility: 'team-only' }, as)
      await home.client.post(`/api/v1/projects/${body.id}/teams`, { team_id: team.body.id, access_level: 'read' }, as)
      const made = await home.client.post(
        '/api/v1/generations',
        { model: 'local/procedural', prompt: 'p', project_id: body.id },
        as,
      )
      things.push({ type: 'project', id: body.id }, { type: 'generation', id: made.body.id })
    }
  })
  afterAll(async () => {
    for (const app of apps) await app.close()
    await sql.end()
    await home.close()
  })

  const allAllowed = async (client: Api, person: Pick<Person, 'token'>) => {
    for (const thing of things) {
      const { body } = await check(client, person, thing)
      expect(body.allowed).toBe(true)
    }
  }

  test('lets the first requests after a sign-in send no statement, for an owner and for a team member', async () => {
    for (const person of [owner, member]) {
      const app = await start()
      const signedIn = await login(app.client, person)
      await served(app, 1)
      // On the batch pool.
      expect(app.statements.filter((text) => text.includes('service_keys'))).toEqual([])
      app.statements.length = 0
      await allAllowed(app.client, signedIn)
      expect(app.statements).toEqual([])
      expect(app.services.decisionCounters.decisions).toEqual({ l1: things.length, l2: 0, l3: 0, database: 0 })
    }
  })

  test('does so after a token refresh too, and has the session in memory after a sign-up', async () => {
    const app = await start()
    const { refreshToken } = await login(home.client, owner)
    const { body } = await app.client.post('/api/v1/auth/refresh', { refresh_token: refreshToken })
    await served(app, 1)
    app.statements.length = 0
    await allAllowed(app.client, { token: body.access_token })
    expect(app.statements).toEqual([])
    const somebody = await register(app.client)
    await served(app, 2)
    app.statements.length = 0
    expect((await check(app.client, somebody, things[0] as object)).body.allowed).toBe(false)
    // The account and the session are in memory; resources of other users are not.
    expect(app.statements).toHaveLength(1)
  })

  test('does not delay a removal of access that it prefetched', async () => {
    const app = await start()
    const signedIn = await login(app.client, member)
    await served(app, 1)
    const thing = things[0] as { id: string }
    expect((await check(app.client, signedIn, thing)).body.allowed).toBe(true)
    const path = `/api/v1/projects/${thing.id}`
    await home.client.patch(path, { visibility: 'private' }, { token: owner.token })
    expect((await check(app.client, signedIn, thing)).body.allowed).toBe(false)
    await home.client.patch(path, { visibility: 'team-only' }, { token: owner.token })
    expect((await check(app.client, signedIn, thing)).body.allowed).toBe(true)
  })

  test('does not delay a sign-in whose prefetch waits for a lock', async () => {
    const app = await start({ config: { dbConnections: 60 } })
    const locked = await sql.reserve()
    await locked`begin`
    await locked`lock table access_heat in access exclusive mode`
    try {
      const startedMs = performance.now()
      const signedIn = await login(app.client, owner)
      await allAllowed(app.client, signedIn)
      expect(performance.now() - startedMs).toBeLessThan(3_000)
      expect(app.services.warmUp.counts.people).toBe(0)
    } finally {
      await locked`rollback`
      locked.release()
    }
    await served(app, 1)
  })

  test('lets the instance answer before it is warm, and then has the hottest pairs with their sessions in memory', async () => {
    const signedIn = await login(home.client, member)
    const heats = things.map(({ type, id }) => ({ userId: member.id, type, id, hits: 640 }))
    await createAccessFrequencyStore(sql).add(heats)
    await createViewStore(sql).refresh('hottest_pairs', 0)
    const app = await start()
    const warm = app.services.warmUp.start()
    const early = await check(app.client, { token: owner.token }, things[0] as object)
    expect(early.status).toBe(200)
    await warm
    expect(app.services.warmUp.counts).toMatchObject({ pairs: things.length, failed: 0 })
    app.statements.length = 0
    await allAllowed(app.client, signedIn)
    expect(app.statements).toEqual([])
  })

  test('reads from Redis at the start where Redis has the facts', async () => {
    const redis = await startRedis()
    try {
      const config = { redisUrl: redis.url }
      const first = await start({ config })
      const upBy = async (app: TestApp) => {
        while (app.services.caches.redisCache?.epoch === undefined) await Bun.sleep(2)
      }
      await upBy(first)
      await first.services.warmUp.start()
      const second = await startApp({ warmUp: true, config, connection: home.connection })
      apps.push(second)
      await upBy(second)
      const before = second.services.caches.redisCache?.counts.hits ?? 0
      await second.services.warmUp.start()
      expect((second.services.caches.redisCache?.counts.hits ?? 0) - before).toBeGreaterThan(things.length)
      expect(second.services.caches.redisCache?.counts.misses).toBe(0)
    } finally {
      for (const app of apps.splice(-2)) await app.close()
      await redis.stop()
    }
  })

  test('stores the sampled frequencies when the process ends, and none while switched off', async () => {
    await sql`truncate access_heat`
    const ask = async (app: Awaited<ReturnType<typeof start>>) => {
      const checks = Array.from({ length: 200 }, () => ({ action: 'read', resource: things[0] }))
      for (let round = 0; round < 3; round += 1) {
        await app.client.post('/api/v1/authorization/check/batch', { checks }, { token: owner.token })
      }
      await app.close()
    }
    await setFlag(false)
    const off = await start()
    await off.services.caches.flags.reload()
    await login(off.client, member)
    await off.services.warmUp.start()
    await ask(off)
    expect(off.services.warmUp.counts).toEqual({ pairs: 0, people: 0, dropped: 0, failed: 0 })
    expect((await sql`select from access_heat`).count).toBe(0)
    await setFlag(true)
    await ask(await start())
    const [row] = await sql<{ user_id: string; resource_id: string; hits: number }[]>`select * from access_heat`
    expect(row).toMatchObject({ user_id: owner.id, resource_id: things[0]?.id })
    expect(row?.hits).toBeGreaterThan(150)
  })

  describe('the resources of a user', () => {
    const mine = (userId: string) => createWarmUpStore(sql).findOwn(userId)

    test('begin with its hot pairs, then the projects by latest activity, none twice', async () => {
      await sql`truncate access_heat`
      const [, , oldest] = [...things].reverse().filter(({ type }) => type === 'project')
      await createAccessFrequencyStore(sql).add([{ userId: owner.id, ...(oldest as ListedRef), hits: 64 }])
      const found = await mine(owner.id)
      expect(found[0]).toEqual(oldest as ListedRef)
      expect(new Set(found.map(({ id }) => id)).size).toBe(found.length)
      expect(found.map(({ id }) => id).sort()).toEqual(things.map(({ id }) => id).sort())
      await sql`update projects set updated_at = now() + interval '1 minute' where id = ${things[2]?.id ?? ''}`
      expect((await mine(owner.id))[1]?.id).toBe(things[2]?.id as string)
    })

    test('are bounded for a user with many', async () => {
      const rich = await register(home.client)
      await sql`
        insert into projects (id, owner_id, name)
        select gen_random_uuid(), ${rich.id}, 'p' from generate_series(1, 700)`
      await sql`
        insert into generations (id, owner_id, project_id, model, prompt)
        select gen_random_uuid(), ${rich.id}, p.id, 'm', 'p' from projects p, generate_series(1, 12)
         where p.owner_id = ${rich.id}`
      const found = await mine(rich.id)
      expect(found.filter(({ type }) => type === 'project').length).toBe(50)
      expect(found.filter(({ type }) => type === 'generation').length).toBeLessThanOrEqual(100)
    })

    test('are an empty list for a user without any', async () => {
      const poor = await register(home.client)
      expect(await mine(poor.id)).toEqual([])
    })
  })
})
