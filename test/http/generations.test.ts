import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { newId } from '../../src/kit/id.ts'
import type { Person } from '../harness.ts'
import { codesOf, generation, problemOf, project, startTeam, type World } from './projects-world.ts'

let world: World
let owner: Person
let admin: Person
let editor: Person
let contributor: Person
let viewer: Person
let stranger: Person
let team: string
let shared: Awaited<ReturnType<typeof startTeam>>['shared']

beforeAll(async () => {
  ;({ world, owner, admin, editor, contributor, viewer, stranger, team, shared } = await startTeam())
})
afterAll(() => world.close())

const order = { model: 'local/procedural', prompt: 'a lighthouse' }

describe('a new generation', () => {
  test('has the ordered fields, and is an original without a parent', async () => {
    const { status, body } = await world.as(owner).post('/generations', { ...order, title: 'Lighthouse' })
    expect(status).toBe(201)
    expect(body).toMatchObject({
      ...order,
      owner_id: owner.id,
      project_id: null,
      title: 'Lighthouse',
      intent: 'original',
      depth: 0,
      status: 'queued',
      favorite: false,
    })
    expect((await world.as(owner).get(`/generations/${body.id}`)).body).toEqual(body)
    const { body: untitled } = await world.as(owner).post('/generations', { ...order, intent: 'original' })
    expect(untitled).toMatchObject({ title: '', intent: 'original' })
  })

  test('needs create on its project', async () => {
    const id = await shared()
    const codes = []
    for (const person of [stranger, viewer, contributor, editor, admin, owner]) {
      codes.push(...codesOf([await world.as(person).post('/generations', { ...order, project_id: id })]))
    }
    expect(codes).toEqual(['404 project.not_found', '403 access.denied', '201', '201', '201', '201'])
    const unknown = await world.as(stranger).post('/generations', { ...order, project_id: newId() })
    expect(problemOf(unknown)).toEqual(
      problemOf(await world.as(stranger).post('/generations', { ...order, project_id: id })),
    )
  })

  test('refuses fields that only the server sets', async () => {
    const id = await world.generation(owner)
    for (const [name, value] of Object.entries({
      id: newId(),
      owner_id: stranger.id,
      status: 'completed',
      depth: 3,
      ancestor_ids: [id],
      favorite: true,
      role: 'admin',
      plan: 'enterprise',
      team_id: team,
      created_at: '2020-01-01T00:00:00.000Z',
    })) {
      expect(await world.as(owner).post('/generations', { ...order, [name]: value })).toMatchObject({ status: 422 })
      const changed = await world.as(owner).patch(`/generations/${id}`, { title: 'new', [name]: value })
      expect(changed).toMatchObject({ status: 422 })
    }
    for (const fixed of [{ intent: 'fork' }, { parent_id: newId() }, { prompt: 'other' }, { model: 'other' }, {}]) {
      expect(await world.as(owner).patch(`/generations/${id}`, fixed)).toMatchObject({ status: 422 })
    }
    expect(
      await world.as(owner).post(`/generations/${id}/favorite`, { favorite: true, user_id: admin.id }),
    ).toMatchObject({ status: 422 })
    expect((await world.as(owner).get(`/generations/${id}`)).body).toMatchObject({ title: '', owner_id: owner.id })
  })

  test('is addressed by the canonical spelling of its id only', async () => {
    const id = await world.generation(owner)
    for (const spelling of [id.toUpperCase(), `%20${id}`, `${id}%20`, `${id}%00`, id.replaceAll('-', '')]) {
      expect(await world.as(owner).get(`/generations/${spelling}`)).toMatchObject({ status: 422 })
      expect(await world.as(owner).get(`/generations/${spelling}/provenance`)).toMatchObject({ status: 422 })
      expect(await world.as(owner).get(`/generations?project_id=${spelling}`)).toMatchObject({ status: 422 })
      expect(await world.as(owner).get(`/generations?owner_id=${spelling}`)).toMatchObject({ status: 422 })
    }
    for (const spelling of [id.toUpperCase(), ` ${id}`, `${id} `]) {
      const child = { ...order, intent: 'fork', parent_id: spelling }
      expect(await world.as(owner).post('/generations', child)).toMatchObject({ status: 422 })
      expect(await world.as(owner).patch(`/generations/${id}`, { project_id: spelling })).toMatchObject({ status: 422 })
    }
  })
})

