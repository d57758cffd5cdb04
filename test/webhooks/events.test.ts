import { afterAll, afterEach, beforeAll, expect, test } from 'bun:test'
import { eventTypes } from '../../src/webhooks/model.ts'
import { type Person, register } from '../harness.ts'
import { startWebhookWorld, type WebhookWorld } from './world.ts'

let world: WebhookWorld

beforeAll(async () => {
  world = await startWebhookWorld()
})
afterAll(() => world.close())
afterEach(async () => {
  await world.sql`delete from webhooks`
  await world.sql`delete from webhook_events`
})

type Recorded = { webhook_id: string; type: string; resource: string; data: Record<string, unknown> }

/** The events that were recorded for a webhook, in order. */
const recorded = async (webhookId: string): Promise<Omit<Recorded, 'webhook_id'>[]> => [
  ...(await world.sql<Omit<Recorded, 'webhook_id'>[]>`
    select e.type, e.resource, e.data from webhook_deliveries d join webhook_events e on e.id = d.event_id
     where d.webhook_id = ${webhookId} order by e.ordinal`),
]
const ofOperators = (events: readonly string[] = eventTypes) => world.webhook(events)
const ofTeam = async (owner: Person, team: string, events: readonly string[]): Promise<string> => {
  const url = 'https://receiver.invalid/'
  const { status, body } = await world.client.post(`/api/v1/teams/${team}/webhooks`, { url, events }, owner)
  expect(status).toBe(201)
  return body.id
}
const createAt = async (path: string, body: object, by: Person) => {
  const answer = await world.client.post(`/api/v1${path}`, body, by)
  expect([path, answer.status]).toEqual([path, 201])
  return answer.body
}
const join = async (team: string, owner: Person, person: Person, role = 'viewer') => {
  const { secret } = await createAt(`/teams/${team}/invitations`, { email: person.email, role }, owner)
  expect((await world.client.post('/api/v1/teams/invitations/accept', { secret }, person)).status).toBe(200)
}
const accessChanged = (data: object, resource: string) => ({
  type: 'access.changed',
  resource,
  data: { project_id: null, team_id: null, user_ids: null, ...data },
})

test('an account that registers, signs out and is closed is recorded in this order, by ids alone', async () => {
  const { id } = await ofOperators(['user.created', 'user.closed', 'session.ended'])
  const ada = await register(world.client)
  expect((await world.client.post('/api/v1/auth/logout', undefined, ada)).status).toBe(204)
  const { email, password } = ada
  const again = await world.client.post('/api/v1/auth/login', { email, password })
  expect((await world.client.delete('/api/v1/auth/me', { token: again.body.access_token })).status).toBe(204)
  const user = { user_id: ada.id }
  const resource = `user:${ada.id}`
  const session = { ...user, session_id: expect.any(String) }
  expect(await recorded(id)).toEqual([
    { type: 'user.created', resource, data: user },
    { type: 'session.ended', resource, data: { ...session, reason: 'logout' } as never },
    { type: 'user.closed', resource, data: user },
    { type: 'session.ended', resource, data: { ...session, reason: 'account_closed' } as never },
  ])
  const rows = await world.sql`select e::text as text from webhook_events e`
  for (const { text } of rows) for (const name of [email, 'example.com']) expect(text).not.toContain(name)
})

test('a suspended and an activated account are recorded for operators as a change of access, and its sessions as ended', async () => {
  const { id } = await ofOperators(['access.changed', 'session.ended'])
  const ada = await register(world.client)
  for (const status of ['suspended', 'active']) {
    const { token } = world.operator
    expect((await world.client.patch(`/api/v1/users/${ada.id}`, { status }, { token })).status).toBe(200)
  }
  const events = await recorded(id)
  const change = accessChanged({ user_ids: [ada.id] }, `user:${ada.id}`)
  expect(events.filter(({ type }) => type === 'access.changed')).toEqual([change, change])
  expect(events.filter(({ type }) => type === 'session.ended')).toMatchObject([{ data: { reason: 'suspended' } }])
})

