import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { actions } from '../../src/access/policy/matrix.ts'
import { newId } from '../../src/kit/id.ts'
import type { Person } from '../harness.ts'
import { generation, problemOf, project, startTeam, type World } from './projects-world.ts'

let world: World
let owner: Person
let admin: Person
let editor: Person
let viewer: Person
let stranger: Person
let team: string
let shared: Awaited<ReturnType<typeof startTeam>>['shared']

beforeAll(async () => {
  ;({ world, owner, admin, editor, viewer, stranger, team, shared } = await startTeam())
})
afterAll(() => world.close())

describe('updating a project', () => {
  test('needs write for the name, and admin for visibility and allow_derivatives', async () => {
    const id = await shared()
    const changes = [
      { name: 'renamed' },
      { visibility: 'public' },
      { allow_derivatives: false },
      { name: 'x', visibility: 'private' },
    ]
    const updateAll = async (person: Person) => {
      const statuses = []
      for (const body of changes) statuses.push((await world.as(person).patch(`/projects/${id}`, body)).status)
      return statuses
    }
    expect(await updateAll(stranger)).toEqual([404, 404, 404, 404])
    expect(await updateAll(viewer)).toEqual([403, 403, 403, 403])
    expect(await updateAll(editor)).toEqual([200, 403, 403, 403])
    const untouched = (await world.as(owner).get(`/projects/${id}`)).body
    expect(untouched).toMatchObject({ name: 'renamed', visibility: 'team-only', allow_derivatives: true })
    expect(await updateAll(admin)).toEqual([200, 200, 200, 200])
  })

  test('sets allow_derivatives, which is true by default', async () => {
    const { body: plain } = await world.as(owner).post('/projects', { name: 'plain' })
    expect(plain.allow_derivatives).toBe(true)
    const { body: strict } = await world.as(owner).post('/projects', { name: 'strict', allow_derivatives: false })
    expect(strict.allow_derivatives).toBe(false)
    await world.as(owner).patch(`/projects/${strict.id}`, { allow_derivatives: true })
    expect((await world.as(owner).get(`/projects/${strict.id}`)).body.allow_derivatives).toBe(true)
  })

  test('with a field that the server sets gets 422', async () => {
    const id = await world.project(owner)
    for (const [name, value] of Object.entries({
      id: newId(),
      owner_id: stranger.id,
      role: 'admin',
      plan: 'enterprise',
      team_id: team,
      permissions: ['admin'],
      created_at: '2020-01-01T00:00:00.000Z',
    })) {
      const sent = { name: 'a project', [name]: value }
      expect(await world.as(owner).post('/projects', sent)).toMatchObject({ status: 422 })
      expect(await world.as(owner).patch(`/projects/${id}`, sent)).toMatchObject({ status: 422 })
      expect(
        await world.as(owner).post(`/projects/${id}/teams`, { team_id: team, access_level: 'read', ...sent }),
      ).toMatchObject({ status: 422 })
      expect(await world.as(owner).post(`/projects/${id}/transfer`, { ...sent, owner_id: viewer.id })).toMatchObject({
        status: 422,
      })
    }
    expect((await world.as(owner).get(`/projects/${id}`)).body).toMatchObject({ id, owner_id: owner.id })
  })

  test('with an id in another spelling than lower case with hyphens gets 422', async () => {
    const id = await shared()
    const spellings = [id.toUpperCase(), `%20${id}`, `${id}%20`, `{${id}}`, id.replaceAll('-', ''), `${id}%00`]
    for (const spelling of spellings) {
      expect(await world.as(owner).get(`/projects/${spelling}`)).toMatchObject({ status: 422 })
      expect(await world.as(owner).get(`/projects/${spelling}/teams`)).toMatchObject({ status: 422 })
      expect(await world.as(owner).get(`/projects?owner_id=${spelling}`)).toMatchObject({ status: 422 })
      expect(await world.as(owner).delete(`/projects/${id}/teams/${spelling}`)).toMatchObject({ status: 422 })
    }
    for (const spelling of [team.toUpperCase(), ` ${team}`, `${team} `]) {
      const body = { team_id: spelling, access_level: 'read' }
      expect(await world.as(owner).post(`/projects/${id}/teams`, body)).toMatchObject({ status: 422 })
    }
  })
})

describe('permissions', () => {
  test('are the actions that a check allows', async () => {
    for (const visibility of ['private', 'team-only', 'public']) {
      const id = await shared({ visibility })
      for (const person of [owner, admin, editor, viewer, stranger]) {
        const { status, body } = await world.as(person).get(`/projects/${id}`)
        const allowed = []
        for (const action of actions) if (await world.may(person, action, project(id))) allowed.push(action)
        expect(status).toBe(allowed.includes('read') ? 200 : 404)
        if (status === 200) expect(body.permissions).toEqual(allowed)
      }
    }
  })

  test('cost no statement beside the one that reads the project', async () => {
    const id = await shared()
    await world.as(viewer).get(`/projects/${id}`)
    expect(await world.statementsOf(() => world.as(viewer).get(`/projects/${id}`))).toHaveLength(1)
  })
})

