import { afterAll, afterEach, beforeAll, expect, test } from 'bun:test'
import { type Person, register } from '../harness.ts'
import { outcomeOf, unknownId } from '../teams/fixture.ts'
import { startWebhookWorld, type WebhookWorld } from './world.ts'

const path = '/api/v1/webhooks'
const input = { url: 'https://hooks.example.com/in?a=b', events: ['user.created', 'session.ended'] }

let world: WebhookWorld
let owner: Person
let team: string

beforeAll(async () => {
  world = await startWebhookWorld({ safePost: async () => ({ status: 204, retryAfter: undefined }) })
  owner = await register(world.client)
  team = (await world.client.post('/api/v1/teams', { name: 'A team' }, owner)).body.id
})
afterAll(() => world.close())
afterEach(async () => {
  await world.sql`delete from webhooks`
})

const operator = () => ({ token: world.operator.token })
const create = (body: object = input) => world.client.post(path, body, operator())
const inTeam = (rest = '') => `/api/v1/teams/${team}/webhooks${rest}`
const teamInput = { url: 'https://hooks.example.com/', events: ['team.member_added'] }
const createInTeam = (body: object = teamInput, by: Person = owner) => world.client.post(inTeam(), body, by)

test('a webhook is returned with its secret once, and stored with the secret sealed', async () => {
  const made = await create({ ...input, description: 'Billing' })
  expect(made.status).toBe(201)
  const { secret, ...shown } = made.body
  expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/)
  expect(shown).toEqual({
    id: shown.id,
    team_id: null,
    ...input,
    description: 'Billing',
    enabled: true,
    status: 'active',
    responsible_id: world.operator.id,
    created_at: shown.created_at,
    updated_at: shown.created_at,
    last_success_at: null,
    previous_secret_expires_at: null,
  })
  const one = await world.client.get(`${path}/${shown.id}`, operator())
  expect([one.status, one.body]).toEqual([200, shown])
  const list = await world.client.get(path, operator())
  expect(list.body).toEqual({ items: [shown], next_cursor: null })
  const [row] = await world.sql<{ secret: Buffer }[]>`select secret from webhooks where id = ${shown.id}`
  const bytes = Buffer.from(secret.slice('whsec_'.length), 'base64')
  expect(bytes).toHaveLength(32)
  expect(row?.secret.includes(bytes)).toBe(false)
})

test('a webhook is changed, disabled and removed, and one that does not exist is 404', async () => {
  const { id } = (await create()).body
  const patch = (changes: object, at = id) => world.client.patch(`${path}/${at}`, changes, operator())
  const changed = await patch({ url: 'https://other.example.com:8443', events: ['user.closed'], enabled: false })
  expect([changed.status, changed.body]).toMatchObject([
    200,
    { url: 'https://other.example.com:8443/', events: ['user.closed'], enabled: false, status: 'disabled' },
  ])
  expect(outcomeOf(await patch({}))).toBe('422 request.invalid')
  expect(outcomeOf(await patch({ team_id: team }))).toBe('422 request.invalid')
  expect((await world.client.delete(`${path}/${id}`, operator())).status).toBe(204)
  for (const answer of [
    patch({ enabled: true }),
    patch({ enabled: true }, unknownId),
    world.client.get(`${path}/${id}`, operator()),
    world.client.delete(`${path}/${id}`, operator()),
    world.client.post(`${path}/${id}/secret`, {}, operator()),
    world.client.get(`${path}/${id}/deliveries`, operator()),
    world.client.post(`${path}/${id}/replay`, {}, operator()),
    world.client.post(`${path}/${id}/deliveries/${unknownId}/replay`, undefined, operator()),
  ]) {
    expect(outcomeOf(await answer)).toBe('404 webhook.not_found')
  }
})

test('a URL that the sender would not connect to is refused with a problem at /url', async () => {
  for (const url of [
    'http://hooks.example.com/',
    'https://hooks.example.com:6379/',
    'https://user:word@hooks.example.com/',
    'https://hooks.example.com/#x',
    'https://127.0.0.1/',
    'https://2130706433/',
    'https://[::ffff:10.0.0.1]/',
    'https://169.254.169.254/latest/meta-data',
    'javascript:alert(1)',
    'not a url',
    `https://hooks.example.com/${'é'.repeat(400)}`,
  ]) {
    const { status, body } = await create({ ...input, url })
    expect([url, status, body.errors?.[0]?.pointer]).toEqual([url, 422, '/url'])
  }
  const { id } = (await create()).body
  const changed = await world.client.patch(`${path}/${id}`, { url: 'https://10.0.0.1/' }, operator())
  expect(outcomeOf(changed)).toBe('422 request.invalid')
})

test('only operators may name a host of WEBHOOK_INTERNAL_HOSTS, and only at its port', async () => {
  const url = world.receiver.url('/in')
  expect((await create({ ...input, url })).status).toBe(201)
  expect(outcomeOf(await createInTeam({ ...teamInput, url }))).toBe('422 request.invalid')
  expect(outcomeOf(await create({ ...input, url: 'http://127.0.0.1:1/in' }))).toBe('422 request.invalid')
})

