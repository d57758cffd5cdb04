import { syncAccessRules } from '../access/cache/effective-access-store.ts'
import type { FlagValues } from '../access/cache/tier-switches.ts'
import type { Config } from '../config.ts'
import { createTierFlagStore } from '../flags/tiers/store.ts'
import { canonicalizeAddresses } from '../identity/address-store.ts'
import { promoteByEmail } from '../identity/users/store.ts'
import { connectionBudget, readConnectionLimits } from '../platform/connection-budget.ts'
import { checkServer, retryWhileBusy } from '../platform/first-connection.ts'
import type { Log } from '../platform/log.ts'
import { countMigrations, migrate } from '../platform/migrate.ts'
import { type Connection, connectOnce, poolNames, type Route, type Sql } from '../platform/postgres.ts'
import { findRoute } from '../platform/route.ts'

type Prepared = {
  readonly budget: number
  readonly flags: FlagValues
  readonly route: Route
  /** The number of the newest migration that this build has. */
  readonly migrations: number
}

const promoteOperator = async (sql: Sql, email: string, log: Log): Promise<void> => {
  const promotion = await promoteByEmail(sql, email)
  if (promotion.outcome === 'promoted') {
    log.info(
      { event: 'user.promoted', user_id: promotion.userId },
      'the account with the address in ADMIN_EMAIL was made an operator',
    )
  }
  if (promotion.outcome === 'absent') {
    log.warn(
      { event: 'user.promotion_pending' },
      'no active account has the address in ADMIN_EMAIL; register it and restart to make it an operator',
    )
  }
}

/**
 * What all processes of an instance open together to a pooler, by default: two instances fit into the 100 clients that
 * PgBouncer accepts by default. More would wait there for one of its 20 server connections.
 */
const maxThroughPooler = 40

const budgetOf = async (
  sql: Sql,
  { dbConnections, processes }: Config,
  { pooled }: Route,
  log: Log,
): Promise<number> => {
  if (dbConnections !== undefined) return dbConnections
  const limits = await readConnectionLimits(sql)
  const allowed = connectionBudget(limits, processes)
  const budget = pooled ? Math.min(allowed, Math.floor(maxThroughPooler / processes)) : allowed
  if (budget < poolNames.length) {
    log.warn(
      { ...limits, budget, least: poolNames.length, processes },
      'the database allows fewer connections than two instances need',
    )
  }
  return budget
}

const warnOf =
  (log: Log) =>
  (limit: string): void =>
    log.warn(
      { event: 'database.limit', limit },
      `${limit} of the database or the role is under 5 s and ends statements early: a pooler lets no client change it`,
    )

const prepareOnce = async (
  connection: Connection,
  config: Config,
  log: Log,
  report: (line: string) => void,
): Promise<Prepared> => {
  await checkServer(connection, 'DATABASE_URL', log)
  const route = await findRoute(connection, warnOf(log))
  const sql = connectOnce(connection, route)
  try {
    const applied = await migrate(sql, undefined, (count) =>
      report(`Applying ${count} ${count === 1 ? 'migration' : 'migrations'}`),
    )
    if (applied.length > 0) log.info({ applied }, 'database schema migrated')
    await syncAccessRules(sql)
    await canonicalizeAddresses(sql, log)
    if (config.adminEmail !== undefined) await promoteOperator(sql, config.adminEmail, log)
    return {
      budget: await budgetOf(sql, config, route, log),
      flags: await createTierFlagStore(sql).list(),
      route,
      migrations: await countMigrations(),
    }
  } finally {
    await sql.end({ timeout: 1 })
  }
}

/**
 * Prepares the database over one connection: migrates the schema, stores addresses in their canonical form, makes the account
 * of ADMIN_EMAIL an operator, and reads the connection budget and the flags. A busy server is tried again for a minute.
 * `report` gets a line about what takes long.
 */
export const prepareDatabase = async (
  connection: Connection,
  config: Config,
  log: Log,
  report: (line: string) => void,
): Promise<Prepared> => {
  const { databaseBusUrl } = config
  // Not awaited: the bus connects by itself, and tries again for as long as this process runs.
  if (databaseBusUrl !== undefined) void checkServer(databaseBusUrl, 'DATABASE_BUS_URL', log).catch(() => {})
  return retryWhileBusy(() => prepareOnce(connection, config, log, report), { connection, report })
}
