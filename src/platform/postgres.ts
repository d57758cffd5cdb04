import process from 'node:process'
import postgres from 'postgres'
import { Fault, type FaultCode } from '../fault.ts'
import { Overloaded } from '../kit/admission.ts'
import { type Deadline, DeadlinePassed } from '../kit/deadline.ts'
import { connectionTarget } from './connection-url.ts'
import { types } from './postgres-types.ts'

// The driver is patched (patches/) where it mishandles lost connections. Each hunk says what fails without it and names its
// test.
export type Sql = postgres.Sql
export type TransactionSql = postgres.TransactionSql
/** Runs statements: a pool, or a transaction. For statements that do not care which. */
export type Queryable = postgres.ISql
/** A piece of SQL with its parameters, to be embedded in a statement. */
export type Fragment = postgres.PendingQuery<postgres.Row[]>
export type Connection = string | { host: string; port: number; user: string; database: string }

/** How this process reaches Postgres, as found at the start (`route.ts`). */
export type Route = {
  /** A pooler answers in place of Postgres. It refuses settings of a connection, except those in `anywhere`. */
  readonly pooled: boolean
  /** As `server_version_num`: 170005 is 17.5. */
  readonly serverVersion: number
  /** The schema that holds the tables, quoted as an identifier where necessary. */
  readonly schema: string
}

type Settings = Readonly<Record<string, string>>

/**
 * The settings of every connection: a database or a role may have others, with which results could not be read. PgBouncer
 * takes just these and `application_name` from a client, and sets them on each server connection that serves it.
 */
const anywhere: Settings = { DateStyle: 'ISO, MDY', TimeZone: 'UTC', standard_conforming_strings: 'on' }

/**
 * What a direct connection sets as well, against the settings of a database or a role. Behind a pooler `findRoute` refuses
 * those with which the program would not work. Just-in-time compilation takes a second where it saves milliseconds.
 */
const pinned = ({ schema, serverVersion }: Route): Settings => ({
  IntervalStyle: 'postgres',
  bytea_output: 'hex',
  extra_float_digits: '1',
  array_nulls: 'on',
  search_path: schema,
  default_transaction_isolation: 'read committed',
  jit: 'off',
  idle_session_timeout: '0',
  ...limits(serverVersion),
})

/** No limits besides those that a pool sets. */
const limits = (serverVersion: number): Settings => ({
  statement_timeout: '0',
  lock_timeout: '0',
  idle_in_transaction_session_timeout: '0',
  ...(serverVersion >= 170_000 && { transaction_timeout: '0' }),
})

/**
 * Generic plans are made once on each connection. Sequential scans are off because a plan made while a table is empty is kept
 * while the table grows.
 */
const keyedPlans = { plan_cache_mode: 'force_generic_plan', enable_seqscan: 'off' }

/**
 * The pools by kind of work. The server cancels a pool's statements after `statementTimeoutMs`. The statements of `auth` and
 * `read` find single rows by key, or a page in the order of an index, so one generic plan fits all parameters, and planning
 * costs more than execution: a cold decision takes 0.49 ms with custom plans and 0.17 ms with generic ones.
 */
const pools = {
  auth: { min: 10, max: 50, statementTimeoutMs: 2_000, settings: keyedPlans },
  read: { min: 20, max: 75, statementTimeoutMs: 5_000, settings: keyedPlans },
  write: { min: 5, max: 25, statementTimeoutMs: 5_000, settings: {} },
  analytics: { min: 5, max: 20, statementTimeoutMs: 30_000, settings: {} },
  admin: { min: 2, max: 10, statementTimeoutMs: 10_000, settings: {} },
  batch: { min: 5, max: 30, statementTimeoutMs: 60_000, settings: {} },
} as const

export type PoolName = keyof typeof pools
export const poolNames = Object.keys(pools) as PoolName[]

