import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { lockKeys } from './lock-keys.ts'
import { isDeadlock, isLockTimeout, type Queryable, type Sql, type TransactionSql } from './postgres.ts'

type SqlFile = { name: string; text: string; checksum: string }
type Migration = SqlFile & { version: number }
type Applied = {
  migrations: { version: number; checksum: string }[]
  functions: { name: string; checksum: string }[]
}
type Files = { migrations: readonly Migration[]; functions: readonly SqlFile[] }

/** A reason not to start: the migration files do not match the database. */
export class MigrationRefused extends Error {
  override readonly name = 'MigrationRefused'
}

const readFiles = async (directory: URL, pattern: RegExp): Promise<SqlFile[]> => {
  const names = (await readdir(directory)).filter((name) => pattern.test(name)).sort()
  return Promise.all(
    names.map(async (name) => {
      const text = await readFile(new URL(name, directory), 'utf8')
      return { name, text, checksum: createHash('sha256').update(text).digest('hex') }
    }),
  )
}

const readMigrations = async (directory: URL): Promise<Migration[]> => {
  const files = await readFiles(directory, /^\d{6}_\w+\.sql$/)
  return files.map((file, index) => {
    const version = Number(file.name.slice(0, 6))
    if (version !== index + 1)
      throw new MigrationRefused(`${file.name} must have number ${index + 1}: numbers have no gaps and no duplicates`)
    return { ...file, version }
  })
}

const readApplied = async (sql: Queryable): Promise<Applied> => {
  const [tables] = await sql<{ migrations: boolean; functions: boolean }[]>`
    select to_regclass('schema_migrations') is not null as migrations,
           to_regclass('schema_functions') is not null as functions`
  return {
    migrations: tables?.migrations
      ? await sql<Applied['migrations']>`select version, checksum from schema_migrations order by version`
      : [],
    functions: tables?.functions ? await sql<Applied['functions']>`select name, checksum from schema_functions` : [],
  }
}

/** Functions are left alone if the database has a migration that the files lack: another build knows newer ones. */
const findPending = (files: Files, applied: Applied) => {
  const checksums = new Map(applied.migrations.map(({ version, checksum }) => [version, checksum]))
  for (const { version, name, checksum } of files.migrations) {
    if (checksums.has(version) && checksums.get(version) !== checksum) {
      throw new MigrationRefused(
        `${name} was edited after it was applied to this database. Restore the file and write a new migration instead.`,
      )
    }
  }
  const migrations = files.migrations.filter(({ version }) => !checksums.has(version))
  const isAhead = applied.migrations.some(({ version }) => version > files.migrations.length)
  const current = new Map(applied.functions.map(({ name, checksum }) => [name, checksum]))
  const names = new Set(files.functions.map(({ name }) => name))
  return {
    migrations,
    functions: isAhead ? [] : files.functions.filter(({ name, checksum }) => current.get(name) !== checksum),
    removed: isAhead ? [] : [...current.keys()].filter((name) => !names.has(name)),
  }
}

const isUpToDate = ({ migrations, functions, removed }: ReturnType<typeof findPending>): boolean =>
  migrations.length + functions.length + removed.length === 0

const createTables = async (tx: TransactionSql): Promise<void> => {
  await tx`
    create table if not exists schema_migrations (
      version integer primary key,
      name text not null,
      checksum text not null,
      applied_at timestamptz not null default now()
    )`
  await tx`
    create table if not exists schema_functions (
      name text not null,
      checksum text not null,
      applied_at timestamptz not null default now(),
      constraint schema_functions__pkey primary key (name)
    )`
}

const sqlDirectory = new URL('../../sql/', import.meta.url)

/** The number of the newest migration in the files. */
export const countMigrations = async (directory = sqlDirectory): Promise<number> =>
  (await readMigrations(directory)).length

