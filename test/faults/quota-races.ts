/**
 * Two accounts fill and empty their quotas on two instances, with everything at once: projects, teams and their transfers,
 * orders, cancellations, deletions, uploads and sign-ins, while jobs run. Counts deadlocks, unexpected answers, and samples in
 * which an account held more than its quota. `bun test/faults/quota-races.ts [SECONDS]`
 */
import process from 'node:process'
import { connectOnce } from '../../src/platform/postgres.ts'
import { newPicture } from '../harness/pictures.ts'
import { reapAll } from '../harness/reaper.ts'
import { type Answer, type Api, api, type Person, register, startApp } from '../harness.ts'
import { withQuotas } from './support.ts'

const seconds = Number(process.argv[2] ?? 30)
const inFlight = 24
const quotas = { projects: 4, teams: 3, team_members: 4, sessions: 4, jobs_under_way: 4, stored_bytes: 120_000_000 }
const config = {
  limits: 'on',
  policy: withQuotas(quotas),
  dbConnections: 60,
  jobConcurrency: 2,
  welcomeCredits: 1_000_000,
} as const
const one = await startApp({ config })
const two = await startApp({ connection: one.connection, config })
const sql = connectOnce(one.connection)
const watcher = connectOnce(one.connection)
const clients = [api(one.baseUrl), api(two.baseUrl)] as const
const people: [Person, Person] = [await register(clients[0]), await register(clients[0])]
const picture = new Uint8Array(await newPicture())
const order = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 64, height: 64 } }

/** A team of the first, so that projects and teams can pass between them. */
const shared = (await clients[0].post('/api/v1/teams', { name: 'Shared' }, { token: people[0].token })).body.id
const invited = await clients[0].post(
  `/api/v1/teams/${shared}/invitations`,
  { email: people[1].email, role: 'admin' },
  { token: people[0].token },
)
await clients[0].post('/api/v1/teams/invitations/accept', { secret: invited.body.secret }, { token: people[1].token })

const outcomes: Record<string, number> = {}
const unexpected: Record<string, number> = {}
const count = (answer: Answer, name: string) => {
  const code = answer.status < 400 ? String(answer.status) : `${answer.status} ${answer.body?.code}`
  outcomes[code] = (outcomes[code] ?? 0) + 1
  if (answer.status >= 500) unexpected[`${name} ${code}`] = (unexpected[`${name} ${code}`] ?? 0) + 1
  return answer
}
const pick = <T>(items: readonly T[]): T => items[Math.floor(Math.random() * items.length)] as T
const firstOf = async (on: Api, path: string, token: string): Promise<string | undefined> => {
  const { body } = await on.get(`${path}?limit=20`, { token })
  return pick<{ id: string } | undefined>(body?.items ?? [])?.id
}

type Step = (on: Api, person: Person, other: Person) => Promise<unknown>
const steps: Record<string, Step> = {
  createProject: async (on, { token }) =>
    count(await on.post('/api/v1/projects', { name: 'P', visibility: 'team-only' }, { token }), 'createProject'),
  deleteProject: async (on, { token }) => {
    const id = await firstOf(on, '/api/v1/projects', token)
    if (id !== undefined) count(await on.delete(`/api/v1/projects/${id}`, { token }), 'deleteProject')
  },
  transferProject: async (on, { token }, other) => {
    const id = await firstOf(on, '/api/v1/projects', token)
    if (id === undefined) return
    await on.post(`/api/v1/projects/${id}/teams`, { team_id: shared, access_level: 'admin' }, { token })
    count(await on.post(`/api/v1/projects/${id}/transfer`, { owner_id: other.id }, { token }), 'transferProject')
  },
  createTeam: async (on, { token }) => count(await on.post('/api/v1/teams', { name: 'T' }, { token }), 'createTeam'),
  deleteTeam: async (on, { token }) => {
    const id = await firstOf(on, '/api/v1/teams', token)
    if (id !== undefined && id !== shared) count(await on.delete(`/api/v1/teams/${id}`, { token }), 'deleteTeam')
  },
  transferTeam: async (on, { token }, other) =>
    count(await on.post(`/api/v1/teams/${shared}/transfer`, { user_id: other.id }, { token }), 'transferTeam'),
  order: async (on, { token }) => count(await on.post('/api/v1/generations', order, { token }), 'order'),
  derive: async (on, { token }) => {
    const parent_id = await firstOf(on, '/api/v1/generations', token)
    if (parent_id === undefined) return
    const body = { ...order, parent_id, intent: 'iterate' }
    count(await on.post('/api/v1/generations', body, { token }), 'derive')
  },
  cancel: async (on, { token }) => {
    const id = await firstOf(on, '/api/v1/generations', token)
    if (id !== undefined) count(await on.post(`/api/v1/generations/${id}/cancel`, undefined, { token }), 'cancel')
  },
  deleteGeneration: async (on, { token }) => {
    const id = await firstOf(on, '/api/v1/generations', token)
    if (id !== undefined) count(await on.delete(`/api/v1/generations/${id}`, { token }), 'deleteGeneration')
  },
  upload: async (on, { token }) =>
    count(await on.post('/api/v1/media', picture, { token, headers: { 'content-type': 'image/png' } }), 'upload'),
  deleteMedia: async (on, { token }) => {
    const id = await firstOf(on, '/api/v1/media', token)
    if (id !== undefined) count(await on.delete(`/api/v1/media/${id}`, { token }), 'deleteMedia')
  },
  signIn: async (on, { email, password }) => count(await on.post('/api/v1/auth/login', { email, password }), 'signIn'),
}
// Sign-ins end the session seen least recently; the ones that the others use stay.
await sql`update sessions set last_seen_at = now() + interval '1 day'`

const untilMs = performance.now() + seconds * 1_000
let samples = 0
let above = 0
const watch = async () => {
  while (performance.now() < untilMs) {
    const rows = await watcher<{ projects: number; teams: number; sessions: number; jobs: number; bytes: number }[]>`
      select usage_of(id, 'projects')::int as projects, usage_of(id, 'teams')::int as teams,
             usage_of(id, 'sessions')::int as sessions, usage_of(id, 'jobs_under_way')::int as jobs,
             usage_of(id, 'stored_bytes')::float8 as bytes from users`
    samples += rows.length
    above += rows.filter(
      (row) =>
        row.projects > quotas.projects ||
        row.teams > quotas.teams ||
        row.sessions > quotas.sessions ||
        row.jobs > quotas.jobs_under_way ||
        row.bytes > quotas.stored_bytes,
    ).length
  }
}
const work = async () => {
  while (performance.now() < untilMs) {
    const [person, other] = Math.random() < 0.5 ? people : people.toReversed()
    await pick(Object.values(steps))(pick(clients), person as Person, other as Person)
  }
}
await Promise.all([watch(), ...Array.from({ length: inFlight }, work)])
const [statistics] = await sql<{ deadlocks: number }[]>`
  select deadlocks::int from pg_stat_database where datname = current_database()`
const differing = await sql`
  select from account_usage u
   where media_bytes <> coalesce((select sum(bytes) from media join media_objects using (sha256) where owner_id = u.user_id), 0)
      or projects <> (select count(*) from projects where owner_id = u.user_id)`
console.log(
  JSON.stringify(
    { seconds, outcomes, unexpected, deadlocks: statistics?.deadlocks, samples, above, miscounted: differing.length },
    undefined,
    1,
  ),
)
await sql.end()
await watcher.end()
await two.close()
await one.close()
await reapAll()
process.exit(0)