test('members who join, leave and are removed are recorded for operators and for their team, and for no other team', async () => {
  const [owner, ada, bob] = await Promise.all([1, 2, 3].map(() => register(world.client)))
  if (owner === undefined || ada === undefined || bob === undefined) throw new Error('The registrations failed')
  const team = (await createAt('/teams', { name: 'A team' }, owner)).id
  const other = (await createAt('/teams', { name: 'Another' }, owner)).id
  const types = ['team.member_added', 'team.member_removed']
  const [hook, own, foreign] = [
    await ofOperators(types),
    await ofTeam(owner, team, types),
    await ofTeam(owner, other, types),
  ]
  await join(team, owner, ada, 'editor')
  await join(team, owner, bob)
  expect((await world.client.post(`/api/v1/teams/${team}/leave`, undefined, ada)).status).toBe(204)
  expect((await world.client.delete(`/api/v1/teams/${team}/members/${bob.id}`, owner)).status).toBe(204)
  const member = (type: string, person: Person, role: string) => ({
    type: `team.member_${type}`,
    resource: `team:${team}`,
    data: { team_id: team, user_id: person.id, role },
  })
  const expected = [
    member('added', ada, 'editor'),
    member('added', bob, 'viewer'),
    member('removed', ada, 'editor'),
    member('removed', bob, 'viewer'),
  ]
  expect(await recorded(hook.id)).toEqual(expected)
  expect(await recorded(own)).toEqual(expected)
  expect(await recorded(foreign)).toEqual([])
  expect((await world.client.delete(`/api/v1/teams/${team}`, owner)).status).toBe(204)
  expect((await recorded(hook.id)).at(-1)).toEqual(member('removed', owner, 'owner'))
})

test('each way to change access to a project is recorded for operators by user, and for a team by the access of its members', async () => {
  const [owner, ada] = await Promise.all([1, 2].map(() => register(world.client)))
  if (owner === undefined || ada === undefined) throw new Error('The registrations failed')
  const team = (await createAt('/teams', { name: 'A team' }, owner)).id
  await join(team, owner, ada)
  const hook = await ofOperators(['access.changed'])
  const own = await ofTeam(owner, team, ['access.changed'])
  let seen = { operators: 0, team: 0 }
  /** What an action records. */
  const after = async (action: () => Promise<{ status: number }>) => {
    expect((await action()).status).toBeLessThan(300)
    const [all, ofTheTeam] = [await recorded(hook.id), await recorded(own)]
    const news = { operators: all.slice(seen.operators), team: ofTheTeam.slice(seen.team) }
    seen = { operators: all.length, team: ofTheTeam.length }
    return news
  }
  const { body: project } = await world.client.post('/api/v1/projects', { name: 'P', visibility: 'team-only' }, owner)
  const about = `project:${project.id}`
  const byUser = accessChanged({ project_id: project.id, user_ids: [ada.id] }, about)
  const byTeam = accessChanged({ project_id: project.id, team_id: team }, about)
  const everyone = accessChanged({ project_id: project.id }, about)
  const grants = `/api/v1/projects/${project.id}/teams`
  const patch = (changes: object) => world.client.patch(`/api/v1/projects/${project.id}`, changes, owner)

  expect(await recorded(hook.id)).toEqual([])
  expect(await after(() => world.client.post(grants, { team_id: team, access_level: 'read' }, owner))).toEqual({
    operators: [byUser],
    team: [byTeam],
  })
  expect(await after(() => world.client.patch(`${grants}/${team}`, { access_level: 'write' }, owner))).toMatchObject({
    team: [byTeam],
  })
  const role = (name: string) => () =>
    world.client.patch(`/api/v1/teams/${team}/members/${ada.id}`, { role: name }, owner)
  expect(await after(role('editor'))).toEqual({
    operators: [byUser],
    team: [accessChanged({ team_id: team, user_ids: [ada.id] }, `team:${team}`)],
  })
  expect(await after(() => patch({ visibility: 'public' }))).toEqual({ operators: [everyone], team: [] })
  expect(await after(() => patch({ visibility: 'private' }))).toEqual({ operators: [byUser, everyone], team: [byTeam] })
  expect(await after(() => patch({ name: 'Renamed' }))).toEqual({ operators: [], team: [] })
  expect(await after(() => world.client.delete(`${grants}/${team}`, owner))).toEqual({ operators: [], team: [] })
  await patch({ visibility: 'team-only' })
  await world.client.post(grants, { team_id: team, access_level: 'read' }, owner)
  await after(async () => ({ status: 200 }))
  expect(await after(() => world.client.delete(`/api/v1/teams/${team}/members/${ada.id}`, owner))).toEqual({
    operators: [byUser],
    team: [],
  })
  await join(team, owner, ada)
  await after(async () => ({ status: 200 }))
  expect(await after(() => world.client.delete(`/api/v1/projects/${project.id}`, owner))).toMatchObject({
    operators: [{ data: { user_ids: expect.arrayContaining([ada.id, owner.id]) } }],
    team: [byTeam],
  })
})