test('every route answers a caller without read access as for an unknown id', async () => {
  const id = await world.generation(owner, { project_id: await shared() })
  const target = await world.project(stranger)
  const calls = [
    (at: string) => world.as(stranger).get(`/generations/${at}`),
    (at: string) => world.as(stranger).patch(`/generations/${at}`, { title: 'mine' }),
    (at: string) => world.as(stranger).patch(`/generations/${at}`, { project_id: target }),
    (at: string) => world.as(stranger).delete(`/generations/${at}`),
    (at: string) => world.as(stranger).get(`/generations/${at}/provenance`),
    (at: string) => world.as(stranger).post(`/generations/${at}/favorite`, { favorite: true }),
    (at: string) => world.as(stranger).post('/generations', { ...order, intent: 'fork', parent_id: at }),
  ]
  for (const call of calls) {
    const real = await call(id)
    expect(problemOf(real)).toEqual(problemOf(await call(newId())))
    expect(real).toMatchObject({ status: 404, body: { code: 'generation.not_found' } })
  }
})

describe('the title of a generation', () => {
  test('needs write', async () => {
    const id = await world.generation(owner, { project_id: await shared() })
    const statuses = []
    for (const person of [stranger, viewer, contributor, editor, admin, owner]) {
      statuses.push((await world.as(person).patch(`/generations/${id}`, { title: 'named' })).status)
    }
    expect(statuses).toEqual([404, 403, 403, 200, 200, 200])
    expect(await world.as(owner).patch(`/generations/${id}`, { title: '' })).toMatchObject({ body: { title: '' } })
    expect(await world.as(owner).patch(`/generations/${id}`, { title: 'x'.repeat(201) })).toMatchObject({ status: 422 })
  })
})

describe('moving a generation', () => {
  test('needs delete on the generation and create on the new project', async () => {
    const from = await shared()
    const to = await shared()
    const id = await world.generation(owner, { project_id: from })
    const codes = []
    for (const person of [stranger, viewer, contributor, editor, admin]) {
      codes.push(...codesOf([await world.as(person).patch(`/generations/${id}`, { project_id: to })]))
    }
    expect(codes).toEqual(['404 generation.not_found', ...Array(3).fill('403 access.denied'), '200'])
    const readable = await world.project(stranger, { visibility: 'public' })
    const unreadable = await world.project(stranger)
    expect(
      codesOf([
        await world.as(admin).patch(`/generations/${id}`, { project_id: readable }),
        await world.as(admin).patch(`/generations/${id}`, { project_id: unreadable }),
        await world.as(admin).patch(`/generations/${id}`, { project_id: newId() }),
        await world.as(editor).patch(`/generations/${id}`, { title: 'half', project_id: null }),
      ]),
    ).toEqual(['403 access.denied', '404 project.not_found', '404 project.not_found', '403 access.denied'])
    expect((await world.as(owner).get(`/generations/${id}`)).body).toMatchObject({ project_id: to, title: '' })
  })

  test('is open to its owner, even out of the project of another user', async () => {
    const id = await world.generation(contributor, { project_id: await shared() })
    const own = await world.project(contributor)
    expect(await world.as(contributor).patch(`/generations/${id}`, { project_id: own, title: 'home' })).toMatchObject({
      status: 200,
      body: { project_id: own, title: 'home', owner_id: contributor.id },
    })
    expect(await world.may(owner, 'read', generation(id))).toBe(false)
  })

  test('takes effect in the next check: into a project, to another and out', async () => {
    const one = await world.project(owner, { visibility: 'team-only' })
    await world.grantAccess(one, team, 'read', owner)
    const two = await world.project(owner, { visibility: 'public' })
    const id = await world.generation(owner)
    const access = async () => [
      await world.may(viewer, 'read', generation(id)),
      await world.may(stranger, 'read', generation(id)),
      (await world.as(viewer).get(`/generations/${id}`)).status,
    ]
    for (let round = 0; round < 10; round += 1) {
      expect(await access()).toEqual([false, false, 404])
      await world.as(owner).patch(`/generations/${id}`, { project_id: one })
      expect(await access()).toEqual([true, false, 200])
      await world.as(owner).patch(`/generations/${id}`, { project_id: two })
      expect(await access()).toEqual([true, true, 200])
      await world.as(owner).patch(`/generations/${id}`, { project_id: null })
    }
    expect(await access()).toEqual([false, false, 404])
  })

  test('out of a project by its administrator leaves the generation to its owner only', async () => {
    const id = await world.generation(contributor, { project_id: await shared() })
    expect(await world.as(admin).patch(`/generations/${id}`, { project_id: null })).toMatchObject({
      status: 200,
      body: { project_id: null, owner_id: contributor.id },
    })
    expect(await world.as(admin).get(`/generations/${id}`)).toMatchObject({ status: 404 })
    expect(await world.as(contributor).get(`/generations/${id}`)).toMatchObject({ status: 200 })
  })
})

