import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { randomBytes, randomUUID } from 'node:crypto'
import { teamRoles } from '../../src/access/policy/matrix.ts'
import type { Answer, Person } from '../harness.ts'
import { outcomeOf, roleOf, startTeamFixture, type TeamFixture, type TeamPeople, unknownId } from '../teams/fixture.ts'

const path = '/api/v1/teams'

let fixture: TeamFixture
let people: TeamPeople

beforeAll(async () => {
  fixture = await startTeamFixture()
  people = await fixture.people()
})
afterAll(() => fixture.close())

const as = ({ token }: Person) => ({ token })
const newAddress = () => `guest-${randomBytes(6).toString('hex')}@example.com`

/** A call about a team, by a caller; `invitations` are pending invitations to two roles. */
type Operation = (caller: Person, teamId: string, invitations: { editor: string; admin: string }) => Promise<Answer>

const patchMember =
  (name: keyof TeamPeople, role: string): Operation =>
  (caller, id) =>
    fixture.client.patch(`${path}/${id}/members/${people[name].id}`, { role }, as(caller))
const removeMember =
  (name: keyof TeamPeople): Operation =>
  (caller, id) =>
    fixture.client.delete(`${path}/${id}/members/${people[name].id}`, as(caller))
const invite =
  (role: string): Operation =>
  (caller, id) =>
    fixture.client.post(`${path}/${id}/invitations`, { email: newAddress(), role }, as(caller))

const operations: Record<string, Operation> = {
  'read the team': (caller, id) => fixture.client.get(`${path}/${id}`, as(caller)),
  'list the members': (caller, id) => fixture.client.get(`${path}/${id}/members`, as(caller)),
  'read the statistics': (caller, id) => fixture.client.get(`${path}/${id}/statistics`, as(caller)),
  'rename the team': (caller, id) => fixture.client.patch(`${path}/${id}`, { name: 'New' }, as(caller)),
  'change max_members': (caller, id) => fixture.client.patch(`${path}/${id}`, { max_members: 8 }, as(caller)),
  'delete the team': (caller, id) => fixture.client.delete(`${path}/${id}`, as(caller)),
  'make a viewer a contributor': patchMember('other_viewer', 'contributor'),
  'make an editor a viewer': patchMember('other_editor', 'viewer'),
  'make an editor an admin': patchMember('other_editor', 'admin'),
  'make an admin an editor': patchMember('other_admin', 'editor'),
  'make the owner a viewer': patchMember('owner', 'viewer'),
  'remove a viewer': removeMember('other_viewer'),
  'remove an editor': removeMember('other_editor'),
  'remove an admin': removeMember('other_admin'),
  'remove the owner': removeMember('owner'),
  'change the role of a user who is not a member': patchMember('stranger', 'viewer'),
  'remove a user who is not a member': removeMember('stranger'),
  'leave the team': (caller, id) => fixture.client.post(`${path}/${id}/leave`, undefined, as(caller)),
  'transfer the team to a viewer': (caller, id) =>
    fixture.client.post(`${path}/${id}/transfer`, { user_id: people.other_viewer.id }, as(caller)),
  'transfer the team to a user who is not a member': (caller, id) =>
    fixture.client.post(`${path}/${id}/transfer`, { user_id: people.stranger.id }, as(caller)),
  'list the invitations': (caller, id) => fixture.client.get(`${path}/${id}/invitations`, as(caller)),
  'invite a viewer': invite('viewer'),
  'invite an editor': invite('editor'),
  'invite an admin': invite('admin'),
  'cancel the invitation of an editor': (caller, id, { editor }) =>
    fixture.client.delete(`${path}/${id}/invitations/${editor}`, as(caller)),
  'cancel the invitation of an admin': (caller, id, { admin }) =>
    fixture.client.delete(`${path}/${id}/invitations/${admin}`, as(caller)),
}

const roleTooLow = '403 team.role_too_low'
const notFound = '404 team.not_found'
const memberNotFound = '404 team.member_not_found'

