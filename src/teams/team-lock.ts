import type { TeamRole } from '../access/policy/matrix.ts'
import type { Caller } from '../access/principal.ts'
import { Fault } from '../fault.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { mayInTeam, type TeamRight } from './rules.ts'
import type { TeamStore } from './store.ts'

/** Returns the role if it has the right. Throws `team.not_found` without a role, `team.role_too_low` without the right. */
export const requireTeamRight = (role: TeamRole | undefined, right: TeamRight): TeamRole => {
  if (role === undefined) throw new Fault('team.not_found')
  if (!mayInTeam(role, right)) throw new Fault('team.role_too_low')
  return role
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
