import type { TeamRole } from '../access/policy/matrix.ts'
import type { Caller } from '../access/principal.ts'
import { Fault } from '../fault.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type { Membership } from './member-store.ts'
import { mayInTeam, rightsOfBarred, type TeamRight } from './rules.ts'
import type { TeamStore } from './store.ts'

/**
 * Returns the role of a member that has the right. Throws `team.not_found` where there is no member, `team.role_too_low` without
 * the right, and `team.second_factor_required` for a member who is barred.
 */
export const requireTeamRight = (member: Membership | undefined, right: TeamRight): TeamRole => {
  if (member === undefined) throw new Fault('team.not_found')
  if (member.barred && !rightsOfBarred.includes(right)) throw new Fault('team.second_factor_required')
  if (!mayInTeam(member.role, right)) throw new Fault('team.role_too_low')
  return member.role
}

/**
 * Locks a team for no key update and returns the role of the caller, which cannot change until the transaction ends.
 * Throws as `requireTeamRight` does.
 */
export const lockTeamAs = async (
  store: TeamStore,
  tx: TransactionSql,
  caller: Caller,
  teamId: string,
  right: TeamRight,
): Promise<TeamRole> => requireTeamRight(await store.lockForNoKeyUpdate(tx, teamId, caller.userId), right)
