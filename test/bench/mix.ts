import { hash } from '@node-rs/argon2'
import { syncAccessRules } from '../../src/access/cache/effective-access-store.ts'
import { actions } from '../../src/access/policy/matrix.ts'
import { makeServiceKey } from '../../src/access/service-key.ts'
import { createLargeWorld, seedEmail, seedPassword, type WorldSize } from '../../src/boot/seed/large-world.ts'
import { type SignedIn, signIn } from '../../src/boot/seed/signed-in.ts'
import { writeWorld } from '../../src/boot/seed/world-store.ts'
import { maxAccessTokenTtlMs } from '../../src/config.ts'
import { argon2Options } from '../../src/identity/passwords.ts'
import { createRandom, type Random } from '../../src/kit/random.ts'
import { migrate } from '../../src/platform/migrate.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { connectionOf, newCountedDatabase, temporaryDirectory } from './databases.ts'
import type { Tiers, Watched } from './load/drive.ts'
import type { Phase, PlannedRequest } from './load/plan.ts'
import type { Requests } from './load/send.ts'
import { checkPath } from './people.ts'
import { onEnd, type Runtime, type Server, startVelro } from './servers.ts'

/** The world of the check scenarios. */
export const mixSize: WorldSize = { users: 500, teams: 50, projects: 200, generations: 5_000 }

export type Question = {
  readonly userId: string
  readonly action: string
  readonly resource: { readonly type: 'project' | 'generation'; readonly id: string }
  /** The project on which the answer depends, by its owner and visibility. */
  readonly projectId: string | null
  /** Whether the user owns what the question is about: no change of the project takes that away. */
  readonly own: boolean
}

type Project = { id: string; owner_id: string; visibility: string }
type Generation = { id: string; owner_id: string; project_id: string | null }
type Person = { readonly userId: string; readonly all: readonly Generation[]; readonly hot: readonly Generation[] }

export type Mix = {
  readonly env: Readonly<Record<string, string>>
  readonly sql: Sql
  readonly size: WorldSize
  /** Everybody who is signed in, by id. */
  readonly people: ReadonlyMap<string, SignedIn>
  readonly key: string
  readonly projects: readonly Project[]
  readonly generations: readonly Generation[]
  /** A person at work: four in five questions come from a fifth of the people, and are about a fifth of what they can see. */
  ask(random: Random): Question
  /** The same by this person. */
  askBy(userId: string, random: Random): Question
  /** With the token of an operator, who may read the metrics. */
  watch(server: Server): Watched
}

/** The share of questions about random resources. */
const strangers = 0.02
/** Questions about the project itself. */
const aboutProjects = 0.2

const pickFifths = <T>(random: Random, hot: readonly T[], all: readonly T[]): T =>
  random.chance(0.8) && hot.length > 0 ? random.pick(hot) : random.pick(all)

const tiersOf = async (url: string, token: string): Promise<Tiers | undefined> => {
  const response = await fetch(`${url}/api/v1/performance/metrics`, { headers: { authorization: `Bearer ${token}` } })
  // Under more load than it can take.
  if (response.status === 503) return undefined
  if (!response.ok) throw new Error(`The metrics said ${response.status}: ${await response.text()}`)
  const { caches } = (await response.json()) as { caches: { decisions: Tiers } }
  return caches.decisions
}

const createKey = async (sql: Sql, creator: string): Promise<string> => {
  const id = crypto.randomUUID()
  const { key, secretHash } = makeServiceKey(id)
  await sql`
    insert into service_keys (id, name, secret_hash, scopes, created_by, created_at)
    values (${id}, 'bench', ${secretHash}, '{authorization:check,authorization:list}', ${creator}, now())`
  return key
}

const peopleAtWork = async (sql: Sql, generations: readonly Generation[]): Promise<Person[]> => {
  const byId = new Map(generations.map((generation) => [generation.id, generation]))
  const isHot = new Set(generations.filter((_, index) => index % 5 === 0).map(({ id }) => id))
  const visible = await sql<{ user_id: string; ids: string[] }[]>`
    select user_id, array_agg(distinct id) as ids
      from (select a.user_id, g.id from project_access a join generations g on g.project_id = a.project_id
            union all select owner_id, id from generations) v
     group by user_id order by user_id`
  return visible.map(({ user_id: userId, ids }) => {
    const all = ids.flatMap((id) => byId.get(id) ?? [])
    return { userId, all, hot: all.filter(({ id }) => isHot.has(id)) }
  })
}