test('without read on a project, every route answers as for an unknown one', async () => {
  const id = await shared()
  const calls = [
    (at: string) => world.as(stranger).get(`/projects/${at}`),
    (at: string) => world.as(stranger).patch(`/projects/${at}`, { visibility: 'public' }),
    (at: string) => world.as(stranger).delete(`/projects/${at}`),
    (at: string) => world.as(stranger).get(`/projects/${at}/stats`),
    (at: string) => world.as(stranger).post(`/projects/${at}/transfer`, { owner_id: viewer.id }),
    (at: string) => world.as(stranger).get(`/projects/${at}/teams`),
    (at: string) => world.as(stranger).post(`/projects/${at}/teams`, { team_id: team, access_level: 'read' }),
    (at: string) => world.as(stranger).patch(`/projects/${at}/teams/${team}`, { access_level: 'read' }),
    (at: string) => world.as(stranger).delete(`/projects/${at}/teams/${team}`),
  ]
  for (const call of calls) {
    const real = await call(id)
    expect(problemOf(real)).toEqual(problemOf(await call(newId())))
    expect(real).toMatchObject({ status: 404, body: { code: 'project.not_found' } })
  }
})

describe('a transfer', () => {
  test('is only for the owner', async () => {
    const id = await shared()
    const statuses = []
    for (const person of [stranger, viewer, editor, admin, owner]) {
      statuses.push((await world.as(person).post(`/projects/${id}/transfer`, { owner_id: viewer.id })).status)
    }
    expect(statuses).toEqual([404, 403, 403, 403, 200])
  })

  test('gives the new owner all access at once, and leaves the previous owner the access through teams', async () => {
    const id = await shared()
    await world.sql`update project_grants set access_level = 'read' where project_id = ${id}`
    const { dana } = await world.people('dana')
    const other = await world.team([[dana, 'viewer']])
    await world.grantAccess(id, other, 'read', owner)
    // Caches the access of the owner and of the next owner before the transfer.
    expect(await world.may(owner, 'admin', project(id))).toBe(true)
    expect(await world.may(dana, 'admin', project(id))).toBe(false)
    const { status, body } = await world.as(owner).post(`/projects/${id}/transfer`, { owner_id: dana.id })
    expect(status).toBe(200)
    expect(body.owner_id).toBe(dana.id)
    for (const action of actions) {
      expect(await world.may(dana, action, project(id))).toBe(true)
      expect(await world.may(owner, action, project(id))).toBe(['read', 'download'].includes(action))
    }
    expect(await world.listAll(owner, `/projects?owner_id=${dana.id}`)).toHaveLength(1)
    expect(await world.sql`select from project_access_difference`).toHaveLength(0)
  })

  test('to an ineligible account gets the same answer for every reason', async () => {
    const id = await shared()
    const { suspended, closed } = await world.people('suspended', 'closed')
    const more = await world.team([
      [suspended, 'editor'],
      [closed, 'editor'],
    ])
    await world.grantAccess(id, more, 'write', owner)
    await world.sql`update users set status = 'suspended' where id = ${suspended.id}`
    await world.sql`
      update users set status = 'deleted', email = null, password_hash = null where id = ${closed.id}`
    const transfer = async (to: string) =>
      problemOf(await world.as(owner).post(`/projects/${id}/transfer`, { owner_id: to }))
    const unknown = await transfer(newId())
    expect(unknown).toMatchObject({ status: 422, code: 'project.new_owner_unfit' })
    for (const person of [stranger, suspended, closed, owner]) expect(await transfer(person.id)).toEqual(unknown)
    await world.as(owner).patch(`/projects/${id}`, { visibility: 'private' })
    expect(await transfer(viewer.id)).toEqual(unknown)
    await world.as(owner).patch(`/projects/${id}`, { visibility: 'public' })
    expect(await transfer(stranger.id)).toEqual(unknown)
    expect((await world.as(owner).get(`/projects/${id}`)).body.owner_id).toBe(owner.id)
    expect(await transfer(viewer.id)).toMatchObject({ status: 200, owner_id: viewer.id })
  })
})

describe('stats', () => {
  test('count the generations, grants and people of one project only', async () => {
    const id = await shared()
    const elsewhere = await shared()
    await world.generation(owner, { project_id: elsewhere })
    const parent = await world.generation(owner, { project_id: id })
    await world.generation(admin, { project_id: id, parent_id: parent, intent: 'remix' })
    const done = await world.generation(editor, { project_id: id })
    await world.sql`update generations set status = 'completed' where id = ${done}`
    // A member of two teams counts once, and a suspended account does not count.
    const { guest, suspended } = await world.people('guest', 'suspended')
    const other = await world.team([
      [guest, 'viewer'],
      [suspended, 'viewer'],
      [viewer, 'viewer'],
    ])
    await world.grantAccess(id, other, 'read', owner)
    await world.sql`update users set status = 'suspended' where id = ${suspended.id}`
    const stats = async () => (await world.as(editor).get(`/projects/${id}/stats`)).body
    expect(await stats()).toEqual({
      generations: {
        total: 3,
        by_status: { queued: 2, processing: 0, completed: 1, failed: 0, cancelled: 0 },
        by_intent: { original: 2, improve: 0, iterate: 0, fork: 0, remix: 1 },
      },
      grants: { total: 2, by_access_level: { read: 1, write: 0, admin: 1 } },
      people: 6,
    })
    expect(await world.statementsOf(stats)).toHaveLength(1)
    expect(await world.as(viewer).get(`/projects/${id}/stats`)).toMatchObject({ status: 403 })
  })
})

