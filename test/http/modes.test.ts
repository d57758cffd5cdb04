import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import type { modes } from '../../src/access/policy/modes.ts'
import { passes, routeClasses } from '../../src/emergency/route-classes.ts'
import { until } from '../faults/support.ts'
import { type Answer, type Api, api, type Person, redis, register, startApp, type TestApp } from '../harness.ts'
import { nameOf, routesOf } from './black-box/document.ts'

const path = '/api/v1/security/mode'
const blocks = '/api/v1/security/blocks'
const check = '/api/v1/authorization/check'
type Mode = (typeof modes)[number]

/** Three instances of one service. A mode is set on one and must be in force on all. */
let apps: TestApp[]
let clients: [Api, Api, Api]
let admin: Person
let owner: Person
let member: Person
let team: string
let project: string

const own = (person: Person = owner) => ({ token: person.token })
const setOn = (client: Api, mode: Mode, more: object = {}) => client.put(path, { mode, ...more }, own(admin))
/** Sets a mode by any instance, each in turn. */
let turn = 0
const set = async (mode: Mode, more: object = {}) => {
  turn += 1
  const answer = await setOn(clients[turn % 3] as Api, mode, more)
  expect([answer.status, answer.body.mode]).toEqual([200, mode])
  return answer.body
}
const outcome = ({ status, body }: Answer) => (status >= 400 ? `${status} ${body.code}` : String(status))
/** What each instance answers to a request, once where all answer the same. */
const onEach = async (ask: (client: Api, at: number) => Promise<Answer>): Promise<string> =>
  [...new Set((await Promise.all(clients.map(ask))).map(outcome))].join(', ')

beforeAll(async () => {
  const config = { redisUrl: (await redis()).url, trustedProxies: ['127.0.0.1'] }
  const first = await startApp({ config })
  const others = [
    await startApp({ config, connection: first.connection }),
    await startApp({ config, connection: first.connection }),
  ]
  apps = [first, ...others]
  await until(() => apps.every(({ services }) => services.caches.bus.members().length === 2), 'all know each other')
  clients = apps.map(({ baseUrl }) => api(baseUrl)) as [Api, Api, Api]
  ;[admin, owner, member] = (await Promise.all(Array.from({ length: 3 }, () => register(clients[0])))) as [
    Person,
    Person,
    Person,
  ]
  await first.services.database.admin`update users set role = 'admin' where id = ${admin.id}`
  await until(() => clients[0].get(path, own(admin)).then(({ status }) => status === 200), 'the operator is one')
  team = (await clients[0].post('/api/v1/teams', { name: 't' }, own())).body.id
  project = (await clients[0].post('/api/v1/projects', { name: 'p' }, own())).body.id
})
afterAll(async () => {
  for (const app of apps.toReversed()) await app.close()
})
afterEach(async () => {
  await set('normal')
})

const asks = {
  registers: (client: Api) =>
    client.post('/api/v1/auth/register', {
      email: `new-${crypto.randomUUID()}@example.com`,
      password: 'seven green bottles',
    }),
  'signs in': (client: Api) => client.post('/api/v1/auth/login', { email: owner.email, password: owner.password }),
  reads: (client: Api) => client.get(`/api/v1/projects/${project}`, own()),
  writes: (client: Api) => client.post('/api/v1/projects', { name: 'x' }, own()),
  asks: (client: Api) => client.post(check, { action: 'admin', resource: { type: 'project', id: project } }, own()),
  'looks at the own account': (client: Api) => client.get('/api/v1/auth/me', own()),
} as const

/** What each kind of request is answered on all three instances. */
const expectAll = async (expected: Record<keyof typeof asks, string>) => {
  const names = Object.keys(asks) as (keyof typeof asks)[]
  const found = Object.fromEntries(
    await Promise.all(names.map(async (name) => [name, await onEach(asks[name])] as const)),
  )
  expect(found).toEqual(expected)
}