/**
 * Environment variables that give another process the same connection. postgres.js reads no socket folder from a URL, so
 * socket folder, port and user are passed as libpq's variables.
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
 * Divides a budget of connections among the pools in proportion to their maxima.
 * Guarantee: each pool gets at least one connection and at most its maximum, no minimum exceeds the maximum, and the sum is
 * within the budget if that allows one for each pool.
 */
export const sizePools = (budget: number): Record<PoolName, PoolSize> => {
  const total = poolNames.reduce((sum, name) => sum + pools[name].max, 0)
  // One connection each; the rest in proportion to what each pool lacks to its maximum.
  const share = Math.min(1, Math.max(0, budget - poolNames.length) / (total - poolNames.length))
  const sizes = poolNames.map((name) => {
    const max = 1 + Math.floor((pools[name].max - 1) * share)
    return [name, { min: Math.min(max, Math.ceil(pools[name].min * share)), max }] as const
  })
  return Object.fromEntries(sizes) as Record<PoolName, PoolSize>
}

/**
 * The pools of one process by name. Connections are opened on first use; those beyond the minimum are closed when they are
 * idle. Where the server has no connection left, queries wait for those that are open.
 */
export type Database = Readonly<Record<PoolName, Sql>> & {
  readonly sizes: Record<PoolName, PoolSize>
  /** Runs `select 1`. Rejects when the server cannot be reached by the deadline. */
  ping(deadline: Deadline): Promise<void>
  /**
   * Whether the server answers on a new connection within the time (default 3 s), even with "too many connections". An error
   * on an existing connection is no evidence: it may concern that connection alone.
   */
  isReachable(withinMs?: number): Promise<boolean>
  /** Opens each pool's minimum, so that the first requests do not wait for connecting. */
  warm(): Promise<void>
  /** Runs no further statement on the connections open now: each is closed after its running statement or transaction. */
  retireConnections(): void
  /**
   * For a server that does not answer: ends every connection at once, so that statements under way and those that wait for a
   * connection fail. A commit under way may be carried out. Later statements fail with the error until `admitStatements`, and
   * then run on new connections.
   */
  refuseStatements(error: Error): void
  admitStatements(): void
  /** Over all pools. */
  traffic(): Traffic
  pools(): Readonly<Record<PoolName, PoolUse>>
  /** Waits up to `graceMs` for running statements, then closes every connection. */
  close(graceMs?: number): Promise<void>
}

/** `received`: messages that the server has sent since the start. `underWay`: statements that have no result yet. */
export type Traffic = { readonly received: number; readonly underWay: number }

/** Connections of a pool, and statements that wait for their turn on one. */
export type PoolUse = {
  readonly max: number
  readonly idle: number
  readonly busy: number
  readonly connecting: number
  readonly waiting: number
}

/** What the patch adds to a pool. */
type PatchedSql = Sql & {
  retire(): void
  refuse(error: Error | null): void
  traffic(): Traffic & Omit<PoolUse, 'max'>
}

/**
 * A statement that was answered or has failed. `ms` is the time from its turn on a connection to the end of its answer, undefined
 * where it never had one; `waitMs` the time before its turn. `failed`: the server or the connection did, while a violated
 * constraint is an answer.
 */
export type StatementTimes = {
  readonly pool: PoolName
  readonly ms: number | undefined
  readonly waitMs: number
  readonly failed: boolean
}

const connectionOptions = {
  connect_timeout: 3,
  // Seconds. After losing its server a pool reconnects at once, then about every half second.
  backoff: (attempt: number) => Math.min(0.5, attempt * 0.1),
  onnotice: () => {},
}

/** Longer than any request may take: a request ends by its own deadline. */
const refusedTimeoutS = 65

type DatabaseOptions = {
  connection: Connection
  route?: Route | undefined
  budget: number
  /** Seconds until an idle connection beyond the minimum of its pool is closed. Default 30. */
  idleTimeoutS?: number | undefined
  /** Called when the server has no connection left for one more. */
  onRefused?: ((error: unknown, pool: PoolName) => void) | undefined
  /** Called with the text of each statement sent, without parameters, and the name of its pool. */
  onStatement?: ((text: string, pool: PoolName) => void) | undefined
  /** Called with the text of each notice that the server sends, and the name of the pool. */
  onNotice?: ((text: string, pool: PoolName) => void) | undefined
  /** Called for each statement that is over. */
  onAnswered?: ((times: StatementTimes) => void) | undefined
}

