import { expect } from 'bun:test'
import {
  type AccessLevel,
  type Action,
  type ResourceRef,
  type TeamRole,
  teamRoles,
} from '../../src/access/policy/matrix.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { newId } from '../../src/kit/id.ts'
import { connectOnce, type Fragment } from '../../src/platform/postgres.ts'
import { type Answer, api, type Person, register, startApp } from '../harness.ts'

const startDeadline = createDeadlines(systemClock)

export const project = (id: string): ResourceRef => ({ type: 'project', id })
export const generation = (id: string): ResourceRef => ({ type: 'generation', id })

/** Status and body of an answer, without the members that differ for each request. */
export const problemOf = ({ status, body }: Answer) => {
  const { instance: _, request_id: __, ...members } = body
  return { status, ...members }
}

/** Status and code of each answer. */
export const codesOf = (answers: readonly Answer[]) =>
  answers.map(({ status, body }) => `${status} ${body?.code ?? ''}`.trim())

export type World = Awaited<ReturnType<typeof startWorld>>

/** A user for each role of one team, and a stranger. `shared` creates a project on which the team has `admin`. */
export const startTeam = async () => {
  const world = await startWorld()
  const { stranger, ...members } = await world.people('owner', 'admin', 'editor', 'contributor', 'viewer', 'stranger')
  const team = await world.team(teamRoles.map((role) => [members[role], role] as const))
  const shared = async (fields: Record<string, unknown> = {}) => {
    const id = await world.project(members.owner, { visibility: 'team-only', ...fields })
    await world.grantAccess(id, team, 'admin', members.owner)
    return id
  }
  return { world, ...members, stranger, team, shared }
}

/**
 * The application with users, teams, projects and generations. Teams and their members are inserted into the database,
 * before any check has cached them; everything else is created through the API.
 */
export const startWorld = async () => {
  const statements: string[] = []
  // Enough connections for a dozen concurrent writes that wait for each other.
  const app = await startApp({ config: { dbConnections: 120 }, onStatement: (text) => statements.push(text) })
  const client = api(app.baseUrl)
  const sql = connectOnce(app.connection)
  const watch = connectOnce(app.connection)

  const as = ({ token }: Person) => ({
    get: (path: string) => client.get(`/api/v1${path}`, { token }),
    post: (path: string, body?: unknown) => client.post(`/api/v1${path}`, body, { token }),
    patch: (path: string, body?: unknown) => client.patch(`/api/v1${path}`, body, { token }),
    delete: (path: string) => client.delete(`/api/v1${path}`, { token }),
  })

  const created = async (sent: Promise<Answer>): Promise<string> => {
    const answer = await sent
    expect(answer).toMatchObject({ status: 201 })
    return answer.body.id
  }

  return {
    app,
    client,
    sql,
    as,
    close: async () => {
      await sql.end()
      await watch.end()
      await app.close()
    },
    person: () => register(client),
    people: <N extends string>(...names: N[]): Promise<Record<N, Person>> =>
      Promise.all(names.map(async (name) => [name, await register(client)] as const)).then(
        (pairs) => Object.fromEntries(pairs) as Record<N, Person>,
      ),
    /** Creates a team with its members. */
    team: async (members: readonly (readonly [Person, TeamRole])[], name = 'team'): Promise<string> => {
      const id = newId()
      await sql`insert into teams (id, name) values (${id}, ${name})`
      for (const [person, role] of members) {
        await sql`insert into team_members (team_id, user_id, role) values (${id}, ${person.id}, ${role})`
      }
      return id
    },
    /** Creates a grant, effective for the next check. */
    grantAccess: async (projectId: string, teamId: string, level: AccessLevel, by: Person) => {
      await app.services.caches.changes.commitAndInvalidate(startDeadline(30_000), async (tx) => {
        await tx`
          insert into project_grants (project_id, team_id, access_level, granted_by)
          values (${projectId}, ${teamId}, ${level}, ${by.id})`
      })
    },
    project: (owner: Person, fields: Record<string, unknown> = {}) =>
      created(as(owner).post('/projects', { name: 'a project', ...fields })),
    generation: (owner: Person, fields: Record<string, unknown> = {}) =>
      created(as(owner).post('/generations', { model: 'local/procedural', prompt: 'a lighthouse', ...fields })),
    may: async (person: Person, action: Action, resource: ResourceRef): Promise<boolean> => {
      const { status, body } = await as(person).post('/authorization/check', { action, resource })
      expect(status).toBe(200)
      return body.allowed
    },
    /** The items of all pages of a list. Each page but the last must be full. */
    listAll: async (person: Person, path: string, limit = 100) => {
      // biome-ignore lint/suspicious/noExplicitAny: items of every list
      const items: any[] = []
      for (let cursor: string | null = ''; cursor !== null; ) {
        const place: string = cursor === '' ? '' : `&cursor=${cursor}`
        const { status, body } = await as(person).get(`${path}${path.includes('?') ? '&' : '?'}limit=${limit}${place}`)
        expect(status).toBe(200)
        if (body.next_cursor !== null) expect(body.items).toHaveLength(limit)
        items.push(...body.items)
        cursor = body.next_cursor
      }
      return items
    },
    /** The statements that the application sent during `work`. */
    statementsOf: async (work: () => Promise<unknown>): Promise<string[]> => {
      const before = statements.length
      await work()
      return statements.slice(before)
    },
    /**
     * Locks a row, sends calls, and makes a change once all of them wait for the lock. The calls have passed the guard
     * then, so their answers show what the check inside the transaction decides.
     */
    changeWhileWaiting: async (lock: Fragment, calls: () => Promise<Answer>[], change: Fragment): Promise<Answer[]> => {
      let sent: Promise<Answer[]> | undefined
      await sql.begin(async (tx) => {
        await tx`${lock}`
        const started = calls()
        sent = Promise.all(started)
        const early: Answer[] = []
        for (const call of started) void call.then((answer) => early.push(answer))
        for (;;) {
          if (early.length > 0) throw new Error(`The calls did not wait, and answered ${codesOf(early)}`)
          // On another connection: inside a transaction the view of pg_stat_activity does not change.
          const [row] = await watch<{ waiting: number }[]>`
            select count(*)::int as waiting from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock'`
          if (row?.waiting === started.length) break
          await Bun.sleep(2)
        }
        await tx`${change}`
      })
      return sent as Promise<Answer[]>
    },
  }
}
