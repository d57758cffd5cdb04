import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { randomBytes, randomUUID } from 'node:crypto'
import { teamRoles } from '../../src/access/policy/matrix.ts'
import type { Answer, Person } from '../harness.ts'
import { type Cast, openStage, roleOf, type Stage, told, unknownId } from '../teams/fixture.ts'

const path = '/api/v1/teams'

let stage: Stage
let cast: Cast

beforeAll(async () => {
  stage = await openStage()
  cast = await stage.cast()
})
afterAll(() => stage.close())

const as = ({ token }: Person) => ({ token })
const newAddress = () => `guest-${randomBytes(6).toString('hex')}@example.com`

/** What is done to a team: by whom, and with an invitation of each kind at hand. */
type Deed = (who: Person, teamId: string, invitations: { editor: string; admin: string }) => Promise<Answer>

const patchMember =
  (name: keyof Cast, role: string): Deed =>
  (who, id) =>
    stage.client.patch(`${path}/${id}/members/${cast[name].id}`, { role }, as(who))
const removeMember =
  (name: keyof Cast): Deed =>
  (who, id) =>
    stage.client.delete(`${path}/${id}/members/${cast[name].id}`, as(who))
const invite =
  (role: string): Deed =>
  (who, id) =>
    stage.client.post(`${path}/${id}/invitations`, { email: newAddress(), role }, as(who))

const deeds: Record<string, Deed> = {
  'see it': (who, id) => stage.client.get(`${path}/${id}`, as(who)),
  'see its members': (who, id) => stage.client.get(`${path}/${id}/members`, as(who)),
  'see its statistics': (who, id) => stage.client.get(`${path}/${id}/statistics`, as(who)),
  'rename it': (who, id) => stage.client.patch(`${path}/${id}`, { name: 'New' }, as(who)),
  'change its bound': (who, id) => stage.client.patch(`${path}/${id}`, { max_members: 8 }, as(who)),
  'delete it': (who, id) => stage.client.delete(`${path}/${id}`, as(who)),
  'make a viewer a contributor': patchMember('other_viewer', 'contributor'),
  'make an editor a viewer': patchMember('other_editor', 'viewer'),
  'make an editor an admin': patchMember('other_editor', 'admin'),
  'make an admin an editor': patchMember('other_admin', 'editor'),
  'make the owner a viewer': patchMember('owner', 'viewer'),
  'remove a viewer': removeMember('other_viewer'),
  'remove an editor': removeMember('other_editor'),
  'remove an admin': removeMember('other_admin'),
  'remove the owner': removeMember('owner'),
  'change somebody who is not in it': patchMember('stranger', 'viewer'),
  'remove somebody who is not in it': removeMember('stranger'),
  'leave it': (who, id) => stage.client.post(`${path}/${id}/leave`, undefined, as(who)),
  'hand it over': (who, id) => stage.client.post(`${path}/${id}/transfer`, { user_id: cast.other_viewer.id }, as(who)),
  'hand it to somebody who is not in it': (who, id) =>
    stage.client.post(`${path}/${id}/transfer`, { user_id: cast.stranger.id }, as(who)),
  'see its invitations': (who, id) => stage.client.get(`${path}/${id}/invitations`, as(who)),
  'invite a viewer': invite('viewer'),
  'invite an editor': invite('editor'),
  'invite an admin': invite('admin'),
  'cancel the invitation of an editor': (who, id, { editor }) =>
    stage.client.delete(`${path}/${id}/invitations/${editor}`, as(who)),
  'cancel the invitation of an admin': (who, id, { admin }) =>
    stage.client.delete(`${path}/${id}/invitations/${admin}`, as(who)),
}

const low = '403 team.role_too_low'
const stranger = '404 team.not_found'
const noMember = '404 team.member_not_found'

