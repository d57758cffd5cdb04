import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { newId } from '../../src/kit/id.ts'
import type { Person } from '../harness.ts'
import { codesOf, generation, startWorld, type World } from './projects-world.ts'

let world: World
let ann: Person
let ben: Person
let cleo: Person
let team: string

beforeAll(async () => {
  world = await startWorld()
  ;({ ann, ben, cleo } = await world.people('ann', 'ben', 'cleo'))
  team = await world.team([
    [ann, 'owner'],
    [ben, 'editor'],
  ])
})
afterAll(() => world.close())

const order = { model: 'local/procedural', prompt: 'a lighthouse' }

const derive = (person: Person, parent_id: string, fields: Record<string, unknown> = {}) =>
  world.as(person).post('/generations', { ...order, intent: 'fork', parent_id, ...fields })

const child = async (person: Person, parentId: string, fields: Record<string, unknown> = {}): Promise<string> => {
  const answer = await derive(person, parentId, fields)
  expect(answer).toMatchObject({ status: 201 })
  return answer.body.id
}

const ancestorsOf = async (id: string): Promise<string[] | undefined> => {
  const [row] = await world.sql<{ ancestor_ids: string[] }[]>`select ancestor_ids from generations where id = ${id}`
  return row?.ancestor_ids
}

/** Inserts a generation with `depth` ancestors that do not exist. */
const insertWithDepth = async (owner: Person, depth: number): Promise<string> => {
  const id = newId()
  await world.sql`
    insert into generations (id, owner_id, model, prompt, intent, ancestor_ids)
    values (${id}, ${owner.id}, 'm', 'p', ${depth === 0 ? 'original' : 'iterate'},
            ${Array.from({ length: depth }, newId)}::uuid[])`
  return id
}