/** Throws `MigrationRefused` where the schema is older than this program, or missing. Changes nothing. */
export const requireMigrated = async (sql: Sql): Promise<void> => {
  const applied = await readApplied(sql)
  if (applied.migrations.length === 0)
    throw new MigrationRefused('This database has no tables of Velro. Check DATABASE_URL.')
  const { length } = findPending({ migrations: await readMigrations(sqlDirectory), functions: [] }, applied).migrations
  if (length === 0) return
  throw new MigrationRefused(
    `The schema of this database lacks ${length} ${length === 1 ? 'migration' : 'migrations'} of this version. Run bun run migrate first, or use the version that the service runs.`,
  )
}

/**
 * For this transaction: waiting for an instance that migrates may take minutes, whatever limits the database or the role has.
 * transaction_timeout exists from Postgres 17 on.
 */
const withoutLimits = async (tx: TransactionSql): Promise<void> => {
  // First and by itself: reading all settings takes longer than a short limit on a busy server.
  await tx`set local statement_timeout = 0`
  await tx`
    select set_config(name, '0', true) from pg_settings
     where name in ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')`
}

/**
 * How long each attempt waits for a table that other instances use. Their statements queue behind that wait, and the migration
 * holds the tables it has locked already: so it lets them pass and begins again. The first waits are shorter than the time after
 * which Postgres looks for deadlocks (1 s) and ends one of the transactions. The attempt after these has no limit.
 */
const lockWaitsMs = [500, 500, 500, 500, 1_000, 1_000, 2_000, 2_000, 5_000]

/**
 * Migrates the schema, forward only: applies the pending `NNNNNN_name.sql`, then each file of `functions/` whose checksum
 * changed, in the order of their names.
 *
 * Guarantees: of many instances that start together one applies, the others wait and find nothing left to do. Everything
 * pending is applied in one transaction, or nothing is. A numbered file that was edited after it was applied throws
 * `MigrationRefused` and changes nothing. Instances that serve meanwhile are held up for moments. A database ahead of the files
 * keeps its schema and its functions: an older build may be started again after an upgrade.
 *
 * Costs three statements when nothing is pending. `onPending` is called before the first file is applied. Returns the names of
 * the applied files.
 */
export const migrate = async (
  sql: Sql,
  directory = sqlDirectory,
  onPending: (migrations: number) => void = () => {},
): Promise<string[]> => {
  const files: Files = {
    migrations: await readMigrations(directory),
    functions: await readFiles(new URL('functions/', directory), /\.sql$/),
  }
  if (isUpToDate(findPending(files, await readApplied(sql)))) return []
  let isReported = false
  const apply = async (tx: TransactionSql, lockWaitMs: number): Promise<string[]> => {
    await withoutLimits(tx)
    await tx`select pg_advisory_xact_lock(${lockKeys.migrations})`
    await tx`select set_config('lock_timeout', ${String(lockWaitMs)}, true)`
    await createTables(tx)
    const { migrations } = findPending(files, await readApplied(tx))
    if (migrations.length > 0 && !isReported) onPending(migrations.length)
    isReported ||= migrations.length > 0
    for (const { version, name, checksum, text } of migrations) {
      await tx.unsafe(text)
      await tx`insert into schema_migrations (version, name, checksum) values (${version}, ${name}, ${checksum})`
    }
    // Read again: a migration deletes the row of a file that it wants applied again.
    const { functions, removed } = findPending(files, await readApplied(tx))
    for (const { name, checksum, text } of functions) {
      await tx.unsafe(text)
      await tx`
        insert into schema_functions as f (name, checksum) values (${name}, ${checksum})
            on conflict (name) do update set checksum = excluded.checksum, applied_at = excluded.applied_at`
    }
    if (removed.length > 0) await tx`delete from schema_functions where name = any (${removed}::text[])`
    return [...migrations.map(({ name }) => name), ...functions.map(({ name }) => `functions/${name}`)]
  }
  const attempt = async (tries: number): Promise<string[]> => {
    try {
      // A snapshot taken before the wait for the lock would not show the changes of the instance that held it.
      return await sql.begin('isolation level read committed', (tx) => apply(tx, lockWaitsMs[tries] ?? 0))
    } catch (error) {
      if (tries === lockWaitsMs.length || !(isLockTimeout(error) || isDeadlock(error))) throw error
    }
    await new Promise((resolve) => setTimeout(resolve, 200))
    return attempt(tries + 1)
  }
  return attempt(0)
}
