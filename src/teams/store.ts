import type { AccessLevel, TeamRole } from '../access/policy/matrix.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { Queryable, Sql, TransactionSql } from '../platform/postgres.ts'
import type { AssignableRole, TeamChanges } from './model.ts'

/** A team as one of its members sees it: `role` is the role of that member. */
export type TeamRow = {
  id: string
  name: string
  description: string
  max_members: number
  owner_id: string
  role: TeamRole
  created_at: Date
  updated_at: Date
}

/** `id` is the id of the user. */
export type MemberRow = { id: string; display_name: string; role: TeamRole; joined_at: Date }

export type StatisticsRow = {
  members: Partial<Record<TeamRole, number>> | null
  projects: Partial<Record<AccessLevel, number>> | null
  generations: number
  pending_invitations: number
}

export type Place = { readonly after: string | null; readonly limit: number }

/** Rows of a team that a member may see, and the role of that member. */
export type VisibleRows<T> = { readonly role: TeamRole; readonly rows: T[] }

/**
 * Separates the role of the member from the rows it was joined to. Without a line the user is not a member; a line
 * without an id stands for an empty list.
 */
export const toVisibleRows = <T extends { id: string }>(
  lines: readonly ({ own_role: TeamRole } & (T | { id: null }))[],
): VisibleRows<T> | undefined => {
  const [first] = lines
  const isRow = (line: (typeof lines)[number]): line is { own_role: TeamRole } & T => line.id !== null
  return first && { role: first.own_role, rows: lines.filter(isRow) }
}

/** A separate statement: after waiting for a lock, its snapshot includes the commits made meanwhile. */
const findRole = async (tx: TransactionSql, id: string, userId: string): Promise<TeamRole | undefined> => {
  const [row] = await tx<{ role: TeamRole }[]>`
    select role from team_members where team_id = ${id} and user_id = ${userId}`
  return row?.role
}

/**
 * Teams and their members. The row of a team is the lock for its members and invitations: a change locks it before it
 * reads the roles that decide, so changes of one team are serialized.
 *
 * Lock order: the account that joins, is closed or transfers a team; then projects; then teams, each by id.
 */
