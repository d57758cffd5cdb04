import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { syncAccessRules } from '../../src/access/cache/effective-access-store.ts'
import { createListing } from '../../src/access/listing/listing.ts'
import { createListingStore } from '../../src/access/listing/listing-store.ts'
import {
  type Action,
  accessLevels,
  actions,
  type ListedRef,
  type ListedType,
  teamRoles,
} from '../../src/access/policy/matrix.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { decodeCursor } from '../../src/kit/cursor.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { createDatabase as createPools, type Database } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'
import { createRandom, idOf } from './random.ts'
import { isActive, may, type World } from './reference-model.ts'
import { insertInBulk, store } from './world.ts'

const startDeadline = createDeadlines(systemClock)

const size = { users: 100, teams: 40, projects: 1_000, generations: 9_000 }

const range = (length: number) => Array.from({ length }, (_, index) => index)

/** Ten thousand resources and a hundred users, each in a few teams; each team has grants on a few projects. */
const makeWorld = (seed: number): World => {
  const { pick, chance, below } = createRandom(seed)
  const users = range(size.users).map((number) => idOf('user', number))
  const teams = range(size.teams).map((number) => idOf('team', number))
  const projects = range(size.projects).map((number) => idOf('project', number))
  return {
    users: users.map((id, at) => ({
      id,
      status: at % 20 === 7 ? 'suspended' : at % 20 === 13 ? 'deleted' : 'active',
      role: at % 10 === 0 ? 'admin' : 'user',
      second_factor: at % 3 === 0,
    })),
    teams: teams.map((id, at) => ({ id, requires_second_factor: at % 4 === 0 })),
    members: teams.flatMap((team_id) => {
      const owner = pick(users)
      const others = users.filter((user) => user !== owner && chance(0.06))
      return [
        { team_id, user_id: owner, role: 'owner' as const },
        ...others.map((user_id) => ({ team_id, user_id, role: pick(teamRoles.slice(1)) })),
      ]
    }),
    projects: projects.map((id) => ({
      id,
      owner_id: pick(users),
      visibility: chance(0.03) ? 'public' : chance(0.5) ? 'team-only' : 'private',
      allow_derivatives: true,
    })),
    grants: projects.flatMap((project_id) =>
      teams.filter(() => chance(0.03)).map((team_id) => ({ project_id, team_id, access_level: pick(accessLevels) })),
    ),
    generations: range(size.generations).map((number) => ({
      id: idOf('generation', number),
      owner_id: pick(users),
      project_id: below(10) === 0 ? null : pick(projects),
    })),
  }
}

const world = makeWorld(3)

const groupBy = <T>(rows: readonly T[], keyOf: (row: T) => string): Map<string, T[]> => Map.groupBy(rows, keyOf)

/**
 * The answers of the reference model, each computed once. It reads whole tables row by row, so each question gets a world
 * of only the rows that name its user and its project.
 */
const remember = (about: World) => {
  const membersOf = groupBy(about.members, (row) => row.user_id)
  const grantsOf = groupBy(about.grants, (row) => row.project_id)
  const usersById = groupBy(about.users, (row) => row.id)
  const projectsById = groupBy(about.projects, (row) => row.id)
  const worldOf = (userId: string, projectId: string): World => ({
    users: usersById.get(userId) ?? [],
    teams: about.teams,
    members: membersOf.get(userId) ?? [],
    projects: projectsById.get(projectId) ?? [],
    grants: grantsOf.get(projectId) ?? [],
    generations: [],
  })
  const known = new Map<string, boolean>()
  const onProject = (userId: string, action: Action, id: string) => {
    const key = `${userId}${action}${id}`
    const answer = known.get(key) ?? may(worldOf(userId, id), userId, action, { type: 'project', id })
    known.set(key, answer)
    return answer
  }
  const active = new Set(about.users.filter(({ id }) => isActive(about, id)).map(({ id }) => id))
  const onGeneration = (userId: string, action: Action, generation: World['generations'][number]) => {
    if (!active.has(userId)) return false
    if (generation.owner_id === userId) return action !== 'admin'
    return generation.project_id !== null && onProject(userId, action, generation.project_id)
  }
  return { onProject, onGeneration }
}
const expectedAccess = remember(world)
/** The answers without access through public visibility. */
const shared = remember({
  ...world,
  projects: world.projects.map((row) => ({
    ...row,
    visibility: row.visibility === 'public' ? 'team-only' : row.visibility,
  })),
})

let database: TestDatabase
let pools: Database
let listing: ReturnType<typeof createListing>

beforeAll(async () => {
  database = await createDatabase()
  pools = createPools({ connection: database.connection, budget: 40 })
  await syncAccessRules(pools.admin)
  await insertInBulk(pools.admin, (tx) => store(tx, world))
  await pools.admin`analyze`
  listing = createListing(createListingStore(pools.read))
})
afterAll(async () => {
  await pools?.close(0)
  await database?.drop()
})

const within = () => startDeadline(30_000)

type Page<T> = { items: T[]; next_cursor: string | null }

/** Reads every page. A page that is not full must be the last. */
const allPages = async <T>(
  limit: number,
  read: (place: { after: string | null; limit: number }) => Promise<Page<T>>,
) => {
  const items: T[] = []
  for (let after: string | null = null; ; ) {
    const page = await read({ after, limit })
    items.push(...page.items)
    if (page.next_cursor === null) return items
    expect(page.items).toHaveLength(limit)
    after = decodeCursor(page.next_cursor) as string
  }
}

/** Runs up to `width` of them concurrently. */
const forEachAtOnce = async <T>(items: readonly T[], work: (item: T) => Promise<void>, width = 6) => {
  let next = 0
  await Promise.all(
    range(width).map(async () => {
      while (next < items.length) {
        next += 1
        await work(items[next - 1] as T)
      }
    }),
  )
}

