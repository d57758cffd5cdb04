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
import { generation, project, startTeam, type World, wordsOf } from './projects-world.ts'

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

const allowedOf = async (person: Person, id: string): Promise<Action[]> => {
  const allowed: Action[] = []
  for (const action of actions) if (await world.may(person, action, project(id))) allowed.push(action)
  return allowed
}

const grant = (person: Person, id: string, teamId = team, access_level = 'read') =>
  world.as(person).post(`/projects/${id}/teams`, { team_id: teamId, access_level })

describe('letting a team in', () => {
  test('takes owner or admin of the team; a team one is not in reads like one that never was', async () => {
    const others = await world.team([[stranger, 'owner']])
    for (const person of [editor, contributor, viewer]) {
      const id = await world.project(person)
      expect(await grant(person, id)).toMatchObject({ status: 403, body: { code: 'team.role_too_low' } })
    }
    for (const person of [owner, admin]) {
      const id = await world.project(person)
      const unknown = await grant(person, id, newId())
      expect(unknown).toMatchObject({ status: 404, body: { code: 'team.not_found' } })
      expect(wordsOf(await grant(person, id, others))).toEqual(wordsOf(unknown))
      expect(await grant(person, id)).toMatchObject({
        status: 201,
        body: { project_id: id, team_id: team, team_name: 'team', access_level: 'read', granted_by: person.id },
      })
      expect(await grant(person, id)).toMatchObject({ status: 409, body: { code: 'project.grant_exists' } })
    }
  })

  test('a team one is not in waits for nobody who changes it', async () => {
    const others = await world.team([[owner, 'owner']])
    const id = await world.project(stranger)
    const unknown = await grant(stranger, id, newId())
    await world.sql.begin(async (tx) => {
      await tx`select from teams where id = ${others} for update`
      expect(wordsOf(await grant(stranger, id, others))).toEqual(wordsOf(unknown))
    })
  })

  test('takes admin on the project, whatever one is in the team', async () => {
    const id = await world.project(stranger, { visibility: 'public' })
    const own = await world.team([[viewer, 'owner']])
    expect(await grant(viewer, id, own)).toMatchObject({ status: 403, body: { code: 'access.denied' } })
    await world.granted(id, team, 'write', stranger)
    const more = await world.team([[admin, 'owner']])
    expect(await grant(admin, id, more)).toMatchObject({ status: 403, body: { code: 'access.denied' } })
    await world.as(stranger).patch(`/projects/${id}/teams/${team}`, { access_level: 'admin' })
    expect(await grant(admin, id, more)).toMatchObject({ status: 201, body: { granted_by: admin.id } })
  })

  test('changing and withdrawing it takes admin on the project, and a grant that is there', async () => {
    const id = await world.project(stranger, { visibility: 'public' })
    await world.granted(id, team, 'write', stranger)
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

test('what a member gets is the part of the level that the role has', async () => {
  const roles = { owner, admin, editor, contributor, viewer }
  const id = await world.project(stranger, { visibility: 'team-only' })
  await world.granted(id, team, 'read', stranger)
  for (const level of accessLevels) {
    await world.as(stranger).patch(`/projects/${id}/teams/${team}`, { access_level: level })
    for (const role of teamRoles) {
      const both = actions.filter((action) => has(roleActions[role] & levelActions[level], action))
      expect(await allowedOf(roles[role], id)).toEqual(both)
    }
  }
})

describe('the very next check feels', () => {
  test('a grant given, raised, lowered and withdrawn', async () => {
    const id = await world.project(owner, { visibility: 'team-only' })
    const inside = await world.generation(owner, { project_id: id })
    const at = `/projects/${id}/teams/${team}`
    const felt = async () => [
      await world.may(editor, 'read', generation(inside)),
      await world.may(editor, 'write', generation(inside)),
      (await world.as(viewer).get(`/generations/${inside}`)).status,
    ]
    for (let round = 0; round < 20; round += 1) {
      expect(await felt()).toEqual([false, false, 404])
      await grant(owner, id)
      expect(await felt()).toEqual([true, false, 200])
      await world.as(owner).patch(at, { access_level: 'write' })
      expect(await felt()).toEqual([true, true, 200])
      await world.as(owner).patch(at, { access_level: 'read' })
      expect(await felt()).toEqual([true, false, 200])
      await world.as(owner).delete(at)
    }
    expect(await felt()).toEqual([false, false, 404])
  })

  test('privacy, which puts grants to sleep, and its end, which wakes them as they were', async () => {
    const id = await world.project(owner, { visibility: 'team-only' })
    await grant(owner, id, team, 'write')
    const people = [admin, editor, contributor, viewer]
    const awake = await Promise.all(people.map((person) => allowedOf(person, id)))
    expect(awake.map((allowed) => allowed.length)).toEqual([5, 5, 3, 2])
    for (let round = 0; round < 10; round += 1) {
      await world.as(owner).patch(`/projects/${id}`, { visibility: 'private' })
      for (const person of people) expect(await allowedOf(person, id)).toEqual([])
      expect((await world.as(owner).get(`/projects/${id}/teams`)).body.items).toHaveLength(1)
      await world.as(owner).patch(`/projects/${id}`, { visibility: 'team-only' })
      expect(await Promise.all(people.map((person) => allowedOf(person, id)))).toEqual(awake)
    }
    await world.as(owner).patch(`/projects/${id}`, { visibility: 'public' })
    expect(await Promise.all(people.map((person) => allowedOf(person, id)))).toEqual(awake)
    expect(await allowedOf(stranger, id)).toEqual(['read', 'download'])
  })

  test('a grant that changes while it sleeps, when it wakes', async () => {
    const id = await world.project(owner, { visibility: 'team-only' })
    const at = `/projects/${id}/teams/${team}`
    await grant(owner, id, team, 'write')
    expect(await allowedOf(editor, id)).toEqual(['read', 'download', 'create', 'write', 'share'])
    for (const asksMeanwhile of [true, false]) {
      await world.as(owner).patch(`/projects/${id}`, { visibility: 'private' })
      if (asksMeanwhile) expect(await allowedOf(editor, id)).toEqual([])
      await world.as(owner).patch(at, { access_level: 'read' })
      if (asksMeanwhile) expect(await allowedOf(editor, id)).toEqual([])
      await world.as(owner).patch(`/projects/${id}`, { visibility: 'team-only' })
      // Somebody else’s question makes the project known again, and not what the editor has on it.
      await world.as(owner).get(`/projects/${id}`)
      expect(await allowedOf(editor, id)).toEqual(['read', 'download'])
      await world.as(owner).patch(at, { access_level: 'write' })
      expect(await allowedOf(editor, id)).toEqual(['read', 'download', 'create', 'write', 'share'])
    }
  })

  test('one of two teams that goes: what the other gives stays', async () => {
    const id = await world.project(owner, { visibility: 'team-only' })
    const second = await world.team([
      [owner, 'owner'],
      [viewer, 'editor'],
    ])
    await grant(owner, id, team, 'admin')
    await grant(owner, id, second, 'write')
    expect(await allowedOf(viewer, id)).toEqual(['read', 'download', 'create', 'write', 'share'])
    await world.as(owner).delete(`/projects/${id}/teams/${second}`)
    expect(await allowedOf(viewer, id)).toEqual(['read', 'download'])
    await world.as(owner).delete(`/projects/${id}/teams/${team}`)
    expect(await allowedOf(viewer, id)).toEqual([])
  })
})

describe('the list of grants', () => {
  test('needs share, pages through all of them, and is one statement', async () => {
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
