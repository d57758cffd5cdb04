import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createAccess } from '../../src/access/access.ts'
import { createDecisionCounters } from '../../src/access/cache/decision-counters.ts'
import { syncAccessRules } from '../../src/access/cache/effective-access-store.ts'
import { createFactCache } from '../../src/access/cache/fact-cache.ts'
import { createFactStore } from '../../src/access/cache/fact-store.ts'
import { loadFromStore } from '../../src/access/cache/tiered-loader.ts'
import { createListing } from '../../src/access/listing/listing.ts'
import { createListingStore } from '../../src/access/listing/listing-store.ts'
import {
  accessLevels,
  actions,
  listedTypes,
  type ResourceRef,
  type ResourceType,
  teamRoles,
  visibilities,
} from '../../src/access/policy/matrix.ts'
import { createGenerationStore } from '../../src/generations/store.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { decodeCursor } from '../../src/kit/cursor.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { createTtlMap } from '../../src/kit/ttl-map.ts'
import { createDatabase as createPools, type Database } from '../../src/platform/postgres.ts'
import { createProjectStore } from '../../src/projects/store.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'
import { createRandom, idOf } from './random.ts'
import { store } from './world.ts'

const startDeadline = createDeadlines(systemClock)
const within = () => startDeadline(30_000)

const size = { users: 6, teams: 4, projects: 9, generations: 160, media: 40 }
const range = (length: number) => Array.from({ length }, (_, index) => index)
const users = range(size.users).map((number) => idOf('user', number))
const teams = range(size.teams).map((number) => idOf('team', number))
const projects = range(size.projects).map((number) => idOf('project', number))

let database: TestDatabase
let pools: Database
let sql: Database['write']
let listing: ReturnType<typeof createListing>
let generationStore: ReturnType<typeof createGenerationStore>
let projectStore: ReturnType<typeof createProjectStore>
let access: ReturnType<typeof createAccess>

beforeAll(async () => {
  database = await createDatabase()
  pools = createPools({ connection: database.connection, budget: 40 })
  sql = pools.write
  await syncAccessRules(pools.admin)
  const listingStore = createListingStore(pools.read)
  listing = createListing(listingStore)
  generationStore = createGenerationStore(pools.read, listingStore)
  projectStore = createProjectStore(pools.read, listingStore)
  const facts = createFactCache({
    load: loadFromStore(createFactStore(pools.auth), { l3: true }),
    memory: createTtlMap<never>({ clock: systemClock, ttlMs: 0 }),
    clock: systemClock,
    lease: { untilMs: Number.NEGATIVE_INFINITY },
    flags: { l1: false },
  })
  access = createAccess({ clock: systemClock, facts, decisionCounters: createDecisionCounters() })
})
afterAll(async () => {
  await pools?.close(0)
  await database?.drop()
})

const { pick, chance, below } = createRandom(20)

/** Most generations are in two of the projects, so that pages end within one project's generations and go over several. */
const anyProjectOrNone = () => (below(10) === 0 ? null : below(3) > 0 ? pick(projects.slice(0, 2)) : pick(projects))

const createWorld = async (): Promise<void> => {
  const generations = range(size.generations).map((number) => ({
    id: idOf('generation', number),
    owner_id: pick(users),
    project_id: anyProjectOrNone(),
    completed: chance(0.8),
  }))
  await store(sql, {
    users: users.map((id) => ({ id, status: 'active' as const, role: 'user' as const })),
    teams: teams.map((id) => ({ id })),
    members: teams.flatMap((team_id, at) => [
      { team_id, user_id: users[at] as string, role: 'owner' as const },
      { team_id, user_id: users[at + 1] as string, role: pick(teamRoles.slice(1)) },
    ]),
    projects: projects.map((id) => ({
      id,
      owner_id: pick(users),
      visibility: pick(visibilities),
      allow_derivatives: chance(0.5),
    })),
    grants: projects.flatMap((project_id) =>
      teams.filter(() => chance(0.3)).map((team_id) => ({ project_id, team_id, access_level: pick(accessLevels) })),
    ),
    generations,
    media: range(size.media).map((number) => ({
      id: idOf('media', number),
      owner_id: pick(users),
      generation_id: chance(0.2) ? null : pick(generations).id,
    })),
  })
}

let lastGeneration = size.generations - 1

