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

/** An id no thing has. */
export const unknownId = '00000000-0000-7000-8000-000000000000'

/** What a test says of an answer, in one line. */
export const told = ({ status, body }: Answer): string => (status < 400 ? `${status}` : `${status} ${body?.code}`)

/** A person for each role of a team, one more of some, and one who is in none. */
export type Cast = Record<TeamRole | 'other_admin' | 'other_editor' | 'other_viewer' | 'stranger', Person>

export const roleOf: Readonly<Record<Exclude<keyof Cast, 'stranger'>, TeamRole>> = {
  owner: 'owner',
  admin: 'admin',
  other_admin: 'admin',
  editor: 'editor',
  other_editor: 'editor',
  contributor: 'contributor',
  viewer: 'viewer',
  other_viewer: 'viewer',
}

/** An app, people, and teams made of them. */
export type Stage = TestApp & {
  client: Api
  person(overrides?: Parameters<typeof register>[1]): Promise<Person>
  cast(): Promise<Cast>
  /** A team founded over HTTP by `owner`; the others are put in by hand, so that it does not lean on what is tested. */
  found(owner: Person, members?: readonly (readonly [Person, TeamRole])[], input?: object): Promise<string>
  /** A team of a whole cast. */
  foundFor(cast: Cast, input?: object): Promise<string>
  /** Invites over HTTP; returns the invitation with its secret. */
  // biome-ignore lint/suspicious/noExplicitAny: as sent
  invite(by: Person, teamId: string, email: string, role?: TeamRole): Promise<any>
  accept(who: Person, secret: string): Promise<Answer>
  /** Everything stored about a team. */
  stored(teamId: string): Promise<unknown>
  /** User ids by role. */
  members(teamId: string): Promise<Record<TeamRole, string[]>>
  grant(projectId: string, teamId: string, level: string, by: Person): Promise<void>
  /** A project of a person, granted to a team. */
  share(owner: Person, teamId: string, level?: string, visibility?: string): Promise<string>
  allowed(who: Person, action: string, projectId: string): Promise<boolean>
  /**
   * Sends a call while somebody else holds the team's row and is about to change it; the change is made once the call
   * waits. Fails when the call does not wait.
   */
  overtake(
    teamId: string,
    call: () => Promise<Answer>,
    change: (tx: TransactionSql) => Promise<unknown>,
  ): Promise<Answer>
}

export const openStage = async (options: TestAppOptions = {}): Promise<Stage> => {
  const { config, ...rest } = options
  // Enough connections for writers to meet each other.
  const app = await startApp({ ...rest, config: { dbConnections: 80, ...config } })
  const client = api(app.baseUrl)
  const sql = app.services.database.admin
  const made = async (answer: Promise<Answer>) => {
    const { status, body } = await answer
    if (status !== 201) throw new Error(`Making it answered ${status}: ${JSON.stringify(body)}`)
    return body
  }
  const person: Stage['person'] = (overrides) => register(client, overrides)
  const found: Stage['found'] = async (owner, members = [], input = {}) => {
    const { id } = await made(client.post('/api/v1/teams', { name: 'A team', ...input }, { token: owner.token }))
    for (const [{ id: userId }, role] of members) {
      await sql`insert into team_members (team_id, user_id, role) values (${id}, ${userId}, ${role})`
    }
    return id
  }
  const grant: Stage['grant'] = async (projectId, teamId, level, by) => {
    // Not by hand: what its people were granted may be known already, and they would see this only when it is heard.
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
    found,
    cast: async () => {
      const names = [...Object.keys(roleOf), 'stranger']
      const people = await Promise.all(names.map(async (name) => [name, await person({ display_name: name })] as const))
      return Object.fromEntries(people) as Cast
    },
    foundFor: (cast, input) => {
      const { owner: _, ...others } = roleOf
      const members = Object.entries(others).map(([name, role]) => [cast[name as keyof Cast], role] as const)
      return found(cast.owner, members, input)
    },
    invite: (by, teamId, email, role = 'viewer') =>
      made(client.post(`/api/v1/teams/${teamId}/invitations`, { email, role }, { token: by.token })),
    accept: (who, secret) => client.post('/api/v1/teams/invitations/accept', { secret }, { token: who.token }),
    stored: async (teamId) => {
      const [row] = await sql`
        select (select jsonb_agg(t) from teams t where id = ${teamId}) as teams,
               (select jsonb_agg(m order by user_id) from team_members m where team_id = ${teamId}) as members,
               (select jsonb_agg(i order by id) from team_invitations i where team_id = ${teamId}) as invitations,
               (select jsonb_agg(g order by project_id) from project_grants g where team_id = ${teamId}) as grants`
      return { ...row }
    },
    members: async (teamId) => {
      const rows = await sql<{ user_id: string; role: TeamRole }[]>`
        select user_id, role from team_members where team_id = ${teamId} order by user_id`
      const by = Object.fromEntries(teamRoles.map((role) => [role, [] as string[]])) as Record<TeamRole, string[]>
      for (const { user_id, role } of rows) by[role].push(user_id)
      return by
    },
    grant,
    share: async (owner, teamId, level = 'admin', visibility = 'team-only') => {
      const { id } = await made(client.post('/api/v1/projects', { name: 'P', visibility }, { token: owner.token }))
      await grant(id, teamId, level, owner)
      return id
    },
    allowed: async (who, action, projectId) => {
      const question = { action, resource: { type: 'project', id: projectId } }
      const { status, body } = await client.post('/api/v1/authorization/check', question, { token: who.token })
      if (status !== 200) throw new Error(`The check answered ${status}: ${JSON.stringify(body)}`)
      return body.allowed
    },
    overtake: async (teamId, call, change) => {
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
          if (answered) throw new Error(`It did not wait, and answered ${told(await (answer as Promise<Answer>))}`)
          await Bun.sleep(1)
        }
        await change(tx)
      })
      return answer as Promise<Answer>
    },
  }
}