describe('on three instances, when the call that set it returns,', () => {
  test('the normal mode lets everything pass', async () => {
    await set('normal')
    await expectAll({
      registers: '201',
      'signs in': '200',
      reads: '200',
      writes: '201',
      asks: '200',
      'looks at the own account': '200',
    })
  })

  test('no-register refuses new accounts alone', async () => {
    await set('no-register')
    await expectAll({
      registers: '503 mode.no_register',
      'signs in': '200',
      reads: '200',
      writes: '201',
      asks: '200',
      'looks at the own account': '200',
    })
  })

  test('read-only lets reads, checks, sign-ins and what takes access away pass, and refuses the rest', async () => {
    const [spare, other] = await Promise.all([register(clients[0]), register(clients[0])])
    const { body: invitation } = await clients[0].post(
      `/api/v1/teams/${team}/invitations`,
      { email: spare.email, role: 'editor' },
      own(),
    )
    await clients[0].post('/api/v1/teams/invitations/accept', { secret: invitation.secret }, own(spare))
    await set('read-only')
    await expectAll({
      registers: '503 mode.read_only',
      'signs in': '200',
      reads: '200',
      writes: '503 mode.read_only',
      asks: '200',
      'looks at the own account': '200',
    })
    const answers = [
      await clients[0].post('/api/v1/auth/refresh', { refresh_token: spare.refreshToken }),
      await clients[1].delete(`/api/v1/teams/${team}/members/${spare.id}`, own()),
      await clients[2].post('/api/v1/auth/logout', undefined, own(spare)),
      await clients[0].patch(`/api/v1/users/${other.id}`, { status: 'suspended' }, own(admin)),
      await clients[1].get('/api/v1/auth/me', own(other)),
      await clients[2].post('/api/v1/service-keys', { name: 'k', scopes: ['authorization:check'] }, own(admin)),
    ]
    expect(answers.map(outcome)).toEqual([
      '200',
      '204',
      '204',
      '200',
      '401 identity.not_signed_in',
      '503 mode.read_only',
    ])
  })

  test('read-only lets a change that may give access pass only where it takes access away', async () => {
    const [editor, taker] = [await register(clients[0]), await register(clients[0])]
    const { body: invited } = await clients[0].post(
      `/api/v1/teams/${team}/invitations`,
      { email: editor.email, role: 'contributor' },
      own(),
    )
    await clients[0].post('/api/v1/teams/invitations/accept', { secret: invited.secret }, own(editor))
    const { body: shared } = await clients[0].post('/api/v1/projects', { name: 's', visibility: 'team-only' }, own())
    await clients[0].post(`/api/v1/projects/${shared.id}/teams`, { team_id: team, access_level: 'write' }, own())
    const { body: generation } = await clients[0].post(
      '/api/v1/generations',
      { model: 'local/procedural', prompt: 'p', project_id: shared.id },
      own(),
    )
    await set('read-only')
    const member = `/api/v1/teams/${team}/members/${editor.id}`
    const grant = `/api/v1/projects/${shared.id}/teams/${team}`
    const user = `/api/v1/users/${taker.id}`
    const changes: [string, object, Person, string][] = [
      [member, { role: 'editor' }, owner, '503 mode.read_only'],
      [member, { role: 'viewer' }, owner, '200'],
      [`/api/v1/teams/${team}`, { name: 'other' }, owner, '503 mode.read_only'],
      [`/api/v1/teams/${team}`, { requires_second_factor: false }, owner, '503 mode.read_only'],
      [grant, { access_level: 'admin' }, owner, '503 mode.read_only'],
      [grant, { access_level: 'read' }, owner, '200'],
      [grant, { access_level: 'write' }, owner, '503 mode.read_only'],
      [`/api/v1/projects/${shared.id}`, { visibility: 'public' }, owner, '503 mode.read_only'],
      [`/api/v1/projects/${shared.id}`, { name: 'n', visibility: 'private' }, owner, '503 mode.read_only'],
      [`/api/v1/projects/${shared.id}`, { visibility: 'private', allow_derivatives: false }, owner, '200'],
      [`/api/v1/projects/${shared.id}`, { visibility: 'team-only' }, owner, '503 mode.read_only'],
      [`/api/v1/generations/${generation.id}`, { title: 't' }, owner, '503 mode.read_only'],
      [`/api/v1/generations/${generation.id}`, { project_id: project }, owner, '503 mode.read_only'],
      [`/api/v1/generations/${generation.id}`, { project_id: null }, owner, '200'],
      [user, { role: 'admin' }, admin, '503 mode.read_only'],
      [user, { plan: 'pro', status: 'suspended' }, admin, '503 mode.read_only'],
      [user, { status: 'suspended' }, admin, '200'],
      [user, { status: 'active' }, admin, '503 mode.read_only'],
    ]
    for (const [at, body, by, expected] of changes) {
      turn += 1
      const answer = await (clients[turn % 3] as Api).patch(at, body, own(by))
      expect([at, body, outcome(answer)]).toEqual([at, body, expected])
    }
  })

  test('lockdown lets operators sign in and lift it, has checks denied, and refuses everything else', async () => {
    const { body: key } = await clients[0].post(
      '/api/v1/service-keys',
      { name: 'k', scopes: ['authorization:check'] },
      own(admin),
    )
    await set('lockdown', { reason: 'a drill', expires_in: 600 })
    await expectAll({
      registers: '503 mode.lockdown',
      'signs in': '503 mode.lockdown',
      reads: '503 mode.lockdown',
      writes: '503 mode.lockdown',
      asks: '200',
      'looks at the own account': '503 mode.lockdown',
    })
    const question = { action: 'read', resource: { type: 'project', id: project } }
    const denied = { allowed: false, reason: 'emergency.lockdown' }
    for (const client of clients) {
      expect((await client.post(check, question, own())).body).toEqual(denied)
      const { body: batch } = await client.post(`${check}/batch`, { checks: [question, question] }, own())
      expect(batch.results).toEqual([denied, denied])
      const { body: byService } = await client.post(check, { user_id: owner.id, ...question }, { token: key.key })
      expect(byService).toEqual(denied)
      const { body: explained } = await client.post('/api/v1/authorization/explain', question, own())
      expect(explained).toMatchObject(denied)
      expect(explained.layers.find(({ layer }: { layer: number }) => layer === 9)).toMatchObject({
        verdict: 'deny',
        reason: 'emergency.lockdown',
      })
      // Nothing else is shown of a resource.
      expect(explained.layers.find(({ layer }: { layer: number }) => layer === 1).verdict).toBe('abstain')
      const refreshed = await client.post('/api/v1/auth/refresh', { refresh_token: member.refreshToken })
      expect(outcome(refreshed)).toBe('503 mode.lockdown')
      const credentials = { email: admin.email, password: admin.password }
      const { status, body } = await client.post('/api/v1/auth/login', credentials)
      expect(status).toBe(200)
      expect((await client.get('/api/v1/auth/me', { token: body.access_token })).status).toBe(200)
      expect((await client.get('/api/v1/users', { token: body.access_token })).status).toBe(200)
    }
    await set('normal')
    // The refresh token was not used up.
    const { status, body } = await clients[1].post('/api/v1/auth/refresh', { refresh_token: member.refreshToken })
    expect(status).toBe(200)
    member = { ...member, token: body.access_token, refreshToken: body.refresh_token }
  })

  test('a mode is in force for checks that run on all instances meanwhile, and no check allows after it', async () => {
    let isRunning = true
    let setAtMs = Number.POSITIVE_INFINITY
    let asked = 0
    const late: object[] = []
    const question = { action: 'read', resource: { type: 'project', id: project } }
    const ask = async (client: Api) => {
      while (isRunning) {
        const beganMs = performance.now()
        const { body } = await client.post(check, question, own())
        asked += 1
        if (body.allowed !== false && beganMs > setAtMs) late.push(body)
      }
    }
    const askers = clients.flatMap((client) => [ask(client), ask(client)])
    for (let round = 0; round < 12; round += 1) {
      await set('lockdown')
      setAtMs = performance.now()
      await Bun.sleep(10)
      setAtMs = Number.POSITIVE_INFINITY
      await set('normal')
    }
    isRunning = false
    await Promise.all(askers)
    expect([asked > 100, late]).toEqual([true, []])
  })
})

