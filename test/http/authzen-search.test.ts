import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import type { AuthzenAlias } from '../../src/config.ts'
import { newId } from '../../src/kit/id.ts'
import {
  type Answer,
  type Api,
  api,
  createDatabase,
  register,
  startApp,
  type TestApp,
  type TestDatabase,
} from '../harness.ts'

/** The searches of OpenID AuthZEN 1.0 (§8), and its certification fixture loaded by aliases. */
const paths = {
  subject: '/access/v1/search/subject',
  resource: '/access/v1/search/resource',
  action: '/access/v1/search/action',
} as const
const actions = ['read', 'download', 'create', 'write', 'share', 'delete', 'admin']

type Entity = { type: string; id: string }

let database: TestDatabase
let app: TestApp
let client: Api
let key = ''
let keyWithoutScope = ''
/** Names of people and resources, with their ids. */
const people: Record<string, string> = {}
const projects: Record<string, string> = {}
const generations: Record<string, string> = {}
const media: Record<string, string> = {}
let token = ''
let statements: string[] = []

/** Alice owns both records, and bob may read the first. Carol is suspended. The other resources give access in other ways. */
beforeAll(async () => {
  database = await createDatabase()
  const first = await startApp({ connection: database.connection })
  const aliases: AuthzenAlias[] = []
  try {
    const setup = api(first.baseUrl)
    const [alice, bob, carol, dave, operator] = await Promise.all(
      ['alice', 'bob', 'carol', 'dave', 'operator'].map(async (name) => {
        const person = await register(setup)
        people[name] = person.id
        return person
      }),
    )
    if (!alice || !bob || !carol || !dave || !operator) throw new Error('A registration failed')
    token = alice.token
    const sql = first.services.database.admin
    const add = async (path: string, body: object, by = alice.token) =>
      (await setup.post(path, body, { token: by })).body
    const team = await add('/api/v1/teams', { name: 'readers' })
    await sql`insert into team_members (team_id, user_id, role)
              values (${team.id}, ${bob.id}, 'editor'), (${team.id}, ${carol.id}, 'editor')`
    for (const [name, visibility] of [
      ['record-1', 'team-only'],
      ['record-2', 'private'],
      ['public', 'public'],
    ] as const) {
      projects[name] = (await add('/api/v1/projects', { name, visibility })).id
      if (name === 'public') continue
      await setup.post(
        `/api/v1/projects/${projects[name]}/teams`,
        { team_id: team.id, access_level: 'read' },
        { token: alice.token },
      )
    }
    const order = { model: 'local/procedural', prompt: 'p' }
    generations['alone'] = (await add('/api/v1/generations', order, dave.token)).id
    for (const name of ['record-1', 'public']) {
      generations[name] = (await add('/api/v1/generations', { ...order, project_id: projects[name] })).id
    }
    const sha256 = 'a'.repeat(64)
    await sql`insert into media_objects (sha256, content_type, bytes, width, height)
              values (${sha256}, 'image/webp', 1, 1, 1)`
    for (const [name, owner, generation, position] of [
      ['of a completed generation', alice.id, generations['record-1'], 0],
      ['of a queued generation', alice.id, generations['public'], 0],
      ['uploaded', dave.id, null, null],
    ] as const) {
      media[name] = newId()
      await sql`insert into media (id, owner_id, generation_id, position, sha256)
                values (${media[name]}, ${owner}, ${generation ?? null}, ${position}, ${sha256})`
    }
    await sql`update generations set status = 'completed' where id = ${generations['record-1'] as string}`
    await sql`update users set status = 'suspended' where id = ${carol.id}`
    await sql`update users set role = 'admin' where id = ${operator.id}`
    await first.caughtUp()
    const make = async (scope: string) =>
      (await setup.post('/api/v1/service-keys', { name: 'k', scopes: scope.split(' ') }, { token: operator.token }))
        .body.key
    key = await make('authorization:check authorization:list')
    keyWithoutScope = await make('authorization:check')
    const alias = (type: string, id: string, target: AuthzenAlias['target']['type'], of: Record<string, string>) =>
      aliases.push({ type, id, target: { type: target, id: of[id] as string } })
    alias('user', 'alice', 'user', people)
    alias('user', 'bob', 'user', people)
    alias('record', 'record-1', 'project', projects)
    alias('record', 'record-2', 'project', projects)
  } finally {
    await first.close()
  }
  app = await startApp({
    connection: database.connection,
    config: { authzenAliases: aliases },
    onStatement: (text) => {
      statements.push(text)
    },
  })
  client = api(app.baseUrl)
})
afterAll(async () => {
  await app?.close()
  await database?.drop()
})

