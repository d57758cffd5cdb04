import { CircuitState, ConsecutiveBreaker, circuitBreaker, handleAll } from 'cockatiel'
import { Redis as Client, type RedisCommander } from 'ioredis'
import type { Clock } from '../kit/clock.ts'
import type { Log } from './log.ts'

/** Lua, sent whole once a connection and by its SHA-1 from then on, or again when the server has forgotten it. */
export type Script = { readonly lua: string; readonly keys: number }

type Argument = string | number | Buffer

/** One connection, for as long as it lasts: a command given to it after its end is refused and never sent on another. */
export type Connection<S extends string = never> = {
  readonly client: RedisCommander
  /** Of the server at the other end; goes before every key, so that what a predecessor left behind is not found. */
  readonly serverRunId: string
  /** The scripts given at creation: first the keys, then the other arguments. */
  readonly scripts: Readonly<Record<S, (...args: Argument[]) => Promise<unknown>>>
}

/**
 * Issues its commands at once and awaits them together (`Promise.all`), each on keys of one slot. The connection is good
 * for this call only. There are no pipelines: theirs succeed although every command in them failed.
 */
export type Work<T, S extends string = never> = (connection: Connection<S>) => Promise<T>

/** `down`: no server. `tripped`: one that answers too late or with errors, asked once in a while whether it is well. */
export type RedisState = 'up' | 'down' | 'tripped'

/**
 * A cache that never slows a request down.
 *
 * Promise: `run` resolves within its deadline, never throws, and costs no more than a comparison while the server is
 * gone or known to be slow. A command goes to the server whose incarnation its work was told, once, or to none. It
 * connects by itself, now and after every loss.
 * How it degrades: everything that is wrong is a miss.
 */
export type Redis<S extends string = never> = {
  /** What the work resolved to; undefined, a miss, when it is late, fails, or was not begun. */
  run<T>(work: Work<T, S>): Promise<T | undefined>
  /**
   * For what must not be skipped because reads were slow: true when the work was done in time. False at once when not
   * connected; otherwise false leaves open whether it was done.
   */
  runBypassingBreaker(work: Work<unknown, S>, withinMs?: number): Promise<boolean>
  /**
   * The server that would be asked now; undefined when there is none. Another one after a restart, even if the server
   * restored what it had, and after another node has taken over.
   */
  readonly serverRunId: string | undefined
  state(): RedisState
  /** Since the start, of `run` and `must`: what came too late, and what failed for another reason. */
  readonly counts: { readonly timeouts: number; readonly errors: number }
  /** Drops the connection, or the attempts to make one. What is under way fails. */
  close(): Promise<void>
}

export type RedisOptions<S extends string> = {
  /** `redis://` or `rediss://`, with name, password and number of the database as needed. */
  readonly url: string
  readonly clock: Clock
  readonly log: Log
  readonly scripts?: Readonly<Record<S, Script>>
  /** For `run`. */
  readonly deadlineMs?: number
  /** For connecting, up to the moment the server has said who it is. */
  readonly connectMs?: number
  /** A connection that owes answers and has been silent for so long is given up. */
  readonly socketTimeoutMs?: number
  /** Consecutive failures of `run` that trip the breaker, and how long it then takes until one call is let through. */
  readonly breakerThreshold?: number
  readonly probeAfterMs?: number
  /** The longest pause between attempts to connect. */
  readonly maxRetryMs?: number
  readonly random?: () => number
}

class Late extends Error {
  override readonly name = 'Late'
}

/** Why a server that can be reached is not used. */
class Unfit extends Error {
  override readonly name = 'Unfit'
}

const firstRetryMs = 25
/** A connection that lasted this long was a good one: after its loss, attempts are quick again. */
const goodConnectionMs = 1_000
/** For the last bytes of a connection that is being closed. */
const closingMs = 50

/**
 * Rejects with `Late` after `ms`. An answer that is there by then counts, even if this process was too busy to look:
 * between one timer and the next that it sets, input is polled for.
 */
