/**
 * Everything that locks several rows, at once, on two instances: orders, derivations, moves, cancellations, deletions and
 * transfers of projects, grants, teams and their members, refusals by quotas, credits, suspended and closed accounts, while jobs
 * run. Prints how many deadlocks Postgres found, and between which statements. It prints 0 while all follow the lock order
 * (sql/README.md). `bun test/faults/lock-order.ts [SECONDS]`
 */
import { readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { connectOnce } from '../../src/platform/postgres.ts'
import { createDatabase } from '../harness/database.ts'
import { newPicture } from '../harness/pictures.ts'
import { reapAll } from '../harness/reaper.ts'
import { type Answer, api, type Person, register, startApp } from '../harness.ts'
import { withQuotas } from './support.ts'

const seconds = Number(process.argv[2] ?? 30)
const inFlight = 32
const quotas = { projects: 6, teams: 6, team_members: 8, sessions: 8, jobs_under_way: 6, stored_bytes: 200_000_000 }
const config = {
  limits: 'on',
  policy: withQuotas(quotas),
  dbConnections: 60,
  jobConcurrency: 2,
  welcomeCredits: 1_000_000,
} as const
const database = await createDatabase()
const sql = connectOnce(database.connection)
// Found at once, so that the pair is what holds the cycle, and not all that waited for it for a second.
await sql`alter database ${sql(database.connection.database)} set deadlock_timeout = '30ms'`
await sql`alter database ${sql(database.connection.database)} set log_error_verbosity = 'default'`
const one = await startApp({ connection: database.connection, config })
const two = await startApp({ connection: database.connection, config })
const baseUrls = [one.baseUrl, two.baseUrl]
const [log = ''] = (await sql<{ folder: string }[]>`select current_setting('data_directory') as folder`).map(
  ({ folder }) => join(dirname(folder), 'postgres.log'),
)
const logSizeBefore = (await readFile(log, 'utf8')).length

const pick = <T>(items: readonly T[]): T => items[Math.floor(Math.random() * items.length)] as T
const outcomes: Record<string, Record<string, number>> = {}
const call = async (
  name: string,
  method: 'get' | 'post' | 'patch' | 'delete',
  path: string,
  token: string,
  body?: object | Uint8Array,
): Promise<Answer> => {
  const client = api(pick(baseUrls))
  const options = { token, ...(body instanceof Uint8Array && { headers: { 'content-type': 'image/png' } }) }
  const at = `/api/v1${path}`
  const answer = await (method === 'get' || method === 'delete'
    ? client[method](at, options)
    : client[method](at, body as object, options))
  const code = answer.status < 400 ? String(answer.status) : `${answer.status} ${answer.body?.code}`
  const counts = outcomes[name] ?? {}
  outcomes[name] = counts
  counts[code] = (counts[code] ?? 0) + 1
  return answer
}

const newPerson = () => register(api(pick(baseUrls)))
const people = await Promise.all(Array.from({ length: 6 }, newPerson))
const operator = await newPerson()
await sql`update users set role = 'admin' where id = ${operator.id}`
const picture = new Uint8Array(await newPicture())
const order = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 64, height: 64 } }

const idOf = async (table: 'projects' | 'teams' | 'generations' | 'media'): Promise<string> => {
  const rows = await sql<{ id: string }[]>`
    select id from (select id from ${sql(table)} order by id desc limit 4) newest order by random() limit 1`
  return rows[0]?.id ?? crypto.randomUUID()
}
/** Someone whose right suffices: most steps are to be done and not refused. */
const ownerOf = async (table: 'projects' | 'generations' | 'media', id: string): Promise<Person> => {
  const rows = await sql<{ owner_id: string }[]>`select owner_id from ${sql(table)} where id = ${id}`
  return people.find((person) => person.id === rows[0]?.owner_id) ?? pick(people)
}
const leaderOf = async (team: string): Promise<Person> => {
  const rows = await sql<{ user_id: string }[]>`
    select user_id from team_members where team_id = ${team} and role = 'owner'`
  return people.find((person) => person.id === rows[0]?.user_id) ?? pick(people)
}

const addMember = async (team: string, person: Person) => {
  const leader = await leaderOf(team)
  const role = pick(['admin', 'admin', 'editor', 'viewer'])
  const invited = await call('invite', 'post', `/teams/${team}/invitations`, leader.token, {
    email: person.email,
    role,
  })
  if (invited.status === 201)
    await call('accept', 'post', '/teams/invitations/accept', person.token, { secret: invited.body.secret })
}

/** Grants a project to all teams of its owner. */
const grantTo = async (project: string, token: string) => {
  const { body } = await call('listTeams', 'get', '/teams?limit=4', token)
  for (const { id } of body.items ?? [])
    await call('grant', 'post', `/projects/${project}/teams`, token, {
      team_id: id,
      access_level: pick(['admin', 'write']),
    })
}