const user = (id: string): Entity => ({ type: 'user', id })
const record = (id: string): Entity => ({ type: 'record', id })
const post = (path: string, body: unknown, sending: { token?: string; headers?: Record<string, string> } = {}) =>
  client.post(path, body, { token: key, ...sending })
const evaluate = async (subject: Entity, name: string, resource: Entity): Promise<boolean> =>
  (await post('/access/v1/evaluation', { subject, action: { name }, resource })).body.decision

/** All results, page by page. A page that is not the last must be full. */
const search = async (path: string, body: object, limit = 2): Promise<unknown[]> => {
  const found: unknown[] = []
  for (let next = ''; ; ) {
    const answer = await post(path, { ...body, page: { limit, token: next } })
    expect(answer.status).toBe(200)
    const { results, page } = answer.body
    expect(page.count).toBe(results.length)
    found.push(...results)
    next = page.next_token
    if (next === '') return found
    expect(results).toHaveLength(limit)
  }
}

const nameOf = (id: string): string => (id === people['alice'] ? 'alice' : id === people['bob'] ? 'bob' : id)
const sorted = (values: unknown[]) => values.map((value) => JSON.stringify(value)).sort()

const resources = (): Entity[] => [
  ...Object.values(projects).map((id) => ({ type: 'project', id })),
  ...Object.values(generations).map((id) => ({ type: 'generation', id })),
  ...Object.values(media).map((id) => ({ type: 'media', id })),
  record('record-1'),
  record('record-2'),
]