/** Owner, admin, editor, contributor, viewer. A stranger is always told that there is no such team. */
const matrix: Record<keyof typeof deeds, [string, string, string, string, string]> = {
  'see it': ['200', '200', '200', '200', '200'],
  'see its members': ['200', '200', '200', '200', '200'],
  'see its statistics': ['200', '200', '200', '200', '200'],
  'rename it': ['200', '200', low, low, low],
  'change its bound': ['200', '200', low, low, low],
  'delete it': ['204', low, low, low, low],
  'make a viewer a contributor': ['200', '200', low, low, low],
  'make an editor a viewer': ['200', '200', low, low, low],
  'make an editor an admin': ['200', low, low, low, low],
  'make an admin an editor': ['200', low, low, low, low],
  'make the owner a viewer': [low, low, low, low, low],
  'remove a viewer': ['204', '204', low, low, low],
  'remove an editor': ['204', '204', low, low, low],
  'remove an admin': ['204', low, low, low, low],
  'remove the owner': [low, low, low, low, low],
  'change somebody who is not in it': [noMember, noMember, low, low, low],
  'remove somebody who is not in it': [noMember, noMember, low, low, low],
  'leave it': ['409 team.owner_cannot_leave', '204', '204', '204', '204'],
  'hand it over': ['200', low, low, low, low],
  'hand it to somebody who is not in it': [noMember, low, low, low, low],
  'see its invitations': ['200', '200', low, low, low],
  'invite a viewer': ['201', '201', low, low, low],
  'invite an editor': ['201', '201', low, low, low],
  'invite an admin': ['201', low, low, low, low],
  'cancel the invitation of an editor': ['204', '204', low, low, low],
  'cancel the invitation of an admin': ['204', low, low, low, low],
}

const prepare = async () => {
  const id = await stage.foundFor(cast)
  const [editor, admin] = [
    await stage.invite(cast.owner, id, newAddress(), 'editor'),
    await stage.invite(cast.owner, id, newAddress(), 'admin'),
  ]
  return { id, invitations: { editor: editor.id, admin: admin.id } }
}

describe('what each role may do', () => {
  for (const [name, deed] of Object.entries(deeds)) {
    test(name, async () => {
      const expected = [...(matrix[name] ?? []), stranger]
      const seen: string[] = []
      for (const who of [...teamRoles, 'stranger'] as const) {
        const { id, invitations } = await prepare()
        const before = await stage.stored(id)
        const answer = await deed(cast[who], id, invitations)
        seen.push(told(answer))
        // Who is refused has changed nothing.
        if (answer.status >= 400) expect(await stage.stored(id)).toEqual(before)
      }
      expect(seen).toEqual(expected)
    })
  }

  test('and nobody may change or remove itself but by leaving', async () => {
    const { id } = await prepare()
    for (const role of teamRoles) {
      const self = `${path}/${id}/members/${cast[role].id}`
      expect(told(await stage.client.patch(self, { role: 'viewer' }, as(cast[role])))).toBe(low)
      expect(told(await stage.client.delete(self, as(cast[role])))).toBe(low)
    }
  })
})

