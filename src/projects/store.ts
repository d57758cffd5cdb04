import type { ListingStore, Place } from '../access/listing/listing-store.ts'
import type { GenerationStatus, Intent } from '../access/policy/matrix.ts'
import { type AccessLevel, actionBit, type TeamRole, type Visibility } from '../access/policy/matrix.ts'
import { highestId } from '../kit/cursor.ts'
import type { Deadline } from '../kit/deadline.ts'
import { onViolation, type Queryable, type Sql, type TransactionSql } from '../platform/postgres.ts'
import type { ProjectChanges } from './model.ts'

export type ProjectRow = {
  id: string
  owner_id: string
  name: string
  description: string
  visibility: Visibility
  allow_derivatives: boolean
  created_at: Date
  updated_at: Date
}

export type GrantRow = {
  project_id: string
  team_id: string
  team_name: string
  access_level: AccessLevel
  granted_by: string
  created_at: Date
  updated_at: Date
}

export type StatsRow = {
  generations: { status: GenerationStatus; intent: Intent; count: number }[]
  grants: { access_level: AccessLevel; count: number }[]
  people: number
}

const projectColumns = (sql: Queryable) => sql`
  projects.id, owner_id, name, description, visibility, allow_derivatives, created_at, updated_at`
/** Of the table as `g`. */
const grantColumns = (sql: Queryable) => sql`
  g.project_id, g.team_id, g.access_level, g.granted_by, g.created_at, g.updated_at`

export type ProjectFilter = Place & { ownerId: string | undefined }

/**
 * Locks an account for key share: it is not closed until the transaction ends, and its owner can sign in meanwhile. Lock the
 * project after it.
 */
const lockAccountForKeyShare = async (tx: TransactionSql, userId: string): Promise<void> => {
  await tx`select from users where id = ${userId} for key share`
}

