import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { type Access, createAccess } from '../../src/access/access.ts'
import { createDecisionCounters } from '../../src/access/cache/decision-counters.ts'
import { syncAccessRules } from '../../src/access/cache/effective-access-store.ts'
import { createFactStore } from '../../src/access/cache/fact-store.ts'
import { maxGrants } from '../../src/access/policy/facts/grants.ts'
import { resourceQuery } from '../../src/access/policy/facts/queries.ts'
import { type FactKey, factKey, partId } from '../../src/access/policy/facts/registry.ts'
import { actions, type ResourceRef } from '../../src/access/policy/matrix.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { connectOnce, type Queryable, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, startRedis, type TestDatabase, type TestRedis } from '../harness.ts'
import { startCaches, type TestCaches } from './caches.ts'
import { createRandom, idOf } from './random.ts'
import type { World } from './reference-model.ts'
import { clear, store } from './world.ts'

/**
 * The published failures of authorization engines and session caches, each tried on two instances with all tiers. Each test
 * first fills memory and Redis, so that a missed invalidation would show.
 */
const [ada, bob, cyd] = [1, 2, 3].map((at) => idOf('user', at)) as [string, string, string]
const [red, blue] = [1, 2].map((at) => idOf('team', at)) as [string, string]
const lab: ResourceRef = { type: 'project', id: idOf('project', 1) }
const den: ResourceRef = { type: 'project', id: idOf('project', 2) }
const work: ResourceRef = { type: 'generation', id: idOf('generation', 1) }

const world: World = {
  users: [ada, bob, cyd].map((id) => ({ id, status: 'active', role: 'user' })),
  teams: [red, blue].map((id) => ({ id })),
  members: [
    { team_id: red, user_id: bob, role: 'editor' },
    { team_id: blue, user_id: bob, role: 'viewer' },
  ],
  projects: [lab, den].map(({ id }) => ({ id, owner_id: ada, visibility: 'team-only', allow_derivatives: true })),
  grants: [
    { project_id: lab.id, team_id: red, access_level: 'write' },
    { project_id: lab.id, team_id: blue, access_level: 'read' },
  ],
  generations: [{ id: work.id, owner_id: ada, project_id: lab.id }],
}

type Instance = TestCaches & { access: Access }

let database: TestDatabase
let server: TestRedis
let sql: Sql
let here: Instance
let there: Instance

const start = async (): Promise<Instance> => {
  const caches = await startCaches(database.connection, server.url)
  await caches.until(() => caches.redisCache?.epoch !== undefined)
  return {
    ...caches,
    access: createAccess({ facts: caches.facts, clock: systemClock, decisionCounters: createDecisionCounters() }),
  }
}

beforeAll(async () => {
  database = await createDatabase()
  server = await startRedis()
  sql = connectOnce(database.connection)
  await syncAccessRules(sql)
  here = await start()
  there = await start()
})
afterAll(async () => {
  for (const instance of [here, there]) await instance?.close()
  await sql?.end()
  await server?.stop()
  await database?.drop()
})

/** Other sessions in each test: Redis may keep an ended one, because no id is ever used again. */
let firstSession = 0
const sessionAt = (at: number) => idOf('session', firstSession + at)
const signIn = (userId: string, at = 1) => sql`
  insert into sessions (id, user_id, user_agent, address, created_at, last_seen_at, idle_expires_at, expires_at)
  values (${sessionAt(at)}, ${userId}, 'u', 'a', now(), now(), now() + interval '1 day', now() + interval '1 day')`

beforeEach(async () => {
  firstSession += 10
  await clear(sql)
  await store(sql, world)
  // A change by hand is announced at commit. A later change through the program waits until that event is applied too.
  for (const instance of [here, there]) {
    await instance.changes.commitAndInvalidate(instance.within(), async (tx) => {
      await tx`update users set plan = ${instance === here ? 'pro' : 'enterprise'} where id = ${cyd}`
    })
    instance.facts.invalidate('everything')
  }
})

const may = async (
  { access, within, leased }: Instance,
  userId: string,
  action: (typeof actions)[number],
  ref: ResourceRef,
) => {
  await leased()
  return (await access.decide(userId, action, ref, within())).allowed
}
/** Asks both instances twice, so that every tier answers. */
const warm = async (userId: string, ref: ResourceRef) => {
  for (const instance of [here, there, here, there])
    for (const action of actions) await may(instance, userId, action, ref)
}
const enters = async ({ access, within, leased }: Instance, userId: string, sessionId = sessionAt(1)) => {
  await leased()
  return Promise.resolve()
    .then(() => access.authenticate({ userId, sessionId }, within()))
    .then(
      () => true,
      () => false,
    )
}
const run = (work: (tx: Queryable) => PromiseLike<unknown>) =>
  here.changes.commitAndInvalidate(here.within(), async (tx) => void (await work(tx)))

