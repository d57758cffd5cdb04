import type { TeamRole } from '../access/policy/matrix.ts'
import { highestId } from '../kit/cursor.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { Queryable, Sql, TransactionSql } from '../platform/postgres.ts'
import type { AssignableRole } from './model.ts'

/** `id` is the id of the user. */
export type MemberRow = { id: string; display_name: string; role: TeamRole; joined_at: Date }

export type Place = { readonly after: string | null; readonly limit: number }

/** A member: its role, and whether it is barred, because the team requires a second factor that it does not have. */
export type Membership = { readonly role: TeamRole; readonly barred: boolean }

/** Rows of a team that a member may see, and the member. */
export type VisibleRows<T> = Membership & { readonly rows: T[] }

/** The columns of the member beside the rows of a list. */
export type OwnColumns = { readonly own_role: TeamRole; readonly own_barred: boolean }

/**
 * Separates the role of the member from the rows it was joined to. Without a line the user is not a member; a line
 * without an id stands for an empty list.
 */
export const toVisibleRows = <T extends { id: string }>(
  lines: readonly (OwnColumns & (T | { id: null }))[],
): VisibleRows<T> | undefined => {
  const [first] = lines
  const isRow = (line: (typeof lines)[number]): line is OwnColumns & T => line.id !== null
  return first && { role: first.own_role, barred: first.own_barred, rows: lines.filter(isRow) }
}

/** A separate statement: after waiting for a lock, its snapshot includes the commits made meanwhile. */
export const findRole = async (tx: TransactionSql, id: string, userId: string): Promise<TeamRole | undefined> => {
  const [row] = await tx<{ role: TeamRole }[]>`
    select role from team_members where team_id = ${id} and user_id = ${userId}`
  return row?.role
}

/** As `findRole`, with whether the member is barred. */
export const findMembership = async (
  tx: TransactionSql,
  id: string,
  userId: string,
): Promise<Membership | undefined> => {
  const [row] = await tx<Membership[]>`
    select role, lacks_required_factor(team_id, user_id) as barred
      from team_members where team_id = ${id} and user_id = ${userId}`
  return row
}

/** Members of teams. A change locks the row of the team first, and then reads the roles that decide. */
export const createMemberStore = (sql: Sql) => ({
  findRole,

  /** Members in descending order of user id, if the user is one of them. One row more than `limit`. */
  listMembers: async (
    deadline: Deadline,
    id: string,
    userId: string,
    { after, limit }: Place,
  ): Promise<VisibleRows<MemberRow> | undefined> =>
    toVisibleRows(
      await deadline.run(sql<(OwnColumns & MemberRow)[]>`
        select me.role as own_role, lacks_required_factor(me.team_id, me.user_id) as own_barred, members.*
          from team_members me
          left join lateral (
            select m.user_id as id, m.role, m.joined_at, u.display_name
              from team_members m join users u on u.id = m.user_id
             where m.team_id = me.team_id and m.user_id < ${after ?? highestId}
             order by m.user_id desc limit ${limit + 1}) members on true
         where me.team_id = ${id} and me.user_id = ${userId}
         order by members.id desc`),
    ),

  /** Lock the team first. */
  countMembers: async (tx: TransactionSql, id: string): Promise<number> => {
    const [row] = await tx<{ members: number }[]>`
      select count(*)::int as members from team_members where team_id = ${id}`
    return row?.members ?? 0
  },

  hasSecondFactor: async (tx: TransactionSql, userId: string): Promise<boolean> => {
    const { count } = await tx`select from users where id = ${userId} and second_factor`
    return count === 1
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

  /**
   * Locks for share the accounts of two members, by id, so that active ones stay active until the transaction ends. Returns
   * whether the second is active. Locks no account that is not a member's.
   */
  lockActiveMembersForShare: async (
    tx: TransactionSql,
    id: string,
    callerId: string,
    userId: string,
  ): Promise<boolean> => {
    const active = await tx<{ id: string }[]>`
      select id from users
       where id = any (${[callerId, userId]}::uuid[]) and status = 'active'
         and exists (select from team_members where team_id = ${id} and user_id = users.id)
       order by id for share`
    return active.some((user) => user.id === userId)
  },

  /** Moves the role of the owner. The team never has two owners, not even between the two statements. */
  transfer: async (tx: TransactionSql, id: string, fromId: string, toId: string): Promise<void> => {
    await tx`select lock_access_of_users(${[fromId, toId]}::uuid[])`
    await tx`update team_members set role = 'admin' where team_id = ${id} and user_id = ${fromId}`
    await tx`update team_members set role = 'owner' where team_id = ${id} and user_id = ${toId}`
  },

  removeMember: async (tx: TransactionSql, id: string, userId: string): Promise<boolean> => {
    const { count } = await tx`delete from team_members where team_id = ${id} and user_id = ${userId}`
    return count === 1
  },

  /** Up to 100 teams that a user owns and that have another member with an active account, by id. */
  findTeamsToHandOver: (userId: string, on: Queryable = sql): Promise<{ id: string; name: string }[]> =>
    on<{ id: string; name: string }[]>`
      select t.id, t.name from team_members o join teams t on t.id = o.team_id
       where o.user_id = ${userId} and o.role = 'owner'
         and exists (select from team_members m join users u on u.id = m.user_id and u.status = 'active'
                      where m.team_id = t.id and m.user_id <> ${userId})
       order by t.id limit 100`,

  /**
   * Prepares the closing of an account: locks it for update and then all its teams, and deletes the invitations to its
   * address. Joining a team locks the account too, so the user joins no team meanwhile. For update, because closing the
   * account then clears the e-mail address, which is a key. A trigger ends the memberships when the account is closed.
   */
  lockForClosing: async (tx: TransactionSql, userId: string): Promise<void> => {
    const [user] = await tx<{ email: string | null }[]>`select email from users where id = ${userId} for update`
    await tx`select lock_teams_of_member(${userId}, true)`
    await tx`delete from team_invitations where email = ${user?.email ?? null}`
  },
})