describe('creating a child', () => {
  test('needs a parent together with an intent other than original', async () => {
    const parent = await world.generation(ann)
    const tries = [
      { intent: 'fork' },
      { parent_id: parent },
      { parent_id: parent, intent: 'original' },
      { parent_id: null, intent: 'fork' },
      { parent_id: parent, intent: 'copy' },
      { parent_id: [parent], intent: 'fork' },
    ]
    for (const fields of tries) {
      expect(await world.as(ann).post('/generations', { ...order, ...fields })).toMatchObject({
        status: 422,
        body: { code: 'request.invalid' },
      })
    }
    for (const intent of ['improve', 'iterate', 'fork', 'remix']) {
      expect(await derive(ann, parent, { intent })).toMatchObject({ status: 201, body: { intent, depth: 1 } })
    }
  })

  test('stores all ancestors, nearest first, and shows only their number', async () => {
    const ids = [await world.generation(ann)]
    for (const intent of ['improve', 'iterate', 'fork', 'remix']) {
      ids.unshift(await child(ann, ids[0] as string, { intent }))
    }
    const [last = '', ...before] = ids
    expect(await ancestorsOf(last)).toEqual(before)
    const { body } = await world.as(ann).get(`/generations/${last}`)
    expect(body).toMatchObject({ intent: 'remix', depth: 4 })
    expect(JSON.stringify(body)).not.toContain(before[0] as string)
  })

  test('needs read on the parent', async () => {
    const parent = await world.generation(ann)
    const [unknown, hidden] = [await derive(ben, newId()), await derive(ben, parent)]
    expect(codesOf([unknown, hidden])).toEqual(Array(2).fill('404 generation.not_found'))
    const open = await world.project(ann, { visibility: 'public' })
    await world.as(ann).patch(`/generations/${parent}`, { project_id: open })
    expect(codesOf([await derive(ben, parent)])).toEqual(['201'])
  })

  test('needs allow_derivatives on the project of the parent, except for the owner of the parent', async () => {
    const strict = await world.project(ann, { visibility: 'team-only', allow_derivatives: false })
    await world.grantAccess(strict, team, 'admin', ann)
    const hers = await world.generation(ann, { project_id: strict })
    const his = await world.generation(ben, { project_id: strict })
    expect(codesOf([await derive(ben, his), await derive(ann, hers)])).toEqual(['201', '201'])
    // The owner of a project does not own the generations of others in it.
    const refused = Array(2).fill('403 generation.derivatives_not_allowed')
    expect(codesOf([await derive(ben, hers), await derive(ann, his)])).toEqual(refused)
    await world.as(ann).patch(`/projects/${strict}`, { allow_derivatives: true })
    expect(codesOf([await derive(ben, hers), await derive(ann, his)])).toEqual(['201', '201'])
    await world.as(ann).patch(`/projects/${strict}`, { allow_derivatives: false })
    expect(codesOf([await derive(ben, hers), await derive(ann, his)])).toEqual(refused)
  })

  test('needs create on the target project even for a public parent', async () => {
    const open = await world.project(ann, { visibility: 'public' })
    const parent = await world.generation(ann, { project_id: open })
    const closed = await world.project(ann)
    const own = await world.project(ben)
    expect(
      codesOf([
        await derive(ben, parent, { project_id: open }),
        await derive(ben, parent, { project_id: closed }),
        await derive(ben, parent, { project_id: own }),
      ]),
    ).toEqual(['403 access.denied', '404 project.not_found', '201'])
  })

  test('is refused beyond 64 ancestors', async () => {
    const last = await derive(ann, await insertWithDepth(ann, 63))
    expect(last).toMatchObject({ status: 201, body: { depth: 64 } })
    expect(await derive(ann, last.body.id)).toMatchObject({ status: 422, body: { code: 'generation.too_deep' } })
    expect(await derive(ann, await insertWithDepth(ann, 64))).toMatchObject({ status: 422 })
  })

  test('reads the facts of caller, project and parent in one statement, and again under locks in two', async () => {
    const at = await world.project(ben)
    const parent = await world.generation(ann, { project_id: await world.project(ann, { visibility: 'public' }) })
    // A new session, so that no fact about the caller is cached.
    const { body } = await world.client.post('/api/v1/auth/login', { email: ben.email, password: ben.password })
    const statements = await world.statementsOf(() =>
      derive({ ...ben, token: body.access_token }, parent, { project_id: at }),
    )
    const facts = statements.filter((text) => text.includes('unnest'))
    expect(facts).toHaveLength(3)
  })
})

test('lineage grants no access in either direction', async () => {
  const open = await world.project(ann, { visibility: 'public' })
  const parent = await world.generation(ann, { project_id: open })
  const offspring = await child(ben, parent)
  const grandchild = await child(ben, offspring)
  for (const person of [ann, cleo]) {
    expect(await world.may(person, 'read', generation(parent))).toBe(true)
    expect(await world.may(person, 'read', generation(offspring))).toBe(false)
    expect(await world.may(person, 'read', generation(grandchild))).toBe(false)
  }
  await world.as(ann).patch(`/projects/${open}`, { visibility: 'private' })
  expect(await world.may(ben, 'read', generation(parent))).toBe(false)
  expect(await world.may(ben, 'read', generation(offspring))).toBe(true)
  // A public child grants no access to its ancestors.
  const publicProject = await world.project(ben, { visibility: 'public' })
  await world.as(ben).patch(`/generations/${grandchild}`, { project_id: publicProject })
  expect(await world.may(cleo, 'read', generation(grandchild))).toBe(true)
  for (const id of [parent, offspring]) expect(await world.may(cleo, 'read', generation(id))).toBe(false)
  const listed = (await world.listAll(cleo, '/generations')).map(({ id }) => id)
  expect(listed.filter((id) => [parent, offspring, grandchild].includes(id))).toEqual([grandchild])
})