test('a team may not register for events of accounts, nor anyone for events that do not exist', async () => {
  for (const events of [['user.created'], ['session.ended'], ['team.member_added', 'user.closed'], [], ['*'], 'all']) {
    expect([events, outcomeOf(await createInTeam({ ...teamInput, events }))]).toEqual([events, '422 request.invalid'])
  }
  for (const events of [['user.deleted'], [], ['user.created', 'user.created']]) {
    expect([events, outcomeOf(await create({ ...input, events }))]).toEqual([events, '422 request.invalid'])
  }
})

test('operators have at most 20 webhooks and a team 5, also when they are added at once', async () => {
  const count = (answers: { status: number }[]) => answers.filter(({ status }) => status === 201).length
  const ofOperators = await Promise.all(Array.from({ length: 24 }, () => create()))
  expect(count(ofOperators)).toBe(20)
  const refused = ofOperators.find(({ status }) => status !== 201)
  expect([refused?.body.code, refused?.body.limit]).toEqual(['webhook.too_many', 20])
  const ofTeam = await Promise.all(Array.from({ length: 9 }, () => createInTeam()))
  expect(count(ofTeam)).toBe(5)
  expect(ofTeam.find(({ status }) => status !== 201)?.body.limit).toBe(5)
})

test('webhooks of a team, of another team and of the operators do not exist for each other', async () => {
  const other = (await world.client.post('/api/v1/teams', { name: 'Another' }, owner)).body.id
  const ofTeam = (await createInTeam()).body.id
  const ofOperators = (await create()).body.id
  for (const answer of [
    world.client.get(`/api/v1/teams/${other}/webhooks/${ofTeam}`, owner),
    world.client.patch(`/api/v1/teams/${other}/webhooks/${ofTeam}`, { enabled: false }, owner),
    world.client.delete(`/api/v1/teams/${other}/webhooks/${ofTeam}`, owner),
    world.client.post(`/api/v1/teams/${other}/webhooks/${ofTeam}/secret`, {}, owner),
    world.client.get(`/api/v1/teams/${other}/webhooks/${ofTeam}/deliveries`, owner),
    world.client.get(inTeam(`/${ofOperators}`), owner),
    world.client.delete(inTeam(`/${ofOperators}`), owner),
    world.client.get(`${path}/${ofTeam}`, operator()),
    world.client.delete(`${path}/${ofTeam}`, operator()),
  ]) {
    expect(outcomeOf(await answer)).toBe('404 webhook.not_found')
  }
  expect((await world.client.get(inTeam(), owner)).body.items).toHaveLength(1)
  expect((await world.client.get(`/api/v1/teams/${other}/webhooks`, owner)).body.items).toEqual([])
})

test('a webhook of a team whose responsible admin lost the right is suspended until another admin sets its URL', async () => {
  const admin = await register(world.client)
  await world.sql`insert into team_members (team_id, user_id, role) values (${team}, ${admin.id}, 'admin')`
  const { id } = (await createInTeam(teamInput, admin)).body
  const statusOf = async () => (await world.client.get(inTeam(`/${id}`), owner)).body.status
  expect(await statusOf()).toBe('active')
  for (const role of ['editor', 'admin'] as const) {
    await world.client.patch(`/api/v1/teams/${team}/members/${admin.id}`, { role }, owner)
    expect(await statusOf()).toBe(role === 'admin' ? 'active' : 'suspended')
  }
  await world.client.delete(`/api/v1/teams/${team}/members/${admin.id}`, owner)
  await world.client.patch(inTeam(`/${id}`), { description: 'Renamed' }, owner)
  expect(await statusOf()).toBe('suspended')
  const taken = await world.client.patch(inTeam(`/${id}`), { url: teamInput.url }, owner)
  expect(taken.body).toMatchObject({ status: 'active', responsible_id: owner.id })
})

test('a webhook whose operator was demoted or suspended is suspended until another operator sets its URL', async () => {
  const second = await register(world.client)
  await world.sql`update users set role = 'admin' where id = ${second.id}`
  await world.app.caughtUp()
  const { id } = (await world.client.post(path, input, second)).body
  const statusOf = async () => (await world.client.get(`${path}/${id}`, operator())).body.status
  const change = (changes: object) => world.client.patch(`/api/v1/users/${second.id}`, changes, operator())
  for (const [changes, status] of [
    [{ role: 'user' }, 'suspended'],
    [{ role: 'admin' }, 'active'],
    [{ status: 'suspended' }, 'suspended'],
  ] as const) {
    expect((await change(changes)).status).toBe(200)
    expect(await statusOf()).toBe(status)
  }
  await world.client.patch(`${path}/${id}`, { events: ['user.closed'] }, operator())
  expect(await statusOf()).toBe('suspended')
  await world.client.patch(`${path}/${id}`, { url: input.url }, operator())
  expect(await statusOf()).toBe('active')
})

test('a rotated secret is new, and the previous one is named until its overlap has passed', async () => {
  const { id, secret } = (await create()).body
  const rotate = (body: object) => world.client.post(`${path}/${id}/secret`, body, operator())
  const rotated = await rotate({ overlap_hours: 1 })
  expect(rotated.status).toBe(200)
  expect(rotated.body.secret).not.toBe(secret)
  expect(Date.parse(rotated.body.previous_secret_expires_at) - world.clock.now()).toBe(3_600_000)
  expect((await rotate({ overlap_hours: 0 })).body.previous_secret_expires_at).toBeNull()
  for (const overlap_hours of [-1, 169, 1.5]) expect((await rotate({ overlap_hours })).status).toBe(422)
})