describe('an authorized request that waits for a lock', () => {
  const lock = (id: string) => world.sql`select from generations where id = ${id} for update`
  /** As a change of a project does, which locks the row for update only after the access (sql/README.md). */
  const lockAccess = (id: string) => world.sql`
    select lock_project_access(id) from (select id from projects where id = ${id} for no key update) locked`

  test('changes nothing after the generation was moved out of reach', async () => {
    const id = await world.generation(owner, { project_id: await shared() })
    const away = await world.project(owner)
    const target = await world.project(admin)
    const answers = await world.changeWhileWaiting(
      lock(id),
      () => [
        world.as(admin).patch(`/generations/${id}`, { project_id: target }),
        world.as(admin).patch(`/generations/${id}`, { project_id: null }),
        world.as(editor).patch(`/generations/${id}`, { title: 'mine' }),
        world.as(admin).delete(`/generations/${id}`),
      ],
      world.sql`update generations set project_id = ${away} where id = ${id}`,
    )
    expect(codesOf(answers)).toEqual(Array(4).fill('404 generation.not_found'))
    expect((await world.as(owner).get(`/generations/${id}`)).body).toMatchObject({ project_id: away, title: '' })
  })

  test('does not move a generation after the right to create in the target was revoked', async () => {
    const target = await world.project(stranger, { visibility: 'public' })
    await world.grantAccess(target, team, 'write', stranger)
    const id = await world.generation(editor)
    expect(await world.may(editor, 'create', project(target))).toBe(true)
    const answers = await world.changeWhileWaiting(
      lockAccess(target),
      () => [world.as(editor).patch(`/generations/${id}`, { project_id: target })],
      world.sql`delete from project_grants where project_id = ${target}`,
    )
    expect(codesOf(answers)).toEqual(['403 access.denied'])
  })

  test('gets not found after the generation was deleted', async () => {
    const id = await world.generation(owner)
    const answers = await world.changeWhileWaiting(
      lock(id),
      () => [
        world.as(owner).patch(`/generations/${id}`, { title: 'late' }),
        world.as(owner).post(`/generations/${id}/favorite`, { favorite: true }),
        world.as(owner).post('/generations', { ...order, intent: 'fork', parent_id: id }),
        world.as(owner).delete(`/generations/${id}`),
      ],
      world.sql`delete from generations where id = ${id}`,
    )
    expect(codesOf(answers)).toEqual(Array(4).fill('404 generation.not_found'))
  })

  test('creates nothing after the project was deleted', async () => {
    const id = await world.project(owner)
    const answers = await world.changeWhileWaiting(
      lockAccess(id),
      () => [world.as(owner).post('/generations', { ...order, project_id: id })],
      world.sql`delete from projects where id = ${id}`,
    )
    expect(codesOf(answers)).toEqual(['404 project.not_found'])
    expect(await world.sql`select from generations where project_id = ${id}`).toHaveLength(0)
  })
})

describe('a favorite generation', () => {
  test('is per user, idempotent, and needs read', async () => {
    const id = await world.generation(owner, { project_id: await shared() })
    const mark = (person: Person, favorite: boolean) =>
      world.as(person).post(`/generations/${id}/favorite`, { favorite })
    for (const favorite of [true, true, false, false, true]) {
      expect(await mark(viewer, favorite)).toMatchObject({ status: 200, body: { id, favorite } })
      expect((await world.as(viewer).get(`/generations/${id}`)).body.favorite).toBe(favorite)
      expect((await world.as(owner).get(`/generations/${id}`)).body.favorite).toBe(false)
    }
    expect(await mark(stranger, true)).toMatchObject({ status: 404 })
    expect(await world.listAll(viewer, '/generations?favorite=true')).toMatchObject([{ id, favorite: true }])
    expect(await world.listAll(owner, '/generations?favorite=true')).toEqual([])
    expect(await world.as(viewer).get('/generations?favorite=yes')).toMatchObject({ status: 422 })
  })

  test('is not listed while the caller may not read it', async () => {
    const at = await shared()
    const id = await world.generation(owner, { project_id: at })
    await world.as(viewer).post(`/generations/${id}/favorite`, { favorite: true })
    const listed = async () =>
      (await world.listAll(viewer, `/generations?favorite=true&project_id=${at}`)).map((each) => each.id)
    expect(await listed()).toEqual([id])
    await world.as(owner).patch(`/projects/${at}`, { visibility: 'private' })
    expect(await listed()).toEqual([])
    await world.as(owner).patch(`/projects/${at}`, { visibility: 'team-only' })
    expect(await listed()).toEqual([id])
  })
})

test('a deleted generation is denied in the next check', async () => {
  const at = await shared()
  const id = await world.generation(contributor, { project_id: at })
  expect(await world.may(viewer, 'read', generation(id))).toBe(true)
  expect(await world.may(viewer, 'read', project(at))).toBe(true)
  const statuses = []
  for (const person of [stranger, viewer, editor, admin, admin]) {
    statuses.push((await world.as(person).delete(`/generations/${id}`)).status)
  }
  expect(statuses).toEqual([404, 403, 403, 204, 404])
  for (const person of [viewer, contributor]) expect(await world.may(person, 'read', generation(id))).toBe(false)
})