describe('deleting a project', () => {
  test('removes all access to it, and leaves its generations to their owners only', async () => {
    const id = await shared()
    const inside = await world.generation(editor, { project_id: id })
    for (const person of [owner, admin, viewer]) expect(await world.may(person, 'read', generation(inside))).toBe(true)
    expect(await world.as(editor).delete(`/projects/${id}`)).toMatchObject({ status: 403 })
    expect(await world.as(admin).delete(`/projects/${id}`)).toMatchObject({ status: 204 })
    for (const person of [owner, admin, viewer]) {
      expect(await world.may(person, 'read', generation(inside))).toBe(false)
      expect(await world.may(person, 'read', project(id))).toBe(false)
    }
    expect((await world.as(editor).get(`/generations/${inside}`)).body).toMatchObject({ project_id: null })
    expect(await world.sql`select from project_access where project_id = ${id}`).toHaveLength(0)
    expect(await world.as(admin).delete(`/projects/${id}`)).toMatchObject({ status: 404 })
  })
})

describe('the list of projects', () => {
  test('contains exactly the projects that a check allows to read, with and without a filter', async () => {
    const small = await world.team([[stranger, 'contributor']])
    const ids: string[] = []
    for (const visibility of ['private', 'team-only', 'public']) {
      ids.push(await shared({ visibility }), await world.project(editor, { visibility }))
      const both = await shared({ visibility })
      await world.grantAccess(both, small, 'read', owner)
      ids.push(both)
    }
    for (const person of [owner, admin, editor, viewer, stranger]) {
      const readable = []
      for (const id of ids) if (await world.may(person, 'read', project(id))) readable.push(id)
      const listed = await world.listAll(person, '/projects', 4)
      expect(listed.map(({ id }) => id).filter((id) => ids.includes(id))).toEqual(readable.toSorted().reverse())
      expect(listed.map(({ id }) => id)).toEqual([...new Set(listed.map(({ id }) => id))].toSorted().reverse())
      for (const by of [owner, editor, stranger]) {
        const narrowed = await world.listAll(person, `/projects?owner_id=${by.id}`, 4)
        expect(narrowed).toEqual(listed.filter(({ owner_id }) => owner_id === by.id))
      }
    }
  })

  test('costs one statement', async () => {
    const path = `/projects?owner_id=${owner.id}&limit=5`
    await world.as(viewer).get(path)
    expect(await world.statementsOf(() => world.as(viewer).get(path))).toHaveLength(1)
  })

  test('loses and repeats no project while others are created and deleted between its pages', async () => {
    const { ann, ben } = await world.people('ann', 'ben')
    const crew = await world.team([[ben, 'viewer']])
    const ids = Array.from({ length: 250 }, newId)
    const rows = ids.map((id, index) => ({
      id,
      owner_id: index % 3 === 0 ? ben.id : ann.id,
      name: `project ${index}`,
      visibility: index % 2 === 0 ? 'team-only' : 'public',
    }))
    await world.sql`insert into projects ${world.sql(rows)}`
    const grants = ids.map((id) => ({ project_id: id, team_id: crew, access_level: 'read', granted_by: ann.id }))
    await world.sql`insert into project_grants ${world.sql(grants)}`
    const temporary = new Set(ids.filter((_, index) => index % 5 === 1))
    const seen: string[] = []
    let cursor: string | null = null
    do {
      const place: string = cursor === null ? '' : `&cursor=${cursor}`
      const { body } = await world.as(ben).get(`/projects?limit=17${place}`)
      seen.push(...body.items.map(({ id }: { id: string }) => id))
      cursor = body.next_cursor
      // Between two pages, projects are created, and some are deleted, the last one listed among them.
      const last = body.items.at(-1).id
      const deleted = [...temporary].filter((id) => id === last || Number(id > last) === seen.length % 2).slice(0, 4)
      const owners = new Map(rows.map(({ id, owner_id }) => [id, owner_id]))
      await Promise.all([
        world.project(ann, { visibility: 'public' }),
        world.project(ben),
        ...deleted.map((id) => world.as(owners.get(id) === ben.id ? ben : ann).delete(`/projects/${id}`)),
      ])
      for (const id of deleted) temporary.delete(id)
    } while (cursor !== null)
    expect(new Set(seen).size).toBe(seen.length)
    const stayed = ids.filter((_, index) => index % 5 !== 1)
    expect(stayed.filter((id) => !seen.includes(id))).toEqual([])
  })
})