/** How a connection to the server, or a pooler, was made. */
export type Transport = { readonly address: string | undefined; readonly encrypted: boolean }

type ConnectOptions = postgres.Options<Record<string, postgres.PostgresType>> & {
  onnotify?: (channel: string, payload: string) => void
  /** Called for each connection before it is used. */
  onconnected?: (transport: Transport) => void
  /** Connections that are kept open when they are idle for `idle_timeout`. */
  min?: number
  /**
   * Seconds. How long a query waits for a connection of a pool that has none, because the server has none left. By default
   * the query fails at once.
   */
  refused_timeout?: number
  /** Called when the server has no connection left for one more. */
  onrefused?: (error: unknown) => void
  /** Seconds after which the driver asks the server to cancel a statement. */
  statement_timeout?: number
  /** Called for each statement that is over. `ms` is null where it was not sent. */
  onanswered?: (ms: number | null, waitMs: number, error: unknown) => void
  /** Whether a `select` outside of a transaction whose connection is lost runs once more, on another connection. */
  repeat_reads?: boolean
}

/** Opens a pool besides the six. The caller must end it. Through a pooler `options.connection` may name the application only. */
export const connect = (connection: Connection, options: ConnectOptions): Sql => {
  const all: ConnectOptions = {
    ...connectionOptions,
    ...options,
    // The driver would ask for the array types on each new connection.
    fetch_types: false,
    types,
    connection: { ...anywhere, ...options.connection },
  }
  if (typeof connection !== 'string') return postgres({ ...connection, ssl: false, ...all })
  const { startup, host, port, ...target } = connectionTarget(connection, process.env)
  const given: ConnectOptions = { ...target, ...all, connection: { ...startup, ...all.connection } }
  // Lists, which the driver takes and its types do not know: in a text it would look for a port within an IPv6 address.
  return postgres(Object.assign(given, { host, port }))
}

/**
 * Opens one connection outside the pools, for work done once at the start. The caller must end it. With a direct route the
 * settings of the database and the role do not apply, limits included.
 */
export const connectOnce = (connection: Connection, route?: Route): Sql =>
  connect(connection, {
    max: 1,
    connection: { application_name: 'velro:start', ...settingsFor(route) },
  })

/** What a long-lived connection besides the pools sets at its start: a pooler takes nothing of it. */
export const settingsFor = (route: Route | undefined): Settings =>
  route === undefined || route.pooled ? {} : pinned(route)

type Work<T> = (tx: TransactionSql) => T | Promise<T>

/**
 * Gives each transaction of a pool settings that end with it, and the isolation level that the program relies on. They are
 * sent along with the first statement, so they cost no round trip.
 */
const withSettings = (sql: Sql, settings: Settings): Sql => {
  const begin = sql.begin
  const text = Object.entries(settings).map(([name, value]) => `set local ${name} = '${value}'`)
  return Object.assign(sql, {
    begin: <T>(work: Work<T>) =>
      begin<T>('isolation level read committed', (tx) => {
        // Not awaited: if it fails, the transaction does.
        tx.unsafe(text.join('; ')).execute()
        return work(tx)
      }),
  })
}

