import type { TeamRole } from '../access/policy/matrix.ts'
import type { Caller } from '../access/principal.ts'
import { Fault } from '../fault.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { mayInTeam, type TeamRight } from './rules.ts'
import type { TeamStore } from './store.ts'

/** Passes with the role, or throws: 404 where the caller is not in the team, 403 where its role is too low. */
export const requireTeamRight = (role: TeamRole | undefined, right: TeamRight): TeamRole => {
  if (role === undefined) throw new Fault('team.not_found')
  if (!mayInTeam(role, right)) throw new Fault('team.role_too_low')
  return role
}

/**
 * Locks a team for a change and lets the caller in, or throws as `admit` does. The role is the one at that moment and
 * stays it until the transaction ends.
 */
export const lockTeamAs = async (
  store: TeamStore,
  tx: TransactionSql,
  caller: Caller,
  teamId: string,
  right: TeamRight,
): Promise<TeamRole> => requireTeamRight(await store.lock(tx, teamId, caller.userId), right)