describe('a cached decision', () => {
  test('does not answer for another action', async () => {
    expect(await may(here, bob, 'read', lab)).toBeTrue()
    expect(await may(here, bob, 'write', lab)).toBeTrue()
    expect(await may(here, bob, 'delete', lab)).toBeFalse()
    expect(await may(here, bob, 'read', lab)).toBeTrue()
  })

  test('does not answer for a resource that moved to another project', async () => {
    await warm(bob, work)
    await run((tx) => tx`update generations set project_id = ${den.id} where id = ${work.id}`)
    for (const instance of [here, there]) expect(await may(instance, bob, 'read', work)).toBeFalse()
    await run((tx) => tx`update generations set project_id = ${lab.id} where id = ${work.id}`)
    for (const instance of [here, there]) expect(await may(instance, bob, 'read', work)).toBeTrue()
  })

  test('does not outlive an expiry, cached or not', async () => {
    await signIn(bob)
    await sql`update sessions set idle_expires_at = now() + interval '1500 milliseconds'`
    for (const instance of [here, there]) {
      expect(await enters(instance, bob)).toBeTrue()
      instance.facts.invalidate('everything')
    }
    await Bun.sleep(1_550)
    for (const instance of [here, there]) expect(await enters(instance, bob)).toBeFalse()
  })

  test('checks the state of the account each time, even if the resource is cached', async () => {
    await warm(bob, lab)
    await run((tx) => tx`update users set status = 'suspended' where id = ${bob}`)
    for (const instance of [here, there]) expect(await may(instance, bob, 'read', lab)).toBeFalse()
  })
})

describe('a cache key', () => {
  test('never gives the access of one user to another, on another resource, or of another kind with the same id', async () => {
    await warm(bob, lab)
    for (const instance of [here, there]) {
      expect(await may(instance, cyd, 'read', lab)).toBeFalse()
      expect(await may(instance, bob, 'read', den)).toBeFalse()
      expect(await may(instance, bob, 'read', { type: 'generation', id: lab.id })).toBeFalse()
      expect(await may(instance, bob, 'read', { type: 'project', id: work.id })).toBeFalse()
      expect(await may(instance, lab.id, 'read', lab)).toBeFalse()
    }
  })

  test('never authenticates one user by the session of another', async () => {
    await signIn(bob)
    for (const instance of [here, there, here]) {
      expect(await enters(instance, bob)).toBeTrue()
      expect(await enters(instance, ada)).toBeFalse()
      expect(await enters(instance, bob, sessionAt(2))).toBeFalse()
    }
  })

  test('never gives two facts one key', () => {
    const id = fc.uuid()
    const anyFact = fc.oneof(
      fc.tuple(fc.constantFrom('session', 'account', 'project', 'generation', 'service_key', 'grants'), id),
      fc.tuple(fc.constant('grant'), id, id),
    )
    const nameOf = ([kind, first, second]: readonly [string, string, string?]): FactKey =>
      second === undefined ? factKey(kind as 'session', first) : factKey('grant', partId(first, second))
    fc.assert(
      fc.property(anyFact, anyFact, (one, other) => {
        const same = JSON.stringify(one) === JSON.stringify(other)
        expect(nameOf(one as never) === nameOf(other as never)).toBe(same)
      }),
    )
  })
})

describe('a fill of Redis', () => {
  test('that races a revocation stores no stale fact', async () => {
    for (let round = 0; round < 20; round += 1) {
      await run((tx) => tx`update project_grants set access_level = 'write' where team_id = ${red}`)
      const readers = Array.from({ length: 20 }, (_, at) => {
        const instance = at % 2 === 0 ? here : there
        if (at % 4 > 1) instance.facts.invalidate([factKey('grant', partId(bob, lab.id)), factKey('grants', bob)])
        return may(instance, bob, 'write', lab)
      })
      await run((tx) => tx`update project_grants set access_level = 'read' where team_id = ${red}`)
      for (const instance of [here, there]) {
        expect(await may(instance, bob, 'write', lab)).toBeFalse()
        instance.facts.invalidate('everything')
        expect(await may(instance, bob, 'write', lab)).toBeFalse()
      }
      await Promise.all(readers)
      for (const instance of [here, there]) {
        expect(await may(instance, bob, 'write', lab)).toBeFalse()
        instance.facts.invalidate('everything')
        expect(await may(instance, bob, 'write', lab)).toBeFalse()
      }
    }
  }, 60_000)
})

describe('items of a batch', () => {
  test('share no state: each is answered as if alone, in any batch and order, warm or cold', async () => {
    const { pick, chance } = createRandom(7)
    const questions = [ada, bob, cyd].flatMap((userId) =>
      [lab, den, work, { type: 'generation', id: idOf('generation', 9) } as const].flatMap((resource) =>
        actions.map((action) => ({ userId, action, resource })),
      ),
    )
    const alone = new Map<string, boolean>()
    for (const question of questions) {
      here.facts.invalidate('everything')
      alone.set(JSON.stringify(question), await may(here, question.userId, question.action, question.resource))
    }
    expect(new Set(alone.values()).size).toBe(2)
    for (let round = 0; round < 60; round += 1) {
      if (chance(0.5)) here.facts.invalidate('everything')
      const batch = Array.from({ length: 1 + (round % 40) }, () => pick(questions))
      await here.leased()
      const verdicts = await here.access.decideMany(batch, here.within())
      expect(verdicts.map(({ allowed }) => allowed)).toEqual(
        batch.map((question) => alone.get(JSON.stringify(question)) as boolean),
      )
    }
  })
})

