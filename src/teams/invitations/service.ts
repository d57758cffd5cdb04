import { randomBytes } from 'node:crypto'
import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { requireSignedInForShare } from '../../access/transactional-access.ts'
import { recorderOf } from '../../audit/audit.ts'
import { Fault, invalidInput } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { AccountHash } from '../../identity/account-hash.ts'
import { decodeBase64url, encodeBase64url } from '../../kit/base64url.ts'
import type { Clock } from '../../kit/clock.ts'
import { toPage } from '../../kit/cursor.ts'
import { canonicalEmail, emailRequirement, storedSpellings } from '../../kit/email.ts'
import { newId } from '../../kit/id.ts'
import { quotable } from '../../kit/plain-text.ts'
import type { Limits } from '../../limits/limits.ts'
import type { Quotas } from '../../limits/quotas.ts'
import type { Mail } from '../../mail/service.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import { sha256 } from '../../platform/secrets.ts'
import type { Team } from '../model.ts'
import { outranks } from '../rules.ts'
import { requireTeam } from '../service.ts'
import type { TeamStore } from '../store.ts'
import { lockTeamAs, requireTeamRight } from '../team-lock.ts'
import type { Invitation, IssuedInvitation, NewInvitation } from './model.ts'
import type { InvitationFilter, InvitationRow, InvitationStore } from './store.ts'

const recordInvitation = recorderOf('invitation')
const recordTeam = recorderOf('team')

const ttlMs = 7 * 86_400_000
const secretLength = 32

const toInvitation = (row: InvitationRow): Invitation => ({
  id: row.id,
  team_id: row.team_id,
  email: row.email,
  role: row.role,
  status: row.status,
  invited_by: row.invited_by,
  created_at: row.created_at.toISOString(),
  expires_at: row.expires_at.toISOString(),
})

/**
 * Invitations to a team, by e-mail address.
 *
 * Guarantees: an invitation adds at most one member, the account with the invited address, within 7 days. Its secret is
 * returned once, sent to the invited address where mails are configured, and stored as a hash. An invalid secret and the secret
 * of another account get the same answer; its own account gets `team.invitation_gone` for one that is over. A team
 * never has more members than `max_members`, nor more than the quota of its owner. Invitations are limited by the person who
 * invites and by the invited address: `limit.exceeded`.
 */
