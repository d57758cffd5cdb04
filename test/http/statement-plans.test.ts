import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { idOf } from '../access/random.ts'
import { fill } from '../bench/world.ts'
import {
  type Api,
  api,
  createDatabase,
  type Person,
  register,
  startApp,
  type TestApp,
  type TestDatabase,
} from '../harness.ts'

/** A node of a plan as EXPLAIN (ANALYZE, FORMAT JSON) gives it. */
type Node = {
  'Node Type': string
  'Relation Name'?: string
  'Actual Rows': number
  'Actual Loops': number
  'Rows Removed by Filter'?: number
  'Rows Removed by Index Recheck'?: number
  Plans?: Node[]
}
type Statement = { 'Query Text': string; Plan: Node }

const size = { users: 3_000, teams: 300, projects: 1_500, generations: 30_000 }
const pageSize = 100
/** Rows that a statement may read from one table, or sort: a few for each row of the page, or one for each shared project. */
const most = 10 * pageSize

let database: TestDatabase
let app: TestApp
let sql: Sql
let client: Api
let owner: Person
let member: Person
const statements: Statement[] = []

beforeAll(async () => {
  database = await createDatabase()
  sql = connectOnce(database.connection)
  await fill(sql, size)
  const name = sql(database.connection.database)
  // Every statement of a new connection sends its plan as a notice, those inside of functions too.
  const settings = {
    session_preload_libraries: 'auto_explain',
    'auto_explain.log_min_duration': '0',
    'auto_explain.log_analyze': 'on',
    'auto_explain.log_timing': 'off',
    'auto_explain.log_nested_statements': 'on',
    'auto_explain.log_format': 'json',
    'auto_explain.log_level': 'notice',
  }
  for (const [setting, value] of Object.entries(settings))
    await sql`alter database ${name} set ${sql.unsafe(setting)} = ${sql.unsafe(`'${value}'`)}`
  app = await startApp({
    connection: database.connection,
    onNotice: (text, pool) => {
      const start = text.indexOf('{')
      if (pool !== 'batch' && text.startsWith('duration:') && start > 0) statements.push(JSON.parse(text.slice(start)))
    },
  })
  client = api(app.baseUrl)
  owner = await register(client)
  member = await register(client)
}, 60_000)
afterAll(async () => {
  await app?.close()
  await sql?.end()
  await database?.drop()
})

const nodesOf = (node: Node): Node[] => [node, ...(node.Plans ?? []).flatMap(nodesOf)]

const rowsRead = (node: Node): number =>
  (node['Actual Rows'] + (node['Rows Removed by Filter'] ?? 0) + (node['Rows Removed by Index Recheck'] ?? 0)) *
  node['Actual Loops']

/** What a statement should not do: read a table row by row, or read or sort more than the page needs. */
const faultsOf = ({ 'Query Text': text, Plan }: Statement): string[] =>
  nodesOf(Plan).flatMap((node) => {
    const what = `${node['Node Type']} ${node['Relation Name'] ?? ''} of ${rowsRead(node)} rows: ${text}`
    return node['Node Type'] === 'Seq Scan' || rowsRead(node) > most ? [what] : []
  })

/** The statements sent for a request that must succeed. */
const statementsOf = async (send: () => Promise<{ status: number; body: { code?: string } }>): Promise<Statement[]> => {
  statements.length = 0
  const { status, body } = await send()
  expect([status < 300, body?.code]).toEqual([true, undefined])
  return [...statements]
}

const list = (person: Person, path: string) =>
  statementsOf(() =>
    client.get(`/api/v1${path}${path.includes('?') ? '&' : '?'}limit=${pageSize}`, { token: person.token }),
  )