export const createTeamStore = (sql: Sql, analytics: Sql) => {
  const columns = (on: Queryable) => on`
    t.id, t.name, t.description, t.max_members, t.created_at, t.updated_at, me.role,
    (select o.user_id from team_members o where o.team_id = t.id and o.role = 'owner') as owner_id`

  return {
    /** The team, if the user is a member. */
    find: async (deadline: Deadline, id: string, userId: string, on: Queryable = sql): Promise<TeamRow | undefined> => {
      const [row] = await deadline.run(on<TeamRow[]>`
        select ${columns(on)} from teams t join team_members me on me.team_id = t.id and me.user_id = ${userId}
         where t.id = ${id}`)
      return row
    },

    /** The teams of a user, newest first. One row more than `limit`. */
    list: (deadline: Deadline, userId: string, { after, limit }: Place): Promise<TeamRow[]> =>
      deadline.run(sql<TeamRow[]>`
        select ${columns(sql)} from team_members me join teams t on t.id = me.team_id
         where me.user_id = ${userId} and (${after}::uuid is null or me.team_id < ${after}::uuid)
         order by me.team_id desc limit ${limit + 1}`),

    /** Members in descending order of user id, if the user is one of them. One row more than `limit`. */
    listMembers: async (
      deadline: Deadline,
      id: string,
      userId: string,
      { after, limit }: Place,
    ): Promise<VisibleRows<MemberRow> | undefined> =>
      toVisibleRows(
        await deadline.run(sql<({ own_role: TeamRole } & MemberRow)[]>`
          select me.role as own_role, members.*
            from team_members me
            left join lateral (
              select m.user_id as id, m.role, m.joined_at, u.display_name
                from team_members m join users u on u.id = m.user_id
               where m.team_id = me.team_id and (${after}::uuid is null or m.user_id < ${after}::uuid)
               order by m.user_id desc limit ${limit + 1}) members on true
           where me.team_id = ${id} and me.user_id = ${userId}
           order by members.id desc`),
      ),

    /**
     * Statistics for a member. Private projects are excluded, because their grants have no effect. Costs one index entry
     * for each generation counted.
     */
    count: async (deadline: Deadline, id: string, userId: string, now: Date): Promise<StatisticsRow | undefined> => {
      const [row] = await deadline.run(analytics<StatisticsRow[]>`
        with granted as (
          select g.project_id, g.access_level
            from project_grants g join projects p on p.id = g.project_id and p.visibility <> 'private'
           where g.team_id = ${id}
        )
        select (select jsonb_object_agg(role, n)
                  from (select role, count(*) as n from team_members where team_id = ${id} group by role) r) as members,
               (select jsonb_object_agg(access_level, n)
                  from (select access_level, count(*) as n from granted group by access_level) l) as projects,
               (select count(*) from granted join generations using (project_id))::int as generations,
               (select count(*) from team_invitations
                 where team_id = ${id} and status = 'pending' and expires_at > ${now})::int as pending_invitations
         where exists (select from team_members where team_id = ${id} and user_id = ${userId})`)
      return row
    },

    /** Creates a team with its owner. */
    insert: async (
      tx: TransactionSql,
      team: { id: string; name: string; description?: string; max_members?: number },
      ownerId: string,
    ): Promise<void> => {
      await tx`insert into teams ${tx(team)}`
      await tx`insert into team_members (team_id, user_id, role) values (${team.id}, ${ownerId}, 'owner')`
    },

    /**
     * Locks the team for no key update until the transaction ends, then reads the role of the user. Returns undefined and
     * locks nothing if the user is not a member, so a stranger never waits for a change of the team.
     */
    lockForNoKeyUpdate: async (tx: TransactionSql, id: string, userId: string): Promise<TeamRole | undefined> => {
      const [team] = await tx`
        select from teams
         where id = ${id} and exists (select from team_members where team_id = ${id} and user_id = ${userId})
           for no key update`
      return team && findRole(tx, id, userId)
    },

    /** The role of a user. Lock the team first. */
    findRole,

    /** Lock the team first. */
    countMembers: async (tx: TransactionSql, id: string): Promise<number> => {
      const [row] = await tx<{ members: number }[]>`
        select count(*)::int as members from team_members where team_id = ${id}`
      return row?.members ?? 0
    },

    update: async (tx: TransactionSql, id: string, changes: TeamChanges): Promise<void> => {
      await tx`update teams set ${tx(changes)}, updated_at = now() where id = ${id}`
    },

    setRole: async (
      tx: TransactionSql,
      id: string,
      userId: string,
      role: AssignableRole,
    ): Promise<MemberRow | undefined> => {
      const [row] = await tx<MemberRow[]>`
        update team_members m set role = ${role} from users u
         where m.team_id = ${id} and m.user_id = ${userId} and u.id = m.user_id
        returning m.user_id as id, u.display_name, m.role, m.joined_at`
      return row
    },

    /** Returns whether an account is active, and locks it for share: it stays active until the transaction ends. */
    lockActiveUserForShare: async (tx: TransactionSql, userId: string): Promise<boolean> => {
      const { count } = await tx`select from users where id = ${userId} and status = 'active' for share`
      return count === 1
    },

    /** Moves the role of the owner. The team never has two owners, not even between the two statements. */
    transfer: async (tx: TransactionSql, id: string, fromId: string, toId: string): Promise<void> => {
      await tx`update team_members set role = 'admin' where team_id = ${id} and user_id = ${fromId}`
      await tx`update team_members set role = 'owner' where team_id = ${id} and user_id = ${toId}`
    },

    removeMember: async (tx: TransactionSql, id: string, userId: string): Promise<boolean> => {
      const { count } = await tx`delete from team_members where team_id = ${id} and user_id = ${userId}`
      return count === 1
    },

    /**
     * Locks for no key update the projects granted to a team, and all teams with a grant on them, in lock order. Removing
     * the team recomputes the access to these projects from all their teams. Locks nothing for a user who is not the
     * owner.
     */
    lockForRemoval: async (tx: TransactionSql, id: string, ownerId: string): Promise<void> => {
      const projects = await tx<{ id: string }[]>`
        select p.id from projects p
         where p.id in (select g.project_id from project_grants g where g.team_id = ${id})
           and exists (select from team_members where team_id = ${id} and user_id = ${ownerId} and role = 'owner')
         order by p.id
           for no key update`
      const ids = projects.map((project) => project.id)
      await tx`
        select from teams
         where id in (select team_id from project_grants where project_id = any (${ids}::uuid[]))
         order by id
           for no key update`
    },

    /**
     * Removes a team. Call `lockForRemoval` first. Grants are deleted before members: then no access is left that the
     * trigger would have to recompute for each member.
     */
    remove: async (tx: TransactionSql, id: string): Promise<void> => {
      await tx`delete from project_grants where team_id = ${id}`
      await tx`delete from teams where id = ${id}`
    },

    /**
     * Removes a user from all teams it does not own, and deletes the invitations to its address. Locks the account for
     * update: joining a team locks it too, so the user joins no team meanwhile. For update, because closing the account
     * then clears the e-mail address, which is a key.
     */
    leaveAll: async (tx: TransactionSql, userId: string): Promise<void> => {
      const [user] = await tx<{ email: string | null }[]>`select email from users where id = ${userId} for update`
      await tx`
        select from teams
         where id in (select team_id from team_members where user_id = ${userId} and role <> 'owner')
         order by id
           for no key update`
      await tx`delete from team_members where user_id = ${userId} and role <> 'owner'`
      await tx`delete from team_invitations where email = ${user?.email ?? null}`
    },
  }
}

export type TeamStore = ReturnType<typeof createTeamStore>
