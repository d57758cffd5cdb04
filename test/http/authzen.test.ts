import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { newId } from '../../src/kit/id.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

/** OpenID AuthZEN Authorization API 1.0, and the requirements of its certification scenario. */
const single = '/access/v1/evaluation'
const several = '/access/v1/evaluations'

let app: TestApp
let client: Api
let ada: Person
let bob: Person
let key: string
let keyWithoutScope: string
let lab: string
let statements: string[] = []

beforeAll(async () => {
  app = await startApp({
    onStatement: (text) => {
      statements.push(text)
    },
  })
  client = api(app.baseUrl)
  const admin = await register(client)
  ada = await register(client)
  bob = await register(client)
  await app.services.database.admin`update users set role = 'admin' where id = ${admin.id}`
  const make = async (scope: string) =>
    (await client.post('/api/v1/service-keys', { name: 'k', scopes: [scope] }, { token: admin.token })).body.key
  key = await make('authorization:check')
  keyWithoutScope = await make('authorization:list')
  const project = { name: 'lab', visibility: 'public' }
  lab = (await client.post('/api/v1/projects', project, { token: ada.token })).body.id
})
afterAll(() => app?.close())

const subject = (id = ada.id) => ({ type: 'user', id })
const action = (name: string) => ({ name })
const resource = (id = lab) => ({ type: 'project', id })
const asked = (more: object = {}) => ({ subject: subject(), action: action('write'), resource: resource(), ...more })

const post = (path: string, body: unknown, headers: Record<string, string> = {}, token = key): Promise<Answer> =>
  client.post(path, body, { token, headers })

const allowed = { decision: true, context: { reason: 'ownership.project_owner' } }
const decisions = ({ body }: Answer) => body.evaluations.map(({ decision }: { decision: boolean }) => decision)

