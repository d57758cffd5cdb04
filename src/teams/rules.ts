import { isAbove, type TeamRole } from '../access/policy/matrix.ts'

/** What a member may do in its team, by the lowest role that may. What one owns, one neither leaves nor loses. */
const lowestRole = {
  read: 'viewer',
  leave: 'viewer',
  update: 'admin',
  manage_members: 'admin',
  invite: 'admin',
  remove: 'owner',
  transfer: 'owner',
} as const satisfies Record<string, TeamRole>

export type TeamRight = keyof typeof lowestRole

export const mayInTeam = (role: TeamRole, right: TeamRight): boolean => !isAbove(lowestRole[right], role)

/** Whether a member of one role may give, change or take away all of these: they are below its own. */
export const outranks = (role: TeamRole, ...others: readonly TeamRole[]): boolean =>
  others.every((other) => isAbove(role, other))
