import { expect } from 'bun:test'
import type { TeamRole } from '../../src/access/policy/matrix.ts'
import { connectOnce } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { type Answer, api, type Person, register, startApp, type TestApp, type TestAppOptions } from '../harness.ts'

const small = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 64, height: 64 } }

export type Picture = { project: string; generation: string; media: string; path: string }

/** Two instances over one database, with helpers to create users, pictures and links, and to open links on either instance. */
export const startLinks = async () => {
  const statements: string[] = []
  const here = await startApp({ config: { jobConcurrency: 1, renderWorkers: 1, dbConnections: 40 } })
  const there = await startApp({
    connection: here.connection,
    config: { dbConnections: 40 },
    // Without the scheduled refresh of the signing keys.
    onStatement: (text) => void (text.includes('signing_keys') || statements.push(text)),
  })
  await there.services.database.warm()
  const others: TestApp[] = []
  const sql = connectOnce(here.connection)
  const client = api(here.baseUrl)
  const as = ({ token }: Person) => ({
    get: (path: string) => client.get(`/api/v1${path}`, { token }),
    post: (path: string, body?: unknown) => client.post(`/api/v1${path}`, body, { token }),
    patch: (path: string, body?: unknown) => client.patch(`/api/v1${path}`, body, { token }),
    delete: (path: string) => client.delete(`/api/v1${path}`, { token }),
  })
  const expectStatus = async (sent: Promise<Answer>, status: number) => {
    const answer = await sent
    expect([answer.status, answer.body?.code]).toEqual([status, answer.body?.code])
    return answer.body
  }

  return {
    here,
    there,
    sql,
    /** The statements of the instance `there`. */
    statements,
    as,
    expectStatus,
    close: async () => {
      await sql.end()
      for (const app of [...others, there, here]) await app.close()
    },
    /** Starts another instance over the same database. */
    start: async (options: TestAppOptions) => {
      const app = await startApp({ connection: here.connection, ...options })
      others.push(app)
      return app
    },
    person: () => register(client),
    operator: async () => {
      const person = await register(client)
      await sql`update users set role = 'admin' where id = ${person.id}`
      return person
    },
    /** Opens another session of the same user. */
    login: async (person: Person): Promise<Person> => {
      const { email, password } = person
      const { body } = await client.post('/api/v1/auth/login', { email, password })
      return { ...person, token: body.access_token }
    },
    picture: async (owner: Person, visibility = 'public'): Promise<Picture> => {
      const project = (await expectStatus(as(owner).post('/projects', { name: 'Lighthouses', visibility }), 201)).id
      const generation = (await expectStatus(as(owner).post('/generations', { ...small, project_id: project }), 201)).id
      const isCompleted = async () => (await as(owner).get(`/generations/${generation}`)).body.status === 'completed'
      await until(isCompleted, 'the picture is completed')
      const { items } = await expectStatus(as(owner).get(`/generations/${generation}/media`), 200)
      return { project, generation, media: items[0].id, path: `/media/${items[0].id}` }
    },
    /** Grants a project to a new team of its owner in which the user has a role. */
    grantByTeam: async (owner: Person, project: string, person: Person, role: TeamRole) => {
      const team = (await expectStatus(as(owner).post('/teams', { name: 'Keepers' }), 201)).id
      await sql`insert into team_members (team_id, user_id, role) values (${team}, ${person.id}, ${role})`
      await expectStatus(as(owner).post(`/projects/${project}/teams`, { team_id: team, access_level: 'write' }), 201)
      return team
    },
    /** Creates a signed link and returns its path and query. */
    sign: async (creator: Person, { path }: Picture, input: object = {}): Promise<string> => {
      const { url } = await expectStatus(as(creator).post(`${path}/links`, input), 201)
      expect(url).toStartWith(`${here.baseUrl}/api/v1${path}/content?signature=`)
      return url.slice(here.baseUrl.length)
    },
    /** Creates a share link and returns its id, and its path and query. */
    share: async (creator: Person, { path }: Picture, input: object = {}): Promise<{ id: string; target: string }> => {
      const { id, url } = await expectStatus(as(creator).post(`${path}/share-links`, input), 201)
      expect(url).toStartWith(`${here.baseUrl}/api/v1${path}/content?share=`)
      return { id, target: url.slice(here.baseUrl.length) }
    },
  }
}

export type LinksWorld = Awaited<ReturnType<typeof startLinks>>

/** Opens a link; returns the status and, after a refusal, the code. */
export const openOn = async ({ baseUrl }: Pick<TestApp, 'baseUrl'>, target: string, init: RequestInit = {}) => {
  const response = await fetch(baseUrl + target, init)
  const bytes = await response.arrayBuffer()
  if (response.status < 400 || bytes.byteLength === 0) return String(response.status)
  return `${response.status} ${JSON.parse(new TextDecoder().decode(bytes)).code}`
}

export const refused = '403 media.link_refused'