describe('an evaluation', () => {
  test('returns a decision with its reason', async () => {
    const granted = await post(single, asked())
    expect([granted.status, granted.body]).toEqual([200, allowed])
    expect(granted.headers.get('content-type')).toBe('application/json')
    const denied = await post(single, asked({ subject: subject(bob.id) }))
    expect([denied.status, denied.body]).toEqual([200, { decision: false, context: { reason: 'default.deny' } }])
    expect((await post(single, asked({ subject: subject(bob.id), action: action('read') }))).body.decision).toBeTrue()
  })

  test('ignores context, properties and unknown fields', async () => {
    for (const body of [
      asked({ context: { time: '2025-06-27T18:03-07:00', ip: '192.168.1.1' } }),
      asked({ foo: 'bar', futureField: { nested: true } }),
      {
        subject: { ...subject(), properties: { role: 'viewer', status: 'suspended' }, more: 1 },
        action: { ...action('write'), properties: { method: 'GET' }, more: 1 },
        resource: { ...resource(), properties: { owner_id: bob.id, visibility: 'private' }, more: 1 },
      },
    ]) {
      expect((await post(single, body)).body).toEqual(allowed)
    }
    const claimed = {
      subject: { ...subject(bob.id), properties: { role: 'admin', owner: true } },
      action: action('write'),
      resource: { ...resource(), properties: { owner_id: bob.id } },
      context: { allowed: true },
    }
    expect((await post(single, claimed)).body.decision).toBeFalse()
  })

  test('of an unknown type, action or id is denied with a reason, not refused', async () => {
    const cases: [object, string][] = [
      [{ subject: { type: 'robot', id: ada.id } }, 'subject.type_unknown'],
      [{ subject: { type: 'User', id: ada.id } }, 'subject.type_unknown'],
      [{ subject: subject('alice@example.com') }, 'account.unknown'],
      [{ subject: subject(newId()) }, 'account.unknown'],
      [{ subject: subject(ada.id.toUpperCase()) }, 'account.unknown'],
      [{ subject: subject(` ${ada.id}`) }, 'account.unknown'],
      [{ action: action('fly') }, 'action.unknown'],
      [{ action: action('Write') }, 'action.unknown'],
      [{ action: action('toString') }, 'action.unknown'],
      [{ resource: { type: 'spaceship', id: lab } }, 'resource.type_unknown'],
      [{ resource: { type: 'constructor', id: lab } }, 'resource.type_unknown'],
      [{ resource: resource('record-1') }, 'resource.not_visible'],
      [{ resource: resource(lab.toUpperCase()) }, 'resource.not_visible'],
      [{ resource: resource(newId()) }, 'resource.not_visible'],
    ]
    for (const [part, reason] of cases) {
      for (const path of [single, several]) {
        const { status, body } = await post(path, asked(part))
        expect([part, status, body]).toEqual([part, 200, { decision: false, context: { reason } }])
      }
    }
  })

  test('with a missing member or one of the wrong type is a 400', async () => {
    const { subject: _s, ...noSubject } = asked()
    const { action: _a, ...noAction } = asked()
    const { resource: _r, ...noResource } = asked()
    const bodies: unknown[] = [
      noSubject,
      noAction,
      noResource,
      asked({ subject: { id: ada.id } }),
      asked({ subject: { type: 'user' } }),
      asked({ action: {} }),
      asked({ resource: { id: lab } }),
      asked({ resource: { type: 'project' } }),
      asked({ subject: 'alice' }),
      asked({ action: { name: 123 } }),
      asked({ resource: [] }),
      asked({ context: 'noon' }),
      asked({ subject: { ...subject(), properties: 'x' } }),
      [],
      [asked()],
      'null',
      '"text"',
      '{',
      undefined,
    ]
    for (const body of bodies) {
      for (const path of [single, several]) {
        const answer = await post(path, body)
        expect([path, body, answer.status, answer.body.code]).toEqual([path, body, 400, 'request.malformed'])
      }
    }
  })

  test('refuses the media type and the coding of a body with the statuses of HTTP, as every route does', async () => {
    const text = JSON.stringify(asked())
    for (const path of [single, several]) {
      for (const type of ['text/plain', 'application/xml', 'application/x-www-form-urlencoded']) {
        const { status, body } = await post(path, text, { 'content-type': type })
        expect([path, type, status, body.code]).toEqual([path, type, 415, 'request.media_type_unsupported'])
      }
      const encoded = await post(path, text, { 'content-encoding': 'gzip' })
      expect([path, encoded.status, encoded.body.code]).toEqual([path, 415, 'request.encoding_unsupported'])
      expect(encoded.headers.get('accept-encoding')).toBe('identity')
    }
  })

  test('takes any JSON string in the members that it ignores, also NUL and lone surrogates', async () => {
    for (const text of ['a\\u0000b', '\\ud800']) {
      const strange = JSON.stringify(
        asked({
          subject: { ...subject(), properties: { note: '@' } },
          context: { note: '@', '@': ['@'] },
          '@': '@',
        }),
      ).replaceAll('@', text)
      for (const path of [single, several]) {
        const { status, body } = await post(path, strange)
        expect([path, status, body]).toEqual([path, 200, allowed])
      }
      const strangeId = JSON.stringify(asked({ subject: subject('@'), resource: resource('@') })).replaceAll('@', text)
      expect((await post(single, strangeId)).body).toEqual({ decision: false, context: { reason: 'account.unknown' } })
    }
  })

  test('is deterministic', async () => {
    for (let times = 0; times < 5; times += 1) expect((await post(single, asked())).body).toEqual(allowed)
  })
})