describe('to somebody who is not in it a team is, byte for byte, as if it were not', () => {
  const traceparent = '00-0123456789abcdef0123456789abcdef-0123456789abcdef-01'

  const ask = async (method: string, target: string, body: object | undefined, { token }: Person) => {
    const response = await fetch(stage.baseUrl + target, {
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
    ['PATCH', () => `/members/${cast.owner.id}`, () => ({ role: 'viewer' })],
    ['PATCH', () => `/members/${cast.stranger.id}`, () => ({ role: 'viewer' })],
    ['DELETE', () => `/members/${cast.viewer.id}`],
    ['DELETE', () => `/members/${cast.stranger.id}`],
    ['POST', () => '/leave'],
    ['POST', () => '/transfer', () => ({ user_id: cast.viewer.id })],
    ['POST', () => '/transfer', () => ({ user_id: cast.stranger.id })],
    ['GET', () => '/statistics'],
    ['POST', () => '/invitations', () => ({ email: cast.viewer.email, role: 'viewer' })],
    ['POST', () => '/invitations', () => ({ email: cast.stranger.email, role: 'viewer' })],
    ['GET', () => '/invitations'],
    ['GET', () => '/invitations?status=pending'],
    ['DELETE', (invitationId) => `/invitations/${invitationId}`],
    // What does not fit the route is told alike, too.
    ['PATCH', () => '', () => ({})],
    ['POST', () => '/invitations', () => ({ email: 'nobody', role: 'viewer' })],
  ]

  test('on every route, to a stranger and to one who left; and so is one that was deleted', async () => {
    const { id, invitations } = await prepare()
    const left = await stage.person()
    await stage.services.database.admin`
      insert into team_members (team_id, user_id, role) values (${id}, ${left.id}, 'admin')`
    expect(told(await stage.client.post(`${path}/${id}/leave`, undefined, as(left)))).toBe('204')
    const all = async (teamId: string, who: Person) => {
      const answers = []
      for (const [method, rest, body] of routes) {
        answers.push(await ask(method, `${path}/${teamId}${rest(invitations.editor)}`, body?.(), who))
      }
      return answers
    }
    const before = await stage.stored(id)
    const seen = [await all(id, cast.stranger), await all(id, left)]
    expect(await stage.stored(id)).toEqual(before)
    expect(told(await stage.client.delete(`${path}/${id}`, as(cast.owner)))).toBe('204')
    // The same addresses, so that not a byte needs to be left out of the comparison.
    expect(seen).toEqual([await all(id, cast.stranger), await all(id, left)])
    const imagined = randomUUID()
    const unseen = await all(imagined, cast.stranger)
    expect(seen[0]).toEqual(unseen.map((answer) => ({ ...answer, body: answer.body.replaceAll(imagined, id) })))
    expect(seen.flat().every(({ status }) => status === 404 || status === 422)).toBe(true)
    expect(seen[0]?.filter(({ status }) => status === 404)).toHaveLength(routes.length - 2)
  })

  test('and is in no list of its', async () => {
    const { id } = await prepare()
    const { body } = await stage.client.get(path, as(cast.stranger))
    expect(JSON.stringify(body)).not.toContain(id)
  })

  test('and it does not wait for those who are changing it', async () => {
    const { id } = await prepare()
    const waited = stage.overtake(
      id,
      () => stage.client.delete(`${path}/${id}`, as(cast.stranger)),
      async () => {},
    )
    await expect(waited).rejects.toThrow('It did not wait, and answered 404 team.not_found')
  })

  test('a member is told the same of a user who is not in the team and of one who never was', async () => {
    const { id } = await prepare()
    for (const [method, body] of [['PATCH', { role: 'viewer' }], ['DELETE']] as const) {
      const real = await ask(method, `${path}/${id}/members/${cast.stranger.id}`, body, cast.owner)
      const imagined = await ask(method, `${path}/${id}/members/${unknownId}`, body, cast.owner)
      expect({ ...real, body: real.body.replaceAll(cast.stranger.id, unknownId) }).toEqual(imagined)
    }
  })
})

describe('a team', () => {
  test('is its founder’s, with room for 50 unless told otherwise', async () => {
    const { status, body } = await stage.client.post(path, { name: ' Löwen \u{1f981}' }, as(cast.owner))
    expect(status).toBe(201)
    expect(body).toMatchObject({
      name: ' Löwen \u{1f981}',
      description: '',
      max_members: 50,
      owner_id: cast.owner.id,
      role: 'owner',
    })
    expect(body.id[14]).toBe('7')
    expect((await stage.client.get(`${path}/${body.id}`, as(cast.owner))).body).toEqual(body)
    const given = { name: 'N', description: 'D', max_members: 1 }
    expect((await stage.client.post(path, given, as(cast.owner))).body).toMatchObject(given)
  })

  test('is shown to each member with that member’s own role', async () => {
    const id = await stage.foundFor(cast)
    for (const [name, role] of Object.entries(roleOf)) {
      const { body } = await stage.client.get(`${path}/${id}`, as(cast[name as keyof Cast]))
      expect([name, body.role, body.owner_id]).toEqual([name, role, cast.owner.id])
    }
  })

  test('is changed in part; what is not sent stays', async () => {
    const { body: made } = await stage.client.post(path, { name: 'A', description: 'B' }, as(cast.owner))
    const change = (input: object) => stage.client.patch(`${path}/${made.id}`, input, as(cast.owner))
    const named = await change({ name: 'C' })
    expect(named.body).toEqual({ ...made, name: 'C', updated_at: named.body.updated_at })
    expect(Date.parse(named.body.updated_at)).toBeGreaterThanOrEqual(Date.parse(made.updated_at))
    expect((await change({ description: '', max_members: 3 })).body).toMatchObject({
      name: 'C',
      description: '',
      max_members: 3,
    })
    expect(told(await change({}))).toBe('422 request.invalid')
  })

  test('is never bound to fewer members than it has', async () => {
    const id = await stage.foundFor(cast)
    const bound = (max_members: number) => stage.client.patch(`${path}/${id}`, { max_members }, as(cast.admin))
    expect(told(await bound(7))).toBe('409 team.max_members_too_low')
    expect(told(await bound(8))).toBe('200')
    for (const wrong of [0, 1001, 7.5, -1]) expect(told(await bound(wrong))).toBe('422 request.invalid')
  })

  test('is in the list of each of its members, newest first, and pages together are all of it', async () => {
    const [ann, ben] = [await stage.person(), await stage.person()]
    const ids: string[] = []
    for (let index = 0; index < 7; index += 1) {
      ids.unshift(await (index % 2 ? stage.found(ann) : stage.found(ben, [[ann, 'viewer']])))
    }
    for (const limit of [1, 2, 3, 7, 100]) {
      expect(await walk(path, limit, ann, ({ id, role }) => [id, role])).toEqual(
        ids.map((id, index) => [id, index % 2 ? 'owner' : 'viewer']),
      )
    }
    expect(await walk(path, 100, ben, ({ id }) => id)).toEqual(ids.filter((_, index) => index % 2 === 0))
  })

  test('shows its members to its members, and pages together are all of them', async () => {
    const id = await stage.foundFor(cast)
    const everybody = Object.entries(roleOf)
      .map(([name, role]) => ({ user_id: cast[name as keyof Cast].id, display_name: name, role }))
      .sort((one, other) => (one.user_id < other.user_id ? 1 : -1))
    for (const limit of [1, 3, 8, 100]) {
      const seen = await walk(`${path}/${id}/members`, limit, cast.viewer, ({ joined_at: _, ...member }) => member)
      expect(seen).toEqual(everybody)
    }
    const { body } = await stage.client.get(`${path}/${id}/members`, as(cast.viewer))
    expect(JSON.stringify(body)).not.toContain('@')
  })

  test('in numbers: members, projects it can reach, what is in them, invitations', async () => {
    const id = await stage.foundFor(cast)
    const numbers = async () => (await stage.client.get(`${path}/${id}/statistics`, as(cast.viewer))).body
    expect(await numbers()).toEqual({
      members: { total: 8, by_role: { owner: 1, admin: 2, editor: 2, contributor: 1, viewer: 2 } },
      projects: { total: 0, by_access_level: { read: 0, write: 0, admin: 0 } },
      generations: 0,
      pending_invitations: 0,
    })
    const generate = async (project_id: string) => {
      const input = { project_id, model: 'local/procedural', prompt: 'p' }
      expect(told(await stage.client.post('/api/v1/generations', input, as(cast.stranger)))).toBe('201')
    }
    const reached = [
      await stage.share(cast.stranger, id, 'read'),
      await stage.share(cast.stranger, id, 'write', 'public'),
      await stage.share(cast.stranger, id, 'write'),
    ]
    const asleep = await stage.share(cast.stranger, id, 'admin', 'private')
    for (const project of [...reached, reached[0] as string, asleep]) await generate(project)
    const addresses = [newAddress(), newAddress(), newAddress()]
    const [first] = [
      await stage.invite(cast.owner, id, addresses[0] as string),
      await stage.invite(cast.owner, id, addresses[1] as string),
      await stage.invite(cast.owner, id, addresses[1] as string),
    ]
    await stage.client.delete(`${path}/${id}/invitations/${first.id}`, as(cast.owner))
    expect(await numbers()).toMatchObject({
      projects: { total: 3, by_access_level: { read: 1, write: 2, admin: 0 } },
      generations: 4,
      pending_invitations: 1,
    })
  })

  test('handed over: the owner is an admin, the other the owner; to oneself: nothing changes', async () => {
    const id = await stage.foundFor(cast)
    const hand = (who: Person, to: Person) => stage.client.post(`${path}/${id}/transfer`, { user_id: to.id }, as(who))
    const before = await stage.stored(id)
    expect((await hand(cast.owner, cast.owner)).body).toMatchObject({ role: 'owner', owner_id: cast.owner.id })
    expect(await stage.stored(id)).toEqual(before)
    expect((await hand(cast.owner, cast.viewer)).body).toMatchObject({ role: 'admin', owner_id: cast.viewer.id })
    const { owner, admin } = await stage.members(id)
    expect(owner).toEqual([cast.viewer.id])
    expect(admin).toContain(cast.owner.id)
    expect(told(await hand(cast.owner, cast.owner))).toBe(low)
    expect(told(await stage.client.delete(`${path}/${id}`, as(cast.owner)))).toBe(low)
    expect(told(await stage.client.post(`${path}/${id}/leave`, undefined, as(cast.owner)))).toBe('204')
    expect(told(await stage.client.delete(`${path}/${id}`, as(cast.viewer)))).toBe('204')
  })

  test('deleted: gone with its members, invitations and grants', async () => {
    const { id } = await prepare()
    await stage.share(cast.stranger, id)
    expect(told(await stage.client.delete(`${path}/${id}`, as(cast.owner)))).toBe('204')
    expect(await stage.stored(id)).toEqual({ teams: null, members: null, invitations: null, grants: null })
    expect(told(await stage.client.delete(`${path}/${id}`, as(cast.owner)))).toBe(stranger)
  })
})

// biome-ignore lint/suspicious/noExplicitAny: items of every shape
const walk = async (target: string, limit: number, who: Person, pick: (item: any) => unknown) => {
  const seen: unknown[] = []
  for (let cursor: string | null = ''; cursor !== null; ) {
    const { status, body } = await stage.client.get(`${target}?limit=${limit}${cursor && `&cursor=${cursor}`}`, as(who))
    expect(status).toBe(200)
    expect(body.items.length).toBeLessThanOrEqual(limit)
    seen.push(...body.items.map(pick))
    cursor = body.next_cursor
  }
  return seen
}

describe('what a body may not say', () => {
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
    found: ['post', () => '', () => ({ name: 'N' })],
    change: ['patch', (id) => `/${id}`, () => ({ name: 'N' })],
    'change a role': ['patch', (id) => `/${id}/members/${cast.viewer.id}`, () => ({ role: 'editor' })],
    'hand over': ['post', (id) => `/${id}/transfer`, () => ({ user_id: cast.viewer.id })],
    invite: ['post', (id) => `/${id}/invitations`, () => ({ email: newAddress(), role: 'viewer' })],
    accept: ['post', () => '/invitations/accept', () => ({ secret: 'a'.repeat(43) })],
    decline: ['post', () => '/invitations/decline', () => ({ secret: 'a'.repeat(43) })],
  }

  for (const [name, [method, target, good]] of Object.entries(bodies)) {
    test(`${name}: a field that is not the client’s to say is refused and changes nothing`, async () => {
      const { id } = await prepare()
      const before = await stage.stored(id)
      for (const [field, value] of Object.entries(foreign)) {
        if (field in good()) continue
        const body = { ...good(), [field]: value }
        expect([field, told(await stage.client[method](path + target(id), body, as(cast.owner)))]).toEqual([
          field,
          invalid,
        ])
      }
      expect(await stage.stored(id)).toEqual(before)
    })
  }

  test('owner is no role to give, nor is anything else that is none', async () => {
    const { id } = await prepare()
    for (const role of ['owner', 'Admin', 'admin ', '', 'root', null, 1, ['viewer'], { role: 'viewer' }]) {
      const member = `${path}/${id}/members/${cast.viewer.id}`
      expect(told(await stage.client.patch(member, { role }, as(cast.owner)))).toBe(invalid)
      const invitation = { email: newAddress(), role }
      expect(told(await stage.client.post(`${path}/${id}/invitations`, invitation, as(cast.owner)))).toBe(invalid)
    }
  })

  test('an id in another spelling is no id', async () => {
    const { id } = await prepare()
    const spellings = [id.toUpperCase(), `${id} `, ` ${id}`, id.replaceAll('-', ''), `{${id}}`, id.replace('-', '‐')]
    for (const spelling of spellings) {
      const target = `${path}/${encodeURIComponent(spelling)}`
      expect(told(await stage.client.get(target, as(cast.owner)))).toBe(invalid)
      expect(told(await stage.client.delete(target, as(cast.owner)))).toBe(invalid)
      const body = { user_id: spelling }
      expect(told(await stage.client.post(`${path}/${id}/transfer`, body, as(cast.owner)))).toBe(invalid)
    }
  })

  test('without a token, and with one that is none, every route says 401', async () => {
    const { id, invitations } = await prepare()
    const nobody = { token: 'x.y.z' }
    const calls = [
      (sending: object) => stage.client.post(path, { name: 'N' }, sending),
      (sending: object) => stage.client.get(path, sending),
      (sending: object) => stage.client.get(`${path}/${id}`, sending),
      (sending: object) => stage.client.patch(`${path}/${id}`, { name: 'N' }, sending),
      (sending: object) => stage.client.delete(`${path}/${id}`, sending),
      (sending: object) => stage.client.get(`${path}/${id}/members`, sending),
      (sending: object) => stage.client.get(`${path}/${id}/statistics`, sending),
      (sending: object) => stage.client.get(`${path}/${id}/invitations`, sending),
      (sending: object) => stage.client.delete(`${path}/${id}/invitations/${invitations.editor}`, sending),
      (sending: object) => stage.client.post(`${path}/${id}/leave`, undefined, sending),
      (sending: object) => stage.client.post(`${path}/invitations/accept`, { secret: 'a'.repeat(43) }, sending),
    ]
    for (const call of calls) {
      expect(told(await call({}))).toBe('401 identity.not_signed_in')
      expect(told(await call(nobody))).toBe('401 identity.not_signed_in')
    }
  })
})
