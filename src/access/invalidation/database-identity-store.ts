import { isMissingFunction, type Queryable, type Sql } from '../../platform/postgres.ts'

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

/**
 * For a connection with any search_path: `schema` holds the function. Undefined where there is no such function: then it is
 * not one of our databases.
 */
export const findDatabaseIdentity = async (sql: Sql, schema = 'public'): Promise<string | undefined> => {
  try {
    const [row] = await sql<{ identity: string }[]>`select ${sql.unsafe(schema)}.database_identity() as identity`
    return row?.identity
  } catch (error) {
    if (isMissingFunction(error)) return undefined
    throw error
  }
}
