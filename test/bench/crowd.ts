import { syncAccessRules } from '../../src/access/cache/effective-access-store.ts'
import { actions } from '../../src/access/policy/matrix.ts'
import { makeServiceKey } from '../../src/access/service-key.ts'
import { newId } from '../../src/kit/id.ts'
import { migrate } from '../../src/platform/migrate.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createRandom, idOf, type Random } from '../access/random.ts'
import { startRedis } from '../harness.ts'
import { connectionOf, newExternalDatabase } from './databases.ts'
import { explainPath, loginPath, signUp } from './people.ts'
import { onEnd, startVelro } from './servers.ts'
import { fill } from './world.ts'

/**
 * Users at work: each is a member of two teams with grants to forty projects, half of them active, and asks about resources
 * in these projects. Four in five checks come from a fifth of the users and are about a fifth of the generations.
 */
export const size = { users: 500, teams: 50, projects: 300, generations: 5_000 }

type Environment = Readonly<Record<string, string>>
export type Question = { readonly userId: string; readonly generationId: string }
type Generation = { id: string; owner_id: string; project_id: string | null }

/** Who changes a project, and with what token. */
type Writer = { readonly projectId: string; readonly ownerId: string; readonly token: string }

export type Crowd = {
  readonly env: Environment
  readonly sql: Sql
  readonly key: string
  readonly writers: readonly Writer[]
  readonly generations: ReadonlyMap<string, Generation>
  /** A check by a user at work; now and then a random one. */
  atWork(random: Random): Question
  /** A random user and resource, with the same shares. */
  atRandom(random: Random): Question
}

const writers = 60
/** Of the questions of people at work, those about something that has nothing to do with them. */
const strangers = 0.02

const pickFifths = <T>(random: Random, hot: readonly T[], all: readonly T[]): T =>
  random.chance(0.8) && hot.length > 0 ? random.pick(hot) : random.pick(all)

const post = async (url: string, body: unknown, token?: string) => {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) },
    body: JSON.stringify(body),
  })
  if (!response.ok) throw new Error(`${url} said ${response.status}: ${await response.text()}`)
  return response.json() as Promise<Record<string, unknown>>
}

export const password = 'correct horse battery'

/** A database with the crowd in it; everybody has the same password. */
export const prepareCrowd = async (): Promise<Crowd> => {
  const env = await newExternalDatabase()
  const sql = connectOnce(connectionOf(env))
  onEnd({ stop: () => sql.end({ timeout: 1 }) })
  await migrate(sql)
  await syncAccessRules(sql)
  await fill(sql, size)
  const velro = await startVelro(env)
  await signUp(velro.url)
  await sql`
    update users set password_hash = (select password_hash from users where email = 'ada@example.com')
     where email <> 'ada@example.com'`
  const id = crypto.randomUUID()
  const { key, secretHash } = makeServiceKey(id)
  await sql`
    insert into service_keys (id, name, secret_hash, scopes, created_by, created_at)
    values (${id}, 'bench', ${secretHash}, '{authorization:check}', ${idOf('user', 0)}, now())`

  const owned = await sql<{ id: string; owner_id: string; email: string }[]>`
    select p.id, p.owner_id, u.email from projects p join users u on u.id = p.owner_id
     where p.visibility = 'team-only' order by md5(p.id::text) limit ${writers}`
  const signedIn: Writer[] = []
  for (const { id: projectId, owner_id: ownerId, email } of owned) {
    const { access_token } = await post(velro.url + loginPath, { email, password })
    signedIn.push({ projectId, ownerId, token: access_token as string })
  }
  const owners = [...new Set(signedIn.map(({ ownerId }) => ownerId))]
  for (const user_id of owners) {
    await sql`insert into credit_ledger (id, user_id, kind, amount) values (${newId()}, ${user_id}, 'welcome', 1000000)`
  }
  await velro.stop()
  await sql`truncate access_heat`

  const generations = await sql<Generation[]>`select id, owner_id, project_id from generations order by id`
  const visible = await sql<{ user_id: string; ids: string[] }[]>`
    select user_id, array_agg(distinct id) as ids
      from (select a.user_id, g.id from project_access a join generations g on g.project_id = a.project_id
            union all select owner_id, id from generations) v
     group by user_id order by user_id`
  const isHot = new Set(generations.filter((_, index) => index % 5 === 0).map(({ id }) => id))
  const people = visible.map(({ user_id, ids }) => ({
    userId: user_id,
    all: ids,
    hot: ids.filter((generation) => isHot.has(generation)),
  }))
  const hotPeople = people.filter((_, index) => index % 5 === 0)
  const ids = generations.map(({ id: generation }) => generation)
  const hotIds = [...isHot]
  const atRandom = (random: Random): Question => ({
    userId: pickFifths(random, hotPeople, people).userId,
    generationId: pickFifths(random, hotIds, ids),
  })
  return {
    env,
    sql,
    key,
    writers: signedIn,
    generations: new Map(generations.map((generation) => [generation.id, generation])),
    atRandom,
    atWork: (random) => {
      if (random.chance(strangers)) return atRandom(random)
      const { userId, hot, all } = pickFifths(random, hotPeople, people)
      return { userId, generationId: pickFifths(random, hot, all) }
    },
  }
}