describe('a mode', () => {
  test('is shown with who set it, why and until when, and the caller must be an operator', async () => {
    const set_by = admin.id
    const answer = await set('read-only', { reason: 'a move', expires_in: 120 })
    expect(answer).toMatchObject({ mode: 'read-only', reason: 'a move', set_by, instance_mode: null })
    expect(Date.parse(answer.expires_at) - Date.parse(answer.set_at)).toBe(120_000)
    for (const client of clients) expect((await client.get(path, own(admin))).body).toEqual(answer)
    expect(outcome(await setOn(clients[0], 'normal', {}))).toBe('200')
    expect(outcome(await clients[0].put(path, { mode: 'lockdown' }, own()))).toBe('403 access.admins_only')
    expect(outcome(await clients[0].get(path, own()))).toBe('403 access.admins_only')
  })

  test('is refused with 422 where it is unknown, or lasts no minute or more than a week', async () => {
    for (const wrong of [
      {},
      { mode: 'off' },
      { mode: 'lockdown', expires_in: 59 },
      { mode: 'lockdown', expires_in: 604_801 },
    ]) {
      expect(outcome(await clients[0].put(path, wrong, own(admin)))).toBe('422 request.invalid')
    }
  })

  test('that has expired is normal again on every instance, and names no operator', async () => {
    await set('lockdown')
    const { database } = (apps[0] as TestApp).services
    await database.admin`update restrictions set expires_at = now() - interval '1 second'`
    await until(async () => (await onEach(asks.reads)) === '200', 'the mode has ended')
    const { body } = await clients[1].get(path, own(admin))
    expect(body).toMatchObject({ mode: 'normal', set_by: null, expires_at: null })
  })

  test('of an instance alone restricts that instance, and the stricter of it and the mode of the service applies', async () => {
    const { ownMode } = (apps[1] as TestApp).services
    ownMode.set('a breaker', 'read-only')
    try {
      const answers = await Promise.all(clients.map((client) => asks.writes(client)))
      expect(answers.map(outcome)).toEqual(['201', '503 mode.read_only', '201'])
      expect((await clients[1].get(path, own(admin))).body).toMatchObject({
        mode: 'normal',
        instance_mode: 'read-only',
      })
      await set('lockdown')
      expect(await onEach(asks.reads)).toBe('503 mode.lockdown')
    } finally {
      ownMode.lift('a breaker')
    }
  })

  test('that is unknown, because its row is gone, is a lockdown, which setting a mode ends', async () => {
    const { database } = (apps[0] as TestApp).services
    await database.admin`delete from restrictions`
    await until(async () => (await onEach(asks.reads)) === '503 mode.lockdown', 'the row is missed')
    await set('normal')
    expect(await onEach(asks.reads)).toBe('200')
  })
})

