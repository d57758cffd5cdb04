import type { TeamRole } from '../../access/policy/matrix.ts'
import type { Deadline } from '../../kit/deadline.ts'
import { onViolation, type Sql, type TransactionSql } from '../../platform/postgres.ts'
import type { GivenRole } from '../model.ts'
import { type Place, type Seen, toSeen } from '../store.ts'
import type { Invitation } from './model.ts'

export type InvitationRow = {
  id: string
  team_id: string
  email: string
  role: GivenRole
  /** As it is now: a pending one that ran out is `expired`. */
  status: Invitation['status']
  invited_by: string
  created_at: Date
  expires_at: Date
}

export type InvitationFilter = Place & { readonly status: Invitation['status'] | null }

/** Invitations. Whoever changes one holds its team's row (see the team store). */
export const createInvitationStore = (sql: Sql) => ({
  /** A team's invitations, newest first, if the user is in it. One row more than `limit`. */
  list: async (
    deadline: Deadline,
    teamId: string,
    userId: string,
    now: Date,
    { status, after, limit }: InvitationFilter,
  ): Promise<Seen<InvitationRow> | undefined> =>
    toSeen(
      await deadline.run(sql<({ own_role: TeamRole } & InvitationRow)[]>`
        select me.role as own_role, those.*
          from team_members me
          left join lateral (
            select i.id, i.team_id, i.email, i.role, i.invited_by, i.created_at, i.expires_at, s.status
              from team_invitations i
              cross join lateral (
                select case when i.status = 'pending' and i.expires_at <= ${now} then 'expired' else i.status end
              ) s (status)
             where i.team_id = me.team_id
               and (${status}::text is null or s.status = ${status}::text)
               and (${after}::uuid is null or i.id < ${after}::uuid)
             order by i.id desc limit ${limit + 1}) those on true
         where me.team_id = ${teamId} and me.user_id = ${userId}
         order by those.id desc`),
    ),

  isMember: async (tx: TransactionSql, teamId: string, email: string): Promise<boolean> => {
    const [row] = await tx`
      select from users u join team_members m on m.user_id = u.id and m.team_id = ${teamId} where u.email = ${email}`
    return row !== undefined
  },

  /** Makes room for a new one to the same address. Returns the role of the one that was open, if one was. */
  supersede: async (tx: TransactionSql, teamId: string, email: string, now: Date): Promise<GivenRole | undefined> => {
    const [row] = await tx<{ role: GivenRole; status: string }[]>`
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

  /** An open invitation of a team that is locked. */
  findOpen: async (tx: TransactionSql, teamId: string, id: string, now: Date): Promise<GivenRole | undefined> => {
    const [row] = await tx<{ role: GivenRole }[]>`
      select role from team_invitations
       where id = ${id} and team_id = ${teamId} and status = 'pending' and expires_at > ${now}`
    return row?.role
  },

  /** The address of an active account, whose row stays locked: while it joins a team, it cannot be closed. */
  lockAddress: async (tx: TransactionSql, userId: string): Promise<string | undefined> => {
    const [row] = await tx<{ email: string }[]>`
      select email from users where id = ${userId} and status = 'active' for no key update`
    return row?.email
  },

  /**
   * The open invitation of a secret to an address, with its team locked. Read twice: to learn which team to lock, and
   * again when it is, because another may have used it meanwhile.
   */
  lockPresented: async (
    tx: TransactionSql,
    secretHash: Uint8Array,
    email: string,
    now: Date,
  ): Promise<{ id: string; team_id: string; role: GivenRole; max_members: number } | undefined> => {
    const open = tx`
      i.secret_hash = ${secretHash} and i.email = ${email} and i.status = 'pending' and i.expires_at > ${now}`
    const [team] = await tx<{ max_members: number }[]>`
      select t.max_members from teams t
       where t.id = (select i.team_id from team_invitations i where ${open})
         for no key update`
    if (team === undefined) return undefined
    const [row] = await tx<{ id: string; team_id: string; role: GivenRole }[]>`
      select i.id, i.team_id, i.role from team_invitations i where ${open}`
    return row && { ...row, max_members: team.max_members }
  },

  close: async (
    tx: TransactionSql,
    id: string,
    status: 'accepted' | 'declined' | 'cancelled',
    now: Date,
  ): Promise<void> => {
    await tx`update team_invitations set status = ${status}, decided_at = ${now} where id = ${id}`
  },

  insertMember: async (tx: TransactionSql, teamId: string, userId: string, role: GivenRole): Promise<void> => {
    await tx`insert into team_members (team_id, user_id, role) values (${teamId}, ${userId}, ${role})`.catch(
      onViolation('team_members__pkey', 'team.already_member'),
    )
  },
})

export type InvitationStore = ReturnType<typeof createInvitationStore>
