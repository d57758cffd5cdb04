import postgres from 'postgres'
import { Fault, type FaultCode } from '../fault.ts'
import { type Deadline, DeadlinePassed } from '../kit/deadline.ts'

// The driver is patched (patches/). A connection that died with a write pending forgot to write after reconnecting, so a pool
// of one was dead for about 20 s after Postgres had come back. And a transaction whose connection died between two of its
// statements sent the next one to nothing, which ended the process, or to the connection's next user, outside of any
// transaction; now it is refused.
export type Sql = postgres.Sql
export type TransactionSql = postgres.TransactionSql
/** Runs statements: a pool, or a transaction. For statements that do not care which. */
export type Queryable = postgres.ISql
/** A piece of SQL, parameters and all, to be put into a statement. */
export type Fragment = postgres.PendingQuery<postgres.Row[]>
export type Connection = string | { host: string; port: number; user: string; database: string }

/** Plans are made once a connection; and by index, because the one made for an empty table is kept while it fills. */
const keyedPlans = { plan_cache_mode: 'force_generic_plan', enable_seqscan: 'off' }

/**
 * The pools, by what their work is. A pool's statements are cut off by the server after `statementTimeoutMs`. Those of
 * `auth` find single rows by their keys: one plan does for all, and to make it anew each time takes longer than to use it
 * (measured for a cold decision: 0.49 ms, and 0.17 ms by a plan that is kept).
 */
const pools = {
  auth: { min: 10, max: 50, statementTimeoutMs: 2_000, settings: keyedPlans },
  read: { min: 20, max: 75, statementTimeoutMs: 5_000, settings: {} },
  write: { min: 5, max: 25, statementTimeoutMs: 5_000, settings: {} },
  analytics: { min: 5, max: 20, statementTimeoutMs: 30_000, settings: {} },
  admin: { min: 2, max: 10, statementTimeoutMs: 10_000, settings: {} },
  batch: { min: 5, max: 30, statementTimeoutMs: 60_000, settings: {} },
} as const

export type PoolName = keyof typeof pools
export const poolNames = Object.keys(pools) as PoolName[]

/**
 * A connection as environment variables of another process. postgres.js takes no socket folder from a URL, so that and the
 * user are given the way libpq does.
 */
export const connectionEnvironment = (connection: Connection): Record<string, string> =>
  typeof connection === 'string'
    ? { DATABASE_URL: connection }
    : {
        DATABASE_URL: `postgres:///${connection.database}`,
        PGHOST: connection.host,
        PGPORT: String(connection.port),
        PGUSER: connection.user,
      }

export type PoolSize = { readonly min: number; readonly max: number }

/**
 * Shares out a budget of connections over the pools, each in proportion to its maximum.
 * Promise: the maxima add up to no more than the budget (given at least one per pool), none exceeds its own, no minimum
 * exceeds its maximum, and each pool has at least one.
 */
export const sizePools = (budget: number): Record<PoolName, PoolSize> => {
  const wanted = poolNames.reduce((sum, name) => sum + pools[name].max, 0)
  // Every pool is sure of one; what is left is shared out by how much more each would take.
  const spare = Math.min(1, Math.max(0, budget - poolNames.length) / (wanted - poolNames.length))
  const sizes = poolNames.map((name) => {
    const max = 1 + Math.floor((pools[name].max - 1) * spare)
    return [name, { min: Math.min(max, Math.ceil(pools[name].min * spare)), max }] as const
  })
  return Object.fromEntries(sizes) as Record<PoolName, PoolSize>
}

/** The pools of one process, by name. Connections are opened when first needed and then kept. */
export type Database = Readonly<Record<PoolName, Sql>> & {
  readonly sizes: Record<PoolName, PoolSize>
  /** One statement that touches nothing: whether the server can be reached. */
  ping(deadline: Deadline): Promise<void>
  /**
   * Whether the server answers on a new connection, be it that it has no room for one. An error of a connection that was
   * there does not tell: it may be that one alone. Settles within about 3 s.
   */
  isReachable(): Promise<boolean>
  /** Opens each pool's minimum, so that a first burst of requests does not pay for connecting. */
  warm(): Promise<void>
  /** Lets running statements end for up to `graceMs`, then closes every connection. */
  close(graceMs?: number): Promise<void>
}

const connectionOptions = {
  connect_timeout: 3,
  // A pool that lost its server tries again at once, then about every half second, until it is back.
  backoff: (attempt: number) => Math.min(0.5, attempt * 0.1),
  onnotice: () => {},
}

type DatabaseOptions = {
  connection: Connection
  budget: number
  /** Called with the text of each statement sent and the pool it was sent by; for counting them. */
  onStatement?: ((text: string, pool: PoolName) => void) | undefined
}

