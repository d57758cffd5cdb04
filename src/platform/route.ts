import { type Connection, connectOnce, type Route, type Sql } from './postgres.ts'

/** A reason not to start, on one line: Velro would not work with this pooler, or with a setting of this database. */
export class DatabaseUnfit extends Error {
  override readonly name = 'DatabaseUnfit'
}

type Found = {
  readonly pid: number
  /** Of this statement, as the server knows it. With a pooler that keeps no prepared statements also those of other clients. */
  readonly names: readonly string[] | null
  readonly server_version: number
  readonly user: string
  readonly database: string
  readonly search_path: string
  /** Where a new table would be created. Null: search_path names no schema that exists. */
  readonly first_schema: string | null
  /** Where search_path finds the tables. */
  readonly schema: string | null
  /** All schemas with the tables of Velro. */
  readonly schemas: readonly string[] | null
  readonly isolation: string
  readonly replication_role: string
  /** In milliseconds; 0: no limit. */
  readonly statement_timeout: number
  readonly lock_timeout: number
}

/** Without parameters, so that the driver prepares and runs it in one step. */
const inspect = (sql: Sql) => sql<Found[]>`
  select pg_backend_pid() as pid,
         (select json_agg(name) from pg_prepared_statements
           where ltrim(statement, E' \n') like 'select pg_backend_pid() as pid,%') as names,
         current_setting('server_version_num')::int as server_version,
         quote_ident(current_user) as user,
         quote_ident(current_database()) as database,
         current_setting('search_path') as search_path,
         quote_ident(current_schema()) as first_schema,
         (select quote_ident(nspname) from pg_class c join pg_namespace n on n.oid = relnamespace
           where c.oid = to_regclass('schema_migrations')) as schema,
         (select json_agg(quote_ident(nspname)) from pg_class c join pg_namespace n on n.oid = relnamespace
           where relname = 'access_events' and relkind = 'r'
             and exists (select from pg_class where relnamespace = n.oid and relname = 'schema_migrations')) as schemas,
         current_setting('default_transaction_isolation') as isolation,
         current_setting('session_replication_role') as replication_role,
         (select setting::int from pg_settings where name = 'statement_timeout') as statement_timeout,
         (select setting::int from pg_settings where name = 'lock_timeout') as lock_timeout`

/** Whether two open connections have been served by one server connection, which in session mode never happens. */
const areShared = async (one: Sql, connection: Connection): Promise<boolean> => {
  const other = connectOnce(connection)
  const pidOf = async (sql: Sql) => (await sql<{ pid: number }[]>`select pg_backend_pid() as pid`)[0]?.pid
  try {
    for (let tries = 0; tries < 5; tries += 1) {
      if ((await pidOf(one)) === (await pidOf(other))) return true
    }
    return false
  } catch (error) {
    // The statement of one client met that of another on a server connection that both were served by.
    if (isPreparedStatementLost(error)) return true
    throw error
  } finally {
    await other.end({ timeout: 1 })
  }
}

const codeOf = (error: unknown): unknown => (error instanceof Error && 'code' in error ? error.code : undefined)
const isPreparedStatementLost = (error: unknown): boolean => ['26000', '42P05'].includes(String(codeOf(error)))

/** In statement mode PgBouncer closes the connection at `begin`, and the driver reports no more than that. */
const requireTransactions = async (sql: Sql): Promise<void> => {
  const begins = () =>
    sql
      .begin((tx) => tx`select`)
      .then(
        () => true,
        (error) => {
          if (codeOf(error) === '08P01' || codeOf(error) === 'CONNECTION_CLOSED') return false
          throw error
        },
      )
  if (await begins()) return
  // The connection may have been lost by chance.
  await sql`select`
  if (await begins()) return
  throw new DatabaseUnfit(
    'DATABASE_URL leads to a pooler in statement mode, which runs no transactions. Set pool_mode = transaction for this database in PgBouncer, or connect to Postgres directly.',
  )
}

const alter = ({ user, database }: Found, setting: string): string =>
  `alter role ${user} in database ${database} set ${setting}`

/** The schema with the tables, or for a new installation the one where they will be created. */
const chooseSchema = (found: Found, pooled: boolean): string => {
  const { search_path: path, first_schema: first, schema, schemas } = found
  const [elsewhere] = schemas ?? []
  if (schema === null && elsewhere !== undefined) {
    throw new DatabaseUnfit(
      `The tables of Velro are in the schema ${elsewhere}, which search_path (${path}) does not name. Run: ${alter(found, `search_path = ${elsewhere}`)}`,
    )
  }
  const chosen = schema ?? first
  if (chosen === null) {
    throw new DatabaseUnfit(
      `search_path (${path}) names no schema that exists. Create one of them, or run: ${alter(found, 'search_path = public')}`,
    )
  }
  if (pooled && chosen !== first) {
    throw new DatabaseUnfit(
      `The tables of Velro are in the schema ${chosen}, and search_path (${path}) names ${first} before it, which a pooler lets no client change. Run: ${alter(found, `search_path = ${chosen}`)}`,
    )
  }
  return chosen
}

const requireSettings = (found: Found, pooled: boolean): void => {
  if (found.replication_role !== 'origin') {
    throw new DatabaseUnfit(
      `session_replication_role is ${found.replication_role}, which disables the triggers that keep permissions up to date. Run: ${alter(found, 'session_replication_role = origin')}`,
    )
  }
  if (pooled && found.isolation !== 'read committed') {
    throw new DatabaseUnfit(
      `default_transaction_isolation is ${found.isolation}, which a pooler lets no client change. Run: ${alter(found, "default_transaction_isolation = 'read committed'")}; then RECONNECT in PgBouncer.`,
    )
  }
}

/** The limits of the database or the role that Velro cannot lift, because a pooler stands between. */
export const limitsLeft = (found: Pick<Found, 'statement_timeout' | 'lock_timeout'>): string[] =>
  (['statement_timeout', 'lock_timeout'] as const).filter((name) => found[name] > 0 && found[name] < 5_000)

/**
 * Finds out how this process reaches Postgres, over a separate connection.
 *
 * Guarantee: behind a pooler in transaction mode prepared statements outlive the server connection they were prepared on,
 * and no setting of the database or the role breaks what the program relies on. Otherwise throws `DatabaseUnfit`. A pooler
 * is recognized by the process id in its greeting, which is not that of the server process.
 *
 * `warn` gets the name of each limit that is shorter than those of the pools and stays in force.
 */
export const findRoute = async (connection: Connection, warn: (limit: string) => void = () => {}): Promise<Route> => {
  const sql = connectOnce(connection)
  try {
    const rows = await inspect(sql)
    const [found] = rows
    if (found === undefined) throw new Error('Postgres returned no row')
    const pooled = rows.state.pid !== found.pid
    if (pooled) {
      await requireTransactions(sql)
      if (found.names?.includes(rows.statement.name) && (await areShared(sql, connection))) {
        throw new DatabaseUnfit(
          'DATABASE_URL leads to a pooler that keeps no prepared statements. Use PgBouncer 1.21 or later with max_prepared_statements = 200, or pool_mode = session, or connect to Postgres directly.',
        )
      }
    }
    requireSettings(found, pooled)
    const schema = chooseSchema(found, pooled)
    if (pooled) for (const limit of limitsLeft(found)) warn(limit)
    return { pooled, serverVersion: found.server_version, schema }
  } finally {
    await sql.end({ timeout: 1 })
  }
}