/** Everything that changes a list: each with its triggers. */
const changes: readonly (() => PromiseLike<unknown>)[] = [
  () => sql`update projects set visibility = ${pick(visibilities)} where id = ${pick(projects)}`,
  () => sql`update projects set visibility = ${pick(visibilities)} where id = any (${projects.slice(0, 2)}::uuid[])`,
  () => sql`update projects set owner_id = ${pick(users)} where id = ${pick(projects)}`,
  () => sql`delete from project_grants where project_id = ${pick(projects)} and team_id = ${pick(teams)}`,
  () => sql`
    insert into project_grants (project_id, team_id, access_level, granted_by)
    values (${pick(projects)}, ${pick(teams)}, ${pick(accessLevels)}, ${pick(users)})
    on conflict (project_id, team_id) do update set access_level = excluded.access_level`,
  () => sql`delete from team_members where team_id = ${pick(teams)} and user_id = ${pick(users)} and role <> 'owner'`,
  () => sql`
    insert into team_members (team_id, user_id, role)
    values (${pick(teams)}, ${pick(users)}, ${pick(teamRoles.slice(1))}) on conflict do nothing`,
  () => sql`update users set status = ${pick(['active', 'active', 'suspended'])} where id = ${users[5] as string}`,
  () => sql`update generations set project_id = ${anyProjectOrNone()} where id = ${anyGeneration()}`,
  () => sql`
    update generations set project_id = ${anyProjectOrNone()}
     where id = any (${range(5).map(anyGeneration)}::uuid[])`,
  () => sql`update generations set owner_id = ${pick(users)} where id = ${anyGeneration()}`,
  () => sql`
    update generations set status = ${pick(['completed', 'queued'])} where id = ${anyGeneration()}`,
  () => sql`delete from generations where id = ${anyGeneration()}`,
  () => {
    lastGeneration += 1
    // A child of another one: lineage gives no access.
    return sql`
      insert into generations (id, owner_id, project_id, model, prompt, intent, ancestor_ids)
      select ${idOf('generation', lastGeneration)}, ${pick(users)}, ${anyProjectOrNone()}, 'm', 'p', 'fork', array[id]
        from generations order by random() limit 1`
  },
]

const anyGeneration = () => idOf('generation', below(lastGeneration + 1))

const deletedProject = idOf('project', 8)

const allResources = async (): Promise<ResourceRef[]> => {
  const rows = await sql<{ type: ResourceType; id: string }[]>`
    select 'project' as type, id from projects union all select 'generation', id from generations
    union all select 'media', id from media`
  return rows.map(({ type, id }) => ({ type, id }))
}

const newestFirst = (ids: string[]) => ids.sort().reverse()

/** Reads every page. */
const allPages = async (
  limit: number,
  read: (place: { after: string | null; limit: number }) => Promise<{ items: string[]; next_cursor: string | null }>,
): Promise<string[]> => {
  const ids: string[] = []
  for (let after: string | null = null; ; ) {
    const { items, next_cursor } = await read({ after, limit })
    ids.push(...items)
    if (next_cursor === null) return ids
    expect(items).toHaveLength(limit)
    after = decodeCursor(next_cursor) as string
  }
}

const limits = [1, 2, 3, 7, 20, 100]

/** Compares every list with the decision about each user, resource and, over several calls, action. */
const compare = async (): Promise<number> => {
  const resources = await allResources()
  const action = pick(actions)
  const questions = users.flatMap((userId) => resources.map((resource) => ({ userId, action, resource })))
  const decisions = await access.decideMany(questions, within())
  const allowed = questions.filter((_, at) => decisions[at]?.allowed)
  for (const userId of users) {
    const own = allowed.filter((question) => question.userId === userId)
    for (const type of listedTypes) {
      const ids = own.filter(({ resource }) => resource.type === type).map(({ resource }) => resource.id)
      const listed = await allPages(pick(limits), async (place) => {
        const { items, next_cursor } = await listing.accessible(within(), userId, { type, action }, place)
        return { items: items.map(({ id }) => id), next_cursor }
      })
      expect(listed).toEqual(newestFirst(ids))
    }
  }
  for (const resource of resources.filter(() => chance(0.1))) {
    const ids = allowed.filter((question) => question.resource === resource).map(({ userId }) => userId)
    const found = await listing.subjects(within(), resource, action, { after: null, limit: 100 })
    expect(found.map(({ id }) => id)).toEqual(newestFirst(ids))
  }
  return allowed.length
}