/** Grants on more projects than fit into one fact. */
const letIntoMany = async (userId: string) => {
  const green = idOf('team', 3)
  await run(async (tx) => {
    await tx`insert into teams (id, name) values (${green}, 't')`
    await tx`insert into team_members (team_id, user_id, role) values (${green}, ${userId}, 'viewer')`
    await tx`
      insert into projects (id, owner_id, name, visibility)
      select gen_random_uuid(), ${ada}, 'p', 'team-only' from generate_series(0, ${maxGrants}::int)`
    await tx`
      insert into project_grants (project_id, team_id, access_level, granted_by)
      select id, ${green}, 'read', ${ada} from projects where id <> all (${[lab.id, den.id]}::uuid[])`
  })
  const known = await createFactStore(sql).load([{ kind: 'grants', id: userId, userId: null }])
  expect(known.get(factKey('grants', userId))).toBe('many')
}

describe('a write', () => {
  const writes: Record<string, [(tx: Queryable) => PromiseLike<unknown>, ResourceRef]> = {
    'the member is removed': [(tx) => tx`delete from team_members where user_id = ${bob}`, lab],
    'the member is removed from one team and lowered to the other’s level': [
      (tx) => tx`delete from team_members where user_id = ${bob} and team_id = ${red}`,
      lab,
    ],
    'the role is lowered': [(tx) => tx`update team_members set role = 'viewer' where user_id = ${bob}`, lab],
    'the grant is withdrawn': [(tx) => tx`delete from project_grants where team_id = ${red}`, lab],
    'the grant is lowered': [(tx) => tx`update project_grants set access_level = 'read'`, lab],
    'the team is deleted': [(tx) => tx`delete from teams where id = ${red}`, lab],
    'the project turns private': [(tx) => tx`update projects set visibility = 'private'`, lab],
    'the project is deleted': [(tx) => tx`delete from projects where id = ${lab.id}`, lab],
    'the generation is moved out': [(tx) => tx`update generations set project_id = null`, work],
    'the generation is deleted': [(tx) => tx`delete from generations`, work],
    'the generation’s project is deleted': [(tx) => tx`delete from projects where id = ${lab.id}`, work],
    'the account is suspended': [(tx) => tx`update users set status = 'suspended' where id = ${bob}`, lab],
  }
  for (const [what, [write, ref]] of Object.entries(writes)) {
    test(`takes effect on every instance at once when ${what}, also for a user with many grants`, async () => {
      await letIntoMany(bob)
      await warm(bob, ref)
      expect(there.facts.peekStale([resourceQuery(ref, bob)])?.resource(ref, bob).grant).toBeGreaterThan(0)
      await run(write)
      for (const instance of [there, here]) expect(await may(instance, bob, 'write', ref)).toBeFalse()
    })

    test(`takes effect on every instance at once when ${what}`, async () => {
      await warm(bob, ref)
      expect(await may(there, bob, 'write', ref)).toBeTrue()
      await run(write)
      for (const instance of [there, here]) expect(await may(instance, bob, 'write', ref)).toBeFalse()
    })
  }

  test('takes effect as soon as its event is received when it is made by hand', async () => {
    await warm(bob, lab)
    await sql`delete from team_members where user_id = ${bob}`
    // Events arrive in commit order.
    await run((tx) => tx`update users set plan = 'pro' where id = ${cyd}`)
    for (const instance of [here, there]) expect(await may(instance, bob, 'read', lab)).toBeFalse()
  })
})

describe('a cached session', () => {
  const endings: Record<string, (tx: Queryable) => PromiseLike<unknown>> = {
    'is ended': (tx) => tx`update sessions set ended_at = now(), end_reason = 'logout'`,
    'is removed': (tx) => tx`delete from sessions`,
    'is of a user who is removed': async (tx) => {
      await tx`delete from team_members where user_id = ${bob}`
      await tx`delete from users where id = ${bob}`
    },
    'is of an account that is deleted': async (tx) => {
      await tx`update users set status = 'deleted', email = null, password_hash = null where id = ${bob}`
    },
    'is of an account that is suspended': (tx) => tx`update users set status = 'suspended' where id = ${bob}`,
  }
  for (const [what, end] of Object.entries(endings)) {
    test(`authenticates no request once it ${what}`, async () => {
      await signIn(bob)
      for (const instance of [here, there, here, there]) expect(await enters(instance, bob)).toBeTrue()
      expect(there.facts.peekPrincipal(sessionAt(1), bob)).toBeDefined()
      await run(end)
      for (const instance of [there, here]) {
        expect(await enters(instance, bob)).toBeFalse()
        instance.facts.invalidate('everything')
        expect(await enters(instance, bob)).toBeFalse()
      }
    })
  }
})
