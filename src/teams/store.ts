import type { AccessLevel, TeamRole } from '../access/policy/matrix.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { Queryable, Sql, TransactionSql } from '../platform/postgres.ts'
import type { GivenRole, TeamChanges } from './model.ts'

/** A team as one of its members has it: `role` is that member's. */
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

/** `id` is the user's. */
export type MemberRow = { id: string; display_name: string; role: TeamRole; joined_at: Date }

export type StatisticsRow = {
  members: Partial<Record<TeamRole, number>> | null
  projects: Partial<Record<AccessLevel, number>> | null
  generations: number
  pending_invitations: number
}

export type Place = { readonly after: string | null; readonly limit: number }

/** What a member gets to see of a team, and the role it sees it with. */
export type Seen<T> = { readonly role: TeamRole; readonly rows: T[] }

/**
 * Reads `own_role` and the row beside it apart. No row at all: not a member. A row without an id: nothing to see.
 */
export const toSeen = <T extends { id: string }>(
  lines: readonly ({ own_role: TeamRole } & (T | { id: null }))[],
): Seen<T> | undefined => {
  const [first] = lines
  return first && { role: first.own_role, rows: lines.filter((line) => line.id !== null) as unknown as T[] }
}

/** A statement of its own, so that after a lock was waited for it sees what was committed meanwhile. */
const findRole = async (tx: TransactionSql, id: string, userId: string): Promise<TeamRole | undefined> => {
  const [row] = await tx<{ role: TeamRole }[]>`
    select role from team_members where team_id = ${id} and user_id = ${userId}`
  return row?.role
}

/**
 * Teams and their members. The row of a team is the lock of everything in it: whoever changes a member or an invitation
 * holds it from before it reads the roles it decides by, so that two such changes happen one after the other.
 *
 * Order of locks: the account that joins, goes or hands over, then projects, then teams, each by id.
 */
export const createTeamStore = (sql: Sql, analytics: Sql) => {
  const columns = (on: Queryable) => on`
    t.id, t.name, t.description, t.max_members, t.created_at, t.updated_at, me.role,
    (select o.user_id from team_members o where o.team_id = t.id and o.role = 'owner') as owner_id`

  return {
    /** The team, if the user is in it. */
    find: async (deadline: Deadline, id: string, userId: string, on: Queryable = sql): Promise<TeamRow | undefined> => {
      const [row] = await deadline.run(on<TeamRow[]>`
        select ${columns(on)} from teams t join team_members me on me.team_id = t.id and me.user_id = ${userId}
         where t.id = ${id}`)
      return row
    },

    /** The teams a user is in, newest first. One row more than `limit`. */
    list: (deadline: Deadline, userId: string, { after, limit }: Place): Promise<TeamRow[]> =>
      deadline.run(sql<TeamRow[]>`
        select ${columns(sql)} from team_members me join teams t on t.id = me.team_id
         where me.user_id = ${userId} and (${after}::uuid is null or me.team_id < ${after}::uuid)
         order by me.team_id desc limit ${limit + 1}`),

    /** Its members by user id, newest first, if the user is one of them. One row more than `limit`. */
    listMembers: async (
      deadline: Deadline,
      id: string,
      userId: string,
      { after, limit }: Place,
    ): Promise<Seen<MemberRow> | undefined> =>
      toSeen(
        await deadline.run(sql<({ own_role: TeamRole } & MemberRow)[]>`
          select me.role as own_role, they.*
            from team_members me
            left join lateral (
              select m.user_id as id, m.role, m.joined_at, u.display_name
                from team_members m join users u on u.id = m.user_id
               where m.team_id = me.team_id and (${after}::uuid is null or m.user_id < ${after}::uuid)
               order by m.user_id desc limit ${limit + 1}) they on true
           where me.team_id = ${id} and me.user_id = ${userId}
           order by they.id desc`),
      ),

    /**
     * Counts what every member may see, if the user is one: a private project, whose grants sleep, is not among it.
     * Reads an index entry for each generation counted.
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

    /** A new team with its owner. */
    insert: async (
      tx: TransactionSql,
      team: { id: string; name: string; description?: string; max_members?: number },
      ownerId: string,
    ): Promise<void> => {
      await tx`insert into teams ${tx(team)}`
      await tx`insert into team_members (team_id, user_id, role) values (${team.id}, ${ownerId}, 'owner')`
    },

    /**
     * Locks the team until the transaction ends and then reads the role of the user. Undefined, and nothing locked,
     * where the user is not a member: a stranger waits for nobody.
     */
    lock: async (tx: TransactionSql, id: string, userId: string): Promise<TeamRole | undefined> => {
      const [team] = await tx`
        select from teams
         where id = ${id} and exists (select from team_members where team_id = ${id} and user_id = ${userId})
           for no key update`
      return team && findRole(tx, id, userId)
    },

    /** The role of a user in a team that is locked. */
    findRole,

    /** Of a team that is locked. */
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
      role: GivenRole,
    ): Promise<MemberRow | undefined> => {
      const [row] = await tx<MemberRow[]>`
        update team_members m set role = ${role} from users u
         where m.team_id = ${id} and m.user_id = ${userId} and u.id = m.user_id
        returning m.user_id as id, u.display_name, m.role, m.joined_at`
      return row
    },

    /** Whether an account is active. If so, it stays active until the transaction ends. */
    keepActive: async (tx: TransactionSql, userId: string): Promise<boolean> => {
      const { count } = await tx`select from users where id = ${userId} and status = 'active' for share`
      return count === 1
    },

    /** Hands a team over; to the same user it changes nothing. Not even inside the transaction are there two owners. */
    transfer: async (tx: TransactionSql, id: string, fromId: string, toId: string): Promise<void> => {
      await tx`update team_members set role = 'admin' where team_id = ${id} and user_id = ${fromId}`
      await tx`update team_members set role = 'owner' where team_id = ${id} and user_id = ${toId}`
    },

    removeMember: async (tx: TransactionSql, id: string, userId: string): Promise<boolean> => {
      const { count } = await tx`delete from team_members where team_id = ${id} and user_id = ${userId}`
      return count === 1
    },

    /**
     * Locks what goes with the removal of a team, on behalf of its owner; for anybody else it locks nothing. A project
     * that loses a grant is recomputed from all its teams, so they are locked too, in their order with this one.
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
     * Removes a team that is locked for it. The grants go first: then the members that go with the
     * team have no access left to be taken away one by one.
     */
    remove: async (tx: TransactionSql, id: string): Promise<void> => {
      await tx`delete from project_grants where team_id = ${id}`
      await tx`delete from teams where id = ${id}`
    },

    /**
     * Takes a person out of all teams it does not own, and removes the invitations to its address. Holds the account's
     * row, as whoever joins a team does, so that it joins none meanwhile; and against all who refer to it, because the
     * address, which is a key, goes with the account.
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
