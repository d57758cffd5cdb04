import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import type { ResourceRef } from '../../src/access/policy/matrix.ts'
import { newId } from '../../src/kit/id.ts'
import type { Person } from '../harness.ts'
import { generation, startWorld, type World } from './projects-world.ts'

let world: World

beforeAll(async () => {
  world = await startWorld()
})
afterAll(() => world.close())

type Row = { id: string; owner_id: string; project_id: string | null; status: string; intent: string; model: string }

/** Reproducible random choices: a linear congruential generator (Numerical Recipes, §7.1). */
const seededChoice = (seed: number) => {
  let state = seed
  return <T>(from: readonly T[]): T => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return from[Math.floor((state / 2 ** 32) * from.length)] as T
  }
}

/** Random users, teams, projects of every visibility, and generations in all of them. */
const createRandomWorld = async () => {
  const pick = seededChoice(20_260)
  const people: Person[] = []
  for (let index = 0; index < 8; index += 1) people.push(await world.person())
  const roles = ['admin', 'editor', 'contributor', 'viewer'] as const
  const teams = []
  for (let index = 0; index < 4; index += 1) {
    const members = people.filter(() => pick([true, false, false]))
    teams.push(await world.team(members.map((person) => [person, pick(roles)] as const)))
  }
  const projects: (string | null)[] = [null]
  for (let index = 0; index < 14; index += 1) {
    const owner = pick(people)
    const id = await world.project(owner, { visibility: pick(['private', 'team-only', 'team-only', 'public']) })
    for (const team of teams) {
      if (pick([true, false])) await world.grantAccess(id, team, pick(['read', 'write', 'admin']), owner)
    }
    projects.push(id)
  }
  const rows: Row[] = Array.from({ length: 180 }, () => ({
    id: newId(),
    owner_id: pick(people).id,
    project_id: pick(projects),
    status: pick(['queued', 'completed', 'failed']),
    intent: pick(['original', 'original', 'fork']),
    model: pick(['one', 'two']),
  }))
  const parent = [newId()]
  for (const row of rows) {
    await world.sql`
      insert into generations (id, owner_id, project_id, status, failure, intent, ancestor_ids, model, prompt)
      values (${row.id}, ${row.owner_id}, ${row.project_id}, ${row.status}, ${row.status === 'failed' ? 'failed' : null}, ${row.intent},
              ${row.intent === 'fork' ? parent : []}::uuid[], ${row.model}, 'p')`
  }
  return { people, projects, rows: rows.toSorted((a, b) => (a.id < b.id ? 1 : -1)), pick }
}

