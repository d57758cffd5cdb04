import { highestId } from '../../kit/cursor.ts'
import type { Deadline } from '../../kit/deadline.ts'
import { onViolation, type Sql, type TransactionSql } from '../../platform/postgres.ts'
import { type OwnColumns, type Place, toVisibleRows, type VisibleRows } from '../member-store.ts'
import type { AssignableRole } from '../model.ts'
import type { Invitation } from './model.ts'

export type InvitationRow = {
  id: string
  team_id: string
  email: string
  role: AssignableRole
  /** A pending invitation past its expiry is reported as `expired`. */
  status: Invitation['status']
  invited_by: string
  created_at: Date
  expires_at: Date
}

export type InvitationFilter = Place & { readonly status: Invitation['status'] | null }

/** Invitations. Lock the row of the team before any change (see the team store). */
export const createInvitationStore = (sql: Sql) => ({
  /** Invitations of a team, newest first, if the user is a member. One row more than `limit`. */
  list: async (
    deadline: Deadline,
    teamId: string,
    userId: string,
    now: Date,
    { status, after, limit }: InvitationFilter,
  ): Promise<VisibleRows<InvitationRow> | undefined> =>
    toVisibleRows(
      await deadline.run(sql<(OwnColumns & InvitationRow)[]>`
        select me.role as own_role, lacks_required_factor(me.team_id, me.user_id) as own_barred, invitations.*
          from team_members me
          left join lateral (
            select i.id, i.team_id, i.email, i.role, i.invited_by, i.created_at, i.expires_at, s.status
              from team_invitations i
              cross join lateral (
                select case when i.status = 'pending' and i.expires_at <= ${now} then 'expired' else i.status end
              ) s (status)
             where i.team_id = me.team_id
               and (${status}::text is null or s.status = ${status}::text)
               and i.id < ${after ?? highestId}
             order by i.id desc limit ${limit + 1}) invitations on true
         where me.team_id = ${teamId} and me.user_id = ${userId}
         order by invitations.id desc`),
    ),

  isMember: async (tx: TransactionSql, teamId: string, spellings: readonly string[]): Promise<boolean> => {
    const [row] = await tx`
      select from users u join team_members m on m.user_id = u.id and m.team_id = ${teamId}
       where u.email = any (${[...spellings]}::text[])`
    return row !== undefined
  },

  /** Closes the pending invitation to an address. Returns its role, unless there was none or it had expired. */
  closePending: async (
    tx: TransactionSql,
    teamId: string,
    email: string,
    now: Date,
  ): Promise<AssignableRole | undefined> => {
    const [row] = await tx<{ role: AssignableRole; status: string }[]>`
      update team_invitations
         set status = case when expires_at > ${now} then 'cancelled' else 'expired' end, decided_at = ${now}
       where team_id = ${teamId} and email = ${email} and status = 'pending'
      returning role, status`
    return row?.status === 'cancelled' ? row.role : undefined
  },

  insert: async (
    tx: TransactionSql,
    invitation: Omit<InvitationRow, 'status'> & { secret_hash: Uint8Array },
  ): Promise<InvitationRow> => {
    const [row] = await tx<InvitationRow[]>`
      insert into team_invitations ${tx(invitation)}
      returning id, team_id, email, role, status, invited_by, created_at, expires_at`
    return row as InvitationRow
  },

  /** The role of a pending invitation that has not expired. Lock the team first. */
  findPendingRole: async (
    tx: TransactionSql,
    teamId: string,
    id: string,
    now: Date,
  ): Promise<AssignableRole | undefined> => {
    const [row] = await tx<{ role: AssignableRole }[]>`
      select role from team_invitations
       where id = ${id} and team_id = ${teamId} and status = 'pending' and expires_at > ${now}`
    return row?.role
  },

  /** The address of an active account. Locks it for no key update, so it cannot be closed while it joins a team. */
  lockAddressForNoKeyUpdate: async (tx: TransactionSql, userId: string): Promise<string | undefined> => {
    const [row] = await tx<{ email: string }[]>`
      select email from users where id = ${userId} and status = 'active' for no key update`
    return row?.email
  },

  /**
   * Locks the team of an invitation for no key update, then returns the invitation, if it is pending and has this secret
   * and address. It is read twice: before the lock to find the team, and after it, because it may have been used while
   * the lock was waited for.
   */
  lockTeamAndFindPending: async (
    tx: TransactionSql,
    secretHash: Uint8Array,
    spellings: readonly string[],
    now: Date,
  ): Promise<{ id: string; team_id: string; role: AssignableRole; max_members: number } | undefined> => {
    const isPending = tx`
      i.secret_hash = ${secretHash} and i.email = any (${[...spellings]}::text[]) and i.status = 'pending' and i.expires_at > ${now}`
    const [team] = await tx<{ max_members: number }[]>`
      select t.max_members from teams t
       where t.id = (select i.team_id from team_invitations i where ${isPending})
         for no key update`
    if (team === undefined) return undefined
    const [row] = await tx<{ id: string; team_id: string; role: AssignableRole }[]>`
      select i.id, i.team_id, i.role from team_invitations i where ${isPending}`
    return row && { ...row, max_members: team.max_members }
  },

  /** Whether an address was invited with this secret, even if that is over. */
  exists: async (tx: TransactionSql, secretHash: Uint8Array, spellings: readonly string[]): Promise<boolean> => {
    const { count } = await tx`
      select from team_invitations where secret_hash = ${secretHash} and email = any (${[...spellings]}::text[])`
    return count > 0
  },

  /** For the mail of an invitation. */
  findNames: async (
    tx: TransactionSql,
    teamId: string,
    inviterId: string,
  ): Promise<{ team: string; inviter: string }> => {
    const [row] = await tx<{ team: string; inviter: string }[]>`
      select t.name as team, u.display_name as inviter from teams t, users u where t.id = ${teamId} and u.id = ${inviterId}`
    return row ?? { team: '', inviter: '' }
  },

  close: async (
    tx: TransactionSql,
    id: string,
    status: 'accepted' | 'declined' | 'cancelled',
    now: Date,
  ): Promise<void> => {
    await tx`update team_invitations set status = ${status}, decided_at = ${now} where id = ${id}`
  },

  insertMember: async (tx: TransactionSql, teamId: string, userId: string, role: AssignableRole): Promise<void> => {
    await tx`insert into team_members (team_id, user_id, role) values (${teamId}, ${userId}, ${role})`.catch(
      onViolation('team_members__pkey', 'team.already_member'),
    )
  },
})

export type InvitationStore = ReturnType<typeof createInvitationStore>