/** A database with a world of that size, whose people are signed in, and a service key. */
export const prepareMix = async (size: WorldSize = mixSize, signedIn = size.users): Promise<Mix> => {
  const external = await newCountedDatabase()
  const env = { ...external, ADMIN_EMAIL: seedEmail(1, 0), MEDIA_DIR: await temporaryDirectory() }
  const sql = connectOnce(connectionOf(external))
  onEnd({ stop: () => sql.end({ timeout: 1 }) })
  await migrate(sql)
  await syncAccessRules(sql)
  const { users, tables } = createLargeWorld(size, 1, await hash(seedPassword, argon2Options))
  await writeWorld(sql, tables, () => {})
  // No Redis holds entries of before: else the instances would not read it until those would have expired.
  await sql`delete from access_events`
  const policy = { issuer: 'velro', audience: 'velro', ttlMs: maxAccessTokenTtlMs }
  const keys = { secret: external['SECRET'] ?? '', policy, maxTokenTtlMs: maxAccessTokenTtlMs }
  const tokens = await signIn(sql, keys, users.slice(0, signedIn))
  const people = new Map(tokens.map((person) => [person.user_id, person]))
  const key = await createKey(sql, users[0] as string)
  const projects = await sql<Project[]>`select id, owner_id, visibility from projects order by id`
  const generations = await sql<Generation[]>`select id, owner_id, project_id from generations order by id`
  const projectOwners = new Map(projects.map(({ id, owner_id }) => [id, owner_id]))
  const atWork = (await peopleAtWork(sql, generations)).filter(({ userId }) => people.has(userId))
  const byUser = new Map(atWork.map((person) => [person.userId, person]))
  const hotPeople = atWork.filter((_, index) => index % 5 === 0)

  const questionOf = (userId: string, seen: Person | undefined, random: Random): Question => {
    const isStranger = seen === undefined || random.chance(strangers)
    const generation = isStranger ? random.pick(generations) : pickFifths(random, seen.hot, seen.all)
    const { project_id: projectId } = generation
    const ownsProject = projectId !== null && projectOwners.get(projectId) === userId
    const action = random.pick(actions)
    if (projectId !== null && random.chance(aboutProjects)) {
      return { userId, action, resource: { type: 'project', id: projectId }, projectId, own: ownsProject }
    }
    const own = ownsProject || generation.owner_id === userId
    return { userId, action, resource: { type: 'generation', id: generation.id }, projectId, own }
  }
  return {
    ...{ env, sql, size, people, key, projects, generations },
    ask: (random) => {
      const person = pickFifths(random, hotPeople, atWork)
      return questionOf(person.userId, person, random)
    },
    askBy: (userId, random) => questionOf(userId, byUser.get(userId), random),
    watch: ({ url, pid }) => ({
      pid,
      sql,
      tiers: () => tiersOf(url, people.get(users[0] as string)?.access_token ?? ''),
    }),
  }
}

/** Settings as shipped, but for what a load generator on one address needs. */
export const startMix = (mix: Mix, env: Readonly<Record<string, string>> = {}, runtime?: Runtime): Promise<Server> =>
  startVelro({ ...mix.env, ...env }, runtime)

/** A draft of a plan: requests are added once, and drawn as often as needed. */
export const createDraft = (tokens: readonly string[]) => {
  const kinds: string[] = []
  const requests: PlannedRequest[] = []
  const known = new Map<string, number>()
  const tokenAt = new Map(tokens.map((token, index) => [token, index]))
  return {
    /** The index of the request; the same request has one. */
    add: (kind: string, request: Omit<PlannedRequest, 'kind' | 'token'>, token?: string): number => {
      const at = token === undefined ? undefined : tokenAt.get(token)
      const text = `${kind} ${at} ${JSON.stringify(request)}`
      const found = known.get(text)
      if (found !== undefined) return found
      if (!kinds.includes(kind)) kinds.push(kind)
      requests.push({ ...request, kind: kinds.indexOf(kind), ...(at !== undefined && { token: at }) })
      known.set(text, requests.length - 1)
      return requests.length - 1
    },
    plan: (
      lanes: readonly (readonly number[])[],
      phases: readonly Phase[],
      rest: Partial<Pick<Requests, 'perSecond' | 'warmUpSeconds'>> = {},
    ): Requests => ({ kinds, tokens, requests, lanes, phases, warmUpSeconds: 0.2, ...rest }),
  }
}
export type Draft = ReturnType<typeof createDraft>

export const tokensOf = ({ people }: Mix): string[] => [...people.values()].map(({ access_token }) => access_token)

/** Who asks: each person for itself, or a service about all of them. */
export type Asker = 'token' | 'key'

/** The check that asks this. Only with `slots` is the answer held against changes of the project. */
export const checkRequest = (
  mix: Mix,
  draft: Draft,
  { userId, action, resource, projectId, own }: Question,
  asker: Asker,
  slots?: ReadonlyMap<string, number>,
  path = checkPath,
): number => {
  const slot = own || projectId === null ? undefined : slots?.get(projectId)
  const body = JSON.stringify(asker === 'token' ? { action, resource } : { user_id: userId, action, resource })
  const token = asker === 'token' ? mix.people.get(userId)?.access_token : mix.key
  return draft.add('check', { method: 'POST', path, body, ...(slot !== undefined && { judgedBy: slot }) }, token)
}

const drawn = 100_000

/** Checks as people at work send them. */
export const checkPlan = (
  mix: Mix,
  {
    asker,
    connections,
    seconds,
    path,
    count = drawn,
  }: { asker: Asker; connections: number; seconds: number; path?: string; count?: number },
): Requests => {
  const random = createRandom(11)
  const draft = createDraft([...tokensOf(mix), mix.key])
  const lane = Array.from({ length: count }, () => checkRequest(mix, draft, mix.ask(random), asker, undefined, path))
  return draft.plan([lane], [{ connections, seconds }])
}
