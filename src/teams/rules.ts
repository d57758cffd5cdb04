import { isAbove, type TeamRole } from '../access/policy/matrix.ts'

/** The lowest role that has each right. The owner cannot leave its team or be removed from it. */
const lowestRole = {
  read: 'viewer',
  leave: 'viewer',
  update: 'admin',
  manage_members: 'admin',
  invite: 'admin',
  manage_webhooks: 'admin',
  remove: 'owner',
  transfer: 'owner',
  require_second_factor: 'owner',
  read_audit: 'owner',
} as const satisfies Record<string, TeamRole>

export type TeamRight = keyof typeof lowestRole

/** What a member may do who lacks the second factor that the team requires. Any member may see the team itself. */
export const rightsOfBarred: readonly TeamRight[] = ['leave']

export const mayInTeam = (role: TeamRole, right: TeamRight): boolean => !isAbove(lowestRole[right], role)

/** Whether a member may assign, change or remove all of these roles: each is below the member's own. */
export const outranks = (role: TeamRole, ...others: readonly TeamRole[]): boolean =>
  others.every((other) => isAbove(role, other))