export const createProjectStore = (sql: Sql, listing: Pick<ListingStore, 'readableProjects'>) => ({
  find: async (deadline: Deadline, id: string): Promise<ProjectRow | undefined> => {
    const [row] = await deadline.run(sql<ProjectRow[]>`select ${projectColumns(sql)} from projects where id = ${id}`)
    return row
  },

  /**
   * The projects that a user may read, newest first, in one statement. One row more than `limit`. The rows are looked up by the
   * ids of the page one by one, which the planner cannot turn into a join.
   */
  list: (deadline: Deadline, userId: string, { ownerId, ...place }: ProjectFilter): Promise<ProjectRow[]> =>
    deadline.run(sql<ProjectRow[]>`
      select shown.*
        from ${listing.readableProjects(userId, place, ownerId)} page (id)
       cross join lateral (select ${projectColumns(sql)} from projects where projects.id = page.id limit 1) shown
       order by page.id desc`),

  insert: async (tx: TransactionSql, project: Omit<ProjectRow, 'created_at' | 'updated_at'>): Promise<ProjectRow> => {
    const [row] = await tx<ProjectRow[]>`
      insert into projects ${tx(project)} returning ${projectColumns(tx)}`
    return row as ProjectRow
  },

  /**
   * Locks a project for no key update, which serializes the changes of its access; generations can still be created in
   * it. Take this lock before those of teams. Returns the owner, or undefined if there is no such project.
   */
  lockForNoKeyUpdate: async (tx: TransactionSql, id: string): Promise<Pick<ProjectRow, 'owner_id'> | undefined> => {
    const [row] = await tx<Pick<ProjectRow, 'owner_id'>[]>`
      select owner_id from projects where id = ${id} for no key update`
    return row
  },

  /** Locks a project for update: no generation can be created in it or moved into it. */
  lockForUpdate: async (tx: TransactionSql, id: string): Promise<void> => {
    await tx`select from projects where id = ${id} for update`
  },

  update: async (
    tx: TransactionSql,
    id: string,
    changes: ProjectChanges | Pick<ProjectRow, 'owner_id'>,
  ): Promise<ProjectRow> => {
    const [row] = await tx<ProjectRow[]>`
      update projects set ${tx(changes)}, updated_at = now() where id = ${id} returning ${projectColumns(tx)}`
    return row as ProjectRow
  },

  /** Its generations remain, outside of any project. Lock the project for update first. */
  remove: async (tx: TransactionSql, id: string): Promise<void> => {
    await tx`select from generations where project_id = ${id} order by id for no key update`
    await tx`update generations set project_id = null, updated_at = now() where project_id = ${id}`
    await tx`delete from projects where id = ${id}`
  },

  lockAccountForKeyShare,

  /** Whether an active account may read a project through a team. Ownership and public visibility do not count. */
  canReadThroughTeam: async (tx: TransactionSql, id: string, userId: string): Promise<boolean> => {
    const { count } = await tx`
      select from project_access a
        join projects p on p.id = a.project_id and p.owner_id <> a.user_id
        join users u on u.id = a.user_id and u.status = 'active'
       where a.project_id = ${id} and a.user_id = ${userId} and a.actions & ${actionBit.read} <> 0`
    return count === 1
  },

  /** Grants on a project, newest team first. One row more than `limit`. */
  listGrants: (deadline: Deadline, projectId: string, { after, limit }: Place) =>
    deadline.run(sql<(GrantRow & { id: string })[]>`
      select ${grantColumns(sql)}, g.team_id as id, t.name as team_name
        from project_grants g join teams t on t.id = g.team_id
       where g.project_id = ${projectId} and g.team_id < ${after ?? highestId}
       order by g.team_id desc limit ${limit + 1}`),

  /**
   * Locks for no key update, by id, all teams with a grant on a project and one more, so that their memberships cannot
   * change; then reads the role of a user in that one, and whether the user is barred, because the team requires a second factor
   * that the user does not have. Returns undefined if the user is not a member. Locks nothing for a
   * user who was not a member before, so a stranger never waits. Lock the project first.
   */
  lockTeamsAndFindMember: async (
    tx: TransactionSql,
    projectId: string,
    teamId: string,
    userId: string,
  ): Promise<{ role: TeamRole; barred: boolean } | undefined> => {
    const { count } = await tx`
      select lock_teams_of_project(${projectId}, ${[teamId]}::uuid[])
        from team_members where team_id = ${teamId} and user_id = ${userId}`
    if (count === 0) return undefined
    const [member] = await tx<{ role: TeamRole; barred: boolean }[]>`
      select role, lacks_required_factor(team_id, user_id) as barred
        from team_members where team_id = ${teamId} and user_id = ${userId}`
    return member
  },

  insertGrant: async (
    tx: TransactionSql,
    grant: Pick<GrantRow, 'project_id' | 'team_id' | 'access_level' | 'granted_by'>,
  ): Promise<GrantRow> => {
    const [row] = await tx<GrantRow[]>`
      with g as (
        insert into project_grants ${tx(grant)}
        returning project_id, team_id, access_level, granted_by, created_at, updated_at
      )
      select ${grantColumns(tx)}, t.name as team_name from g join teams t on t.id = g.team_id
      `.catch(onViolation('project_grants__pkey', 'project.grant_exists'))
    return row as GrantRow
  },

  updateGrant: async (
    tx: TransactionSql,
    projectId: string,
    teamId: string,
    accessLevel: AccessLevel,
  ): Promise<GrantRow | undefined> => {
    const [row] = await tx<GrantRow[]>`
      update project_grants g set access_level = ${accessLevel}, updated_at = now()
        from teams t
       where g.project_id = ${projectId} and g.team_id = ${teamId} and t.id = g.team_id
      returning ${grantColumns(tx)}, t.name as team_name`
    return row
  },

  /** Returns whether the grant existed. */
  removeGrant: async (tx: TransactionSql, projectId: string, teamId: string): Promise<boolean> => {
    const { count } = await tx`delete from project_grants where project_id = ${projectId} and team_id = ${teamId}`
    return count === 1
  },

  /** Statistics of one project, in one snapshot. Reads each of its generations once. */
  stats: async (deadline: Deadline, id: string): Promise<StatsRow | undefined> => {
    const [row] = await deadline.run(sql<StatsRow[]>`
      select (select coalesce(jsonb_agg(counted), '[]') from (
               select status, intent, count(*)::int from generations where project_id = p.id group by status, intent
             ) counted) as generations,
             (select coalesce(jsonb_agg(counted), '[]') from (
               select access_level, count(*)::int from project_grants where project_id = p.id group by access_level
             ) counted) as grants,
             (select count(*)::int from project_access a join users u on u.id = a.user_id and u.status = 'active'
               where a.project_id = p.id and a.actions & ${actionBit.read} <> 0) as people
        from projects p where p.id = ${id}`)
    return row
  },
})

export type ProjectStore = ReturnType<typeof createProjectStore>
