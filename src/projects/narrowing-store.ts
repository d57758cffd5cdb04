import type { AccessLevel, Visibility } from '../access/policy/matrix.ts'
import type { TransactionSql } from '../platform/postgres.ts'

/** The visibility of a project that is locked. */
export const findVisibility = async (tx: TransactionSql, id: string): Promise<Visibility | undefined> => {
  const [row] = await tx<{ visibility: Visibility }[]>`select visibility from projects where id = ${id}`
  return row?.visibility
}

/** The level of a grant of a project that is locked. */
export const findGrantLevel = async (
  tx: TransactionSql,
  projectId: string,
  teamId: string,
): Promise<AccessLevel | undefined> => {
  const [row] = await tx<{ access_level: AccessLevel }[]>`
    select access_level from project_grants where project_id = ${projectId} and team_id = ${teamId}`
  return row?.access_level
}