const newestFirst = (ids: string[]) => ids.sort().reverse()

const expectedProjects = (userId: string, action: Action) =>
  newestFirst(world.projects.map(({ id }) => id).filter((id) => expectedAccess.onProject(userId, action, id)))
const expectedGenerations = (userId: string, action: Action) =>
  newestFirst(world.generations.filter((row) => expectedAccess.onGeneration(userId, action, row)).map(({ id }) => id))

describe('with ten thousand resources and a hundred users', () => {
  test('the accessible resources are those each single check allows, for every user, type and action, over all pages', async () => {
    const questions = world.users.flatMap(({ id: userId }) =>
      actions.flatMap((action) => (['project', 'generation'] as const).map((type) => ({ userId, action, type }))),
    )
    let seen = 0
    await forEachAtOnce(questions, async ({ userId, action, type }) => {
      const limit = type === 'project' ? 250 : 1_000
      const items = await allPages(limit, (place) => listing.accessible(within(), userId, { type, action }, place))
      const expected = type === 'project' ? expectedProjects(userId, action) : expectedGenerations(userId, action)
      expect(items.map(({ id }) => id)).toEqual(expected)
      expect(items.every((item) => item.type === type)).toBeTrue()
      seen += items.length
    })
    expect(seen).toBeGreaterThan(100_000)
  }, 60_000)

  test('pages of any size add up to the same list', async () => {
    for (const { id: userId } of world.users.slice(0, 8)) {
      for (const limit of [1, 7, 100]) {
        const page = (type: ListedType) =>
          allPages(limit, (place) => listing.accessible(within(), userId, { type, action: 'create' }, place))
        expect((await page('project')).map(({ id }) => id)).toEqual(expectedProjects(userId, 'create'))
        if (limit === 1) continue
        expect((await page('generation')).map(({ id }) => id)).toEqual(expectedGenerations(userId, 'create'))
      }
    }
  }, 60_000)

  test('the users with access are those each single check allows, for every resource, over all pages', async () => {
    const ofProject = world.projects.flatMap(({ id }) =>
      actions.map((action) => ({ ref: { type: 'project', id } as ListedRef, action, generation: undefined })),
    )
    const ofGeneration = world.generations.map((generation, at) => ({
      ref: { type: 'generation', id: generation.id } as ListedRef,
      action: actions[at % actions.length] as Action,
      generation,
    }))
    let publicResources = 0
    let asked = 0
    await forEachAtOnce([...ofProject, ...ofGeneration], async ({ ref, action, generation }) => {
      asked += 1
      const everyone = new Set<boolean>()
      const people = await allPages(asked % 10 === 0 ? 3 : 40, async (place) => {
        const page = await listing.who(within(), ref, action, place)
        everyone.add(page.everyone)
        return page
      })
      const expected = world.users
        .map(({ id }) => id)
        .filter((id) =>
          generation === undefined ? shared.onProject(id, action, ref.id) : shared.onGeneration(id, action, generation),
        )
      expect(people.map(({ user_id }) => user_id)).toEqual(newestFirst(expected))
      const project = world.projects.find(
        ({ id }) => id === (generation === undefined ? ref.id : generation.project_id),
      )
      const shown = project?.visibility === 'public' && (action === 'read' || action === 'download')
      expect([...everyone]).toEqual([shown])
      if (shown) publicResources += 1
      if (asked % 3 !== 0 && !shown) return
      const subjects = await listing.subjects(within(), ref, action, { after: null, limit: 1_000 })
      const active = world.users.filter(({ status }) => status === 'active').map(({ id }) => id)
      expect(subjects.map(({ id }) => id)).toEqual(newestFirst(shown ? active : expected))
    })
    expect(publicResources).toBeGreaterThan(50)
  }, 60_000)

  test('a resource that does not exist has no users, and an unknown user no resources', async () => {
    for (const type of ['project', 'generation'] as const) {
      const nobody = await listing.who(within(), { type, id: idOf(type, 999_999) }, 'read', { after: null, limit: 10 })
      expect(nobody).toEqual({ items: [], everyone: false, next_cursor: null })
      const nothing = await listing.accessible(
        within(),
        idOf('user', 999_999),
        { type, action: 'read' },
        { after: null, limit: 10 },
      )
      expect(nothing).toEqual({ items: [], next_cursor: null })
    }
  })
})

test('paging during concurrent inserts and moves returns every unchanged generation once and none twice', async () => {
  const { pick, chance } = createRandom(11)
  const userId = world.users.find(({ status }) => status === 'active')?.id as string
  const before = expectedGenerations(userId, 'read')
  const own = new Set(world.generations.filter((row) => row.owner_id === userId).map(({ id }) => id))
  const touched = new Set<string>()
  let number = 100_000
  const seen = await allPages(50, async (place) => {
    const page = await listing.accessible(within(), userId, { type: 'generation', action: 'read' }, place)
    for (let writes = 0; writes < 5; writes += 1) {
      const victim = pick(before)
      if (chance(0.5) && !own.has(victim)) {
        touched.add(victim)
        await pools.write`update generations set project_id = null where id = ${victim}`
      } else {
        number += 1
        await pools.write`
          insert into generations (id, owner_id, model, prompt)
          values (${idOf('generation', number)}, ${userId}, 'm', 'p')`
      }
    }
    return page
  })
  const ids = seen.map(({ id }) => id)
  expect(new Set(ids).size).toBe(ids.length)
  expect(ids.filter((id) => !touched.has(id))).toEqual(before.filter((id) => !touched.has(id)))
  expect(touched.size).toBeGreaterThan(10)
})