export const newRedis = async (): Promise<Environment> => {
  const redis = onEnd(await startRedis())
  return { REDIS_URL: redis.url }
}

export type Load = {
  readonly url: string
  readonly crowd: Crowd
  readonly question: (random: Random) => Question
  readonly seconds: number
  /** Share of requests that change something. */
  readonly writes: number
  /** Share of those that take access away or give it back; the others make something. Default a fifth. */
  readonly accessChanges?: number
  /** Of the choices; the same seed, the same questions. */
  readonly seed?: number
}

export type Outcome = {
  readonly decisions: number
  /** Share of decisions that Postgres was not asked for: over all of the time, and over its last ten seconds. */
  readonly share: number
  readonly lastShare: number
  readonly writes: number
  /** Questions whose answer had to be no, because a change that took access away was answered before they were asked. */
  readonly judged: number
  readonly staleAllows: number
}

/** No more than keep it busy: answers that wait for a processor say nothing about tiers. */
const askers = 8
const lastMs = 10_000

/**
 * Asks as many at a time, each as soon as the last is answered, and counts the tiers that answered. Every change that
 * shuts a project is held against the answers that follow it.
 */
export const sendCrowd = async ({
  url,
  crowd,
  question,
  seconds,
  writes: share,
  accessChanges = 0.2,
  seed = 1,
}: Load): Promise<Outcome> => {
  const random = createRandom(seed)
  const endsMs = performance.now() + 1_000 * seconds
  const counts = { all: 0, deep: 0, lastAll: 0, lastDeep: 0, writes: 0, judged: 0, stale: 0 }
  /** Since when a project is surely shut; not in here while that is open. */
  const shut = new Map<string, number>()
  const busy = new Set<string>()
  const headers = { authorization: `Bearer ${crowd.key}`, 'content-type': 'application/json' }

  const ask = async () => {
    const { userId, generationId } = question(random)
    const generation = crowd.generations.get(generationId)
    const projectId = generation?.project_id ?? ''
    const shutAtMs = shut.get(projectId)
    const body = JSON.stringify({
      user_id: userId,
      action: random.pick(actions),
      resource: { type: 'generation', id: generationId },
    })
    const response = await fetch(url + explainPath, { method: 'POST', headers, body })
    if (response.status !== 200) throw new Error(`${response.status}: ${await response.text()}`)
    const { allowed, layers } = (await response.json()) as {
      allowed: boolean
      layers: { layer: number; tier: string | null }[]
    }
    const tier = layers.find(({ layer }) => layer === 7)?.tier
    const deep = tier !== 'l1' && tier !== 'l2' ? 1 : 0
    const last = endsMs - performance.now() < lastMs ? 1 : 0
    counts.all += 1
    counts.deep += deep
    counts.lastAll += last
    counts.lastDeep += last * deep
    const writer = crowd.writers.find((each) => each.projectId === projectId)
    const isOwners = userId === generation?.owner_id || userId === writer?.ownerId
    if (shutAtMs === undefined || isOwners || shut.get(projectId) !== shutAtMs) return
    counts.judged += 1
    if (allowed) counts.stale += 1
  }

  const send = async (method: string, path: string, token: string, body: unknown) => {
    const response = await fetch(`${url}/api/v1${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
    if (!response.ok) throw new Error(`${method} ${path} said ${response.status}: ${await response.text()}`)
    await response.arrayBuffer()
  }

  const write = async () => {
    const { projectId, token } = random.pick(crowd.writers)
    if (busy.has(projectId)) return
    busy.add(projectId)
    counts.writes += 1
    try {
      if (!random.chance(accessChanges)) {
        await send('POST', '/generations', token, { project_id: projectId, model: 'local/procedural', prompt: 'p' })
      } else if (shut.delete(projectId)) {
        await send('PATCH', `/projects/${projectId}`, token, { visibility: 'team-only' })
      } else {
        await send('PATCH', `/projects/${projectId}`, token, { visibility: 'private' })
        shut.set(projectId, performance.now())
      }
    } finally {
      busy.delete(projectId)
    }
  }

  const work = async () => {
    while (performance.now() < endsMs) await (random.chance(share) ? write() : ask())
  }
  await Promise.all(Array.from({ length: askers }, work))
  return {
    decisions: counts.all,
    share: 1 - counts.deep / counts.all,
    lastShare: 1 - counts.lastDeep / counts.lastAll,
    writes: counts.writes,
    judged: counts.judged,
    staleAllows: counts.stale,
  }
}