describe('evaluations', () => {
  test('take omitted members from the top level, and are answered in order', async () => {
    const answer = await post(several, {
      subject: subject(),
      action: action('write'),
      context: { time: 'noon' },
      evaluations: [
        { resource: resource() },
        { resource: resource(newId()), context: { time: 'midnight' } },
        { subject: subject(bob.id), resource: resource() },
        { subject: subject(bob.id), action: action('read'), resource: resource() },
      ],
    })
    expect([answer.status, decisions(answer)]).toEqual([200, [true, false, false, true]])
    expect(answer.body.decision).toBeUndefined()
  })

  test('work without defaults', async () => {
    expect(decisions(await post(several, { evaluations: [asked(), asked({ subject: subject(bob.id) })] }))).toEqual([
      true,
      false,
    ])
  })

  test('deny an item with an incomplete member, though the default is complete', async () => {
    const incomplete = [
      { subject: { type: 'user' } },
      { subject: { id: ada.id } },
      { subject: {} },
      { subject: null },
      { action: {} },
      { action: { properties: {} } },
      { resource: { type: 'project' } },
      { resource: { id: lab } },
      { resource: { type: 'project', properties: { id: lab } } },
      { context: null },
    ]
    const { status, body } = await post(several, asked({ evaluations: [...incomplete, {}] }))
    expect(status).toBe(200)
    expect(body.evaluations.at(-1)).toEqual(allowed)
    expect(body.evaluations).toHaveLength(incomplete.length + 1)
    for (const [at, item] of incomplete.entries()) {
      const { decision, context } = body.evaluations[at]
      expect([item, decision, context.error?.status]).toEqual([item, false, 400])
    }
  })

  test('deny the items that depend on an incomplete default', async () => {
    const defaults = asked({ resource: { type: 'project' } })
    const evaluations = [{ resource: { id: lab } }, {}, { resource: resource() }]
    expect(decisions(await post(several, { ...defaults, evaluations }))).toEqual([false, false, true])
  })

  test('deny an invalid item in its place with the error, and answer the others', async () => {
    const { status, body } = await post(several, {
      subject: subject(),
      action: action('write'),
      evaluations: [{ resource: resource() }, {}, 'x', null, { resource: 'y' }, { resource: { id: lab } }, asked()],
    })
    expect(status).toBe(200)
    expect(body.evaluations).toHaveLength(7)
    expect(body.evaluations[0]).toEqual(allowed)
    for (const failed of body.evaluations.slice(1, 6)) {
      expect(failed.decision).toBeFalse()
      expect(failed.context.error.status).toBe(400)
      expect(failed.context.error.message).toMatch(/\w/)
    }
    expect(body.evaluations[6]).toEqual(allowed)
  })

  test('are a single evaluation when the list is missing or empty', async () => {
    for (const body of [asked(), asked({ evaluations: [] })]) expect((await post(several, body)).body).toEqual(allowed)
  })

  test('stop at the decision that the semantic names', async () => {
    const yes = { action: action('read') }
    const no = { action: action('fly') }
    const run = async (evaluations_semantic: string | undefined, ...evaluations: object[]) =>
      decisions(await post(several, asked({ evaluations, options: { evaluations_semantic, another_option: 'value' } })))
    expect(await run(undefined, yes, no, yes)).toEqual([true, false, true])
    expect(await run('execute_all', yes, no, yes)).toEqual([true, false, true])
    expect(await run('deny_on_first_deny', yes, no, yes)).toEqual([true, false])
    expect(await run('deny_on_first_deny', yes, yes)).toEqual([true, true])
    expect(await run('deny_on_first_deny', { resource: 'broken' }, yes)).toEqual([false])
    expect(await run('permit_on_first_permit', no, yes, no)).toEqual([false, true])
    expect(await run('permit_on_first_permit', no, no)).toEqual([false, false])
    const unknown = await post(several, asked({ evaluations: [yes], options: { evaluations_semantic: 'maybe' } }))
    expect(unknown.status).toBe(400)
  })

  test('cost one statement for 200 items, and are a 400 for 201', async () => {
    const evaluations = Array.from({ length: 201 }, (_, number) => ({
      subject: subject(number % 2 === 0 ? ada.id : newId()),
      resource: resource(number % 3 === 0 ? lab : newId()),
    }))
    await post(single, asked())
    statements = []
    const { status, body } = await post(several, asked({ evaluations: evaluations.slice(0, 200) }))
    expect([status, body.evaluations.length]).toEqual([200, 200])
    expect(statements.length).toBeLessThanOrEqual(2)
    expect((await post(several, asked({ evaluations }))).status).toBe(400)
  })
})

