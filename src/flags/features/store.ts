import type { FlagDefinition } from '../../access/policy/facts/feature-flags.ts'
import { highestId } from '../../kit/cursor.ts'
import type { Deadline } from '../../kit/deadline.ts'
import { newId } from '../../kit/id.ts'
import { lockKeys } from '../../platform/lock-keys.ts'
import type { Queryable, Sql, TransactionSql } from '../../platform/postgres.ts'

/** A flag as it is in force. */
export type FlagRow = {
  id: string
  name: string
  version: number
  definition: FlagDefinition
  description: string
  updated_at: Date
  updated_by: string
}

export type VersionRow = {
  id: string
  name: string
  version: number
  /** Null: this version removed the flag. */
  definition: FlagDefinition | null
  description: string
  restored_from: number | null
  changed_at: Date
  changed_by: string
}

export type NewVersion = Omit<VersionRow, 'id'>

type Place = { readonly after: string | null; readonly limit: number }

/** A removed flag can be restored for so long. */
const removedKeptDays = 90

export const createFlagStore = (sql: Sql, batch: Sql) => {
  const columns = (on: Queryable) => on`id, name, version, definition, description, updated_at, updated_by`
  const versionColumns = (on: Queryable) => on`
    id, name, version, definition, description, restored_from, changed_at, changed_by`

  const findOn = async (on: Queryable, name: string): Promise<FlagRow | undefined> => {
    const [row] = await on<FlagRow[]>`select ${columns(on)} from feature_flags where name = ${name}`
    return row
  }

  return {
    /** Those that were added last first. One row more than `limit`. */
    list: (deadline: Deadline, { after, limit }: Place): Promise<FlagRow[]> =>
      deadline.run(sql<FlagRow[]>`
        select ${columns(sql)} from feature_flags where id < ${after ?? highestId} order by id desc limit ${limit + 1}`),

    find: (deadline: Deadline, name: string): Promise<FlagRow | undefined> => deadline.run(findOn(sql, name)),

    /** Newest first, those of a removed flag too. One row more than `limit`. */
    listVersions: (deadline: Deadline, name: string, { after, limit }: Place): Promise<VersionRow[]> =>
      deadline.run(sql<VersionRow[]>`
        select ${versionColumns(sql)} from feature_flag_versions
         where name = ${name} and id < ${after ?? highestId} order by id desc limit ${limit + 1}`),

    /** Held until the commit: changes of flags are made one after the other. */
    lock: async (tx: TransactionSql): Promise<void> => {
      await tx`select pg_advisory_xact_lock(${lockKeys.featureFlags})`
    },

    findCurrent: findOn,

    count: async (tx: TransactionSql): Promise<number> => {
      const [row] = await tx<{ count: number }[]>`select count(*)::int as count from feature_flags`
      return row?.count ?? 0
    },

    /** All versions that are kept, newest first. */
    versionsOf: (tx: TransactionSql, name: string): Promise<VersionRow[]> => tx<VersionRow[]>`
      select ${versionColumns(tx)} from feature_flag_versions where name = ${name} order by version desc`,

    /** Makes a version the one in force. Without a definition the flag is removed. Call with the lock. */
    putInForce: async (
      tx: TransactionSql,
      { definition, ...version }: NewVersion,
      kept: number,
    ): Promise<FlagRow | undefined> => {
      const { name, description, changed_at: updated_at, changed_by: updated_by } = version
      const json = definition === null ? null : tx.json(definition as never)
      await tx`
        insert into feature_flag_versions ${tx({ ...version, id: newId(), definition: json as never })}`
      await tx`delete from feature_flag_versions where name = ${name} and version <= ${version.version - kept}`
      if (json === null) {
        await tx`delete from feature_flags where name = ${name}`
        return undefined
      }
      const [row] = await tx<FlagRow[]>`
        insert into feature_flags (id, name, version, definition, description, updated_at, updated_by)
        values (${newId()}, ${name}, ${version.version}, ${json}, ${description}, ${updated_at}, ${updated_by})
            on conflict (name) do update
           set version = excluded.version, definition = excluded.definition, description = excluded.description,
               updated_at = excluded.updated_at, updated_by = excluded.updated_by
        returning ${columns(tx)}`
      return row
    },

    /**
     * Those of the given ids that are accounts, and not closed ones. Locks them for key share: closing one of them waits, and then
     * finds it named.
     */
    lockUsers: async (tx: TransactionSql, ids: readonly string[]): Promise<Set<string>> => {
      const rows = await tx<{ id: string }[]>`
        select id from users where id = any (${[...ids]}::uuid[]) and status <> 'deleted' order by id for key share`
      return new Set(rows.map(({ id }) => id))
    },

    findTeams: async (tx: TransactionSql, ids: readonly string[]): Promise<Set<string>> => {
      const rows = await tx<{ id: string }[]>`select id from teams where id = any (${[...ids]}::uuid[])`
      return new Set(rows.map(({ id }) => id))
    },

    /** Removes a closed account from all flags and their versions. */
    forgetUser: async (tx: TransactionSql, userId: string): Promise<void> => {
      const without = (on: Queryable) => on`
        definition || jsonb_build_object(
          'users', coalesce(definition -> 'users', '[]') - ${userId}::text,
          'except_users', coalesce(definition -> 'except_users', '[]') - ${userId}::text)`
      const names = (on: Queryable) => on`
        (definition -> 'users' ? ${userId}::text or definition -> 'except_users' ? ${userId}::text)`
      await tx`update feature_flags set definition = ${without(tx)} where ${names(tx)}`
      await tx`update feature_flag_versions set definition = ${without(tx)} where ${names(tx)}`
    },

    /** Deletes the versions of flags that were removed long ago. */
    purge: async (): Promise<void> => {
      await batch`
        delete from feature_flag_versions v
         where not exists (select from feature_flags f where f.name = v.name)
           and not exists (
             select from feature_flag_versions later
              where later.name = v.name and later.changed_at > now() - make_interval(days => ${removedKeptDays}))`
    },
  }
}

export type FlagStore = ReturnType<typeof createFlagStore>