const steps: Record<string, () => Promise<unknown>> = {
  createProject: async () => {
    const { token } = pick(people)
    const answer = await call('createProject', 'post', '/projects', token, { name: 'P', visibility: 'team-only' })
    if (answer.status === 201) await grantTo(answer.body.id, token)
  },
  deleteProject: async () => {
    if (Math.random() < 0.6) return
    const id = await idOf('projects')
    return call('deleteProject', 'delete', `/projects/${id}`, (await ownerOf('projects', id)).token)
  },
  changeProject: async () => {
    const id = await idOf('projects')
    const visibility = pick(['team-only', 'public', 'private'])
    return call('changeProject', 'patch', `/projects/${id}`, (await ownerOf('projects', id)).token, { visibility })
  },
  transferProject: async () => {
    const id = await idOf('projects')
    const { token } = await ownerOf('projects', id)
    return call('transferProject', 'post', `/projects/${id}/transfer`, token, { owner_id: pick(people).id })
  },
  grant: async () => {
    const id = await idOf('projects')
    await grantTo(id, (await ownerOf('projects', id)).token)
  },
  revoke: async () => {
    const id = await idOf('projects')
    const { token } = await ownerOf('projects', id)
    return call('revoke', 'delete', `/projects/${id}/teams/${await idOf('teams')}`, token)
  },
  createTeam: async () => {
    const answer = await call('createTeam', 'post', '/teams', pick(people).token, { name: 'T' })
    if (answer.status !== 201) return
    for (let count = 0; count < 3; count += 1) await addMember(answer.body.id, pick(people))
  },
  deleteTeam: async () => {
    const id = await idOf('teams')
    if (Math.random() < 0.3) await call('deleteTeam', 'delete', `/teams/${id}`, (await leaderOf(id)).token)
  },
  transferTeam: async () => {
    const id = await idOf('teams')
    return call('transferTeam', 'post', `/teams/${id}/transfer`, (await leaderOf(id)).token, {
      user_id: pick(people).id,
    })
  },
  join: async () => addMember(await idOf('teams'), pick(people)),
  removeMember: async () => {
    const id = await idOf('teams')
    return call('removeMember', 'delete', `/teams/${id}/members/${pick(people).id}`, (await leaderOf(id)).token)
  },
  order: async () => {
    const id = await idOf('projects')
    const { token } = Math.random() < 0.5 ? await ownerOf('projects', id) : pick(people)
    return call('order', 'post', '/generations', token, { ...order, project_id: id })
  },
  derive: async () => {
    const parent_id = await idOf('generations')
    const { token } = await ownerOf('generations', parent_id)
    const project_id = await idOf('projects')
    return call('derive', 'post', '/generations', token, { ...order, parent_id, intent: 'iterate', project_id })
  },
  move: async () => {
    const id = await idOf('generations')
    const { token } = await ownerOf('generations', id)
    const project_id = Math.random() < 0.2 ? null : await idOf('projects')
    return call('move', 'patch', `/generations/${id}`, token, { project_id })
  },
  cancel: async () => {
    const id = await idOf('generations')
    const { token } = Math.random() < 0.5 ? await ownerOf('generations', id) : pick(people)
    return call('cancel', 'post', `/generations/${id}/cancel`, token)
  },
  deleteGeneration: async () => {
    const id = await idOf('generations')
    return call('deleteGeneration', 'delete', `/generations/${id}`, (await ownerOf('generations', id)).token)
  },
  upload: () => call('upload', 'post', '/media', pick(people).token, picture),
  deleteMedia: async () => {
    const id = await idOf('media')
    return call('deleteMedia', 'delete', `/media/${id}`, (await ownerOf('media', id)).token)
  },
  grantCredits: () =>
    call('grantCredits', 'post', '/credits/grants', operator.token, {
      user_id: pick(people).id,
      amount: 10,
      note: 'x',
    }),
  suspend: async () => {
    const at = Math.floor(Math.random() * people.length)
    const { id } = people[at] as Person
    if (Math.random() < 0.9) return
    await call('suspend', 'patch', `/users/${id}`, operator.token, { status: 'suspended' })
    people[at] = await newPerson()
  },
  close: async () => {
    if (Math.random() < 0.9) return
    const at = Math.floor(Math.random() * people.length)
    const { token } = people[at] as Person
    const answer = await call('close', 'delete', '/auth/me', token)
    if (answer.status === 204) people[at] = await newPerson()
  },
}

const untilMs = performance.now() + seconds * 1_000
const failed: Record<string, number> = {}
const work = async () => {
  while (performance.now() < untilMs) {
    const [name, step] = pick(Object.entries(steps))
    await step().catch((error: unknown) => {
      failed[`${name}: ${String(error).slice(0, 80)}`] = (failed[`${name}: ${String(error).slice(0, 80)}`] ?? 0) + 1
    })
  }
}
await Promise.all(Array.from({ length: inFlight }, work))

/** The statements of each deadlock, as Postgres logs them: `Process 1: select …`, each with the lines up to the next one. */
const pairsOf = (text: string): Record<string, number> => {
  const pairs: Record<string, number> = {}
  for (const report of text.split('deadlock detected').slice(1)) {
    const [detail = ''] = report.split(/^\S[^\n]*(?:HINT|CONTEXT|STATEMENT): /m)
    const statements = detail.split(/Process \d+: /).slice(1)
    const names = statements.map((statement) => statement.replace(/\s+/g, ' ').trim().slice(0, 90))
    const pair = names.toSorted().join('  ×  ')
    pairs[pair] = (pairs[pair] ?? 0) + 1
  }
  return pairs
}
if (process.argv[3] === 'raw') console.log((await readFile(log, 'utf8')).slice(logSizeBefore))
const [statistics] = await sql<{ deadlocks: number }[]>`
  select deadlocks::int from pg_stat_database where datname = current_database()`
const pairs = pairsOf((await readFile(log, 'utf8')).slice(logSizeBefore))
console.log(JSON.stringify({ seconds, outcomes, failed, deadlocks: statistics?.deadlocks, pairs }, undefined, 1))
await sql.end()
await two.close()
await one.close()
await reapAll()
process.exit(0)