describe('lists and decisions', () => {
  test('agree for every user and resource after changes of projects, grants, members, accounts and generations', async () => {
    await createWorld()
    let allowed = await compare()
    for (let step = 0; step < 120; step += 1) {
      await pick(changes)()
      if (step === 60) await sql`delete from projects where id = ${deletedProject}`
      if (step === 60) projects.pop()
      if (step % 4 === 0) allowed += await compare()
    }
    expect(allowed).toBeGreaterThan(2_000)
  }, 60_000)

  test('agree for filtered lists: a filtered list is the part of the whole that the filter matches', async () => {
    const rows = await sql<
      { id: string; owner_id: string; project_id: string | null; status: string; intent: string; model: string }[]
    >`select id, owner_id, project_id, status, intent, model from generations`
    await sql`
      insert into generation_favorites (user_id, generation_id)
      select u.id, g.id from users u, generations g where random() < 0.3`
    const marked = new Set(
      (await sql`select user_id, generation_id from generation_favorites`).map(
        (row) => `${row['user_id']} ${row['generation_id']}`,
      ),
    )
    let shown = 0
    for (let round = 0; round < 100; round += 1) {
      const userId = pick(users.slice(0, 5))
      const filter = {
        projectId: chance(0.3) ? pick(projects) : undefined,
        ownerId: chance(0.3) ? pick(users) : undefined,
        status: chance(0.3) ? pick(['completed', 'queued'] as const) : undefined,
        intent: chance(0.2) ? pick(['original', 'fork'] as const) : undefined,
        model: chance(0.2) ? 'm' : undefined,
        favorite: chance(0.3),
      }
      const questions = rows.map(({ id }) => ({
        userId,
        action: 'read' as const,
        resource: { type: 'generation' as const, id },
      }))
      const decisions = await access.decideMany(questions, within())
      const expected = rows.filter(
        (row, at) =>
          decisions[at]?.allowed &&
          (filter.projectId === undefined || row.project_id === filter.projectId) &&
          (filter.ownerId === undefined || row.owner_id === filter.ownerId) &&
          (filter.status === undefined || row.status === filter.status) &&
          (filter.intent === undefined || row.intent === filter.intent) &&
          (!filter.favorite || marked.has(`${userId} ${row.id}`)),
      )
      const limit = pick(limits)
      const ids: string[] = []
      for (let after: string | null = null; ; ) {
        const page = await generationStore.list(within(), userId, { ...filter, after, limit })
        const items = page.slice(0, limit)
        ids.push(...items.map(({ id }) => id))
        if (page.length <= limit) break
        after = items.at(-1)?.id ?? null
      }
      expect(ids).toEqual(newestFirst(expected.map(({ id }) => id)))
      shown += ids.length
    }
    expect(shown).toBeGreaterThan(700)
    for (const ownerId of users) {
      for (const userId of users.slice(0, 5)) {
        const owned = await sql<{ id: string }[]>`select id from projects where owner_id = ${ownerId}`
        const decisions = await access.decideMany(
          owned.map(({ id }) => ({ userId, action: 'read', resource: { type: 'project', id } })),
          within(),
        )
        const expected = owned.filter((_, at) => decisions[at]?.allowed).map(({ id }) => id)
        const page = await projectStore.list(within(), userId, { ownerId, after: null, limit: 100 })
        expect(page.map(({ id }) => id)).toEqual(newestFirst(expected))
      }
    }
  }, 60_000)
})

test('a project that becomes public while generations are ordered in it lists every one of them, and none when it is private', async () => {
  const project = projects[2] as string
  const stranger = idOf('user', 50)
  await sql`insert into users (id, email, display_name, password_hash) values (${stranger}, 's@example.com', 's', 'x')`
  const listed = async () => {
    const rows = await sql<{ id: string }[]>`select id from public_generations where project_id = ${project}`
    return newestFirst(rows.map(({ id }) => id))
  }
  for (let round = 0; round < 20; round += 1) {
    const visibility = round % 2 === 0 ? 'public' : 'private'
    await Promise.all([
      sql`update projects set visibility = ${visibility} where id = ${project}`,
      ...range(6).map(async () => {
        lastGeneration += 1
        await sql`
          insert into generations (id, owner_id, project_id, model, prompt)
          values (${idOf('generation', lastGeneration)}, ${users[0] as string}, ${project}, 'm', 'p')`
      }),
      sql`update generations set project_id = ${project} where id = ${anyGeneration()}`,
      sql`update generations set project_id = null where id = ${anyGeneration()}`,
    ])
    const inProject = await sql<{ id: string }[]>`select id from generations where project_id = ${project}`
    expect(await listed()).toEqual(visibility === 'public' ? newestFirst(inProject.map(({ id }) => id)) : [])
  }
}, 60_000)
