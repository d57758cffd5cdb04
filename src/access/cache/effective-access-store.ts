import type { Queryable, Sql } from '../../platform/postgres.ts'
import { accessLevels, levelActions, ownerActions, roleActions, teamRoles } from '../policy/matrix.ts'

type AccessRule = { kind: 'owner' | 'role' | 'access_level'; name: string; actions: number }

const rules: readonly AccessRule[] = [
  { kind: 'owner', name: 'project', actions: ownerActions },
  ...teamRoles.map((name) => ({ kind: 'role' as const, name, actions: roleActions[name] })),
  ...accessLevels.map((name) => ({ kind: 'access_level' as const, name, actions: levelActions[name] })),
]

/** A row of project_access that differs from the base tables. Null: there is no row on that side. */
export type AccessDifference = { user_id: string; project_id: string; actual: number | null; expected: number | null }

/**
 * Writes the matrix to access_rules, for SQL. If it is unchanged, this costs one statement and no lock. Otherwise the rows
 * that differ are recomputed under a lock that blocks every change of access. Of instances that start together, one does so.
 */
export const syncAccessRules = async (sql: Sql): Promise<void> => {
  const stored = await sql<AccessRule[]>`select kind, name, actions from access_rules`
  const known = new Map(stored.map(({ kind, name, actions }) => [`${kind} ${name}`, actions]))
  if (
    known.size === rules.length &&
    rules.every(({ kind, name, actions }) => known.get(`${kind} ${name}`) === actions)
  ) {
    return
  }
  await sql.begin(async (tx) => {
    await tx`lock table projects, project_grants, team_members in share row exclusive mode`
    await tx`delete from access_rules`
    await tx`insert into access_rules ${tx(rules as AccessRule[])}`
    await tx`select refresh_project_access(array(select distinct project_id from project_access_difference))`
  })
}

/** Compares all of project_access with the base tables and lists up to 100 differences. Reads every row. */
export const findAccessDifferences = (sql: Queryable): Promise<AccessDifference[]> =>
  sql<AccessDifference[]>`select user_id, project_id, actual, expected from project_access_difference limit 100`
