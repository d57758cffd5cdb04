import { highestId } from '../../kit/cursor.ts'
import type { Queryable, Sql, TransactionSql } from '../../platform/postgres.ts'
import { accessLevels, levelActions, ownerActions, roleActions, teamRoles } from '../policy/matrix.ts'

type AccessRule = { kind: 'owner' | 'role' | 'access_level'; name: string; actions: number }

const rules: readonly AccessRule[] = [
  { kind: 'owner', name: 'project', actions: ownerActions },
  ...teamRoles.map((name) => ({ kind: 'role' as const, name, actions: roleActions[name] })),
  ...accessLevels.map((name) => ({ kind: 'access_level' as const, name, actions: levelActions[name] })),
]

/** A row of project_access that differs from the base tables. Null: there is no row on that side. */
export type AccessDifference = { user_id: string; project_id: string; actual: number | null; expected: number | null }

/** Whether access_rules holds the matrix. */
const areRulesCurrent = async (sql: Queryable): Promise<boolean> => {
  const stored = await sql<AccessRule[]>`select kind, name, actions from access_rules`
  const known = new Map(stored.map(({ kind, name, actions }) => [`${kind} ${name}`, actions]))
  return (
    known.size === rules.length && rules.every(({ kind, name, actions }) => known.get(`${kind} ${name}`) === actions)
  )
}

const writeRules = async (tx: TransactionSql): Promise<void> => {
  await tx`delete from access_rules`
  await tx`insert into access_rules ${tx(rules as AccessRule[])}`
}

/**
 * Writes the matrix to access_rules, for SQL. If it is unchanged, this costs one statement and no lock. Otherwise the rows
 * that differ are recomputed under a lock that blocks every change of access. Of instances that start together, one does so.
 */
export const syncAccessRules = async (sql: Sql): Promise<void> => {
  if (await areRulesCurrent(sql)) return
  await sql.begin(async (tx) => {
    await tx`
      lock table projects, project_grants, team_members, teams, totp_factors, passkeys in share row exclusive mode`
    await writeRules(tx)
    await tx`select refresh_project_access(array(select distinct project_id from project_access_difference))`
  })
}

/** Compares all of project_access with the base tables and lists up to 100 differences. Reads every row. */
export const findAccessDifferences = (sql: Queryable): Promise<AccessDifference[]> =>
  sql<AccessDifference[]>`select user_id, project_id, actual, expected from project_access_difference limit 100`

/** Projects that one statement of the check compares, so that its time and memory have a bound. */
const projectsPerSlice = 5_000
const generationsPerSlice = 50_000

export type DisabledTrigger = { readonly table: string; readonly name: string }

/** What the scheduled check does in Postgres. `batch` is the pool for background tasks. */
export const createEffectiveAccessStore = (batch: Sql, builtMigrations: number) => ({
  /**
   * Claims the check if it is due: one instance at a time runs it. A claim that is not completed, because its instance was
   * killed, ends after 10 minutes.
   */
  claim: async (): Promise<boolean> => {
    const { count } = await batch`
      update access_checks set due_at = clock_timestamp() + interval '10 minutes'
       where name = 'effective_access' and due_at <= clock_timestamp()`
    return count === 1
  },

  complete: async (tookMs: number, nextInMs: number): Promise<void> => {
    await batch`
      update access_checks
         set finished_at = clock_timestamp(), took = ${tookMs}::float8 * interval '1 millisecond',
             due_at = clock_timestamp() + ${nextInMs}::float8 * interval '1 millisecond'
       where name = 'effective_access'`
  },

  /**
   * Differences, up to 1,000, in slices of projects by id: a page ends when it has found some. Rows of deleted projects are
   * part of the slice that their id falls into. Locks nothing.
   */
  findDifferencesAfter: async (
    after: string,
  ): Promise<{ differences: AccessDifference[]; next: string | undefined }> => {
    const [last] = await batch<{ id: string }[]>`
      select id from projects where id > ${after} order by id limit 1 offset ${projectsPerSlice - 1}`
    const end = last?.id ?? highestId
    const differences = await batch<AccessDifference[]>`
      select user_id, project_id, actual.actions as actual, expected.actions as expected
        from (select user_id, project_id, actions, owned from project_access
               where project_id > ${after} and project_id <= ${end}) actual
        full join (select user_id, project_id, actions, owned from project_access_expected
                    where project_id > ${after} and project_id <= ${end}) expected
       using (user_id, project_id)
       where (actual.actions, actual.owned) is distinct from (expected.actions, expected.owned)
       limit 1000`
    return { differences, next: last?.id }
  },

  /** Generations whose row in public_generations is wrong, up to 1,000, in slices of generations by id. Locks nothing. */
  findListDifferencesAfter: async (after: string): Promise<{ generations: string[]; next: string | undefined }> => {
    const [last] = await batch<{ id: string }[]>`
      select id from generations where id > ${after} order by id limit 1 offset ${generationsPerSlice - 1}`
    const end = last?.id ?? highestId
    const differences = await batch<{ id: string }[]>`
      select id from (select id, project_id from public_generations where id > ${after} and id <= ${end}) actual
        full join (select id, project_id from public_generations_expected where id > ${after} and id <= ${end}) expected
       using (id)
       where actual.project_id is distinct from expected.project_id limit 1000`
    return { generations: differences.map(({ id }) => id), next: last?.id }
  },

  mendLists: async (tx: TransactionSql, generationIds: readonly string[]): Promise<void> => {
    await tx`select mend_public_generations(${[...generationIds]}::uuid[])`
  },

  /** Recomputes the access to these projects, under their locks. */
  mend: async (tx: TransactionSql, projectIds: readonly string[]): Promise<void> => {
    await tx`select mend_project_access(${[...projectIds]}::uuid[])`
  },

  /** Records the key by hand: the triggers may not run. */
  invalidateEverything: async (tx: TransactionSql): Promise<void> => {
    await tx`select note_touched(${'*\n'})`
  },

  /**
   * Whether access_rules was changed by hand. A database with a migration that this build lacks belongs to a newer build,
   * whose matrix may be another: its rules are left alone.
   */
  areRulesWrong: async (): Promise<boolean> => {
    if (await areRulesCurrent(batch)) return false
    const { count: newer } = await batch`select from schema_migrations where version > ${builtMigrations} limit 1`
    return newer === 0
  },

  /** The rows of access that depend on them are found by the comparison that follows. */
  restoreRules: writeRules,

  /** Triggers of the schema that do not run for a usual session. */
  findDisabledTriggers: async (): Promise<DisabledTrigger[]> =>
    batch<DisabledTrigger[]>`
      select c.relname as "table", t.tgname as name
        from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_proc f on f.oid = t.tgfoid
       where not t.tgisinternal and t.tgenabled in ('D', 'R')
         and c.relnamespace = (select relnamespace from pg_class where oid = 'project_access'::regclass)
       order by 1, 2`,

  /**
   * Waits for the table for a second at most, because later statements wait behind it. The counters of usage may have missed
   * changes too, so their check is due.
   */
  enableTrigger: async ({ table, name }: DisabledTrigger): Promise<void> => {
    await batch.begin(async (tx) => {
      await tx`set local lock_timeout = '1s'`
      await tx`alter table ${tx(table)} enable trigger ${tx(name)}`
      await tx`update access_checks set due_at = clock_timestamp() where name = 'account_usage'`
    })
  },
})

export type EffectiveAccessStore = ReturnType<typeof createEffectiveAccessStore>
