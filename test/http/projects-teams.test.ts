import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import {
  type Action,
  accessLevels,
  actions,
  has,
  levelActions,
  roleActions,
  teamRoles,
} from '../../src/access/policy/matrix.ts'
import { newId } from '../../src/kit/id.ts'
import type { Person } from '../harness.ts'
import { generation, problemOf, project, startTeam, type World } from './projects-world.ts'

let world: World
let owner: Person
let admin: Person
let editor: Person
let contributor: Person
let viewer: Person
let stranger: Person
let team: string

beforeAll(async () => {
  ;({ world, owner, admin, editor, contributor, viewer, stranger, team } = await startTeam())
})
afterAll(() => world.close())

const allowedActions = async (person: Person, id: string): Promise<Action[]> => {
  const allowed: Action[] = []
  for (const action of actions) if (await world.may(person, action, project(id))) allowed.push(action)
  return allowed
}

const grant = (person: Person, id: string, teamId = team, access_level = 'read') =>
  world.as(person).post(`/projects/${id}/teams`, { team_id: teamId, access_level })

describe('granting a team access', () => {
  test('needs the role owner or admin in the team; a team of others gets the same answer as an unknown one', async () => {
    const others = await world.team([[stranger, 'owner']])
    for (const person of [editor, contributor, viewer]) {
      const id = await world.project(person)
      expect(await grant(person, id)).toMatchObject({ status: 403, body: { code: 'team.role_too_low' } })
    }
    for (const person of [owner, admin]) {
      const id = await world.project(person)
      const unknown = await grant(person, id, newId())
      expect(unknown).toMatchObject({ status: 404, body: { code: 'team.not_found' } })
      expect(problemOf(await grant(person, id, others))).toEqual(problemOf(unknown))
      expect(await grant(person, id)).toMatchObject({
        status: 201,
        body: { project_id: id, team_id: team, team_name: 'team', access_level: 'read', granted_by: person.id },
      })
      expect(await grant(person, id)).toMatchObject({ status: 409, body: { code: 'project.grant_exists' } })
    }
  })

  test('does not wait for a change of a team that the caller is not a member of', async () => {
    const others = await world.team([[owner, 'owner']])
    const id = await world.project(stranger)
    const unknown = await grant(stranger, id, newId())
    await world.sql.begin(async (tx) => {
      await tx`select from teams where id = ${others} for update`
      expect(problemOf(await grant(stranger, id, others))).toEqual(problemOf(unknown))
    })
  })

  test('needs admin on the project, even for the owner of the team', async () => {
    const id = await world.project(stranger, { visibility: 'public' })
    const own = await world.team([[viewer, 'owner']])
    expect(await grant(viewer, id, own)).toMatchObject({ status: 403, body: { code: 'access.denied' } })
    await world.grantAccess(id, team, 'write', stranger)
    const more = await world.team([[admin, 'owner']])
    expect(await grant(admin, id, more)).toMatchObject({ status: 403, body: { code: 'access.denied' } })
    await world.as(stranger).patch(`/projects/${id}/teams/${team}`, { access_level: 'admin' })
    expect(await grant(admin, id, more)).toMatchObject({ status: 201, body: { granted_by: admin.id } })
  })

  test('and changing or withdrawing a grant needs admin on the project and an existing grant', async () => {
    const id = await world.project(stranger, { visibility: 'public' })
    await world.grantAccess(id, team, 'write', stranger)
    const at = `/projects/${id}/teams/${team}`
    for (const person of [viewer, editor, admin]) {
      expect(await world.as(person).patch(at, { access_level: 'admin' })).toMatchObject({ status: 403 })
      expect(await world.as(person).delete(at)).toMatchObject({ status: 403 })
    }
    expect(await world.as(stranger).patch(at, { access_level: 'owner' })).toMatchObject({ status: 422 })
    expect(await world.as(stranger).patch(at, {})).toMatchObject({ status: 422 })
    expect(await world.as(stranger).patch(at, { access_level: 'read' })).toMatchObject({
      status: 200,
      body: { access_level: 'read', team_id: team },
    })
    expect(await world.as(stranger).delete(at)).toMatchObject({ status: 204 })
    for (const gone of [at, `/projects/${id}/teams/${newId()}`]) {
      expect(await world.as(stranger).delete(gone)).toMatchObject({
        status: 404,
        body: { code: 'project.grant_not_found' },
      })
      expect(await world.as(stranger).patch(gone, { access_level: 'read' })).toMatchObject({
        status: 404,
        body: { code: 'project.grant_not_found' },
      })
    }
  })
})

test('the access of a member is the intersection of its role and the access level of the grant', async () => {
  const roles = { owner, admin, editor, contributor, viewer }
  const id = await world.project(stranger, { visibility: 'team-only' })
  await world.grantAccess(id, team, 'read', stranger)
  for (const level of accessLevels) {
    await world.as(stranger).patch(`/projects/${id}/teams/${team}`, { access_level: level })
    for (const role of teamRoles) {
      const both = actions.filter((action) => has(roleActions[role] & levelActions[level], action))
      expect(await allowedActions(roles[role], id)).toEqual(both)
    }
  }
})

