import { isMissingFunction, type Queryable } from '../../platform/postgres.ts'

/**
 * A short text that identifies the database behind a connection and this run of its server; see sql/functions. Letters,
 * digits and hyphens. Equal over every route to the same database; another one for a restored copy, a promoted standby, and
 * after a restart. Costs one statement.
 */
export const readDatabaseIdentity = async (sql: Queryable): Promise<string> => {
  const [row] = await sql<{ identity: string }[]>`select database_identity() as identity`
  if (row === undefined) throw new Error('Postgres returned no database identity')
  return row.identity
}

/** Undefined where the database has no such function: it is not one of ours. */
export const findDatabaseIdentity = async (sql: Queryable): Promise<string | undefined> => {
  try {
    return await readDatabaseIdentity(sql)
  } catch (error) {
    if (isMissingFunction(error)) return undefined
    throw error
  }
}
