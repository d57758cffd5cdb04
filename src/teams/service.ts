import { requireRecentAuthentication } from '../access/guard/recent-authentication.ts'
import type { Changes, Lastly } from '../access/invalidation/committed-change.ts'
import { accessLevels, teamRoles } from '../access/policy/matrix.ts'
import type { Caller } from '../access/principal.ts'
import { requireSignedInForShare } from '../access/transactional-access.ts'
import { recorderOf } from '../audit/audit.ts'
import { Fault } from '../fault.ts'
import { requireNarrowing } from '../http/narrowing.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { RecordSecurityEvent } from '../http/security-events.ts'
import { allInOrder } from '../kit/async.ts'
import type { Clock } from '../kit/clock.ts'
import { toPage } from '../kit/cursor.ts'
import { newId } from '../kit/id.ts'
import type { Quotas } from '../limits/quotas.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type { MemberRow, Place } from './member-store.ts'
import type { AssignableRole, Member, NewTeam, Statistics, Team, TeamChanges } from './model.ts'
import { outranks, type TeamRight } from './rules.ts'
import type { TeamRow, TeamStore } from './store.ts'
import { lockTeamAs, requireTeamRight } from './team-lock.ts'

const recordTeam = recorderOf('team')

const toTeam = (row: TeamRow): Team => ({
  id: row.id,
  name: row.name,
  description: row.description,
  max_members: row.max_members,
  owner_id: row.owner_id,
  role: row.role,
  requires_second_factor: row.requires_second_factor,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
})

export const requireTeam = (row: TeamRow | undefined): Team => {
  if (row === undefined) throw new Fault('team.not_found')
  return toTeam(row)
}

const toMember = (row: MemberRow): Member => ({
  user_id: row.id,
  display_name: row.display_name,
  role: row.role,
  joined_at: row.joined_at.toISOString(),
})

const requireMember = (row: MemberRow | undefined): Member => {
  if (row === undefined) throw new Fault('team.member_not_found')
  return toMember(row)
}

/** A count for each name, 0 for a missing one, and their sum. */
const countPerName = <T extends string>(names: readonly T[], counts: Partial<Record<T, number>> | null) => {
  const by = Object.fromEntries(names.map((name) => [name, counts?.[name] ?? 0])) as Record<T, number>
  return { total: names.reduce((sum, name) => sum + by[name], 0), by }
}

/** A locked team: the role of the caller, and that of the other member the change is about. */
type LockedTeam = {
  readonly role: Team['role']
  readonly memberRole: Team['role'] | undefined
  readonly lastly: Lastly
}

/** Runs a change of a locked team, and perhaps of one of its members, if the role of the caller has the right. */
type ChangeTeam = <T>(
  context: RequestContext,
  caller: Caller,
  { id, userId }: { readonly id: string; readonly userId?: string },
  right: TeamRight,
  work: (tx: TransactionSql, locked: LockedTeam) => Promise<T>,
) => Promise<T>