describe('provenance', () => {
  test('shows each reader the ancestors the reader may read, and counts the others', async () => {
    const open = await world.project(ann, { visibility: 'public' })
    const crew = await world.project(ann, { visibility: 'team-only' })
    await world.grantAccess(crew, team, 'read', ann)
    // From the oldest: public, shared with the team, private to ann, public; then the queried generation, public.
    const first = await world.generation(ann, { project_id: open, title: 'first' })
    const second = await child(ann, first, { project_id: crew, intent: 'improve', title: 'second' })
    const third = await child(ann, second, { intent: 'iterate', title: 'third' })
    const fourth = await child(ann, third, { project_id: open, intent: 'fork', title: 'fourth' })
    const youngest = await child(ann, fourth, { project_id: open, intent: 'remix' })
    const seenBy = async (person: Person) => {
      const { status, body } = await world.as(person).get(`/generations/${youngest}/provenance`)
      expect(status).toBe(200)
      return body
    }
    const distances = async (person: Person) => {
      const { items, hidden } = await seenBy(person)
      return [items.map(({ title, distance }: { title: string; distance: number }) => `${distance} ${title}`), hidden]
    }
    expect(await distances(ann)).toEqual([['1 fourth', '2 third', '3 second', '4 first'], 0])
    expect(await distances(ben)).toEqual([['1 fourth', '3 second', '4 first'], 1])
    expect(await distances(cleo)).toEqual([['1 fourth', '4 first'], 2])
    expect((await seenBy(cleo)).items[0]).toEqual({
      id: fourth,
      owner_id: ann.id,
      project_id: open,
      intent: 'fork',
      title: 'fourth',
      status: 'queued',
      created_at: expect.any(String),
      distance: 1,
    })
    expect(JSON.stringify(await seenBy(cleo))).not.toContain(third)

    await world.as(ann).delete(`/projects/${crew}/teams/${team}`)
    expect(await distances(ben)).toEqual([['1 fourth', '4 first'], 2])
    await world.as(ann).delete(`/generations/${first}`)
    expect(await distances(ann)).toEqual([['1 fourth', '2 third', '3 second'], 1])
    expect(await distances(cleo)).toEqual([['1 fourth'], 3])
    await world.as(ann).patch(`/generations/${third}`, { project_id: open })
    expect(await distances(cleo)).toEqual([['1 fourth', '2 third'], 2])
  })

  test('of an original is empty', async () => {
    const id = await world.generation(ann)
    expect((await world.as(ann).get(`/generations/${id}/provenance`)).body).toEqual({ items: [], hidden: 0 })
  })

  test('of 64 deleted ancestors is only a count', async () => {
    const id = await insertWithDepth(ann, 64)
    expect((await world.as(ann).get(`/generations/${id}/provenance`)).body).toEqual({ items: [], hidden: 64 })
  })

  test('costs at most two statements for any depth', async () => {
    const open = await world.project(ann, { visibility: 'public' })
    let id = await world.generation(ann, { project_id: open })
    for (let depth = 1; depth <= 21; depth += 1) id = await child(ann, id, depth % 2 ? { project_id: open } : {})
    expect(await world.as(cleo).get(`/generations/${id}`)).toMatchObject({ status: 200 })
    const provenance = () => world.as(cleo).get(`/generations/${id}/provenance`)
    expect((await world.statementsOf(provenance)).length).toBeLessThanOrEqual(2)
    expect(await world.statementsOf(provenance)).toHaveLength(1)
  })
})

test('a parent cannot be deleted while a child is being created', async () => {
  for (let round = 0; round < 25; round += 1) {
    const parent = await world.generation(ann)
    const [created, removed] = await Promise.all([derive(ann, parent), world.as(ann).delete(`/generations/${parent}`)])
    expect(removed.status).toBe(204)
    expect(['201', '404 generation.not_found']).toContain(codesOf([created])[0] as string)
    if (created.status === 404) continue
    expect((await world.as(ann).get(`/generations/${created.body.id}/provenance`)).body).toEqual({
      items: [],
      hidden: 1,
    })
  }
})
