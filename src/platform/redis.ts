import { Redis as Client, type RedisCommander } from 'ioredis'
import type { Clock } from '../kit/clock.ts'
import { type Breakers, createBreakers } from './breaker.ts'
import type { Log } from './log.ts'

/**
 * A Lua script. Sent in full once on each connection, then by SHA-1 (EVALSHA); sent again if the server has evicted it. `given`:
 * the number of keys is the first argument of each call.
 */
export type Script = { readonly lua: string; readonly keys: number | 'given' }

type Argument = string | number | Buffer

/** One live connection. A command issued after its end is rejected and never sent on another connection. */
export type Connection<S extends string = never> = {
  readonly client: RedisCommander
  /** The run id of the connected server. Callers prefix keys with it, so data from before a restart or failover is never read. */
  readonly serverRunId: string
  /** The scripts given at creation. Arguments: the keys, then the others. */
  readonly scripts: Readonly<Record<S, (...args: Argument[]) => Promise<unknown>>>
}

/**
 * Issues its commands at once and awaits them together (`Promise.all`), each on keys of one slot. Must not keep the
 * connection. No pipelines: one of ioredis resolves even if every command in it failed.
 */
export type Work<T, S extends string = never> = (connection: Connection<S>) => Promise<T>

/** `down`: not connected. `tripped`: the circuit breaker is open because of timeouts or errors; it probes periodically. */
export type RedisState = 'up' | 'down' | 'tripped'

/**
 * A Redis connection for caching that never slows a request down.
 *
 * Guarantee: `run` resolves within its deadline and never throws. It costs a comparison while the server is down or the
 * breaker is open. A command is sent at most once, and only to the server whose run id its work received. Connects and
 * reconnects in the background. Degrades: every failure is a miss.
 */
export type Redis<S extends string = never> = {
  /** The result of the work. Undefined (a miss) when it timed out, failed or was not started. */
  run<T>(work: Work<T, S>, withinMs?: number): Promise<T | undefined>
  /**
   * For writes that must be tried even while the breaker is open, such as invalidations. True when the work finished in time.
   * False at once without a connection; false later means that the outcome is unknown.
   */
  runBypassingBreaker(work: Work<unknown, S>, withinMs?: number): Promise<boolean>
  /**
   * The run id of the connected server; undefined without a connection. Changes with every restart, even if the server
   * restored its data, and with a failover.
   */
  readonly serverRunId: string | undefined
  state(): RedisState
  /** Totals since the start, over both calls: timeouts, and other errors. */
  readonly counts: { readonly timeouts: number; readonly errors: number }
  /** Closes the connection or stops connecting. Pending work fails. */
  close(): Promise<void>
}

/** What a reader found in Redis that no instance wrote. */
export type Forgery = {
  /**
   * `fact`: an entry of the cache. `newest_event`: the note by which a database that was set back is recognized. `statement`: of an
   * instance, that it cannot reach Postgres. `limit`: the count of a limit.
   * `anomaly`: what an instance saw of principals. `figures`: what an instance has measured.
   */
  readonly what: 'fact' | 'newest_event' | 'statement' | 'limit' | 'anomaly' | 'figures'
  /** Where: the key of the fact, the name of the instance, or the budget and its key. Chosen by the forger perhaps. */
  readonly key: string
}
export type OnForged = (forgery: Forgery) => void

export type RedisOptions<S extends string> = {
  /** `redis://` or `rediss://`, with user, password and database number as needed. */
  readonly url: string
  readonly clock: Clock
  readonly log: Log
  readonly scripts?: Readonly<Record<S, Script>>
  /** Timeout of `run`. */
  readonly deadlineMs?: number
  /** Timeout for connecting, until the server has been identified. */
  readonly connectMs?: number
  /** A connection with pending commands that stays silent for this long is closed. */
  readonly socketTimeoutMs?: number
  /**
   * Has the policy of the breaker, which counts failures of `run`. It is open without a connection too, and each new connection
   * closes it. By default the policy is the default one.
   */
  readonly breakers?: Pick<Breakers, 'create'>
  /** The longest delay between attempts to connect. */
  readonly maxRetryMs?: number
  readonly random?: () => number
}

class TimedOut extends Error {
  override readonly name = 'TimedOut'
}

/** The server can be reached but must not be used. */
class UnsuitableServer extends Error {
  override readonly name = 'UnsuitableServer'
}

const firstRetryMs = 25
/** Losing a connection that lasted this long resets the backoff. */
const stableAfterMs = 1_000
/** For flushing a connection that is being closed. */
const closeTimeoutMs = 50