describe('a search', () => {
  test('for subjects finds exactly the users that an evaluation allows, for every resource and action', async () => {
    let found = 0
    for (const resource of resources()) {
      for (const name of actions) {
        const expected: Entity[] = []
        for (const id of Object.values(people)) {
          if (await evaluate(user(id), name, resource)) expected.push(user(nameOf(id)))
        }
        const results = await search(paths.subject, { subject: { type: 'user' }, action: { name }, resource })
        expect([resource, name, sorted(results)]).toEqual([resource, name, sorted(expected)])
        found += results.length
      }
    }
    expect(found).toBeGreaterThan(40)
  })

  test('for resources finds exactly those that an evaluation allows, for every user, type and action', async () => {
    let found = 0
    for (const id of [...Object.values(people), 'alice']) {
      for (const type of ['project', 'generation', 'record']) {
        for (const name of actions) {
          const expected: Entity[] = []
          for (const resource of resources().filter((each) => each.type === type)) {
            if (await evaluate(user(id), name, resource)) expected.push(resource)
          }
          const body = { subject: user(id), action: { name }, resource: { type } }
          const results = await search(paths.resource, body, 1)
          expect([id, type, name, sorted(results)]).toEqual([id, type, name, sorted(expected)])
          found += results.length
        }
      }
    }
    expect(found).toBeGreaterThan(40)
  })

  test('for actions finds exactly those that an evaluation allows, for every user and resource', async () => {
    let found = 0
    for (const id of [...Object.values(people), 'bob']) {
      for (const resource of resources()) {
        const expected: string[] = []
        for (const name of actions) if (await evaluate(user(id), name, resource)) expected.push(name)
        const results = await search(paths.action, { subject: user(id), resource })
        expect([id, resource, results]).toEqual([id, resource, expected.map((name) => ({ name }))])
        found += results.length
      }
    }
    expect(found).toBeGreaterThan(60)
  })

  test('has no results for an unknown type, action or id', async () => {
    const lab = { type: 'project', id: projects['public'] as string }
    const read = { name: 'read' }
    const known = user(people['alice'] as string)
    const bodies: [string, object][] = [
      [paths.subject, { subject: { type: 'spaceship' }, action: read, resource: lab }],
      [paths.subject, { subject: { type: 'user' }, action: { name: 'fly' }, resource: lab }],
      [paths.subject, { subject: { type: 'user' }, action: read, resource: { type: 'spaceship', id: lab.id } }],
      [paths.subject, { subject: { type: 'user' }, action: read, resource: { type: 'project', id: newId() } }],
      [paths.subject, { subject: { type: 'user' }, action: read, resource: { type: 'media', id: newId() } }],
      [paths.subject, { subject: { type: 'user' }, action: read, resource: record('record-3') }],
      [paths.subject, { subject: { type: 'user' }, action: read, resource: record(lab.id) }],
      [paths.resource, { subject: user('nonexistent'), action: read, resource: { type: 'project' } }],
      [paths.resource, { subject: user('nonexistent'), action: read, resource: { type: 'record' } }],
      [paths.resource, { subject: user(newId()), action: read, resource: { type: 'record' } }],
      [paths.resource, { subject: { type: 'robot', id: known.id }, action: read, resource: { type: 'project' } }],
      [paths.resource, { subject: known, action: { name: 'toString' }, resource: { type: 'project' } }],
      [paths.resource, { subject: known, action: read, resource: { type: 'constructor' } }],
      [paths.action, { subject: user('nonexistent'), resource: lab }],
      [paths.action, { subject: user(newId()), resource: lab }],
      [paths.action, { subject: known, resource: { type: 'spaceship', id: lab.id } }],
      [paths.action, { subject: known, resource: { type: 'generation', id: newId() } }],
    ]
    for (const [path, body] of bodies) {
      const answer = await post(path, body)
      expect([body, answer.status, answer.body]).toEqual([
        body,
        200,
        { results: [], page: { next_token: '', count: 0 } },
      ])
    }
  })

  test('costs at most one statement, and none for an unknown id', async () => {
    const lab = { type: 'project', id: projects['public'] as string }
    const alice = user('alice')
    const count = async (path: string, body: object) => {
      await post(path, body)
      statements = []
      expect((await post(path, body)).status).toBe(200)
      return statements.length
    }
    const read = { name: 'read' }
    expect(await count(paths.subject, { subject: { type: 'user' }, action: read, resource: lab })).toBe(1)
    expect(await count(paths.resource, { subject: alice, action: read, resource: { type: 'project' } })).toBe(1)
    expect(await count(paths.resource, { subject: alice, action: read, resource: { type: 'record' } })).toBeLessThan(2)
    expect(await count(paths.action, { subject: alice, resource: lab })).toBeLessThan(2)
    expect(await count(paths.subject, { subject: { type: 'user' }, action: read, resource: record('x') })).toBe(0)
  })

  test('answers only a service whose key has the scope', async () => {
    const body = { subject: user('alice'), action: { name: 'read' }, resource: { type: 'project', id: newId() } }
    for (const path of Object.values(paths)) {
      const answers = [
        await client.post(path, body),
        await post(path, body, { token }),
        await post(path, body, { token: keyWithoutScope }),
      ]
      expect(answers.map(({ status, body: { code } }) => [status, code])).toEqual([
        [401, 'identity.not_signed_in'],
        [403, 'access.services_only'],
        [403, 'service_key.scope_missing'],
      ])
    }
  })

  test('with a missing member or one of the wrong type is a 400', async () => {
    const subject = user('alice')
    const action = { name: 'read' }
    const resource = record('record-1')
    const bodies: [string, unknown][] = [
      [paths.subject, { subject, resource }],
      [paths.subject, { subject: {}, action, resource }],
      [paths.subject, { subject, action, resource: { type: 'record' } }],
      [paths.subject, { subject, action: {}, resource }],
      [paths.resource, { action, resource }],
      [paths.resource, { subject: { type: 'user' }, action, resource }],
      [paths.resource, { subject, action, resource: {} }],
      [paths.resource, { subject, action, resource: { type: 'media' } }],
      [paths.action, { subject }],
      [paths.action, { resource }],
      [paths.action, { subject: 'alice', resource }],
      [paths.action, []],
      [paths.action, '{'],
      ...['x', [], 1].map((page): [string, unknown] => [paths.action, { subject, resource, page }]),
      ...[-1, 1.5, '1', null].map((limit): [string, unknown] => [paths.action, { subject, resource, page: { limit } }]),
      [paths.action, { subject, resource, page: { token: 1 } }],
    ]
    for (const [path, body] of bodies) {
      const answer = await post(path, body)
      expect([path, body, answer.status, answer.body.code]).toEqual([path, body, 400, 'request.malformed'])
    }
    const listed = await post(paths.resource, { subject, action, resource: { type: 'media' } })
    expect(listed.body.errors).toEqual([
      {
        in: 'body',
        pointer: '/resource/type',
        detail: 'must be one of project, generation, because media are listed with their generation',
      },
    ])
  })

  test('ignores the id of the searched entity, and returns the id of the request', async () => {
    const body = { action: { name: 'read' }, context: { note: '@' } }
    const ids = [undefined, 7, null, 'record-9', { a: 1 }]
    for (const id of ids) {
      const subjects = await post(paths.subject, {
        ...body,
        subject: { type: 'user', id },
        resource: record('record-1'),
      })
      expect([id, sorted(subjects.body.results)]).toEqual([id, sorted([user('alice'), user('bob')])])
      const found = await post(paths.resource, { ...body, subject: user('bob'), resource: { type: 'record', id } })
      expect([id, found.body.results]).toEqual([id, [record('record-1')]])
    }
    const strange = JSON.stringify({ ...body, subject: user('bob'), resource: record('record-1') }).replace(
      '@',
      '\\u0000',
    )
    for (const path of Object.values(paths)) {
      const answer = await post(path, strange, { headers: { 'x-request-id': 'mine' } })
      expect([path, answer.status, answer.headers.get('x-request-id')]).toEqual([path, 200, 'mine'])
    }
  })
})

