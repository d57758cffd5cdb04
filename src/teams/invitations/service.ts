import { randomBytes } from 'node:crypto'
import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { Fault, invalidInput } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import { decodeBase64url, encodeBase64url } from '../../kit/base64url.ts'
import type { Clock } from '../../kit/clock.ts'
import { toPage } from '../../kit/cursor.ts'
import { canonicalEmail } from '../../kit/email.ts'
import { newId } from '../../kit/id.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import { sha256 } from '../../platform/secrets.ts'
import type { Team } from '../model.ts'
import { outranks } from '../rules.ts'
import { foundTeam } from '../service.ts'
import type { TeamStore } from '../store.ts'
import { lockTeamAs, requireTeamRight } from '../team-lock.ts'
import type { Invitation, IssuedInvitation, NewInvitation } from './model.ts'
import type { InvitationFilter, InvitationRow, InvitationStore } from './store.ts'

const lifeMs = 7 * 86_400_000
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
 * Ways into a team for people who are not in it yet, by e-mail address.
 *
 * Promise: an invitation makes one member at most, of the account whose own address it was sent to, within 7 days; its
 * secret is shown once and kept as a hash. Whoever presents a secret that is not good, or not for it, learns nothing
 * from the answer. A team never has more members than it may.
 */
export const createInvitations = ({
  store,
  teams,
  changes,
  clock,
}: {
  store: InvitationStore
  teams: TeamStore
  changes: Changes
  clock: Clock
}) => {
  const change = <T>(context: RequestContext, work: (tx: TransactionSql) => Promise<T>): Promise<T> =>
    changes.commitAndInvalidate(context.deadline, work, { grantsOnly: true })

  /** The invitation a caller presents the secret of; its team is locked. */
  const present = async (tx: TransactionSql, caller: Caller, secret: string, now: Date) => {
    const bytes = decodeBase64url(secret)
    const address = await store.lockAddress(tx, caller.userId)
    const invitation =
      bytes && address !== undefined ? await store.lockPresented(tx, sha256(bytes), address, now) : undefined
    if (invitation === undefined) throw new Fault('team.invitation_not_found')
    return invitation
  }

  return {
    /** A new one takes the place of one that is open for the same address, if the caller might also cancel that. */
    create: (
      context: RequestContext,
      caller: Caller,
      teamId: string,
      input: NewInvitation,
    ): Promise<IssuedInvitation> => {
      const email = canonicalEmail(input.email)
      if (email === undefined) throw invalidInput('body', '/email', 'Too long')
      const secret = randomBytes(secretLength)
      const nowMs = clock.now()
      const now = new Date(nowMs)
      return change(context, async (tx) => {
        const own = await lockTeamAs(teams, tx, caller, teamId, 'invite')
        if (!outranks(own, input.role)) throw new Fault('team.role_too_low')
        if (await store.isMember(tx, teamId, email)) throw new Fault('team.already_member')
        const superseded = await store.supersede(tx, teamId, email, now)
        if (superseded !== undefined && !outranks(own, superseded)) throw new Fault('team.role_too_low')
        const row = await store.insert(tx, {
          id: newId(),
          team_id: teamId,
          email,
          role: input.role,
          secret_hash: sha256(secret),
          invited_by: caller.userId,
          created_at: now,
          expires_at: new Date(nowMs + lifeMs),
        })
        return { ...toInvitation(row), secret: encodeBase64url(secret) }
      })
    },

    list: async (context: RequestContext, caller: Caller, teamId: string, filter: InvitationFilter) => {
      const seen = await store.list(context.deadline, teamId, caller.userId, new Date(clock.now()), filter)
      requireTeamRight(seen?.role, 'invite')
      const { items, next_cursor } = toPage(seen?.rows ?? [], filter.limit)
      return { items: items.map(toInvitation), next_cursor }
    },

    cancel: (context: RequestContext, caller: Caller, teamId: string, id: string): Promise<void> =>
      change(context, async (tx) => {
        const now = new Date(clock.now())
        const own = await lockTeamAs(teams, tx, caller, teamId, 'invite')
        const role = await store.findOpen(tx, teamId, id, now)
        if (role === undefined) throw new Fault('team.invitation_not_found')
        if (!outranks(own, role)) throw new Fault('team.role_too_low')
        await store.close(tx, id, 'cancelled', now)
      }),

    accept: (context: RequestContext, caller: Caller, secret: string): Promise<Team> =>
      change(context, async (tx) => {
        const now = new Date(clock.now())
        const { id, team_id, role, max_members } = await present(tx, caller, secret, now)
        if ((await teams.countMembers(tx, team_id)) >= max_members) {
          throw new Fault('team.full', { extensions: { max_members } })
        }
        await store.close(tx, id, 'accepted', now)
        await store.insertMember(tx, team_id, caller.userId, role)
        return foundTeam(await teams.find(context.deadline, team_id, caller.userId, tx))
      }),

    decline: (context: RequestContext, caller: Caller, secret: string): Promise<void> =>
      change(context, async (tx) => {
        const now = new Date(clock.now())
        const { id } = await present(tx, caller, secret, now)
        await store.close(tx, id, 'declined', now)
      }),
  }
}

export type Invitations = ReturnType<typeof createInvitations>