/**
 * Rejects with `TimedOut` after `ms`. A response that arrived in time counts even if this process was too busy to read it:
 * the second timer lets the event loop poll for input first.
 */
const withTimeout = <T>(ms: number, work: () => Promise<T>): Promise<T> =>
  new Promise((resolve, reject) => {
    const answer = work()
    const timer = setTimeout(() => setTimeout(reject, 0, new TimedOut(`No answer within ${ms} ms`)), ms)
    answer.then(resolve, reject).finally(() => clearTimeout(timer))
  })

const readField = (info: unknown, name: string): string | undefined =>
  new RegExp(`^${name}:(\\S+)`, 'm').exec(String(info))?.[1]

const reasonOf = (error: unknown): string => {
  const { code, message } = error as { code?: unknown; message?: unknown }
  return String(message || code || error)
}

/** Whether the server does not know the command, or does not permit it. */
const isRefusal = (error: unknown): boolean =>
  error instanceof Error && /^(?:ERR unknown command|NOPERM)/.test(error.message)

/**
 * The run id of the server. Rejects servers that could serve invalidated entries or lack keys: a replica (it lags behind its
 * master), a server that is loading its data, and a cluster of several nodes (one connection reaches one node's keys).
 */
const identify = async (client: Client): Promise<string> => {
  const info = await client.info().catch((error) => {
    if (!isRefusal(error)) throw error
    throw new UnsuitableServer(`The server refuses the command INFO, which names its run: ${reasonOf(error)}`)
  })
  const serverRunId = readField(info, 'run_id')
  if (serverRunId === undefined) throw new UnsuitableServer('The server does not report its run_id')
  if (readField(info, 'loading') === '1') throw new UnsuitableServer('The server is loading its data')
  if (readField(info, 'role') !== 'master') throw new UnsuitableServer('The server is a replica; use its master')
  if (readField(info, 'cluster_enabled') === '1') {
    const nodes = readField(await client.cluster('INFO'), 'cluster_size')
    if (nodes === '0')
      throw new UnsuitableServer('The server is a node of a cluster without slots; assign all slots to it')
    if (nodes !== '1') throw new UnsuitableServer(`The server is a cluster of ${nodes} nodes; use a single node`)
  }
  return serverRunId
}

type Link<S extends string> = {
  readonly client: Client
  readonly connection: Connection<S>
  readonly sinceMs: number
}

/** An ioredis client is used for one connection and then discarded, so no command can move to the next connection. */
type ConnectionState<S extends string> =
  | { readonly kind: 'waiting'; readonly timer: ReturnType<typeof setTimeout> }
  | { readonly kind: 'connecting'; readonly client: Client; readonly timer: ReturnType<typeof setTimeout> }
  | { readonly kind: 'up'; readonly client: Client; readonly link: Link<S> }
  | { readonly kind: 'closed' }

const scriptPrefix = 'script:'

/** Logs a loss once, and the recovery from it once. */
const createLossReport = (log: Log) => {
  let lossReported = false
  const reportLoss = (error: unknown) => {
    if (lossReported) return
    lossReported = true
    if (error instanceof UnsuitableServer) {
      log.warn(
        { event: 'redis.unsuitable', reason: error.message },
        'redis cannot be used as a cache: continuing without it',
      )
    } else
      log.warn({ event: 'redis.lost', reason: reasonOf(error) }, 'redis is down or too slow: continuing without it')
  }
  const reportRecovery = () => {
    if (!lossReported) return
    lossReported = false
    log.info({ event: 'redis.back' }, 'redis is available again')
  }
  return { reportLoss, reportRecovery }
}

/** A client for one connection and for commands that can be sent at once; it never reconnects. */
const createClient = (
  endpoint: URL,
  {
    scripts,
    connectMs,
    socketTimeoutMs,
  }: { scripts: Readonly<Record<string, Script>>; connectMs: number; socketTimeoutMs: number },
) =>
  new Client(endpoint.href, {
    lazyConnect: true,
    // One connection for each client, and only commands that can be sent at once.
    retryStrategy: null,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    // `identify` sends the INFO that the ready check would.
    enableReadyCheck: false,
    connectTimeout: connectMs,
    disconnectTimeout: closeTimeoutMs,
    socketTimeout: socketTimeoutMs,
    scripts: Object.fromEntries(
      Object.entries(scripts).map(([name, { lua, keys }]) => [
        scriptPrefix + name,
        { lua, ...(keys !== 'given' && { numberOfKeys: keys }) },
      ]),
    ),
  })