/** Outcomes for owner, admin, editor, contributor and viewer. A stranger always gets 404 team.not_found. */
const matrix: Record<keyof typeof operations, [string, string, string, string, string]> = {
  'read the team': ['200', '200', '200', '200', '200'],
  'list the members': ['200', '200', '200', '200', '200'],
  'read the statistics': ['200', '200', '200', '200', '200'],
  'rename the team': ['200', '200', roleTooLow, roleTooLow, roleTooLow],
  'change max_members': ['200', '200', roleTooLow, roleTooLow, roleTooLow],
  'delete the team': ['204', roleTooLow, roleTooLow, roleTooLow, roleTooLow],
  'make a viewer a contributor': ['200', '200', roleTooLow, roleTooLow, roleTooLow],
  'make an editor a viewer': ['200', '200', roleTooLow, roleTooLow, roleTooLow],
  'make an editor an admin': ['200', roleTooLow, roleTooLow, roleTooLow, roleTooLow],
  'make an admin an editor': ['200', roleTooLow, roleTooLow, roleTooLow, roleTooLow],
  'make the owner a viewer': [roleTooLow, roleTooLow, roleTooLow, roleTooLow, roleTooLow],
  'remove a viewer': ['204', '204', roleTooLow, roleTooLow, roleTooLow],
  'remove an editor': ['204', '204', roleTooLow, roleTooLow, roleTooLow],
  'remove an admin': ['204', roleTooLow, roleTooLow, roleTooLow, roleTooLow],
  'remove the owner': [roleTooLow, roleTooLow, roleTooLow, roleTooLow, roleTooLow],
  'change the role of a user who is not a member': [memberNotFound, memberNotFound, roleTooLow, roleTooLow, roleTooLow],
  'remove a user who is not a member': [memberNotFound, memberNotFound, roleTooLow, roleTooLow, roleTooLow],
  'leave the team': ['409 team.owner_cannot_leave', '204', '204', '204', '204'],
  'transfer the team to a viewer': ['200', roleTooLow, roleTooLow, roleTooLow, roleTooLow],
  'transfer the team to a user who is not a member': [memberNotFound, roleTooLow, roleTooLow, roleTooLow, roleTooLow],
  'list the invitations': ['200', '200', roleTooLow, roleTooLow, roleTooLow],
  'invite a viewer': ['201', '201', roleTooLow, roleTooLow, roleTooLow],
  'invite an editor': ['201', '201', roleTooLow, roleTooLow, roleTooLow],
  'invite an admin': ['201', roleTooLow, roleTooLow, roleTooLow, roleTooLow],
  'cancel the invitation of an editor': ['204', '204', roleTooLow, roleTooLow, roleTooLow],
  'cancel the invitation of an admin': ['204', roleTooLow, roleTooLow, roleTooLow, roleTooLow],
}

const prepare = async () => {
  const id = await fixture.createTeamOf(people)
  const [editor, admin] = [
    await fixture.invite(people.owner, id, newAddress(), 'editor'),
    await fixture.invite(people.owner, id, newAddress(), 'admin'),
  ]
  return { id, invitations: { editor: editor.id, admin: admin.id } }
}

describe('the role of the caller decides whether it may', () => {
  for (const [name, operation] of Object.entries(operations)) {
    test(name, async () => {
      const expected = [...(matrix[name] ?? []), notFound]
      const outcomes: string[] = []
      for (const caller of [...teamRoles, 'stranger'] as const) {
        const { id, invitations } = await prepare()
        const before = await fixture.storedTeam(id)
        const answer = await operation(people[caller], id, invitations)
        outcomes.push(outcomeOf(answer))
        // A refused call changes nothing.
        if (answer.status >= 400) expect(await fixture.storedTeam(id)).toEqual(before)
      }
      expect(outcomes).toEqual(expected)
    })
  }

  test('never change its own role or remove itself', async () => {
    const { id } = await prepare()
    for (const role of teamRoles) {
      const self = `${path}/${id}/members/${people[role].id}`
      expect(outcomeOf(await fixture.client.patch(self, { role: 'viewer' }, as(people[role])))).toBe(roleTooLow)
      expect(outcomeOf(await fixture.client.delete(self, as(people[role])))).toBe(roleTooLow)
    }
  })
})