test('a change for more than 100 users is several events, which name each user once', async () => {
  const { id } = await ofOperators(['access.changed'])
  const owner = await register(world.client)
  const team = (await createAt('/teams', { name: 'A team', max_members: 1_000 }, owner)).id
  const { id: project } = await createAt('/projects', { name: 'P', visibility: 'team-only' }, owner)
  const users = await world.sql<{ id: string }[]>`
    insert into users (id, email, display_name, password_hash)
    select gen_random_uuid(), 'many-' || n || '@example.com', 'M', 'x' from generate_series(1, 250) n returning id`
  await world.sql`
    insert into team_members (team_id, user_id, role)
    select ${team}, id, 'viewer' from unnest(${users.map((user) => user.id)}::uuid[]) id`
  await createAt(`/projects/${project}/teams`, { team_id: team, access_level: 'read' }, owner)
  const lists = (await recorded(id)).map(({ data }) => data['user_ids'] as string[])
  expect(lists.map(({ length }) => length)).toEqual([100, 100, 50])
  expect(lists.flat().toSorted()).toEqual(users.map((user) => user.id).toSorted())
})

test('generations that end are recorded for operators, and for the teams whose members may read them', async () => {
  const owner = await register(world.client)
  const team = (await createAt('/teams', { name: 'A team' }, owner)).id
  const types = ['generation.completed', 'generation.failed']
  const [hook, own] = [await ofOperators(types), await ofTeam(owner, team, types)]
  const model = 'local/procedural'
  const { id: shared } = await createAt('/projects', { name: 'P', visibility: 'team-only' }, owner)
  const { id: hidden } = await createAt('/projects', { name: 'P' }, owner)
  for (const id of [shared, hidden])
    await createAt(`/projects/${id}/teams`, { team_id: team, access_level: 'read' }, owner)
  const order = (more: object) => createAt('/generations', { model, prompt: 'a secret lighthouse', ...more }, owner)
  const [alone, inHidden, inShared, failing] = [
    await order({}),
    await order({ project_id: hidden }),
    await order({ project_id: shared }),
    await order({ project_id: shared }),
  ]
  for (const { id } of [alone, inHidden, inShared])
    await world.sql`update generations set status = 'completed' where id = ${id}`
  await world.sql`update generations set status = 'failed', failure = 'refused' where id = ${failing.id}`
  await world.sql`update generations set status = 'failed', failure = 'refused' where id = ${failing.id}`
  const event = ({ id }: { id: string }, project: string | null, failure: string | null = null) => ({
    type: failure === null ? 'generation.completed' : 'generation.failed',
    resource: `generation:${id}`,
    data: { generation_id: id, owner_id: owner.id, project_id: project, model, failure },
  })
  const inTeam = [event(inShared, shared), event(failing, shared, 'refused')]
  expect(await recorded(hook.id)).toEqual([event(alone, null), event(inHidden, hidden), ...inTeam])
  expect(await recorded(own)).toEqual(inTeam)
})

test('a change that is rolled back leaves no event, and without a webhook that wants it no change does', async () => {
  const { id } = await ofOperators(['user.created'])
  const insert = (tx: WebhookWorld['sql']) => tx`
    insert into users (id, email, display_name, password_hash)
    values (gen_random_uuid(), ${`${crypto.randomUUID()}@example.com`}, 'R', 'x')`
  const rolledBack = world.sql.begin(async (tx) => {
    await insert(tx as never)
    throw new Error('rolled back')
  })
  expect(await rolledBack.catch(({ message }) => message)).toBe('rolled back')
  expect(await recorded(id)).toEqual([])
  await insert(world.sql)
  expect(await recorded(id)).toHaveLength(1)
  await world.client.patch(`/api/v1/webhooks/${id}`, { enabled: false }, { token: world.operator.token })
  await insert(world.sql)
  expect(await world.sql`select from webhook_events`).toHaveLength(1)
})