const createMembers = ({
  store,
  changeTeam,
  record,
}: {
  store: TeamStore
  changeTeam: ChangeTeam
  record: RecordSecurityEvent
}) => {
  /** The role of the member, which must be below the caller's. */
  const requireOutranked = ({ role, memberRole }: LockedTeam) => {
    if (memberRole === undefined) throw new Fault('team.member_not_found')
    if (!outranks(role, memberRole)) throw new Fault('team.role_too_low')
    return memberRole
  }

  return {
    leave: async (context: RequestContext, caller: Caller, id: string, address: string): Promise<void> => {
      await changeTeam(context, caller, { id }, 'leave', async (tx, { role, lastly }) => {
        if (role === 'owner') throw new Fault('team.owner_cannot_leave')
        recordTeam(tx, context, caller, id, 'team.member_left', { before: { role } })
        lastly(() => store.removeMember(tx, id, caller.userId))
      })
      record(context, 'team.member_left', { address, team_id: id, user_id: caller.userId })
    },

    listMembers: async (context: RequestContext, caller: Caller, id: string, place: Place) => {
      const visible = await store.listMembers(context.deadline, id, caller.userId, place)
      requireTeamRight(visible, 'read')
      const { items, next_cursor } = toPage(visible?.rows ?? [], place.limit)
      return { items: items.map(toMember), next_cursor }
    },

    changeMember: async (
      context: RequestContext,
      caller: Caller,
      { id, userId, role }: { id: string; userId: string; role: AssignableRole },
      address: string,
    ): Promise<Member> => {
      const changed = await changeTeam(context, caller, { id, userId }, 'manage_members', async (tx, locked) => {
        const previous_role = requireOutranked(locked)
        if (!outranks(locked.role, role)) throw new Fault('team.role_too_low')
        requireNarrowing(context, !outranks(role, previous_role))
        recordTeam(tx, context, caller, id, 'team.role_changed', {
          userId,
          before: { role: previous_role },
          after: { role },
        })
        return { member: requireMember(await store.setRole(tx, id, userId, role)), previous_role }
      })
      const { member, previous_role } = changed
      if (role !== previous_role) {
        const about = { team_id: id, user_id: userId, role, previous_role }
        record(context, 'team.role_changed', { address, by: caller.userId, ...about })
      }
      return member
    },

    removeMember: async (
      context: RequestContext,
      caller: Caller,
      { id, userId }: { id: string; userId: string },
      address: string,
    ): Promise<void> => {
      const previous_role = await changeTeam(context, caller, { id, userId }, 'manage_members', async (tx, locked) => {
        const role = requireOutranked(locked)
        recordTeam(tx, context, caller, id, 'team.member_removed', { userId, before: { role } })
        locked.lastly(() => store.removeMember(tx, id, userId))
        return role
      })
      const about = { team_id: id, user_id: userId, previous_role }
      record(context, 'team.member_removed', { address, by: caller.userId, ...about })
    },
  }
}

type Change = <T>(
  context: RequestContext,
  caller: Caller,
  work: (tx: TransactionSql) => Promise<T>,
  options?: { grantsOnly: true },
) => Promise<T>

/** What only the owner of a team can do with it. */
const createOwnership = ({
  store,
  changes,
  change,
  quotas,
  record,
}: {
  store: TeamStore
  changes: Changes
  change: Change
  quotas: Pick<Quotas, 'require'>
  record: RecordSecurityEvent
}) => ({
  remove: async (context: RequestContext, caller: Caller, id: string, address: string): Promise<void> => {
    await change(context, caller, async (tx) => {
      await store.lockForRemoval(tx, id, caller.userId)
      await lockTeamAs(store, tx, caller, id, 'remove')
      recordTeam(tx, context, caller, id, 'team.deleted')
      await store.remove(tx, id)
    })
    record(context, 'team.deleted', { address, by: caller.userId, team_id: id })
  },

  /**
   * Makes a member with an active account the owner and the owner an admin, atomically. A transfer to oneself changes
   * nothing. Both accounts are locked first, so each can only be closed or suspended before, and the transfer is refused,
   * or after, and the team passes on from its new owner.
   */
  transfer: async (
    context: RequestContext,
    caller: Caller,
    { id, userId }: { id: string; userId: string },
    address: string,
  ): Promise<Team> => {
    const transferred = await changes.commitAndInvalidate(context.deadline, async (tx) => {
      const isActive = await store.lockActiveMembersForShare(tx, id, caller.userId, userId)
      await requireSignedInForShare(tx, caller)
      await lockTeamAs(store, tx, caller, id, 'transfer')
      if ((await store.findRole(tx, id, userId)) === undefined) throw new Fault('team.member_not_found')
      if (!isActive) throw new Fault('team.new_owner_inactive')
      recordTeam(tx, context, caller, id, 'team.transferred', {
        userId,
        before: { owner_id: caller.userId },
        after: { owner_id: userId },
      })
      await store.transfer(tx, id, caller.userId, userId)
      // Counts the team already: the transfer locks the access of both accounts, which comes before what they hold.
      if (userId !== caller.userId)
        await quotas.require(tx, userId, { teams: 0 }, () => new Fault('team.new_owner_full'))
      return requireTeam(await store.find(context.deadline, id, caller.userId, tx))
    })
    if (userId !== caller.userId)
      record(context, 'team.transferred', { address, by: caller.userId, team_id: id, user_id: userId })
    return transferred
  },
})

/**
 * Teams, their members and roles.
 *
 * Guarantees: a user who is not a member cannot distinguish a team from one that does not exist. A change is decided by
 * the roles at the time of the change: changes of one team are serialized, and each sees the previous ones. A team has
 * exactly one owner. When a call that takes access away has answered, the member has lost that access on every project of
 * the team.
 */