describe('a team is hidden from a user who is not a member:', () => {
  const traceparent = '00-0123456789abcdef0123456789abcdef-0123456789abcdef-01'

  const ask = async (method: string, target: string, body: object | undefined, { token }: Person) => {
    const response = await fetch(fixture.baseUrl + target, {
      method,
      headers: {
        authorization: `Bearer ${token}`,
        traceparent,
        ...(body !== undefined && { 'content-type': 'application/json' }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
    const headers = [...response.headers].filter(([header]) => header !== 'date')
    return { status: response.status, headers, body: await response.text() }
  }

  const routes: [method: string, rest: (invitationId: string) => string, body?: () => object][] = [
    ['GET', () => ''],
    ['HEAD', () => ''],
    ['PATCH', () => '', () => ({ name: 'Mine' })],
    ['PATCH', () => '', () => ({ max_members: 1 })],
    ['DELETE', () => ''],
    ['GET', () => '/members'],
    ['GET', () => '/members?limit=1&cursor=MDAwMDAwMDAtMDAwMC03MDAwLTgwMDAtMDAwMDAwMDAwMDAw'],
    ['PATCH', () => `/members/${people.owner.id}`, () => ({ role: 'viewer' })],
    ['PATCH', () => `/members/${people.stranger.id}`, () => ({ role: 'viewer' })],
    ['DELETE', () => `/members/${people.viewer.id}`],
    ['DELETE', () => `/members/${people.stranger.id}`],
    ['POST', () => '/leave'],
    ['POST', () => '/transfer', () => ({ user_id: people.viewer.id })],
    ['POST', () => '/transfer', () => ({ user_id: people.stranger.id })],
    ['GET', () => '/statistics'],
    ['POST', () => '/invitations', () => ({ email: people.viewer.email, role: 'viewer' })],
    ['POST', () => '/invitations', () => ({ email: people.stranger.email, role: 'viewer' })],
    ['GET', () => '/invitations'],
    ['GET', () => '/invitations?status=pending'],
    ['DELETE', (invitationId) => `/invitations/${invitationId}`],
    // Invalid bodies get the same answer, too.
    ['PATCH', () => '', () => ({})],
    ['POST', () => '/invitations', () => ({ email: 'no-address', role: 'viewer' })],
  ]

  test('every route answers a stranger and a former member byte for byte as for an unknown or deleted team', async () => {
    const { id, invitations } = await prepare()
    const left = await fixture.person()
    await fixture.services.database.admin`
      insert into team_members (team_id, user_id, role) values (${id}, ${left.id}, 'admin')`
    expect(outcomeOf(await fixture.client.post(`${path}/${id}/leave`, undefined, as(left)))).toBe('204')
    const all = async (teamId: string, caller: Person) => {
      const answers = []
      for (const [method, rest, body] of routes) {
        answers.push(await ask(method, `${path}/${teamId}${rest(invitations.editor)}`, body?.(), caller))
      }
      return answers
    }
    const before = await fixture.storedTeam(id)
    const hidden = [await all(id, people.stranger), await all(id, left)]
    expect(await fixture.storedTeam(id)).toEqual(before)
    expect(outcomeOf(await fixture.client.delete(`${path}/${id}`, as(people.owner)))).toBe('204')
    // The same id, so that the whole answer can be compared.
    expect(hidden).toEqual([await all(id, people.stranger), await all(id, left)])
    const unknownTeam = randomUUID()
    const unknown = await all(unknownTeam, people.stranger)
    expect(hidden[0]).toEqual(unknown.map((answer) => ({ ...answer, body: answer.body.replaceAll(unknownTeam, id) })))
    expect(hidden.flat().every(({ status }) => status === 404 || status === 422)).toBe(true)
    expect(hidden[0]?.filter(({ status }) => status === 404)).toHaveLength(routes.length - 2)
  })

  test('the list of its teams does not contain it', async () => {
    const { id } = await prepare()
    const { body } = await fixture.client.get(path, as(people.stranger))
    expect(JSON.stringify(body)).not.toContain(id)
  })

  test('its call does not wait for a concurrent change of the team', async () => {
    const { id } = await prepare()
    const waited = fixture.changeWhileWaiting(
      id,
      () => fixture.client.delete(`${path}/${id}`, as(people.stranger)),
      async () => {},
    )
    await expect(waited).rejects.toThrow('The call did not wait, and answered 404 team.not_found')
  })

  test('a member gets the same answer for a user who is not a member and for an unknown user id', async () => {
    const { id } = await prepare()
    for (const [method, body] of [['PATCH', { role: 'viewer' }], ['DELETE']] as const) {
      const real = await ask(method, `${path}/${id}/members/${people.stranger.id}`, body, people.owner)
      const imagined = await ask(method, `${path}/${id}/members/${unknownId}`, body, people.owner)
      expect({ ...real, body: real.body.replaceAll(people.stranger.id, unknownId) }).toEqual(imagined)
    }
  })
})

describe('a team', () => {
  test('is owned by its creator and has max_members 50 by default', async () => {
    const { status, body } = await fixture.client.post(path, { name: ' Löwen \u{1f981}' }, as(people.owner))
    expect(status).toBe(201)
    expect(body).toMatchObject({
      name: ' Löwen \u{1f981}',
      description: '',
      max_members: 50,
      owner_id: people.owner.id,
      role: 'owner',
    })
    expect(body.id[14]).toBe('7')
    expect((await fixture.client.get(`${path}/${body.id}`, as(people.owner))).body).toEqual(body)
    const given = { name: 'N', description: 'D', max_members: 1 }
    expect((await fixture.client.post(path, given, as(people.owner))).body).toMatchObject(given)
  })

  test('shows each member that member’s own role', async () => {
    const id = await fixture.createTeamOf(people)
    for (const [name, role] of Object.entries(roleOf)) {
      const { body } = await fixture.client.get(`${path}/${id}`, as(people[name as keyof TeamPeople]))
      expect([name, body.role, body.owner_id]).toEqual([name, role, people.owner.id])
    }
  })

  test('keeps the members of the body that an update does not send', async () => {
    const { body: created } = await fixture.client.post(path, { name: 'A', description: 'B' }, as(people.owner))
    const change = (input: object) => fixture.client.patch(`${path}/${created.id}`, input, as(people.owner))
    const named = await change({ name: 'C' })
    expect(named.body).toEqual({ ...created, name: 'C', updated_at: named.body.updated_at })
    expect(Date.parse(named.body.updated_at)).toBeGreaterThanOrEqual(Date.parse(created.updated_at))
    expect((await change({ description: '', max_members: 3 })).body).toMatchObject({
      name: 'C',
      description: '',
      max_members: 3,
    })
    expect(outcomeOf(await change({}))).toBe('422 request.invalid')
  })

  test('never gets a max_members below its number of members', async () => {
    const id = await fixture.createTeamOf(people)
    const setMaxMembers = (max_members: number) =>
      fixture.client.patch(`${path}/${id}`, { max_members }, as(people.admin))
    expect(outcomeOf(await setMaxMembers(7))).toBe('409 team.max_members_too_low')
    expect(outcomeOf(await setMaxMembers(8))).toBe('200')
    for (const wrong of [0, 10_001, 7.5, -1]) expect(outcomeOf(await setMaxMembers(wrong))).toBe('422 request.invalid')
  })

  test('is in the list of each of its members, newest first, and the pages together are the whole list', async () => {
    const [ann, ben] = [await fixture.person(), await fixture.person()]
    const ids: string[] = []
    for (let index = 0; index < 7; index += 1) {
      ids.unshift(await (index % 2 ? fixture.createTeam(ann) : fixture.createTeam(ben, [[ann, 'viewer']])))
    }
    for (const limit of [1, 2, 3, 7, 100]) {
      expect(await walk(path, limit, ann, ({ id, role }) => [id, role])).toEqual(
        ids.map((id, index) => [id, index % 2 ? 'owner' : 'viewer']),
      )
    }
    expect(await walk(path, 100, ben, ({ id }) => id)).toEqual(ids.filter((_, index) => index % 2 === 0))
  })

  test('shows its members to its members, and the pages together are all of them', async () => {
    const id = await fixture.createTeamOf(people)
    const expected = Object.entries(roleOf)
      .map(([name, role]) => ({ user_id: people[name as keyof TeamPeople].id, display_name: name, role }))
      .sort((one, other) => (one.user_id < other.user_id ? 1 : -1))
    for (const limit of [1, 3, 8, 100]) {
      const listed = await walk(`${path}/${id}/members`, limit, people.viewer, ({ joined_at: _, ...member }) => member)
      expect(listed).toEqual(expected)
    }
    const { body } = await fixture.client.get(`${path}/${id}/members`, as(people.viewer))
    expect(JSON.stringify(body)).not.toContain('@')
  })

  test('has statistics: members, granted projects that are not private, their generations, pending invitations', async () => {
    const id = await fixture.createTeamOf(people)
    const numbers = async () => (await fixture.client.get(`${path}/${id}/statistics`, as(people.viewer))).body
    expect(await numbers()).toEqual({
      members: { total: 8, by_role: { owner: 1, admin: 2, editor: 2, contributor: 1, viewer: 2 } },
      projects: { total: 0, by_access_level: { read: 0, write: 0, admin: 0 } },
      generations: 0,
      pending_invitations: 0,
    })
    const generate = async (project_id: string) => {
      const input = { project_id, model: 'local/procedural', prompt: 'p' }
      expect(outcomeOf(await fixture.client.post('/api/v1/generations', input, as(people.stranger)))).toBe('201')
    }
    const visible = [
      await fixture.shareProject(people.stranger, id, 'read'),
      await fixture.shareProject(people.stranger, id, 'write', 'public'),
      await fixture.shareProject(people.stranger, id, 'write'),
    ]
    const privateProject = await fixture.shareProject(people.stranger, id, 'admin', 'private')
    for (const project of [...visible, visible[0] as string, privateProject]) await generate(project)
    const addresses = [newAddress(), newAddress(), newAddress()]
    const [first] = [
      await fixture.invite(people.owner, id, addresses[0] as string),
      await fixture.invite(people.owner, id, addresses[1] as string),
      await fixture.invite(people.owner, id, addresses[1] as string),
    ]
    await fixture.client.delete(`${path}/${id}/invitations/${first.id}`, as(people.owner))
    expect(await numbers()).toMatchObject({
      projects: { total: 3, by_access_level: { read: 1, write: 2, admin: 0 } },
      generations: 4,
      pending_invitations: 1,
    })
  })

  test('after a transfer has the member as owner and the previous owner as admin; a transfer to oneself changes nothing', async () => {
    const id = await fixture.createTeamOf(people)
    const transferTo = (caller: Person, to: Person) =>
      fixture.client.post(`${path}/${id}/transfer`, { user_id: to.id }, as(caller))
    const before = await fixture.storedTeam(id)
    expect((await transferTo(people.owner, people.owner)).body).toMatchObject({
      role: 'owner',
      owner_id: people.owner.id,
    })
    expect(await fixture.storedTeam(id)).toEqual(before)
    expect((await transferTo(people.owner, people.viewer)).body).toMatchObject({
      role: 'admin',
      owner_id: people.viewer.id,
    })
    const { owner, admin } = await fixture.membersByRole(id)
    expect(owner).toEqual([people.viewer.id])
    expect(admin).toContain(people.owner.id)
    expect(outcomeOf(await transferTo(people.owner, people.owner))).toBe(roleTooLow)
    expect(outcomeOf(await fixture.client.delete(`${path}/${id}`, as(people.owner)))).toBe(roleTooLow)
    expect(outcomeOf(await fixture.client.post(`${path}/${id}/leave`, undefined, as(people.owner)))).toBe('204')
    expect(outcomeOf(await fixture.client.delete(`${path}/${id}`, as(people.viewer)))).toBe('204')
  })

  test('is deleted together with its members, invitations and grants', async () => {
    const { id } = await prepare()
    await fixture.shareProject(people.stranger, id)
    expect(outcomeOf(await fixture.client.delete(`${path}/${id}`, as(people.owner)))).toBe('204')
    expect(await fixture.storedTeam(id)).toEqual({ teams: null, members: null, invitations: null, grants: null })
    expect(outcomeOf(await fixture.client.delete(`${path}/${id}`, as(people.owner)))).toBe(notFound)
  })
})

// biome-ignore lint/suspicious/noExplicitAny: items of every shape
const walk = async (target: string, limit: number, caller: Person, pick: (item: any) => unknown) => {
  const seen: unknown[] = []
  for (let cursor: string | null = ''; cursor !== null; ) {
    const { status, body } = await fixture.client.get(
      `${target}?limit=${limit}${cursor && `&cursor=${cursor}`}`,
      as(caller),
    )
    expect(status).toBe(200)
    expect(body.items.length).toBeLessThanOrEqual(limit)
    seen.push(...body.items.map(pick))
    cursor = body.next_cursor
  }
  return seen
}

describe('an invalid request is refused:', () => {
  const invalid = '422 request.invalid'
  const foreign = {
    id: unknownId,
    team_id: unknownId,
    owner_id: unknownId,
    user_id: unknownId,
    role: 'owner',
    created_at: '2020-01-01T00:00:00Z',
    updated_at: '2020-01-01T00:00:00Z',
    invited_by: unknownId,
    secret: 'a'.repeat(43),
    secret_hash: 'a',
    status: 'accepted',
    expires_at: '2099-01-01T00:00:00Z',
    plan: 'enterprise',
    // Computed, so that it is a field and not the prototype.
    ['__proto__']: { role: 'owner' },
    constructor: {},
  }
  const bodies: Record<string, [method: 'post' | 'patch', target: (id: string) => string, good: () => object]> = {
    create: ['post', () => '', () => ({ name: 'N' })],
    update: ['patch', (id) => `/${id}`, () => ({ name: 'N' })],
    'change a role': ['patch', (id) => `/${id}/members/${people.viewer.id}`, () => ({ role: 'editor' })],
    transfer: ['post', (id) => `/${id}/transfer`, () => ({ user_id: people.viewer.id })],
    invite: ['post', (id) => `/${id}/invitations`, () => ({ email: newAddress(), role: 'viewer' })],
    accept: ['post', () => '/invitations/accept', () => ({ secret: 'a'.repeat(43) })],
    decline: ['post', () => '/invitations/decline', () => ({ secret: 'a'.repeat(43) })],
  }

  for (const [name, [method, target, good]] of Object.entries(bodies)) {
    test(`${name}: a field that the server sets gets 422 and changes nothing`, async () => {
      const { id } = await prepare()
      const before = await fixture.storedTeam(id)
      for (const [field, value] of Object.entries(foreign)) {
        if (field in good()) continue
        const body = { ...good(), [field]: value }
        expect([field, outcomeOf(await fixture.client[method](path + target(id), body, as(people.owner)))]).toEqual([
          field,
          invalid,
        ])
      }
      expect(await fixture.storedTeam(id)).toEqual(before)
    })
  }

  test('owner and unknown roles cannot be assigned', async () => {
    const { id } = await prepare()
    for (const role of ['owner', 'Admin', 'admin ', '', 'root', null, 1, ['viewer'], { role: 'viewer' }]) {
      const member = `${path}/${id}/members/${people.viewer.id}`
      expect(outcomeOf(await fixture.client.patch(member, { role }, as(people.owner)))).toBe(invalid)
      const invitation = { email: newAddress(), role }
      expect(outcomeOf(await fixture.client.post(`${path}/${id}/invitations`, invitation, as(people.owner)))).toBe(
        invalid,
      )
    }
  })

  test('an id in another spelling than lower case with hyphens gets 422', async () => {
    const { id } = await prepare()
    const spellings = [id.toUpperCase(), `${id} `, ` ${id}`, id.replaceAll('-', ''), `{${id}}`, id.replace('-', '‐')]
    for (const spelling of spellings) {
      const target = `${path}/${encodeURIComponent(spelling)}`
      expect(outcomeOf(await fixture.client.get(target, as(people.owner)))).toBe(invalid)
      expect(outcomeOf(await fixture.client.delete(target, as(people.owner)))).toBe(invalid)
      const body = { user_id: spelling }
      expect(outcomeOf(await fixture.client.post(`${path}/${id}/transfer`, body, as(people.owner)))).toBe(invalid)
    }
  })

  test('without a token, or with an invalid one, every route answers 401', async () => {
    const { id, invitations } = await prepare()
    const invalidToken = { token: 'x.y.z' }
    const calls = [
      (sending: object) => fixture.client.post(path, { name: 'N' }, sending),
      (sending: object) => fixture.client.get(path, sending),
      (sending: object) => fixture.client.get(`${path}/${id}`, sending),
      (sending: object) => fixture.client.patch(`${path}/${id}`, { name: 'N' }, sending),
      (sending: object) => fixture.client.delete(`${path}/${id}`, sending),
      (sending: object) => fixture.client.get(`${path}/${id}/members`, sending),
      (sending: object) => fixture.client.get(`${path}/${id}/statistics`, sending),
      (sending: object) => fixture.client.get(`${path}/${id}/invitations`, sending),
      (sending: object) => fixture.client.delete(`${path}/${id}/invitations/${invitations.editor}`, sending),
      (sending: object) => fixture.client.post(`${path}/${id}/leave`, undefined, sending),
      (sending: object) => fixture.client.post(`${path}/invitations/accept`, { secret: 'a'.repeat(43) }, sending),
    ]
    for (const call of calls) {
      expect(outcomeOf(await call({}))).toBe('401 identity.not_signed_in')
      expect(outcomeOf(await call(invalidToken))).toBe('401 identity.not_signed_in')
    }
  })
})
