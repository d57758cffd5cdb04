import type { Changes } from '../access/invalidation/committed-change.ts'
import { accessLevels, teamRoles } from '../access/policy/matrix.ts'
import type { Caller } from '../access/principal.ts'
import { Fault } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { Clock } from '../kit/clock.ts'
import { toPage } from '../kit/cursor.ts'
import { newId } from '../kit/id.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type { GivenRole, Member, NewTeam, Statistics, Team, TeamChanges } from './model.ts'
import { outranks, type TeamRight } from './rules.ts'
import type { MemberRow, Place, TeamRow, TeamStore } from './store.ts'
import { lockTeamAs, requireTeamRight } from './team-lock.ts'

const toTeam = (row: TeamRow): Team => ({
  id: row.id,
  name: row.name,
  description: row.description,
  max_members: row.max_members,
  owner_id: row.owner_id,
  role: row.role,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
})

export const foundTeam = (row: TeamRow | undefined): Team => {
  if (row === undefined) throw new Fault('team.not_found')
  return toTeam(row)
}

const toMember = (row: MemberRow): Member => ({
  user_id: row.id,
  display_name: row.display_name,
  role: row.role,
  joined_at: row.joined_at.toISOString(),
})

const foundMember = (row: MemberRow | undefined): Member => {
  if (row === undefined) throw new Fault('team.member_not_found')
  return toMember(row)
}

/** A count for each name, 0 where none was counted, and their sum. */
const tally = <T extends string>(names: readonly T[], counts: Partial<Record<T, number>> | null) => {
  const by = Object.fromEntries(names.map((name) => [name, counts?.[name] ?? 0])) as Record<T, number>
  return { total: names.reduce((sum, name) => sum + by[name], 0), by }
}

/**
 * Teams: who is in them, and as what.
 *
 * Promise: to somebody who is not a member a team is as if it were not. A change is decided by the roles as they are
 * when it is made: of two changes to one team the second sees what the first did. A team has exactly one owner. What a
 * member loses here, it has lost on every project of the team when the call has answered.
 */
export const createTeams = ({ store, changes, clock }: { store: TeamStore; changes: Changes; clock: Clock }) => {
  const change = <T>(
    context: RequestContext,
    work: (tx: TransactionSql) => Promise<T>,
    options?: { grantsOnly: true },
  ): Promise<T> => changes.commitAndInvalidate(context.deadline, work, options)

  /** Runs a change of a team by a member who may make it. */
  const changeTeam = <T>(
    context: RequestContext,
    caller: Caller,
    id: string,
    right: TeamRight,
    work: (tx: TransactionSql, role: Team['role']) => Promise<T>,
  ): Promise<T> => change(context, async (tx) => work(tx, await lockTeamAs(store, tx, caller, id, right)))

  /** Of a member that the caller, by its role, may change or remove. */
  const requireBelow = async (tx: TransactionSql, id: string, role: Team['role'], userId: string) => {
    const theirs = await store.findRole(tx, id, userId)
    if (theirs === undefined) throw new Fault('team.member_not_found')
    if (!outranks(role, theirs)) throw new Fault('team.role_too_low')
  }

  return {
    create: (context: RequestContext, caller: Caller, input: NewTeam): Promise<Team> => {
      const id = newId()
      return change(
        context,
        async (tx) => {
          await store.insert(tx, { id, ...input }, caller.userId)
          return foundTeam(await store.find(context.deadline, id, caller.userId, tx))
        },
        { grantsOnly: true },
      )
    },

    get: async (context: RequestContext, caller: Caller, id: string): Promise<Team> =>
      foundTeam(await store.find(context.deadline, id, caller.userId)),

    list: async (context: RequestContext, caller: Caller, place: Place) => {
      const { items, next_cursor } = toPage(await store.list(context.deadline, caller.userId, place), place.limit)
      return { items: items.map(toTeam), next_cursor }
    },

    update: (context: RequestContext, caller: Caller, id: string, input: TeamChanges): Promise<Team> =>
      changeTeam(context, caller, id, 'update', async (tx) => {
        if (input.max_members !== undefined) {
          const members = await store.countMembers(tx, id)
          if (input.max_members < members) throw new Fault('team.max_members_too_low', { extensions: { members } })
        }
        await store.update(tx, id, input)
        return foundTeam(await store.find(context.deadline, id, caller.userId, tx))
      }),

    remove: (context: RequestContext, caller: Caller, id: string): Promise<void> =>
      change(context, async (tx) => {
        await store.lockForRemoval(tx, id, caller.userId)
        await lockTeamAs(store, tx, caller, id, 'remove')
        await store.remove(tx, id)
      }),

    /**
     * The owner becomes an admin, and a member the owner, in one step. Handing it to oneself changes nothing. Whoever
     * closes the account meanwhile does so before it, and hands over nothing, or after it, and leaves as an admin does.
     */
    transfer: (context: RequestContext, caller: Caller, id: string, userId: string): Promise<Team> =>
      change(context, async (tx) => {
        if (!(await store.keepActive(tx, caller.userId))) throw new Fault('identity.not_signed_in')
        await lockTeamAs(store, tx, caller, id, 'transfer')
        if ((await store.findRole(tx, id, userId)) === undefined) throw new Fault('team.member_not_found')
        await store.transfer(tx, id, caller.userId, userId)
        return foundTeam(await store.find(context.deadline, id, caller.userId, tx))
      }),

    leave: (context: RequestContext, caller: Caller, id: string): Promise<void> =>
      changeTeam(context, caller, id, 'leave', async (tx, role) => {
        if (role === 'owner') throw new Fault('team.owner_cannot_leave')
        await store.removeMember(tx, id, caller.userId)
      }),

    listMembers: async (context: RequestContext, caller: Caller, id: string, place: Place) => {
      const seen = await store.listMembers(context.deadline, id, caller.userId, place)
      requireTeamRight(seen?.role, 'read')
      const { items, next_cursor } = toPage(seen?.rows ?? [], place.limit)
      return { items: items.map(toMember), next_cursor }
    },

    changeMember: (
      context: RequestContext,
      caller: Caller,
      id: string,
      userId: string,
      role: GivenRole,
    ): Promise<Member> =>
      changeTeam(context, caller, id, 'manage_members', async (tx, own) => {
        await requireBelow(tx, id, own, userId)
        if (!outranks(own, role)) throw new Fault('team.role_too_low')
        return foundMember(await store.setRole(tx, id, userId, role))
      }),

    removeMember: (context: RequestContext, caller: Caller, id: string, userId: string): Promise<void> =>
      changeTeam(context, caller, id, 'manage_members', async (tx, own) => {
        await requireBelow(tx, id, own, userId)
        await store.removeMember(tx, id, userId)
      }),

    statistics: async (context: RequestContext, caller: Caller, id: string): Promise<Statistics> => {
      const counted = await store.count(context.deadline, id, caller.userId, new Date(clock.now()))
      if (counted === undefined) throw new Fault('team.not_found')
      const members = tally(teamRoles, counted.members)
      const projects = tally(accessLevels, counted.projects)
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