describe('the token of a page', () => {
  const subjects = (page: object, of = projects['public']) =>
    post(paths.subject, {
      subject: { type: 'user' },
      action: { name: 'read' },
      resource: { type: 'project', id: of },
      page,
    })
  const tokenOf = ({ body }: Answer): string => body.page.next_token

  test('is refused by another search and when it was altered', async () => {
    const token = tokenOf(await subjects({ limit: 1 }))
    expect(token).toMatch(/^[\w-]+$/)
    const refused = [
      await subjects({ token }, projects['record-1']),
      await subjects({ token: `${token.slice(0, -1)}${token.endsWith('A') ? 'B' : 'A'}` }),
      await subjects({ token: token.slice(0, 20) }),
      await subjects({ token: 'x'.repeat(600) }),
      await post(paths.action, { subject: user('alice'), resource: record('record-1'), page: { token } }),
    ]
    for (const { status, body } of refused) {
      expect([status, body.code, body.errors[0].pointer]).toEqual([400, 'request.malformed', '/page/token'])
    }
  })

  test('may be used with another limit, and a limit of 0 stays at its place', async () => {
    const all = (await subjects({})).body.results
    expect(all).toHaveLength(4)
    expect((await subjects({ limit: 1_000_000 })).body.results).toEqual(all)
    const first = await subjects({ limit: 1 })
    const none = await subjects({ limit: 0, token: tokenOf(first) })
    expect([none.status, none.body.results]).toEqual([200, []])
    const rest = await subjects({ token: tokenOf(none) })
    expect([...first.body.results, ...rest.body.results]).toEqual(all)
    expect(tokenOf(await subjects({ limit: 0 }))).not.toBe('')
  })
})

/** certification/authorization-api-1_0-scenario.md of openid/authzen: levels Basic Core, Batch Core and Search Core. */
describe('with the certification fixture loaded by aliases', () => {
  const read = { name: 'read' }

  test('the evaluations are as required', async () => {
    for (const [subject, name, id, decision] of [
      ['alice', 'read', 'record-1', true],
      ['alice', 'write', 'record-1', true],
      ['bob', 'read', 'record-1', true],
      ['bob', 'write', 'record-1', false],
      ['carol', 'read', 'record-1', false],
    ] as const) {
      expect([subject, name, await evaluate(user(subject), name, record(id))]).toEqual([subject, name, decision])
    }
    const batch = await post('/access/v1/evaluations', {
      subject: user('bob'),
      resource: record('record-1'),
      evaluations: [
        { action: read },
        { action: { name: 'write' } },
        {},
        { action: read, resource: record('record-2') },
      ],
    })
    const decisions = batch.body.evaluations.map(({ decision }: { decision: boolean }) => decision)
    expect(decisions).toEqual([true, false, false, false])
  })

  test('the searches are as required', async () => {
    const subjects = await post(paths.subject, {
      subject: { type: 'user' },
      action: read,
      resource: record('record-1'),
    })
    expect(sorted(subjects.body.results)).toEqual(sorted([user('alice'), user('bob')]))
    const found = await post(paths.resource, { subject: user('alice'), action: read, resource: { type: 'record' } })
    expect(found.body.results).toEqual([record('record-1'), record('record-2')])
    const names = await post(paths.action, { subject: user('alice'), resource: record('record-1') })
    expect(names.body.results).toEqual(expect.arrayContaining([{ name: 'read' }, { name: 'write' }]))
  })
})