describe('on a database of 30,000 generations', () => {
  let team: string
  let project: string
  let media: string

  beforeAll(async () => {
    const post = async (path: string, body: object) =>
      (await client.post(`/api/v1${path}`, body, { token: owner.token })).body.id as string
    team = await post('/teams', { name: 'T' })
    await post(`/teams/${team}/invitations`, { email: 'guest@example.com', role: 'viewer' })
    project = await post('/projects', { name: 'P', visibility: 'team-only' })
    await sql`
      insert into team_members (team_id, user_id, role)
      select ${team}::uuid, ${member.id}::uuid, 'editor' union all
      select ${team}, id, 'viewer' from (select id from users where id < ${idOf('user', 120)}) u`
    await client.post(
      `/api/v1/projects/${project}/teams`,
      { team_id: team, access_level: 'write' },
      { token: owner.token },
    )
    await sql`
      insert into project_grants (project_id, team_id, access_level, granted_by)
      select id, ${team}::uuid, 'admin', ${owner.id}::uuid from projects where id < ${idOf('project', 60)} on conflict do nothing`
    await sql`
      insert into generations (id, owner_id, project_id, model, prompt, status)
      select gen_random_uuid(), case when n % 3 = 0 then ${owner.id}::uuid else ${member.id}::uuid end, ${project}::uuid,
             'm', 'p', 'completed' from generate_series(1, 900) n`
    await sql`
      insert into generation_favorites (user_id, generation_id)
      select ${member.id}::uuid, id from generations where project_id = ${project} and owner_id = ${owner.id}`
    await sql`
      insert into media_objects (sha256, content_type, bytes, width, height) values (${'ab'.repeat(32)}, 'image/webp', 1, 1, 1)`
    await sql`
      insert into media (id, generation_id, owner_id, position, sha256)
      select gen_random_uuid(), g.id, g.owner_id, 0, ${'ab'.repeat(32)} from generations g where g.project_id = ${project}`
    await sql`
      insert into media (id, owner_id, sha256)
      select gen_random_uuid(), ${member.id}::uuid, ${'ab'.repeat(32)} from generate_series(1, 500)`
    const [row] = await sql`
      select id from media where owner_id = ${member.id} and generation_id is not null limit 1`
    media = row?.['id']
    await sql`vacuum analyze`
  }, 60_000)

  const lists: Record<string, () => [Person, string]> = {
    'accessible projects': () => [member, '/authorization/accessible?type=project&action=read'],
    'projects one may create in': () => [member, '/authorization/accessible?type=project&action=create'],
    'accessible generations': () => [member, '/authorization/accessible?type=generation&action=read'],
    'generations one may delete': () => [member, '/authorization/accessible?type=generation&action=delete'],
    'generations one may administer': () => [member, '/authorization/accessible?type=generation&action=admin'],
    'users with access to a project': () => [member, `/authorization/who?type=project&id=${project}&action=read`],
    projects: () => [member, '/projects'],
    'projects of an owner': () => [member, `/projects?owner_id=${owner.id}`],
    generations: () => [member, '/generations'],
    'generations of a project': () => [member, `/generations?project_id=${project}`],
    'generations of an owner': () => [member, `/generations?owner_id=${owner.id}`],
    'favorite generations': () => [member, '/generations?favorite=true'],
    'completed generations': () => [member, '/generations?status=completed'],
    'grants of a project': () => [owner, `/projects/${project}/teams`],
    teams: () => [member, '/teams'],
    'members of a team': () => [member, `/teams/${team}/members`],
    'invitations of a team': () => [owner, `/teams/${team}/invitations`],
    uploads: () => [member, '/media'],
    'share links': () => [member, `/media/${media}/share-links`],
    'ledger entries': () => [member, '/credits/ledger'],
    sessions: () => [member, '/auth/sessions'],
  }

  for (const [name, of] of Object.entries(lists)) {
    test(`a page of ${name} is read from indexes, with no more rows than it needs`, async () => {
      const [person, path] = of()
      const sent = await list(person, path)
      expect(sent.length).toBeGreaterThan(0)
      expect(sent.flatMap(faultsOf)).toEqual([])
    })
  }

  test('the fifth page of a list reads about as many rows as the first', async () => {
    const readBy = (sent: readonly Statement[]) =>
      sent.reduce((total, { Plan }) => total + nodesOf(Plan).reduce((sum, node) => sum + rowsRead(node), 0), 0)
    for (const path of ['/authorization/accessible?type=generation&action=read', '/generations?', '/media?']) {
      const pages: Statement[][] = []
      let cursor: string | null = null
      for (let page = 1; page <= 5; page += 1) {
        statements.length = 0
        const query: string = cursor === null ? '' : `&cursor=${cursor}`
        const { body } = await client.get(`/api/v1${path}&limit=90${query}`, { token: member.token })
        expect(body.items).toHaveLength(90)
        cursor = body.next_cursor
        pages.push([...statements])
      }
      const [first, fifth] = [pages[0] ?? [], pages[4] ?? []]
      expect(fifth.flatMap(faultsOf)).toEqual([])
      expect([path, readBy(fifth) / readBy(first) < 1.5]).toEqual([path, true])
    }
  })

  test('reads of one thing use indexes alone', async () => {
    const { body } = await client.get('/api/v1/generations?limit=1', { token: member.token })
    const generation = body.items[0].id
    for (const path of [
      ...[
        `/projects/${project}`,
        `/projects/${project}/stats`,
        `/teams/${team}`,
        `/media/${media}`,
        '/credits/balance',
      ],
      ...[`/generations/${generation}`, `/generations/${generation}/provenance`, `/generations/${generation}/media`],
    ]) {
      const sent = await statementsOf(() => client.get(`/api/v1${path}`, { token: member.token }))
      const scans = sent.flatMap(({ Plan }) => nodesOf(Plan)).filter((node) => node['Node Type'] === 'Seq Scan')
      expect([path, scans]).toEqual([path, []])
    }
  })

  test('cold decisions, and the account that asks, are read by primary keys', async () => {
    const ids = Array.from({ length: 50 }, (_, number) => idOf('generation', number * 11))
    const sent = await statementsOf(() =>
      client.post(
        '/api/v1/authorization/check/batch',
        { checks: ids.map((id) => ({ action: 'read', resource: { type: 'generation', id } })) },
        { token: member.token },
      ),
    )
    expect(sent.length).toBeGreaterThan(0)
    expect(sent.flatMap(faultsOf)).toEqual([])
  })
})
