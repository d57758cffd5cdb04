import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import type { Queryable, Sql } from './postgres.ts'

type Migration = { version: number; name: string; text: string; checksum: string }
type Applied = { version: number; name: string; checksum: string }

/** A reason not to start: the files and the database tell different stories. */
export class MigrationRefused extends Error {
  override readonly name = 'MigrationRefused'
}

// Any number will do, so long as every instance takes the same.
const lockKey = 7_301_950_216

const readMigrations = async (directory: URL): Promise<Migration[]> => {
  const names = (await readdir(directory)).filter((name) => /^\d{6}_\w+\.sql$/.test(name)).sort()
  const migrations = await Promise.all(
    names.map(async (name) => {
      const text = await readFile(new URL(name, directory), 'utf8')
      return {
        version: Number(name.slice(0, 6)),
        name,
        text,
        checksum: createHash('sha256').update(text).digest('hex'),
      }
    }),
  )
  migrations.forEach(({ version, name }, index) => {
    if (version !== index + 1)
      throw new MigrationRefused(`${name} should have number ${index + 1}: numbers have no gaps`)
  })
  return migrations
}

const readApplied = async (sql: Queryable): Promise<Applied[]> => {
  const [table] = await sql<{ exists: boolean }[]>`select to_regclass('schema_migrations') is not null as exists`
  return table?.exists
    ? await sql<Applied[]>`select version, name, checksum from schema_migrations order by version`
    : []
}

const pending = (migrations: readonly Migration[], applied: readonly Applied[]): Migration[] => {
  const checksums = new Map(applied.map(({ version, checksum }) => [version, checksum]))
  for (const { version, name, checksum } of migrations) {
    if (checksums.has(version) && checksums.get(version) !== checksum) {
      throw new MigrationRefused(
        `${name} was edited after it was applied to this database. Restore the file and write a new migration instead.`,
      )
    }
  }
  return migrations.filter(({ version }) => !checksums.has(version))
}

/**
 * Brings the schema up to date from `sql/NNNNNN_name.sql`, forward only.
 *
 * Promise: of many instances that start together one applies, the others wait and find it done; all pending files are
 * applied in one transaction or none is; a file that was edited after it was applied is a `MigrationRefused` and nothing
 * changes. A database that is ahead of the files (an older release during a roll-back) is left as it is.
 * Costs two statements when nothing is pending. Returns the names applied.
 */
export const migrate = async (sql: Sql, directory = new URL('../../sql/', import.meta.url)): Promise<string[]> => {
  const migrations = await readMigrations(directory)
  if (pending(migrations, await readApplied(sql)).length === 0) return []
  return sql.begin(async (tx) => {
    await tx`select pg_advisory_xact_lock(${lockKey})`
    await tx`
      create table if not exists schema_migrations (
        version integer primary key,
        name text not null,
        checksum text not null,
        applied_at timestamptz not null default now()
      )`
    const rest = pending(migrations, await readApplied(tx))
    for (const { version, name, checksum, text } of rest) {
      await tx.unsafe(text)
      await tx`insert into schema_migrations (version, name, checksum) values (${version}, ${name}, ${checksum})`
    }
    return rest.map(({ name }) => name)
  })
}