describe('the AuthZEN endpoints', () => {
  test('answer only a service whose key has the scope', async () => {
    for (const path of [single, several]) {
      const answers = {
        nobody: await client.post(path, asked()),
        person: await post(path, asked(), {}, ada.token),
        otherScope: await post(path, asked(), {}, keyWithoutScope),
        wrongKey: await post(path, asked(), {}, `${key.slice(0, -1)}${key.endsWith('A') ? 'B' : 'A'}`),
      }
      const codes = Object.values(answers).map(({ status, body }) => [status, body.code])
      expect(codes).toEqual([
        [401, 'identity.not_signed_in'],
        [403, 'access.services_only'],
        [403, 'service_key.scope_missing'],
        [401, 'identity.not_signed_in'],
      ])
    }
  })

  test('know the caller before they judge the body', async () => {
    const bodies: [body: string, headers: Record<string, string>][] = [
      ['{', {}],
      ['{}', {}],
      [JSON.stringify(asked()), { 'content-type': 'text/plain' }],
      [JSON.stringify(asked()), { 'content-encoding': 'gzip' }],
    ]
    for (const path of [single, several]) {
      for (const [body, headers] of bodies) {
        const codes = [
          await client.post(path, body, { headers: { 'content-type': 'application/json', ...headers } }),
          await post(path, body, headers, ada.token),
          await post(path, body, headers, keyWithoutScope),
        ].map(({ body: { code } }) => code)
        expect([path, body, codes]).toEqual([
          path,
          body,
          ['identity.not_signed_in', 'access.services_only', 'service_key.scope_missing'],
        ])
      }
    }
  })
})

describe('the id of a request', () => {
  test('is returned unchanged, with a decision and with every error', async () => {
    const given = 'bfe9eb29-ab87-4ca3-be83-a1d5d8305716/any(string)'
    const headers = { 'x-request-id': given }
    const answers = [
      await post(single, asked(), headers),
      await post(several, asked({ evaluations: [{}] }), headers),
      await post(single, {}, headers),
      await post(single, '{', headers),
      await client.post(single, asked(), { headers }),
      await client.get(single, { token: key, headers }),
    ]
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 400, 400, 401, 405])
    for (const answer of answers) expect(answer.headers.get('x-request-id')).toBe(given)
    for (const { body } of answers.slice(2)) expect(body.request_id).toBe(given)
  })

  test('is generated where the request has none, and is never taken from a client on other routes', async () => {
    expect((await post(single, asked())).headers.get('x-request-id')).toMatch(/^[0-9a-f]{32}$/)
    const elsewhere = await client.get('/health', { headers: { 'x-request-id': 'mine' } })
    expect(elsewhere.headers.get('x-request-id')).toMatch(/^[0-9a-f]{32}$/)
  })
})

describe('the metadata', () => {
  test('names the endpoints at the origin of the request, or at the configured public URL', async () => {
    const path = '/.well-known/authzen-configuration'
    const here = await client.get(path, { headers: { 'x-request-id': 'mine' } })
    expect([here.status, here.headers.get('content-type')]).toEqual([200, 'application/json'])
    expect(here.headers.get('x-request-id')).toBe('mine')
    expect(here.headers.get('cache-control')).toBe('public, max-age=300')
    expect(here.body).toEqual({
      policy_decision_point: app.baseUrl,
      access_evaluation_endpoint: `${app.baseUrl}${single}`,
      access_evaluations_endpoint: `${app.baseUrl}${several}`,
      search_subject_endpoint: `${app.baseUrl}/access/v1/search/subject`,
      search_resource_endpoint: `${app.baseUrl}/access/v1/search/resource`,
      search_action_endpoint: `${app.baseUrl}/access/v1/search/action`,
      velro_limits: { max_body_bytes: 1_048_576, max_evaluations: 200, max_page_limit: 100 },
    })
    const refused = await client.post(path, {}, { headers: { 'x-request-id': 'mine' } })
    expect([refused.status, refused.headers.get('x-request-id')]).toEqual([405, 'mine'])
    const named = await startApp({ config: { publicUrl: 'https://pdp.example.com' } })
    try {
      const { body } = await api(named.baseUrl).get(path)
      expect(body.policy_decision_point).toBe('https://pdp.example.com')
      expect(body.access_evaluation_endpoint).toBe(`https://pdp.example.com${single}`)
    } finally {
      await named.close()
    }
  })
})