const within = <T>(ms: number, work: () => Promise<T>): Promise<T> =>
  new Promise((resolve, reject) => {
    const answer = work()
    const timer = setTimeout(() => setTimeout(reject, 0, new Late(`No answer within ${ms} ms`)), ms)
    answer.then(resolve, reject).finally(() => clearTimeout(timer))
  })

const readField = (info: unknown, name: string): string | undefined =>
  new RegExp(`^${name}:(\\S+)`, 'm').exec(String(info))?.[1]

/**
 * Who the server is. Only a master that has all its data will do: a replica may be behind what was invalidated, and of
 * several nodes of a cluster one connection reaches the keys of one.
 */
const identify = async (client: Client): Promise<string> => {
  const info = await client.info()
  const incarnation = readField(info, 'run_id')
  if (incarnation === undefined) throw new Unfit('The server does not tell its run_id')
  if (readField(info, 'loading') === '1') throw new Unfit('The server is loading its data')
  if (readField(info, 'role') !== 'master') throw new Unfit('The server is a replica')
  if (readField(info, 'cluster_enabled') === '1') {
    const nodes = readField(await client.cluster('INFO'), 'cluster_size')
    if (nodes !== '1') throw new Unfit(`The server is a cluster of ${nodes} nodes, where only one will do`)
  }
  return incarnation
}

const reasonOf = (error: unknown): string => {
  const { code, message } = error as { code?: unknown; message?: unknown }
  return String(message || code || error)
}

type Link<S extends string> = {
  readonly client: Client
  readonly connection: Connection<S>
  readonly breaker: ReturnType<typeof circuitBreaker>
  readonly sinceMs: number
  probeAtMs: number
}

/** An ioredis client makes one connection and is then thrown away, so that nothing can outlive the connection in it. */
type Standing<S extends string> =
  | { readonly at: 'waiting'; readonly timer: ReturnType<typeof setTimeout> }
  | { readonly at: 'connecting'; readonly client: Client; readonly timer: ReturnType<typeof setTimeout> }
  | { readonly at: 'up'; readonly client: Client; readonly link: Link<S> }
  | { readonly at: 'closed' }

const scriptPrefix = 'script:'