/** A pool of its own, for what does not belong to the six. The caller ends it. */
export const connect = (
  connection: Connection,
  options: postgres.Options<Record<string, postgres.PostgresType>> & {
    onnotify?: (channel: string, payload: string) => void
  },
): Sql =>
  typeof connection === 'string'
    ? postgres(connection, { ...connectionOptions, ...options })
    : postgres({ ...connection, ...connectionOptions, ...options })

/** One connection outside the pools, for what is done once at the start. The caller ends it. */
export const connectOnce = (connection: Connection): Sql =>
  connect(connection, { max: 1, connection: { application_name: 'velro:start' } })

export const createDatabase = ({ connection, budget, onStatement }: DatabaseOptions): Database => {
  const sizes = sizePools(budget)
  const open = (name: PoolName): Sql =>
    connect(connection, {
      max: sizes[name].max,
      prepare: true,
      ...(onStatement && { debug: (_connection: number, text: string) => onStatement(text, name) }),
      connection: {
        application_name: `velro:${name}`,
        statement_timeout: pools[name].statementTimeoutMs,
        idle_in_transaction_session_timeout: 10_000,
        ...pools[name].settings,
      },
    })
  const opened = Object.fromEntries(poolNames.map((name) => [name, open(name)])) as Record<PoolName, Sql>
  return {
    ...opened,
    sizes,
    ping: async (deadline) => {
      await deadline.run(opened.admin`select 1`)
    },
    isReachable: async () => {
      const sql = connect(connection, { max: 1, fetch_types: false, connection: { application_name: 'velro:reach' } })
      // Connecting has a bound of its own, but none for a server that says nothing afterwards or hangs up each time.
      const tooLong = setTimeout(() => void sql.end({ timeout: 0 }), connectionOptions.connect_timeout * 1_000)
      try {
        await sql`select 1`
        return true
      } catch (error) {
        return !isUnavailable(error) || codeOf(error).startsWith('53')
      } finally {
        clearTimeout(tooLong)
        await sql.end({ timeout: 0 })
      }
    },
    warm: async () => {
      for (const name of poolNames) {
        await Promise.all(Array.from({ length: sizes[name].min }, () => opened[name]`select 1`))
      }
    },
    close: async (graceMs = 5_000) => {
      await Promise.all(poolNames.map((name) => opened[name].end({ timeout: graceMs / 1_000 })))
    },
  }
}

/** Of each process, not for its pools: for hearing of what other processes did. */
const outsidePools = 2

/**
 * How many connections the pools of one process of `processes` may hold: an equal share of all the server has but those it
 * keeps for its superusers and a few for operators. May be less than one for each pool.
 */
export const readConnectionBudget = async (sql: Sql, processes: number): Promise<number> => {
  const [row] = await sql<{ budget: number }[]>`
    select current_setting('max_connections')::int
         - current_setting('superuser_reserved_connections')::int
         - coalesce(nullif(current_setting('reserved_connections', true), '')::int, 0) - 4 as budget`
  return Math.floor((row?.budget ?? 0) / processes) - outsidePools
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null

const codeOf = (error: unknown): string => (isRecord(error) && typeof error['code'] === 'string' ? error['code'] : '')

/** Turns the violation of one named constraint into a fault: `.catch(onViolation('users__email', 'identity.email_taken'))`. */
export const onViolation =
  (constraint: string, code: FaultCode) =>
  (error: unknown): never => {
    if (isRecord(error) && error['constraint_name'] === constraint) throw new Fault(code, { cause: error })
    throw error
  }

/**
 * The fault behind an error of the driver or the server, or undefined when it is neither: connections refused, lost or
 * not to be had are `database.unavailable`; statements cut off are `request.timeout`.
 */
export const databaseFault = (error: unknown): Fault | undefined => {
  if (error instanceof DeadlinePassed) return new Fault('request.timeout', { cause: error })
  const code = codeOf(error)
  if (code === '57014' || code === '55P03' || code === '25P03') return new Fault('request.timeout', { cause: error })
  const unreachable =
    // 40: the transaction lost against another and was not tried again.
    /^(08|40|53|57P)/.test(code) ||
    /^(CONNECT|CONNECTION_)/.test(code) ||
    /^E(CONN|PIPE|HOSTUNREACH|NETUNREACH|TIMEDOUT|AI_AGAIN|NOTFOUND)/.test(code) ||
    // The socket of a server that is not there.
    (code === 'ENOENT' && isRecord(error) && error['syscall'] === 'connect')
  return unreachable ? new Fault('database.unavailable', { cause: error }) : undefined
}

export const isUnavailable = (error: unknown): boolean => databaseFault(error)?.code === 'database.unavailable'

/** Whether it was connecting that failed, which tells of the server; what else is unavailable may be one connection alone. */
export const isConnectFailure = (error: unknown): boolean =>
  isUnavailable(error) &&
  (['CONNECT_TIMEOUT', '57P03'].includes(codeOf(error)) || (isRecord(error) && error['syscall'] === 'connect'))
