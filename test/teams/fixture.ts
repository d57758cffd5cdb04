import { type TeamRole, teamRoles } from '../../src/access/policy/matrix.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import type { TransactionSql } from '../../src/platform/postgres.ts'
import {
  type Answer,
  type Api,
  api,
  type Person,
  register,
  startApp,
  type TestApp,
  type TestAppOptions,
} from '../harness.ts'

const startDeadline = createDeadlines(systemClock)

/** An id that no resource has. */
export const unknownId = '00000000-0000-7000-8000-000000000000'

/** Status and error code of an answer, in one line. */
export const outcomeOf = ({ status, body }: Answer): string => (status < 400 ? `${status}` : `${status} ${body?.code}`)

/** A user for each role of a team, a second one for some roles, and one who is in no team. */
export type TeamPeople = Record<TeamRole | 'other_admin' | 'other_editor' | 'other_viewer' | 'stranger', Person>

export const roleOf: Readonly<Record<Exclude<keyof TeamPeople, 'stranger'>, TeamRole>> = {
  owner: 'owner',
  admin: 'admin',
  other_admin: 'admin',
  editor: 'editor',
  other_editor: 'editor',
  contributor: 'contributor',
  viewer: 'viewer',
  other_viewer: 'viewer',
}

/** An app with helpers that create users, teams, invitations and projects. */
export type TeamFixture = TestApp & {
  client: Api
  person(overrides?: Parameters<typeof register>[1]): Promise<Person>
  people(): Promise<TeamPeople>
  /** Creates a team over HTTP. The other members are inserted into the table, so they do not depend on the tested routes. */
  createTeam(owner: Person, members?: readonly (readonly [Person, TeamRole])[], input?: object): Promise<string>
  /** Creates a team of which everyone but the stranger is a member. */
  createTeamOf(people: TeamPeople, input?: object): Promise<string>
  /** Invites over HTTP; returns the invitation with its secret. */
  // biome-ignore lint/suspicious/noExplicitAny: as sent
  invite(by: Person, teamId: string, email: string, role?: TeamRole): Promise<any>
  accept(caller: Person, secret: string): Promise<Answer>
  /** All rows of a team, as JSON. */
  storedTeam(teamId: string): Promise<unknown>
  /** User ids by role. */
  membersByRole(teamId: string): Promise<Record<TeamRole, string[]>>
  grant(projectId: string, teamId: string, level: string, by: Person): Promise<void>
  /** Creates a project and grants it to a team. */
  shareProject(owner: Person, teamId: string, level?: string, visibility?: string): Promise<string>
  isAllowed(caller: Person, action: string, projectId: string): Promise<boolean>
  /**
   * Locks the row of the team, sends a call, and makes a change once the call waits for the lock. Throws if the call does
   * not wait.
   */
  changeWhileWaiting(
    teamId: string,
    call: () => Promise<Answer>,
    change: (tx: TransactionSql) => Promise<unknown>,
  ): Promise<Answer>
}

export const startTeamFixture = async (options: TestAppOptions = {}): Promise<TeamFixture> => {
  const { config, ...rest } = options
  // Enough connections for concurrent writers.
  const app = await startApp({ ...rest, config: { dbConnections: 80, ...config } })
  const client = api(app.baseUrl)
  const sql = app.services.database.admin
  const created = async (answer: Promise<Answer>) => {
    const { status, body } = await answer
    if (status !== 201) throw new Error(`The creation answered ${status}: ${JSON.stringify(body)}`)
    return body
  }
  const person: TeamFixture['person'] = (overrides) => register(client, overrides)
  const createTeam: TeamFixture['createTeam'] = async (owner, members = [], input = {}) => {
    const { id } = await created(client.post('/api/v1/teams', { name: 'A team', ...input }, { token: owner.token }))
    for (const [{ id: userId }, role] of members) {
      await sql`insert into team_members (team_id, user_id, role) values (${id}, ${userId}, ${role})`
    }
    return id
  }
  const grant: TeamFixture['grant'] = async (projectId, teamId, level, by) => {
    // Through the program: grants may be cached already, and a plain insert would be visible only after its event arrives.
    await app.services.caches.changes.commitAndInvalidate(startDeadline(30_000), async (tx) => {
      await tx`
        insert into project_grants (project_id, team_id, access_level, granted_by)
        values (${projectId}, ${teamId}, ${level}, ${by.id})`
    })
  }
  return {
    ...app,
    client,
    person,
    createTeam,
    people: async () => {
      const names = [...Object.keys(roleOf), 'stranger']
      const people = await Promise.all(names.map(async (name) => [name, await person({ display_name: name })] as const))
      return Object.fromEntries(people) as TeamPeople
    },
    createTeamOf: (people, input) => {
      const { owner: _, ...others } = roleOf
      const members = Object.entries(others).map(([name, role]) => [people[name as keyof TeamPeople], role] as const)
      return createTeam(people.owner, members, input)
    },
    invite: (by, teamId, email, role = 'viewer') =>
      created(client.post(`/api/v1/teams/${teamId}/invitations`, { email, role }, { token: by.token })),
    accept: (caller, secret) => client.post('/api/v1/teams/invitations/accept', { secret }, { token: caller.token }),
    storedTeam: async (teamId) => {
      const [row] = await sql`
        select (select jsonb_agg(t) from teams t where id = ${teamId}) as teams,
               (select jsonb_agg(m order by user_id) from team_members m where team_id = ${teamId}) as members,
               (select jsonb_agg(i order by id) from team_invitations i where team_id = ${teamId}) as invitations,
               (select jsonb_agg(g order by project_id) from project_grants g where team_id = ${teamId}) as grants`
      return { ...row }
    },
    membersByRole: async (teamId) => {
      const rows = await sql<{ user_id: string; role: TeamRole }[]>`
        select user_id, role from team_members where team_id = ${teamId} order by user_id`
      const by = Object.fromEntries(teamRoles.map((role) => [role, [] as string[]])) as Record<TeamRole, string[]>
      for (const { user_id, role } of rows) by[role].push(user_id)
      return by
    },
    grant,
    shareProject: async (owner, teamId, level = 'admin', visibility = 'team-only') => {
      const { id } = await created(client.post('/api/v1/projects', { name: 'P', visibility }, { token: owner.token }))
      await grant(id, teamId, level, owner)
      return id
    },
    isAllowed: async (caller, action, projectId) => {
      const question = { action, resource: { type: 'project', id: projectId } }
      const { status, body } = await client.post('/api/v1/authorization/check', question, { token: caller.token })
      if (status !== 200) throw new Error(`The check answered ${status}: ${JSON.stringify(body)}`)
      return body.allowed
    },
    changeWhileWaiting: async (teamId, call, change) => {
      const waits = async () => {
        const [row] = await app.services.database.batch<{ waits: boolean }[]>`
          select exists (select from pg_stat_activity
                          where datname = current_database() and wait_event_type = 'Lock') as waits`
        return row?.waits
      }
      let answer: Promise<Answer> | undefined
      await sql.begin(async (tx) => {
        await tx`select from teams where id = ${teamId} for no key update`
        let answered = false
        answer = call().finally(() => {
          answered = true
        })
        while (!(await waits())) {
          if (answered)
            throw new Error(`The call did not wait, and answered ${outcomeOf(await (answer as Promise<Answer>))}`)
          await Bun.sleep(1)
        }
        await change(tx)
      })
      return answer as Promise<Answer>
    },
  }
}