describe('a list of generations', () => {
  test('has exactly the rows that a check allows the caller to read, under every filter', async () => {
    const { people, projects, rows, pick } = await createRandomWorld()
    let shared = 0
    for (const person of people) {
      const checks = rows.map(({ id }) => ({ action: 'read', resource: generation(id) as ResourceRef }))
      const { body } = await world.as(person).post('/authorization/check/batch', { checks })
      const readable = rows.filter((_, index) => body.results[index].allowed)
      shared += readable.filter(({ owner_id }) => owner_id !== person.id).length
      const favorites = new Set(readable.filter(() => pick([true, false, false])).map(({ id }) => id))
      for (const id of favorites) await world.as(person).post(`/generations/${id}/favorite`, { favorite: true })

      const listed = async (filter: string, limit: number) =>
        (await world.listAll(person, `/generations${filter}`, limit)).map(({ id }) => id)
      const expectList = async (filter: string, matches: (row: Row) => boolean, limit = 7) =>
        expect(await listed(filter, limit)).toEqual(readable.filter(matches).map(({ id }) => id))

      await expectList('', () => true)
      await expectList('', () => true, 1)
      for (const id of projects) if (id !== null) await expectList(`?project_id=${id}`, (row) => row.project_id === id)
      for (const { id } of people) await expectList(`?owner_id=${id}`, (row) => row.owner_id === id)
      await expectList('?status=completed', (row) => row.status === 'completed')
      await expectList('?intent=fork', (row) => row.intent === 'fork')
      await expectList('?model=two', (row) => row.model === 'two')
      await expectList('?favorite=true', (row) => favorites.has(row.id))
      const other = pick(people).id
      await expectList(
        `?favorite=true&owner_id=${other}&status=queued&intent=original&model=one`,
        (row) =>
          favorites.has(row.id) &&
          row.owner_id === other &&
          row.status === 'queued' &&
          row.intent === 'original' &&
          row.model === 'one',
      )
    }
    // Guards the test: many rows are readable for reasons other than ownership.
    expect(shared).toBeGreaterThan(100)
  }, 120_000)

  test('costs one statement under any filter', async () => {
    const person = await world.person()
    const at = await world.project(person)
    for (const filter of [
      '',
      `?project_id=${at}&owner_id=${person.id}`,
      '?status=queued&intent=fork&model=one&favorite=true',
    ]) {
      await world.as(person).get(`/generations${filter}`)
      expect(await world.statementsOf(() => world.as(person).get(`/generations${filter}`))).toHaveLength(1)
    }
  })

  test('refuses unknown filters and values', async () => {
    const person = await world.person()
    for (const query of [
      'status=done',
      'intent=copy',
      'model=%20',
      'favorite=1',
      'parent_id=x',
      'limit=101',
      'cursor=x',
    ]) {
      expect(await world.as(person).get(`/generations?${query}`)).toMatchObject({ status: 422 })
    }
  })

  test('neither misses nor repeats a row while rows are created, deleted and moved', async () => {
    const { ann, ben } = await world.people('ann', 'ben')
    const team = await world.team([[ben, 'admin']])
    const crew = await world.project(ann, { visibility: 'team-only' })
    await world.grantAccess(crew, team, 'admin', ann)
    const open = await world.project(ann, { visibility: 'public' })
    const away = await world.project(ann)
    // A third each: owned by ben, shared with the team, public.
    const rows = Array.from({ length: 250 }, (_, index) => ({
      id: newId(),
      owner_id: index % 3 === 0 ? ben.id : ann.id,
      project_id: [null, crew, open][index % 3] as string | null,
      model: 'one',
      prompt: `row ${index}`,
    }))
    await world.sql`insert into generations ${world.sql(rows)}`
    const stable = new Set(rows.filter((_, index) => index % 5 !== 1).map(({ id }) => id))
    const volatile = new Map(rows.filter(({ id }) => !stable.has(id)).map((row) => [row.id, row]))

    let done = false
    const churn = (async () => {
      while (!done) {
        await world.generation(ben)
        await world.generation(ann, { project_id: crew })
        const [id, row] = volatile.entries().next().value ?? []
        if (id === undefined) continue
        volatile.delete(id)
        const by = world.as(row?.owner_id === ben.id ? ben : ann)
        if (row?.project_id === crew) await by.patch(`/generations/${id}`, { project_id: away })
        else await by.delete(`/generations/${id}`)
      }
    })()

    for (let round = 0; round < 3; round += 1) {
      const seen: string[] = []
      let cursor: string | null = null
      do {
        const place: string = cursor === null ? '' : `&cursor=${cursor}`
        const { status, body } = await world.as(ben).get(`/generations?limit=11${place}`)
        expect(status).toBe(200)
        seen.push(...body.items.map(({ id }: { id: string }) => id))
        cursor = body.next_cursor
        if (cursor !== null) expect(body.items).toHaveLength(11)
        // The row that a cursor names may be deleted: the next page still starts at its place.
        const last = body.items.at(-1)?.id
        const row = volatile.get(last)
        if (row !== undefined && volatile.delete(last)) {
          await world.as(row.owner_id === ben.id ? ben : ann).delete(`/generations/${last}`)
        }
      } while (cursor !== null)
      expect(new Set(seen).size).toBe(seen.length)
      expect(seen).toEqual(seen.toSorted().reverse())
      const seenIds = new Set(seen)
      expect([...stable].filter((id) => !seenIds.has(id))).toEqual([])
    }
    done = true
    await churn
  }, 60_000)
})
