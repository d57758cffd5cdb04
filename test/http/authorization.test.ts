import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { actions } from '../../src/access/policy/matrix.ts'
import { encodeCursor } from '../../src/kit/cursor.ts'
import { newId } from '../../src/kit/id.ts'
import { until } from '../faults/support.ts'
import { type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const path = '/api/v1/authorization'

let app: TestApp
let client: Api
let ada: Person
let bob: Person
let cyd: Person
let key: string
let statements: string[] = []

/** Ada's project. Her team has a write grant on it; Bob is a contributor of that team, Cyd has no access. */
let lab: string
let work: string
let team: string
let admin: Person

const sql = () => app.services.database.admin

/** Empties the fact cache and the list of recorded statements. */
const clearCaches = () => {
  app.services.caches.facts.invalidate('everything')
  statements = []
}

beforeAll(async () => {
  app = await startApp({
    onStatement: (text) => {
      statements.push(text)
    },
  })
  client = api(app.baseUrl)
  const [operator, ...people] = (await Promise.all(Array.from({ length: 4 }, () => register(client)))) as [
    Person,
    Person,
    Person,
    Person,
  ]
  ;[ada, bob, cyd] = people
  admin = operator
  await sql()`update users set role = 'admin' where id = ${admin.id}`
  const scopes = ['authorization:check', 'authorization:list']
  key = (await client.post('/api/v1/service-keys', { name: 'k', scopes }, { token: admin.token })).body.key
})
afterAll(() => app?.close())

beforeEach(async () => {
  lab = newId()
  work = newId()
  team = newId()
  await sql()`insert into projects (id, owner_id, name, visibility) values (${lab}, ${ada.id}, 'lab', 'team-only')`
  await sql()`
    insert into generations (id, owner_id, project_id, model, prompt) values (${work}, ${ada.id}, ${lab}, 'm', 'p')`
  await sql()`insert into teams (id, name) values (${team}, 't')`
  await sql()`
    insert into team_members (team_id, user_id, role)
    values (${team}, ${ada.id}, 'owner'), (${team}, ${bob.id}, 'contributor')`
  await sql()`
    insert into project_grants (project_id, team_id, access_level, granted_by)
    values (${lab}, ${team}, 'write', ${ada.id})`
  await app.leased()
  await app.caughtUp()
  clearCaches()
})

const theLab = () => ({ type: 'project', id: lab })
const theWork = () => ({ type: 'generation', id: work })

const check = (token: string, body: object) => client.post(`${path}/check`, body, { token })
const batch = (token: string, checks: object[]) => client.post(`${path}/check/batch`, { checks }, { token })
const explain = (token: string, body: object) => client.post(`${path}/explain`, body, { token })
const get = (token: string, what: string, query: Record<string, string>) =>
  client.get(`${path}/${what}?${new URLSearchParams(query)}`, { token })

describe('a user', () => {
  test('checks its own permissions, with or without naming itself', async () => {
    for (const user_id of [undefined, bob.id]) {
      const { status, body } = await check(bob.token, { user_id, action: 'create', resource: theWork() })
      expect([status, body]).toEqual([200, { allowed: true, reason: 'team.granted' }])
    }
  })

  test('gets 403 on every authorization route when it names another user, known or unknown', async () => {
    for (const user_id of [ada.id, newId()]) {
      const question = { user_id, action: 'read', resource: theLab() }
      for (const { status, body } of [
        await check(bob.token, question),
        await explain(bob.token, question),
        await batch(bob.token, [{ action: 'read', resource: theLab() }, question]),
        await get(bob.token, 'accessible', { type: 'project', action: 'read', user_id }),
      ]) {
        expect([status, body.code]).toEqual([403, 'authorization.not_about_others'])
      }
    }
  })

  test('lists who has access only with the share permission: 403 with read access, 404 without', async () => {
    const ask = (token: string) => get(token, 'who', { ...theWork(), action: 'read' })
    const explanationOf = await ask(ada.token)
    expect([explanationOf.status, explanationOf.body.everyone]).toEqual([200, false])
    expect(explanationOf.body.items).toEqual(
      [ada.id, bob.id]
        .sort()
        .reverse()
        .map((user_id) => ({ user_id })),
    )
    const readOnly = await ask(bob.token)
    expect([readOnly.status, readOnly.body.code]).toEqual([403, 'access.denied'])
    const hidden = await ask(cyd.token)
    const never = await get(cyd.token, 'who', { type: 'generation', id: newId(), action: 'read' })
    for (const { status, body } of [hidden, never]) {
      expect([status, body.code, body.detail]).toEqual([404, 'generation.not_found', hidden.body.detail])
    }
  })
})

describe('a service', () => {
  test('checks any user it names: one by one, in a batch about several users, and with an explanation', async () => {
    const about = (user_id: string, action = 'create') => ({ user_id, action, resource: theWork() })
    expect((await check(key, about(bob.id))).body.allowed).toBeTrue()
    expect((await check(key, about(cyd.id))).body).toEqual({ allowed: false, reason: 'resource.not_visible' })
    expect((await check(key, about(newId()))).body).toEqual({ allowed: false, reason: 'account.unknown' })
    const { body } = await batch(key, [about(cyd.id), about(ada.id), about(bob.id), about(bob.id, 'write')])
    expect(body.results.map(({ allowed }: { allowed: boolean }) => allowed)).toEqual([false, true, true, false])
    expect((await explain(key, about(bob.id))).body.layers).toHaveLength(10)
  })

  test('must name a user: 422 with a pointer to the missing field', async () => {
    const question = { action: 'read', resource: theLab() }
    const query = { type: 'project', action: 'read' }
    for (const [answer, place] of [
      [await check(key, question), '/user_id'],
      [await explain(key, question), '/user_id'],
      [await batch(key, [{ ...question, user_id: ada.id }, question]), '/checks/1/user_id'],
      [await get(key, 'accessible', query), '/user_id'],
    ] as const) {
      expect([answer.status, answer.body.code]).toEqual([422, 'request.invalid'])
      expect(answer.body.errors[0].pointer).toBe(place)
      expect(answer.body.errors[0].detail).toStartWith('is required')
    }
  })

  test('lists who has access to any resource, and gets an empty list for an unknown one', async () => {
    const { body } = await get(key, 'who', { ...theLab(), action: 'create' })
    expect(body.items).toHaveLength(2)
    const never = await get(key, 'who', { type: 'project', id: newId(), action: 'read' })
    expect(never.body).toEqual({ items: [], everyone: false, next_cursor: null })
  })
})

describe('the list of accessible resources', () => {
  test('agrees with single checks, page by page, for every action', async () => {
    const own = newId()
    await sql()`insert into generations (id, owner_id, model, prompt) values (${own}, ${bob.id}, 'm', 'p')`
    for (const action of actions) {
      const ids: string[] = []
      for (let cursor: string | null = ''; cursor !== null; ) {
        const page = await get(bob.token, 'accessible', {
          type: 'generation',
          action,
          limit: '1',
          ...(cursor !== '' && { cursor }),
        })
        expect(page.body.items.length).toBeLessThanOrEqual(1)
        ids.push(...page.body.items.map((item: { type: string; id: string }) => item.id))
        cursor = page.body.next_cursor
      }
      for (const id of [own, work]) {
        const { body } = await check(bob.token, { action, resource: { type: 'generation', id } })
        expect([action, id, ids.includes(id)]).toEqual([action, id, body.allowed])
      }
    }
  })

  test('includes public resources for every user, and the list of users with access says `everyone`', async () => {
    await sql()`update projects set visibility = 'public' where id = ${lab}`
    clearCaches()
    const { body } = await get(cyd.token, 'accessible', { type: 'generation', action: 'read' })
    expect(body.items).toContainEqual({ type: 'generation', id: work })
    expect((await get(ada.token, 'who', { ...theWork(), action: 'download' })).body.everyone).toBeTrue()
    expect((await get(ada.token, 'who', { ...theWork(), action: 'write' })).body.everyone).toBeFalse()
  })

  test('refuses a cursor the service did not issue with 422', async () => {
    for (const cursor of ['x', encodeCursor('not an id'), `${encodeCursor(newId())}=`]) {
      for (const what of ['accessible', 'who']) {
        const query = { type: 'project', id: lab, action: 'read', cursor }
        const { id: _, ...rest } = query
        const { status } = await get(ada.token, what, what === 'who' ? query : rest)
        expect([what, cursor, status]).toEqual([what, cursor, 422])
      }
    }
  })
})

describe('the cost of authorization in statements', () => {
  test('is one for a cold check of a user and zero for a warm one', async () => {
    const ask = () => check(bob.token, { action: 'read', resource: theWork() })
    expect((await ask()).body.allowed).toBeTrue()
    expect(statements).toHaveLength(1)
    expect((await ask()).body.allowed).toBeTrue()
    expect(statements).toHaveLength(1)
  })

  test('is at most two for a cold batch of 200, in any order of its checks', async () => {
    const checks = Array.from({ length: 200 }, (_, number) => ({
      action: actions[number % actions.length],
      resource: [theLab(), theWork(), { type: 'generation', id: newId() }][number % 3],
    }))
    const { body } = await batch(bob.token, checks)
    expect(statements.length).toBeLessThanOrEqual(2)
    clearCaches()
    const reversed = await batch(bob.token, checks.toReversed())
    expect(reversed.body.results.toReversed()).toEqual(body.results)
    expect(statements.length).toBeLessThanOrEqual(2)
  })

  test('is bounded: a batch of 201 checks, or of zero, is refused', async () => {
    const one = { action: 'read', resource: theLab() }
    for (const length of [0, 201]) {
      expect(
        (
          await batch(
            bob.token,
            Array.from({ length }, () => one),
          )
        ).status,
      ).toBe(422)
    }
  })

  test('is one for a list, besides the one for signing in', async () => {
    await get(bob.token, 'accessible', { type: 'project', action: 'read' })
    expect(statements).toHaveLength(2)
    clearCaches()
    await get(ada.token, 'who', { ...theLab(), action: 'read' })
    expect(statements).toHaveLength(2)
  })
})

describe('an explanation', () => {
  test('has ten layers, names the tier of the facts, and decides like a check', async () => {
    const question = { action: 'write', resource: theWork() }
    const cold = (await explain(bob.token, question)).body
    const warm = (await explain(bob.token, question)).body
    expect(cold.layers.map(({ layer }: { layer: number }) => layer)).toEqual([10, 4, 9, 7, 1, 2, 3, 5, 6, 8])
    expect([cold.layers[3].tier, warm.layers[3].tier]).toEqual(['l3', 'l1'])
    const { layers: _, ...decision } = cold
    expect(decision).toEqual((await check(bob.token, question)).body)
  })

  test('shows what each of the ten layers finds now: the context of the session, the mode, and whether the audit recorded it', async () => {
    const findings = async (token: string, question: object): Promise<Record<number, string>> => {
      const { status, body } = await explain(token, question)
      expect(status).toBe(200)
      return Object.fromEntries(
        body.layers.map(({ layer, reason }: { layer: number; reason: string }) => [layer, reason]),
      )
    }
    const question = { action: 'read', resource: theWork() }
    const ofPerson = await findings(bob.token, question)
    const ofService = await findings(key, { ...question, user_id: bob.id })
    // The same client as at the sign-in.
    expect([ofPerson[10], ofPerson[4], ofPerson[9]]).toEqual(['anomaly.none', 'context.unchanged', 'emergency.normal'])
    expect([ofService[10], ofService[4], ofService[9]]).toEqual(['anomaly.none', 'account.active', 'emergency.normal'])
    for (const found of [ofPerson, ofService]) {
      expect(Object.values(found).filter((reason) => reason.startsWith('layer.'))).toEqual([])
      expect(['audit.allow_recorded', 'audit.allow_not_sampled']).toContain(found[8] ?? '')
    }
    const mode = (to: string) => client.put('/api/v1/security/mode', { mode: to }, { token: admin.token })
    expect((await mode('read-only')).status).toBe(200)
    expect((await findings(bob.token, question))[9]).toBe('emergency.read_only')
    expect((await mode('normal')).status).toBe(200)
    expect((await findings(bob.token, question))[9]).toBe('emergency.normal')

    const denied = await findings(cyd.token, question)
    expect(denied[8]).toBe('audit.denial_recorded')
    const recorded = () => sql()`select from audit_denials d where d.content like ${`%${work}%`}`
    await until(async () => (await recorded()).length > 0, 'the denial is in the audit log')
  })

  test('of a resource that is not visible equals, layer by layer, that of an unknown id', async () => {
    const explanationOf = async (resource: object) => (await explain(cyd.token, { action: 'read', resource })).body
    expect(await explanationOf(theWork())).toEqual(await explanationOf({ type: 'generation', id: newId() }))
    // The project is cached already: it was loaded together with the generation.
    expect(await explanationOf(theLab())).toEqual(await explanationOf({ type: 'project', id: newId() }))
  })
})

describe('input from a client', () => {
  test('is refused with 422 when it has an unknown field', async () => {
    for (const extra of [
      { owner_id: bob.id },
      { role: 'admin' },
      { plan: 'enterprise' },
      { team_id: team },
      { grant: 127 },
      { actions: 127 },
      { deriving: true },
      { account: { status: 'active' } },
    ]) {
      const question = { action: 'read', resource: theLab() }
      for (const answer of [
        await check(cyd.token, { ...question, ...extra }),
        await check(cyd.token, { ...question, resource: { ...theLab(), ...extra } }),
        await explain(cyd.token, { ...question, ...extra }),
        await batch(cyd.token, [{ ...question, ...extra }]),
        await get(cyd.token, 'accessible', { type: 'project', action: 'read', [Object.keys(extra)[0] as string]: '1' }),
      ]) {
        expect([extra, answer.status]).toEqual([extra, 422])
      }
    }
  })

  test('is refused when an id is spelt in another case, with spaces or with look-alike characters', async () => {
    const spellings = [
      lab.toUpperCase(),
      ` ${lab}`,
      `${lab}\n`,
      `{${lab}}`,
      lab.replaceAll('-', ''),
      lab.replace('0', '０'),
      lab.normalize('NFKD').replace('-', '‐'),
      `urn:uuid:${lab}`,
    ]
    for (const id of spellings) {
      const asked = await check(ada.token, { action: 'read', resource: { type: 'project', id } })
      expect([id, asked.status]).toEqual([id, 422])
      expect((await get(ada.token, 'who', { type: 'project', id, action: 'read' })).status).toBe(422)
      const about = await check(key, { user_id: id, action: 'read', resource: theLab() })
      expect([id, about.status]).toEqual([id, 422])
    }
  })

  test('is refused with 401 without a valid token or key, and from a suspended account', async () => {
    const question = { action: 'read', resource: theLab() }
    for (const token of ['', 'vsk_', `${bob.token}x`]) {
      expect((await check(token, question)).status).toBe(401)
      expect((await get(token, 'who', { ...theLab(), action: 'read' })).status).toBe(401)
    }
    await sql()`update users set status = 'suspended' where id = ${cyd.id}`
    clearCaches()
    expect((await check(cyd.token, question)).status).toBe(401)
    expect((await check(key, { ...question, user_id: cyd.id })).body).toEqual({
      allowed: false,
      reason: 'account.suspended',
    })
    await sql()`update users set status = 'active' where id = ${cyd.id}`
    clearCaches()
  })
})