export const createTeams = ({
  store,
  changes,
  quotas,
  clock,
  record,
}: {
  store: TeamStore
  changes: Changes
  quotas: Pick<Quotas, 'require'>
  clock: Clock
  record: RecordSecurityEvent
}) => {
  /** The guard has checked session and account; they are locked, so a change after they have ended is refused. */
  const change: Change = (context, caller, work, options) =>
    changes.commitAndInvalidate(
      context.deadline,
      async (tx) => {
        await requireSignedInForShare(tx, caller)
        return work(tx)
      },
      options,
    )

  const changeTeam: ChangeTeam = (context, caller, { id, userId }, right, work) =>
    changes.commitAndInvalidate(context.deadline, async (tx, lastly) => {
      // Sent together, in one round trip.
      const [, role, memberRole] = await allInOrder([
        () => requireSignedInForShare(tx, caller),
        () => lockTeamAs(store, tx, caller, id, right),
        () => (userId === undefined ? undefined : store.findRole(tx, id, userId)),
      ])
      return work(tx, { role, memberRole, lastly })
    })

  return {
    ...createMembers({ store, changeTeam, record }),

    create: (context: RequestContext, caller: Caller, input: NewTeam): Promise<Team> => {
      const id = newId()
      return change(
        context,
        caller,
        async (tx) => {
          await quotas.require(tx, caller.userId, { teams: 1 })
          recordTeam(tx, context, caller, id, 'team.created')
          await store.insert(tx, { id, ...input }, caller.userId)
          return requireTeam(await store.find(context.deadline, id, caller.userId, tx))
        },
        { grantsOnly: true },
      )
    },

    get: async (context: RequestContext, caller: Caller, id: string): Promise<Team> =>
      requireTeam(await store.find(context.deadline, id, caller.userId)),

    list: async (context: RequestContext, caller: Caller, place: Place) => {
      const { items, next_cursor } = toPage(await store.list(context.deadline, caller.userId, place), place.limit)
      return { items: items.map(toTeam), next_cursor }
    },

    /** Whether a second factor is required is changed by the owner alone, and turned on by one who has a factor. */
    update: async (
      context: RequestContext,
      caller: Caller,
      id: string,
      input: TeamChanges,
      address: string,
    ): Promise<Team> => {
      const updateIn = async (tx: TransactionSql): Promise<Team> => {
        const { requires_second_factor: demanded, ...others } = input
        requireNarrowing(context, demanded === true && Object.keys(others).length === 0)
        if (input.max_members !== undefined) {
          const members = await store.countMembers(tx, id)
          if (input.max_members < members) throw new Fault('team.max_members_too_low', { extensions: { members } })
        }
        const { max_members, requires_second_factor } = input
        recordTeam(
          tx,
          context,
          caller,
          id,
          requires_second_factor === undefined ? 'team.changed' : 'team.second_factor_required',
          { after: { changed: Object.keys(input), max_members, requires_second_factor } },
        )
        await store.update(tx, id, input)
        return requireTeam(await store.find(context.deadline, id, caller.userId, tx))
      }
      const { requires_second_factor: required } = input
      if (required === undefined) return changeTeam(context, caller, { id }, 'update', updateIn)
      requireRecentAuthentication(caller, clock.now())
      const updated = await change(context, caller, async (tx) => {
        // The trigger recomputes the access to every project of the team.
        await store.lockForRemoval(tx, id, caller.userId)
        await lockTeamAs(store, tx, caller, id, 'require_second_factor')
        if (required && !(await store.hasSecondFactor(tx, caller.userId)))
          throw new Fault('team.second_factor_required')
        return updateIn(tx)
      })
      record(context, 'team.second_factor_required', { address, by: caller.userId, team_id: id, required })
      return updated
    },

    ...createOwnership({ store, changes, change, quotas, record }),

    statistics: async (context: RequestContext, caller: Caller, id: string): Promise<Statistics> => {
      const counted = await store.count(context.deadline, id, caller.userId, new Date(clock.now()))
      if (counted === undefined) throw new Fault('team.not_found')
      if (counted.barred) throw new Fault('team.second_factor_required')
      const members = countPerName(teamRoles, counted.members)
      const projects = countPerName(accessLevels, counted.projects)
      return {
        members: { total: members.total, by_role: members.by },
        projects: { total: projects.total, by_access_level: projects.by },
        generations: counted.generations,
        pending_invitations: counted.pending_invitations,
      }
    },
  }
}

export type Teams = ReturnType<typeof createTeams>