export const createDatabase = ({
  connection,
  route,
  budget,
  idleTimeoutS = 30,
  onRefused,
  onStatement,
  onNotice,
  onAnswered,
}: DatabaseOptions): Database => {
  const sizes = sizePools(budget)
  const shared = (name: PoolName): ConnectOptions => ({
    max: sizes[name].max,
    min: sizes[name].min,
    idle_timeout: idleTimeoutS,
    refused_timeout: refusedTimeoutS,
    onrefused: (error) => onRefused?.(error, name),
    prepare: true,
    // A select of these pools changes nothing, so it may run twice.
    repeat_reads: name === 'auth' || name === 'read',
    ...(onStatement && { debug: (_connection: number, text: string) => onStatement(text, name) }),
    ...(onNotice && { onnotice: ({ message = '' }) => onNotice(message, name) }),
    ...(onAnswered && {
      onanswered: (ms, waitMs, error) =>
        onAnswered({
          pool: name,
          ms: ms ?? undefined,
          waitMs,
          failed: error !== undefined && databaseFault(error) !== undefined,
        }),
    }),
  })
  const limitsOf = (name: PoolName): Settings => ({
    statement_timeout: String(pools[name].statementTimeoutMs),
    idle_in_transaction_session_timeout: '10000',
  })
  const openDirect = (name: PoolName): Sql =>
    connect(connection, {
      ...shared(name),
      connection: {
        ...(route && pinned(route)),
        application_name: `velro:${name}`,
        ...limitsOf(name),
        ...pools[name].settings,
      },
    })
  /** Statements outside of a transaction are limited by the driver. All pools have one name: a change of it is a statement more. */
  const openPooled = (name: PoolName, { serverVersion }: Route): Sql =>
    withSettings(
      connect(connection, {
        ...shared(name),
        statement_timeout: pools[name].statementTimeoutMs / 1_000,
        connection: { application_name: 'velro' },
      }),
      { ...limits(serverVersion), ...limitsOf(name), jit: 'off' },
    )
  const open = (name: PoolName): Sql => (route?.pooled ? openPooled(name, route) : openDirect(name))
  const opened = Object.fromEntries(poolNames.map((name) => [name, open(name)])) as Record<PoolName, Sql>
  return {
    ...opened,
    sizes,
    ping: async (deadline) => {
      await deadline.run(opened.admin`select 1`)
    },
    isReachable: async (withinMs = connectionOptions.connect_timeout * 1_000) => {
      const sql = connect(connection, { max: 1, connection: { application_name: 'velro:reach' } })
      // connect_timeout does not cover a server that accepts and then stays silent, or hangs up each time. An answer that
      // came in time counts also where this process was too busy to read it: the second timer lets it be read first.
      const timer = setTimeout(() => setTimeout(() => void sql.end({ timeout: 0 }), 0), withinMs)
      try {
        await sql`select 1`
        return true
      } catch (error) {
        return !isUnavailable(error) || codeOf(error).startsWith('53')
      } finally {
        clearTimeout(timer)
        await sql.end({ timeout: 0 })
      }
    },
    warm: async () => {
      for (const name of poolNames) {
        await Promise.all(Array.from({ length: sizes[name].min }, () => opened[name]`select 1`))
      }
    },
    retireConnections: () => {
      for (const name of poolNames) (opened[name] as PatchedSql).retire()
    },
    refuseStatements: (error) => {
      for (const name of poolNames) (opened[name] as PatchedSql).refuse(error)
    },
    admitStatements: () => {
      for (const name of poolNames) (opened[name] as PatchedSql).refuse(null)
    },
    traffic: () => {
      let received = 0
      let underWay = 0
      for (const name of poolNames) {
        const traffic = (opened[name] as PatchedSql).traffic()
        received += traffic.received
        underWay += traffic.underWay
      }
      return { received, underWay }
    },
    pools: () => {
      const use = poolNames.map((name) => {
        const { idle, busy, connecting, waiting } = (opened[name] as PatchedSql).traffic()
        return [name, { max: sizes[name].max, idle, busy, connecting, waiting }] as const
      })
      return Object.fromEntries(use) as Record<PoolName, PoolUse>
    },
    close: async (graceMs = 5_000) => {
      await Promise.all(poolNames.map((name) => opened[name].end({ timeout: graceMs / 1_000 })))
    },
  }
}

