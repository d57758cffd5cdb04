import { syncAccessRules } from '../access/cache/effective-access-store.ts'
import type { FlagValues } from '../access/cache/tier-switches.ts'
import type { Config } from '../config.ts'
import { createFlagStore } from '../flags/store.ts'
import { promoteByEmail } from '../identity/users/store.ts'
import type { Log } from '../platform/log.ts'
import { migrate } from '../platform/migrate.ts'
import { type Connection, connectOnce, poolNames, readConnectionBudget, type Sql } from '../platform/postgres.ts'

type Prepared = { readonly budget: number; readonly flags: FlagValues }

const appointOperator = async (sql: Sql, email: string, log: Log): Promise<void> => {
  const promotion = await promoteByEmail(sql, email)
  if (promotion.outcome === 'promoted') {
    log.info({ event: 'user.promoted', user_id: promotion.userId }, 'the account of ADMIN_EMAIL is an operator now')
  }
  if (promotion.outcome === 'absent') {
    log.warn(
      { event: 'user.promotion_pending' },
      'no active account has the address of ADMIN_EMAIL; the next start makes an operator of whoever registers it',
    )
  }
}

const connectionBudget = async (sql: Sql, { dbConnections, processes }: Config, log: Log): Promise<number> => {
  if (dbConnections !== undefined) return dbConnections
  const budget = await readConnectionBudget(sql, processes)
  if (budget < poolNames.length) {
    log.warn({ budget, least: poolNames.length, processes }, 'the database allows fewer connections than are needed')
  }
  return budget
}

/** Migrates, sees to an operator and reads what the server allows and what is switched off, over one connection. */
export const prepareDatabase = async (connection: Connection, config: Config, log: Log): Promise<Prepared> => {
  const sql = connectOnce(connection)
  try {
    const applied = await migrate(sql)
    if (applied.length > 0) log.info({ applied }, 'database schema migrated')
    await syncAccessRules(sql)
    if (config.adminEmail !== undefined) await appointOperator(sql, config.adminEmail, log)
    return { budget: await connectionBudget(sql, config, log), flags: await createFlagStore(sql).list() }
  } finally {
    await sql.end({ timeout: 1 })
  }
}