export const createRedis = <S extends string = never>({
  url,
  clock,
  log,
  scripts = {} as Record<S, Script>,
  deadlineMs = 20,
  connectMs = 2_000,
  socketTimeoutMs = 3_000,
  breakerThreshold = 5,
  probeAfterMs = 1_000,
  maxRetryMs = 1_000,
  random = Math.random,
}: RedisOptions<S>): Redis<S> => {
  const names = Object.keys(scripts) as S[]
  const counts = { timeouts: 0, errors: 0 }
  let standing: Standing<S>
  let attempt = 0
  let troubled = false

  // ioredis takes what follows the ? for options that weigh more than those given to it.
  const address = new URL(url)
  address.search = ''

  const upLink = () => (standing.at === 'up' ? standing.link : undefined)

  const tellTrouble = (error: unknown) => {
    if (troubled) return
    troubled = true
    log.warn({ event: 'redis.lost', reason: reasonOf(error) }, 'redis is gone or too slow, going on without it')
  }
  const tellWell = () => {
    if (!troubled) return
    troubled = false
    log.info({ event: 'redis.back' }, 'redis is back')
  }

  const createClient = () =>
    new Client(address.href, {
      lazyConnect: true,
      // One connection a client, and only commands that can be sent at once.
      retryStrategy: null,
      enableOfflineQueue: false,
      autoResendUnfulfilledCommands: false,
      maxRetriesPerRequest: 0,
      // Its own INFO tells nobody who the server is.
      enableReadyCheck: false,
      connectTimeout: connectMs,
      disconnectTimeout: closingMs,
      socketTimeout: socketTimeoutMs,
      scripts: Object.fromEntries(
        names.map((name) => [scriptPrefix + name, { lua: scripts[name].lua, numberOfKeys: scripts[name].keys }]),
      ),
    })

  const createBreaker = (ofLink: () => Link<S>) => {
    const breaker = circuitBreaker(handleAll, {
      breaker: new ConsecutiveBreaker(breakerThreshold),
      // When to probe is said here, by the monotonic clock; cockatiel would ask the wall clock, which steps.
      halfOpenAfter: Number.NEGATIVE_INFINITY,
    })
    breaker.onBreak((failure) => {
      const link = ofLink()
      link.probeAtMs = clock.monotonic() + probeAfterMs
      if (link === upLink() && 'error' in failure) tellTrouble(failure.error)
    })
    breaker.onReset(() => {
      if (ofLink() === upLink()) tellWell()
    })
    return breaker
  }

  const createLink = (client: Client, serverRunId: string): Link<S> => {
    const bound = names.map((name) => {
      // ioredis adds a method for each script to the client; its types do not know them.
      const method: (...args: Argument[]) => Promise<unknown> = Reflect.get(client, scriptPrefix + name)
      return [name, method.bind(client)]
    })
    const link: Link<S> = {
      client,
      connection: { client, serverRunId, scripts: Object.fromEntries(bound) },
      breaker: createBreaker(() => link),
      sinceMs: clock.monotonic(),
      probeAtMs: 0,
    }
    return link
  }

  /** Lets go of a client that is done for, whatever it was doing, and sees to the next. */
  const lose = (client: Client, error: unknown) => {
    if (standing.at === 'waiting' || standing.at === 'closed' || standing.client !== client) return
    if (standing.at === 'connecting') clearTimeout(standing.timer)
    else if (clock.monotonic() - standing.link.sinceMs >= goodConnectionMs) attempt = 0
    const pauseMs = Math.min(maxRetryMs, firstRetryMs * 2 ** attempt) * (0.5 + random() / 2)
    attempt += 1
    standing = { at: 'waiting', timer: setTimeout(connect, pauseMs) }
    client.disconnect()
    tellTrouble(error)
  }

  const connect = () => {
    const client = createClient()
    const timer = setTimeout(() => lose(client, new Late(`No connection within ${connectMs} ms`)), connectMs)
    standing = { at: 'connecting', client, timer }
    // Also those ioredis goes on after, such as a database that cannot be selected.
    client.on('error', (error) => lose(client, error))
    client.on('end', () => lose(client, new Error('The connection was closed')))
    client
      .connect()
      .then(() => identify(client))
      .then((incarnation) => {
        if (standing.at !== 'connecting' || standing.client !== client) return
        clearTimeout(timer)
        standing = { at: 'up', client, link: createLink(client, incarnation) }
        tellWell()
      })
      // A reason that came as an event was the better one, and has been taken.
      .catch((error) => setImmediate(() => lose(client, error)))
  }

  const failed = (link: Link<S>, error: unknown) => {
    counts[error instanceof Late ? 'timeouts' : 'errors'] += 1
    // It was a master when it was asked.
    if (error instanceof Error && error.message.startsWith('READONLY')) lose(link.client, error)
  }

  const admits = ({ breaker, probeAtMs }: Link<S>): boolean =>
    breaker.state === CircuitState.Closed || (breaker.state === CircuitState.Open && clock.monotonic() >= probeAtMs)

  connect()

  return {
    run: async (work) => {
      const link = upLink()
      if (link === undefined || !admits(link)) return undefined
      try {
        return await link.breaker.execute(() => within(deadlineMs, () => work(link.connection)))
      } catch (error) {
        failed(link, error)
        return undefined
      }
    },
    runBypassingBreaker: async (work, withinMs = 1_000) => {
      const link = upLink()
      if (link === undefined) return false
      try {
        await within(withinMs, () => work(link.connection))
        return true
      } catch (error) {
        failed(link, error)
        return false
      }
    },
    get serverRunId() {
      return upLink()?.connection.serverRunId
    },
    state: () => {
      const link = upLink()
      if (link === undefined) return 'down'
      return link.breaker.state === CircuitState.Closed ? 'up' : 'tripped'
    },
    counts,
    close: async () => {
      const last = standing
      standing = { at: 'closed' }
      if (last.at === 'waiting' || last.at === 'connecting') clearTimeout(last.timer)
      if (last.at === 'waiting' || last.at === 'closed' || last.client.status === 'end') return
      const ended = new Promise<void>((resolve) => last.client.once('end', () => resolve()))
      last.client.disconnect()
      await ended
    },
  }
}