export const createInvitations = ({
  store,
  teams,
  changes,
  quotas,
  limits,
  mail,
  hashOf,
  clock,
  record,
}: {
  store: InvitationStore
  teams: TeamStore
  changes: Changes
  quotas: Pick<Quotas, 'requireTeamRoom'>
  limits: Pick<Limits, 'invitation'>
  mail: Pick<Mail, 'enqueue' | 'isConfigured' | 'linkOf'>
  hashOf: AccountHash
  clock: Clock
  record: RecordSecurityEvent
}) => {
  const change = <T>(context: RequestContext, work: (tx: TransactionSql) => Promise<T>): Promise<T> =>
    changes.commitAndInvalidate(context.deadline, work, { grantsOnly: true })

  /** The pending invitation with this secret and the address of the caller. Locks the account, then the team. */
  const lockPresented = async (tx: TransactionSql, caller: Caller, secret: string, now: Date) => {
    const bytes = decodeBase64url(secret)
    const email = await store.lockAddressForNoKeyUpdate(tx, caller.userId)
    // After the account, whose lock must not be raised from share.
    if (email !== undefined) await requireSignedInForShare(tx, caller)
    const invitation =
      bytes && email !== undefined
        ? await store.lockTeamAndFindPending(tx, sha256(bytes), storedSpellings(email), now)
        : undefined
    if (invitation !== undefined) return invitation
    const isOver = bytes && email !== undefined && (await store.exists(tx, sha256(bytes), storedSpellings(email)))
    throw new Fault(isOver ? 'team.invitation_gone' : 'team.invitation_not_found')
  }

  /** In the transaction of the invitation. Names that could become links are left out. */
  const sendMail = async (tx: TransactionSql, row: InvitationRow, secret: string): Promise<void> => {
    if (!mail.isConfigured) return
    const names = await store.findNames(tx, row.team_id, row.invited_by)
    const parameters = {
      link: mail.linkOf('invitation', secret),
      days: ttlMs / 86_400_000,
      inviter: quotable(names.inviter) ?? 'A member',
      team: quotable(names.team) ?? 'a team',
      role: row.role,
    }
    const { email, expires_at: notAfter } = row
    await mail.enqueue(tx, { template: 'invitation', parameters, to: { email, userId: row.invited_by }, notAfter })
  }

  return {
    /** Replaces a pending invitation to the same address, if its role is also below the caller's. */
    create: async (
      context: RequestContext,
      caller: Caller,
      teamId: string,
      input: NewInvitation,
    ): Promise<IssuedInvitation> => {
      const email = canonicalEmail(input.email)
      if (email === undefined) throw invalidInput('body', '/email', emailRequirement)
      const invited = encodeBase64url(hashOf(email))
      await limits.invitation(context, { inviter: caller.userId, invited })
      const secret = randomBytes(secretLength)
      const nowMs = clock.now()
      const now = new Date(nowMs)
      return change(context, async (tx) => {
        await requireSignedInForShare(tx, caller)
        const callerRole = await lockTeamAs(teams, tx, caller, teamId, 'invite')
        if (!outranks(callerRole, input.role)) throw new Fault('team.role_too_low')
        if (await store.isMember(tx, teamId, storedSpellings(input.email))) throw new Fault('team.already_member')
        const replacedRole = await store.closePending(tx, teamId, email, now)
        if (replacedRole !== undefined && !outranks(callerRole, replacedRole)) throw new Fault('team.role_too_low')
        const row = await store.insert(tx, {
          id: newId(),
          team_id: teamId,
          email,
          role: input.role,
          secret_hash: sha256(secret),
          invited_by: caller.userId,
          created_at: now,
          expires_at: new Date(nowMs + ttlMs),
        })
        recordInvitation(tx, context, caller, row.id, 'team.member_invited', {
          teamId,
          after: { role: row.role, replaced_role: replacedRole },
        })
        await sendMail(tx, row, encodeBase64url(secret))
        return { ...toInvitation(row), secret: encodeBase64url(secret) }
      })
    },

    list: async (context: RequestContext, caller: Caller, teamId: string, filter: InvitationFilter) => {
      const visible = await store.list(context.deadline, teamId, caller.userId, new Date(clock.now()), filter)
      requireTeamRight(visible, 'invite')
      const { items, next_cursor } = toPage(visible?.rows ?? [], filter.limit)
      return { items: items.map(toInvitation), next_cursor }
    },

    cancel: (context: RequestContext, caller: Caller, teamId: string, id: string): Promise<void> =>
      change(context, async (tx) => {
        await requireSignedInForShare(tx, caller)
        const now = new Date(clock.now())
        const callerRole = await lockTeamAs(teams, tx, caller, teamId, 'invite')
        const role = await store.findPendingRole(tx, teamId, id, now)
        if (role === undefined) throw new Fault('team.invitation_not_found')
        if (!outranks(callerRole, role)) throw new Fault('team.role_too_low')
        recordInvitation(tx, context, caller, id, 'team.invitation_cancelled', { teamId, before: { role } })
        await store.close(tx, id, 'cancelled', now)
      }),

    accept: async (context: RequestContext, caller: Caller, secret: string, address: string): Promise<Team> => {
      const joined = await change(context, async (tx) => {
        const now = new Date(clock.now())
        const { id, team_id, role, max_members } = await lockPresented(tx, caller, secret, now)
        const members = await teams.countMembers(tx, team_id)
        if (members >= max_members) throw new Fault('team.full', { extensions: { max_members } })
        await quotas.requireTeamRoom(tx, team_id, members)
        recordTeam(tx, context, caller, team_id, 'team.member_joined', { after: { role, invitation_id: id } })
        await store.close(tx, id, 'accepted', now)
        await store.insertMember(tx, team_id, caller.userId, role)
        return requireTeam(await teams.find(context.deadline, team_id, caller.userId, tx))
      })
      const about = { team_id: joined.id, user_id: caller.userId, role: joined.role }
      record(context, 'team.member_joined', { address, ...about })
      return joined
    },

    decline: (context: RequestContext, caller: Caller, secret: string): Promise<void> =>
      change(context, async (tx) => {
        const now = new Date(clock.now())
        const { id, team_id } = await lockPresented(tx, caller, secret, now)
        recordInvitation(tx, context, caller, id, 'team.invitation_declined', { teamId: team_id })
        await store.close(tx, id, 'declined', now)
      }),
  }
}

export type Invitations = ReturnType<typeof createInvitations>