describe('the table of route classes', () => {
  test('names each route of the OpenAPI document, and no other', async () => {
    const { body: document } = await clients[0].get('/docs/json')
    const documented = routesOf(document).map(nameOf)
    expect(Object.keys(routeClasses).toSorted()).toEqual(documented.toSorted())
  })

  test('lets all routes pass in the normal mode, and never fewer in a less strict mode, but for registrations', () => {
    for (const [name, each] of Object.entries(passes)) {
      expect([name, each.normal]).toEqual([name, 'all'])
      if (each['no-register'] !== 'all') expect(name).toBe('register')
    }
  })
})

describe('a block', () => {
  const from = (address: string) => ({ headers: { 'x-forwarded-for': address } })
  const add = async (kind: string, value: string, more: object = {}) => {
    turn += 1
    return (clients[turn % 3] as Api).post(blocks, { kind, value, ...more }, own(admin))
  }
  const remove = async ({ body }: Answer) => {
    turn += 1
    const { status } = await (clients[turn % 3] as Api).delete(`${blocks}/${body.id}`, own(admin))
    expect(status).toBe(204)
  }
  const signInFrom = (address: string) => (client: Api) =>
    client.post('/api/v1/auth/login', { email: owner.email, password: owner.password }, from(address))
  const askFrom = (address: string) => (client: Api) =>
    client.post(check, { action: 'read', resource: { type: 'project', id: project } }, { ...own(), ...from(address) })

  test('of an address or a network refuses every request from there on every instance, and no other', async () => {
    const cases = [
      ['address', '203.0.113.7', '203.0.113.7', '203.0.113.8'],
      ['address', '2001:db8::1', '2001:db8::ffff', '2001:db8:0:1::1'],
      ['address', '::ffff:203.0.113.9', '203.0.113.9', '203.0.113.10'],
      ['network', '198.51.100.0/24', '198.51.100.255', '198.51.101.0'],
      ['network', '2001:db8:7::/48', '2001:db8:7:8::9', '2001:db8:8::1'],
    ] as const
    for (const [kind, value, inside, outside] of cases) {
      const added = await add(kind, value)
      expect([value, added.status]).toEqual([value, 201])
      for (const ask of [signInFrom, askFrom]) {
        expect([value, await onEach(ask(inside))]).toEqual([value, '403 access.blocked'])
        expect([value, await onEach(ask(outside))]).toEqual([value, '200'])
      }
      expect((await clients[0].get('/health', from(inside))).status).toBe(200)
      expect((await clients[0].get('/nowhere', from(inside))).status).toBe(403)
      await remove(added)
      expect([value, await onEach(askFrom(inside))]).toEqual([value, '200'])
    }
  })

  test('of an address refuses its request with a link, a ticket or a token where memory lacks the restrictions', async () => {
    const address = '203.0.113.7'
    const added = await add('address', address)
    const id = '00000000-0000-7000-8000-000000000000'
    for (const [path, credential] of [
      [`/api/v1/media/${id}/content?share=x`, {}],
      [`/api/v1/generations/${id}/stream?%74icket=x`, {}],
      ['/api/v1/authorization/accessible?type=project&action=read', own()],
    ] as const) {
      for (const { services } of apps) services.caches.facts.invalidate('everything')
      const answers = await onEach((client) => client.get(path, { ...credential, ...from(address) }))
      expect([path, answers]).toEqual([path, '403 access.blocked'])
    }
    await remove(added)
  })

  test('of a user has its requests and sign-ins refused and its decisions denied, until it is removed', async () => {
    const { body: key } = await clients[0].post(
      '/api/v1/service-keys',
      { name: 'k', scopes: ['authorization:check'] },
      own(admin),
    )
    const question = { user_id: member.id, action: 'read', resource: { type: 'project', id: project } }
    const added = await add('user', member.id, { reason: 'odd requests' })
    expect(added.body).toMatchObject({
      kind: 'user',
      value: member.id,
      reason: 'odd requests',
      source: 'operator',
      created_by: admin.id,
    })
    expect(await onEach((client) => client.get('/api/v1/auth/me', own(member)))).toBe('403 access.blocked')
    const credentials = { email: member.email, password: member.password }
    expect(await onEach((client) => client.post('/api/v1/auth/login', credentials))).toBe('403 access.blocked')
    const refreshing = { refresh_token: member.refreshToken }
    expect(await onEach((client) => client.post('/api/v1/auth/refresh', refreshing))).toBe('403 access.blocked')
    for (const client of clients) {
      expect((await client.post(check, question, { token: key.key })).body.reason).toBe('account.blocked')
    }
    expect(outcome(await add('user', member.id))).toBe('409 block.exists')
    await remove(added)
    expect(await onEach((client) => client.get('/api/v1/auth/me', own(member)))).toBe('200')
  })

  test('of a service key has its requests refused, until it is removed', async () => {
    const { body: made } = await clients[0].post(
      '/api/v1/service-keys',
      { name: 'k', scopes: ['authorization:check'] },
      own(admin),
    )
    const question = { user_id: owner.id, action: 'read', resource: { type: 'project', id: project } }
    const ask = (client: Api) => client.post(check, question, { token: made.key })
    expect(await onEach(ask)).toBe('200')
    const added = await add('key', made.id)
    expect(await onEach(ask)).toBe('403 access.blocked')
    await remove(added)
    expect(await onEach(ask)).toBe('200')
  })

  test('is refused where it would hold the address or the account of its operator', async () => {
    const here = { ...own(admin), ...from('192.0.2.5') }
    for (const [kind, value] of [
      ['address', '192.0.2.5'],
      ['network', '192.0.2.0/24'],
      ['network', '192.0.2.5/32'],
    ]) {
      expect(outcome(await clients[0].post(blocks, { kind, value }, here))).toBe('409 block.own_address')
    }
    const six = { ...own(admin), ...from('2001:db8:5::5') }
    expect(outcome(await clients[0].post(blocks, { kind: 'address', value: '2001:db8:5::6' }, six))).toBe(
      '409 block.own_address',
    )
    expect(outcome(await add('user', admin.id))).toBe('409 block.own_account')
  })

  test('of a network is refused with the limit where 5000 are blocked, and one of a user is not', async () => {
    const { database } = (apps[0] as TestApp).services
    await database.admin`
      insert into blocks (id, kind, network, source, reason, expires_at)
      select gen_random_uuid(), 'address', set_masklen(('10.0.0.0'::inet + n)::cidr, 32), 'operator', 'many', now() + interval '1 hour'
        from generate_series(1, 5000) n`
    try {
      const refused = await add('address', '203.0.113.20')
      expect([outcome(refused), refused.body.limit]).toEqual(['409 block.too_many', 5_000])
      const added = await add('user', member.id)
      expect(added.status).toBe(201)
      await remove(added)
    } finally {
      await database.admin`delete from blocks where reason = 'many'`
    }
    const added = await add('address', '203.0.113.20')
    expect(added.status).toBe(201)
    await remove(added)
  })

  test('is refused for a value that does not suit its kind, and for a target that does not exist', async () => {
    const wrong = [
      ['address', '203.0.113.0/24'],
      ['address', 'example.com'],
      ['address', '203.0.113.256'],
      ['network', '203.0.113.7'],
      ['network', '203.0.113.7/24'],
      ['network', '0.0.0.0/0'],
      ['network', '::/0'],
      ['network', '::ffff:203.0.113.0/120'],
      ['network', '203.0.113.0/033'],
      ['user', 'x'],
      ['key', '203.0.113.7'],
      ['country', 'FR'],
    ]
    for (const [kind = '', value = ''] of wrong) {
      expect([kind, value, outcome(await add(kind, value))]).toEqual([kind, value, '422 request.invalid'])
    }
    const unknown = crypto.randomUUID()
    expect(outcome(await add('user', unknown))).toBe('404 user.not_found')
    expect(outcome(await add('key', unknown))).toBe('404 service_key.not_found')
    expect(outcome(await clients[0].delete(`${blocks}/${unknown}`, own(admin)))).toBe('404 block.not_found')
    expect(outcome(await clients[0].post(blocks, { kind: 'user', value: member.id }, own()))).toBe(
      '403 access.admins_only',
    )
  })

  test('is listed newest first, by pages and kinds', async () => {
    const added = [
      await add('address', '203.0.113.1'),
      await add('user', member.id),
      await add('address', '203.0.113.2'),
    ]
    const ids = added.map(({ body }) => body.id).toReversed()
    const { body: first } = await clients[0].get(`${blocks}?limit=2`, own(admin))
    const { body: rest } = await clients[1].get(`${blocks}?limit=2&cursor=${first.next_cursor}`, own(admin))
    expect([...first.items, ...rest.items].map(({ id }) => id)).toEqual(ids)
    expect(rest.next_cursor).toBeNull()
    const { body: users } = await clients[2].get(`${blocks}?kind=user`, own(admin))
    expect(users.items.map(({ value }: { value: string }) => value)).toEqual([member.id])
    for (const each of added) await remove(each)
  })

  test('ends when it has expired', async () => {
    const added = [
      await add('address', '203.0.113.3', { expires_in: 60 }),
      await add('user', member.id, { expires_in: 60 }),
    ]
    expect(await onEach(askFrom('203.0.113.3'))).toBe('403 access.blocked')
    const { database } = (apps[0] as TestApp).services
    await database.admin`update blocks set expires_at = now() - interval '1 second'`
    await until(async () => (await onEach(askFrom('203.0.113.3'))) === '200', 'the block of the address has ended')
    expect(await onEach((client) => client.get('/api/v1/auth/me', own(member)))).toBe('200')
    for (const { body } of added) {
      expect(outcome(await clients[0].delete(`${blocks}/${body.id}`, own(admin)))).toBe('404 block.not_found')
    }
  })
})