/** Thrown in place of a statement while the server is known not to answer. It counts as a failure to connect. */
export class PostgresNotAnswering extends Error {
  override readonly name = 'PostgresNotAnswering'
  readonly code = 'CONNECTION_BREAKER_OPEN'
  readonly opening = true
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null

const codeOf = (error: unknown): string => (isRecord(error) && typeof error['code'] === 'string' ? error['code'] : '')

/** Translates the violation of one named constraint into a fault: `.catch(onViolation('users__email', 'identity.email_taken'))`. */
export const onViolation =
  (constraint: string, code: FaultCode) =>
  (error: unknown): never => {
    if (isRecord(error) && error['constraint_name'] === constraint) throw new Fault(code, { cause: error })
    throw error
  }

/** Whether TLS could not be agreed on, or the certificate of the server is not valid. */
export const isTlsFailure = (error: unknown): boolean =>
  /^(TLS_NOT_OFFERED|ERR_TLS|ERR_SSL|EPROTO|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO|HOSTNAME_MISMATCH)/.test(
    codeOf(error),
  ) ||
  // Deno gives no code.
  (error instanceof Error && /invalid peer certificate|received fatal alert/.test(error.message))

/**
 * The fault of a driver or server error; undefined for any other error. Connections that are refused, lost or unavailable are
 * `database.unavailable`; cancelled statements and passed deadlines are `request.timeout`; work that was not admitted is
 * `server.overloaded`.
 */
export const databaseFault = (error: unknown): Fault | undefined => {
  if (error instanceof Overloaded) return new Fault('server.overloaded', { cause: error })
  if (error instanceof DeadlinePassed) return new Fault('request.timeout', { cause: error })
  const code = codeOf(error)
  if (code === '57014' || code === '55P03' || code === '25P03') return new Fault('request.timeout', { cause: error })
  const unreachable =
    // Class 40: the transaction was rolled back by a conflict or deadlock and was not retried.
    /^(08|40|53|57P)/.test(code) ||
    /^(CONNECT|CONNECTION_)/.test(code) ||
    isTlsFailure(error) ||
    /^E(CONN|PIPE|HOSTUNREACH|NETUNREACH|TIMEDOUT|AI_AGAIN|NOTFOUND)/.test(code) ||
    // The unix socket does not exist.
    (code === 'ENOENT' && isRecord(error) && error['syscall'] === 'connect')
  return unreachable ? new Fault('database.unavailable', { cause: error }) : undefined
}

/**
 * Whether Postgres ended the statement with an error and so rolled its transaction back. False for a lost connection, and for
 * an error that ends the connection: the transaction may have been committed.
 */
export const isRolledBack = (error: unknown): boolean => isRecord(error) && error['severity'] === 'ERROR'

/** Whether Postgres ended this transaction because it and others waited for each other. */
export const isDeadlock = (error: unknown): boolean => codeOf(error) === '40P01'

/** Whether a statement waited for a lock longer than lock_timeout. */
export const isLockTimeout = (error: unknown): boolean => codeOf(error) === '55P03'

/** Whether the server, or a pooler, has no connection left or is still starting: trying again soon may help. */
export const isBusy = (error: unknown): boolean =>
  ['53300', '57P03'].includes(codeOf(error)) ||
  (error instanceof Error && error.message.startsWith('no more connections allowed'))

/** Whether the statement calls a function, or names a schema, that the database does not have. */
export const isMissingFunction = (error: unknown): boolean => ['42883', '3F000'].includes(codeOf(error))

export const isUnavailable = (error: unknown): boolean => databaseFault(error)?.code === 'database.unavailable'

/**
 * Whether connecting failed, which means that the server is unavailable and not just one connection. A connection that was
 * closed before the server had spoken counts: a proxy accepts for a server that is gone.
 */
export const isConnectFailure = (error: unknown): boolean =>
  isUnavailable(error) &&
  (['CONNECT_TIMEOUT', '57P03'].includes(codeOf(error)) ||
    (isRecord(error) && (error['syscall'] === 'connect' || error['opening'] === true)))