describe('the first check afterwards uses the new access when', () => {
  test('a grant is given, raised, lowered and withdrawn', async () => {
    const id = await world.project(owner, { visibility: 'team-only' })
    const inside = await world.generation(owner, { project_id: id })
    const at = `/projects/${id}/teams/${team}`
    const access = async () => [
      await world.may(editor, 'read', generation(inside)),
      await world.may(editor, 'write', generation(inside)),
      (await world.as(viewer).get(`/generations/${inside}`)).status,
    ]
    for (let round = 0; round < 20; round += 1) {
      expect(await access()).toEqual([false, false, 404])
      await grant(owner, id)
      expect(await access()).toEqual([true, false, 200])
      await world.as(owner).patch(at, { access_level: 'write' })
      expect(await access()).toEqual([true, true, 200])
      await world.as(owner).patch(at, { access_level: 'read' })
      expect(await access()).toEqual([true, false, 200])
      await world.as(owner).delete(at)
    }
    expect(await access()).toEqual([false, false, 404])
  })

  test('a project becomes private, which suspends its grants, and team-only again, which restores them', async () => {
    const id = await world.project(owner, { visibility: 'team-only' })
    await grant(owner, id, team, 'write')
    const people = [admin, editor, contributor, viewer]
    const granted = await Promise.all(people.map((person) => allowedActions(person, id)))
    expect(granted.map((allowed) => allowed.length)).toEqual([5, 5, 3, 2])
    for (let round = 0; round < 10; round += 1) {
      await world.as(owner).patch(`/projects/${id}`, { visibility: 'private' })
      for (const person of people) expect(await allowedActions(person, id)).toEqual([])
      expect((await world.as(owner).get(`/projects/${id}/teams`)).body.items).toHaveLength(1)
      await world.as(owner).patch(`/projects/${id}`, { visibility: 'team-only' })
      expect(await Promise.all(people.map((person) => allowedActions(person, id)))).toEqual(granted)
    }
    await world.as(owner).patch(`/projects/${id}`, { visibility: 'public' })
    expect(await Promise.all(people.map((person) => allowedActions(person, id)))).toEqual(granted)
    expect(await allowedActions(stranger, id)).toEqual(['read', 'download'])
  })

  test('a grant was changed while its project was private', async () => {
    const id = await world.project(owner, { visibility: 'team-only' })
    const at = `/projects/${id}/teams/${team}`
    await grant(owner, id, team, 'write')
    expect(await allowedActions(editor, id)).toEqual(['read', 'download', 'create', 'write', 'share'])
    for (const checksMeanwhile of [true, false]) {
      await world.as(owner).patch(`/projects/${id}`, { visibility: 'private' })
      if (checksMeanwhile) expect(await allowedActions(editor, id)).toEqual([])
      await world.as(owner).patch(at, { access_level: 'read' })
      if (checksMeanwhile) expect(await allowedActions(editor, id)).toEqual([])
      await world.as(owner).patch(`/projects/${id}`, { visibility: 'team-only' })
      // The owner's request caches the project again, but not the access of the editor.
      await world.as(owner).get(`/projects/${id}`)
      expect(await allowedActions(editor, id)).toEqual(['read', 'download'])
      await world.as(owner).patch(at, { access_level: 'write' })
      expect(await allowedActions(editor, id)).toEqual(['read', 'download', 'create', 'write', 'share'])
    }
  })

  test('one of two grants is withdrawn, and the access through the other remains', async () => {
    const id = await world.project(owner, { visibility: 'team-only' })
    const second = await world.team([
      [owner, 'owner'],
      [viewer, 'editor'],
    ])
    await grant(owner, id, team, 'admin')
    await grant(owner, id, second, 'write')
    expect(await allowedActions(viewer, id)).toEqual(['read', 'download', 'create', 'write', 'share'])
    await world.as(owner).delete(`/projects/${id}/teams/${second}`)
    expect(await allowedActions(viewer, id)).toEqual(['read', 'download'])
    await world.as(owner).delete(`/projects/${id}/teams/${team}`)
    expect(await allowedActions(viewer, id)).toEqual([])
  })
})

describe('the list of grants', () => {
  test('needs share, has all grants in its pages, and costs one statement', async () => {
    const id = await world.project(owner, { visibility: 'team-only' })
    await grant(owner, id, team, 'write')
    for (let index = 0; index < 7; index += 1) {
      await grant(owner, id, await world.team([[owner, 'owner']], `team ${index}`), 'read')
    }
    const statuses = []
    for (const person of [stranger, viewer, contributor, editor]) {
      statuses.push((await world.as(person).get(`/projects/${id}/teams`)).status)
    }
    expect(statuses).toEqual([404, 403, 403, 200])
    const names = (await world.listAll(editor, `/projects/${id}/teams`, 3)).map(({ team_name }) => team_name)
    expect(names).toEqual([6, 5, 4, 3, 2, 1, 0].map((index) => `team ${index}`).concat('team'))
    expect(await world.statementsOf(() => world.as(editor).get(`/projects/${id}/teams`))).toHaveLength(1)
  })
})
