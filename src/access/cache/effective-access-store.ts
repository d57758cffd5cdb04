import type { Queryable, Sql } from '../../platform/postgres.ts'
import { accessLevels, levelActions, ownerActions, roleActions, teamRoles } from '../policy/matrix.ts'

type Rule = { kind: 'owner' | 'role' | 'access_level'; name: string; actions: number }

const rules: readonly Rule[] = [
  { kind: 'owner', name: 'project', actions: ownerActions },
  ...teamRoles.map((name) => ({ kind: 'role' as const, name, actions: roleActions[name] })),
  ...accessLevels.map((name) => ({ kind: 'access_level' as const, name, actions: levelActions[name] })),
]

/** A row of project_access that is not what the base tables say. */
export type AccessDifference = { user_id: string; project_id: string; actual: number | null; expected: number | null }

/**
 * Gives SQL its copy of the matrix. When that changed, everything is recomputed under a lock that lets nobody change
 * access meanwhile; else it is one statement and no lock. Of instances that start together one does the work.
 */
export const syncAccessRules = async (sql: Sql): Promise<void> => {
  const stored = await sql<Rule[]>`select kind, name, actions from access_rules`
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
    await tx`insert into access_rules ${tx(rules as Rule[])}`
    await tx`select refresh_project_access(array(select distinct project_id from project_access_difference))`
  })
}

/** Recomputes everything from the base tables and lists what differs, up to 100: nothing, always. Reads all; for checks. */
export const findAccessDifferences = (sql: Queryable): Promise<AccessDifference[]> =>
  sql<AccessDifference[]>`select user_id, project_id, actual, expected from project_access_difference limit 100`
