import type { AccessLevel, TeamRole } from '../access/policy/matrix.ts'
import { allInOrder } from '../kit/async.ts'
import { highestId } from '../kit/cursor.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { Queryable, Sql, TransactionSql } from '../platform/postgres.ts'
import { createMemberStore, findMembership, type Membership, type Place } from './member-store.ts'
import type { TeamChanges } from './model.ts'

/** A team as one of its members sees it: `role` is the role of that member. */
export type TeamRow = Membership & {
  id: string
  name: string
  description: string
  max_members: number
  owner_id: string
  requires_second_factor: boolean
  created_at: Date
  updated_at: Date
}

export type StatisticsRow = {
  members: Partial<Record<TeamRole, number>> | null
  projects: Partial<Record<AccessLevel, number>> | null
  generations: number
  pending_invitations: number
  barred: boolean
}

/**
 * Teams and their members. The row of a team is the lock for its members and invitations: a change locks it before it
 * reads the roles that decide, so changes of one team are serialized.
 *
 * Lock order: the account that joins, is closed or transfers a team; then projects; then teams, each by id.
 */
export const createTeamStore = (sql: Sql, analytics: Sql) => {
  const columns = (on: Queryable) => on`
    t.id, t.name, t.description, t.max_members, t.requires_second_factor, t.created_at, t.updated_at, me.role,
    lacks_required_factor(t.id, me.user_id) as barred,
    (select o.user_id from team_members o where o.team_id = t.id and o.role = 'owner') as owner_id`

  return {
    ...createMemberStore(sql),

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
         where me.user_id = ${userId} and me.team_id < ${after ?? highestId}
         order by me.team_id desc limit ${limit + 1}`),

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
                 where team_id = ${id} and status = 'pending' and expires_at > ${now})::int as pending_invitations,
               lacks_required_factor(${id}, ${userId}) as barred
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
     * Locks the team for no key update until the transaction ends, then reads the membership of the user. Returns undefined and
     * locks nothing if the user is not a member, so a stranger never waits for a change of the team. Both statements are sent
     * before it returns.
     */
    lockForNoKeyUpdate: async (tx: TransactionSql, id: string, userId: string): Promise<Membership | undefined> => {
      const [[team], membership] = await allInOrder([
        () => tx`
          select from teams
           where id = ${id} and exists (select from team_members where team_id = ${id} and user_id = ${userId})
             for no key update`,
        () => findMembership(tx, id, userId),
      ])
      return team && membership
    },

    update: async (tx: TransactionSql, id: string, changes: TeamChanges): Promise<void> => {
      await tx`update teams set ${tx(changes)}, updated_at = now() where id = ${id}`
    },

    /**
     * Locks for no key update the projects granted to a team, and all teams with a grant on them, in lock order. Removing
     * the team recomputes the access to these projects from all their teams. Locks nothing for a user who is not the
     * owner.
     */
    lockForRemoval: async (tx: TransactionSql, id: string, ownerId: string): Promise<void> => {
      await tx`select lock_team_removal(${id}, ${ownerId})`
    },

    /**
     * Removes a team. Call `lockForRemoval` first. Grants are deleted before members: then no access is left that the
     * trigger would have to recompute for each member.
     */
    remove: async (tx: TransactionSql, id: string): Promise<void> => {
      await tx`delete from project_grants where team_id = ${id}`
      await tx`delete from teams where id = ${id}`
    },
  }
}

export type TeamStore = ReturnType<typeof createTeamStore>