export const createRedis = <S extends string = never>({
  url,
  clock,
  log,
  scripts = {} as Record<S, Script>,
  deadlineMs = 20,
  connectMs = 2_000,
  socketTimeoutMs = 3_000,
  breakers = createBreakers({ clock, log }),
  maxRetryMs = 1_000,
  random = Math.random,
}: RedisOptions<S>): Redis<S> => {
  const names = Object.keys(scripts) as S[]
  const counts = { timeouts: 0, errors: 0 }
  let connectionState: ConnectionState<S>
  let attempt = 0

  // ioredis lets options in the URL's query override the ones below.
  const endpoint = new URL(url)
  endpoint.search = ''

  const currentLink = () => (connectionState.kind === 'up' ? connectionState.link : undefined)

  const { reportLoss, reportRecovery } = createLossReport(log)

  const breaker = breakers.create({ dependency: 'redis', quiet: true, onOpen: reportLoss, onClose: reportRecovery })

  const createLink = (client: Client, serverRunId: string): Link<S> => {
    const bound = names.map((name) => {
      // ioredis adds a method for each script to the client; its types do not know them.
      const method: (...args: Argument[]) => Promise<unknown> = Reflect.get(client, scriptPrefix + name)
      return [name, method.bind(client)]
    })
    return {
      client,
      connection: { client, serverRunId, scripts: Object.fromEntries(bound) },
      sinceMs: clock.monotonic(),
    }
  }

  /** Discards a client in any state and schedules the next connection. Idempotent. */
  const dropClient = (client: Client, error: unknown) => {
    if (connectionState.kind === 'waiting' || connectionState.kind === 'closed' || connectionState.client !== client)
      return
    if (connectionState.kind === 'connecting') clearTimeout(connectionState.timer)
    else if (clock.monotonic() - connectionState.link.sinceMs >= stableAfterMs) attempt = 0
    const delayMs = Math.min(maxRetryMs, firstRetryMs * 2 ** attempt) * (0.5 + random() / 2)
    attempt += 1
    connectionState = { kind: 'waiting', timer: setTimeout(connect, delayMs) }
    client.disconnect()
    breaker.trip(error)
    reportLoss(error)
  }

  const connect = () => {
    const client = createClient(endpoint, { scripts, connectMs, socketTimeoutMs })
    const timer = setTimeout(() => dropClient(client, new TimedOut(`No connection within ${connectMs} ms`)), connectMs)
    connectionState = { kind: 'connecting', client, timer }
    // Includes errors that ioredis ignores, such as a database number that cannot be selected.
    client.on('error', (error) => dropClient(client, error))
    client.on('end', () => dropClient(client, new Error('The connection was closed')))
    client
      .connect()
      .then(() => identify(client))
      .then((serverRunId) => {
        if (connectionState.kind !== 'connecting' || connectionState.client !== client) return
        clearTimeout(timer)
        connectionState = { kind: 'up', client, link: createLink(client, serverRunId) }
        breaker.renew()
        reportRecovery()
      })
      // Later than the 'error' event, whose reason is more precise and is reported first.
      .catch((error) => setImmediate(() => dropClient(client, error)))
  }

  const recordFailure = (link: Link<S>, error: unknown) => {
    counts[error instanceof TimedOut ? 'timeouts' : 'errors'] += 1
    // The server was a master when it was identified; now it is a replica.
    if (error instanceof Error && error.message.startsWith('READONLY')) dropClient(link.client, error)
  }

  connect()

  return {
    run: async (work, withinMs = deadlineMs) => {
      const link = currentLink()
      if (link === undefined || !breaker.allows()) return undefined
      try {
        return await breaker.execute(() => withTimeout(withinMs, () => work(link.connection)))
      } catch (error) {
        recordFailure(link, error)
        return undefined
      }
    },
    runBypassingBreaker: async (work, withinMs = 1_000) => {
      const link = currentLink()
      if (link === undefined) return false
      try {
        await withTimeout(withinMs, () => work(link.connection))
        return true
      } catch (error) {
        recordFailure(link, error)
        return false
      }
    },
    get serverRunId() {
      return currentLink()?.connection.serverRunId
    },
    state: () => {
      const link = currentLink()
      if (link === undefined) return 'down'
      return breaker.state === 'closed' ? 'up' : 'tripped'
    },
    counts,
    close: async () => {
      const last = connectionState
      connectionState = { kind: 'closed' }
      if (last.kind === 'waiting' || last.kind === 'connecting') clearTimeout(last.timer)
      if (last.kind === 'waiting' || last.kind === 'closed' || last.client.status === 'end') return
      const ended = new Promise<void>((resolve) => last.client.once('end', () => resolve()))
      last.client.disconnect()
      await ended
    },
  }
}
