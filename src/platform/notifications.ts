import type { Log } from './log.ts'
import { type Connection, connect, type Route, type Sql, settingsFor } from './postgres.ts'

type Options = {
  /** To listen. Must not go through a pooler in transaction mode, which would drop messages. */
  readonly connection: Connection
  /** To send, and to read what belongs to messages. May go through a pooler. */
  readonly senderConnection: Connection
  /** How `senderConnection` reaches Postgres. */
  readonly route?: Route | undefined
  readonly channels: readonly string[]
  /** Reads on a connection, before it listens, which database it leads to. */
  readonly identify: (sql: Sql) => Promise<string | undefined>
  /** Called in commit order for every notification committed after `onOpen`. */
  readonly onMessage: (payload: string) => void
  /** Listening has started or restarted. Earlier notifications may have been missed. */
  readonly onOpen: (listeningTo: string | undefined) => void
  readonly onLost: () => void
  /** An attempt failed; another one follows. */
  readonly onUnreachable: (error: unknown) => void
  readonly log: Log
}

/**
 * Two connections to Postgres: one that listens, replaced whenever it is lost, and one that sends.
 *
 * Guarantee: between `onOpen` and `onLost`, messages arrive in commit order without gaps, if nothing between drops them. The
 * listening connection sends nothing after LISTEN, so that a pooler in transaction mode, which delivers only to a client
 * whose statement is running, delivers nothing at all rather than a part. Degrades: without a connection `send` rejects at
 * once. Reconnects forever, after 50 ms at first and then with backoff up to 1 s; an attempt that is not listening within
 * 5 s counts as lost.
 */
export type Notifications = {
  send(channel: string, payload: string): Promise<void>
  /** The connection that sends. Throws `NotConnected` while nothing is listened to. */
  sender(): Sql
  /** Replaces both connections. For one that is open but silent. */
  restart(): void
  close(): Promise<void>
}

const minRetryMs = 50
const maxRetryMs = 1_000
/** Losing a connection that lasted this long resets the backoff. */
const stableAfterMs = 5_000
const closeTimeoutS = 0.2
/** Until it listens. connect_timeout does not cover a server that accepts and then stays silent. */
const openTimeoutMs = 5_000

export class NotConnected extends Error {
  override readonly name = 'NotConnected'
}

/** Never recycled, unlike the connections of a pool: each replacement is a gap. */
const lasting = { max: 1, idle_timeout: 0, max_lifetime: null, fetch_types: false } as const

type Pair = { readonly listener: Sql; readonly sender: Sql }

export const listen = (options: Options): Notifications => {
  const { channels, identify, onMessage, onOpen, onLost, onUnreachable, log } = options
  let current: Pair | undefined
  let open = false
  let closed = false
  let retryMs = minRetryMs
  let openedAtMs = 0
  let retry: ReturnType<typeof setTimeout> | undefined

  const end = ({ listener, sender }: Pair, timeout: number) =>
    Promise.all([listener.end({ timeout }).catch(() => {}), sender.end({ timeout }).catch(() => {})])

  const handleLoss = (pair: Pair, error?: unknown) => {
    if (pair !== current) return
    current = undefined
    void end(pair, 0)
    if (open) {
      open = false
      if (performance.now() - openedAtMs >= stableAfterMs) retryMs = minRetryMs
      log.warn({ event: 'bus.lost' }, 'the connection that receives invalidations was lost')
      onLost()
    } else if (error !== undefined && !closed) onUnreachable(error)
    if (closed) return
    retry = setTimeout(attempt, retryMs)
    retryMs = Math.min(2 * retryMs, maxRetryMs)
  }

  const attempt = async () => {
    const listener: Sql = connect(options.connection, {
      ...lasting,
      connection: { application_name: 'velro:bus' },
      onnotify: (_channel, payload) => {
        // Messages before `onOpen` are covered by it: the caller then reads the current state.
        if (pair === current && open) onMessage(payload)
      },
      onclose: () => handleLoss(pair),
    })
    const pair: Pair = {
      listener,
      // Statements are not prepared, so that every pooler takes them.
      sender: connect(options.senderConnection, {
        ...lasting,
        prepare: false,
        connection: { application_name: 'velro:bus-sender', ...settingsFor(options.route) },
      }),
    }
    current = pair
    const timer = setTimeout(() => handleLoss(pair, new NotConnected('Not listening within 5 s')), openTimeoutMs)
    let listeningTo: string | undefined
    try {
      listeningTo = await identify(listener)
      for (const channel of channels) await listener`listen ${listener(channel)}`
    } catch (error) {
      return handleLoss(pair, error)
    } finally {
      clearTimeout(timer)
    }
    if (pair !== current || closed) return
    openedAtMs = performance.now()
    open = true
    onOpen(listeningTo)
  }

  const sender = (): Sql => {
    if (current === undefined || !open) throw new NotConnected()
    return current.sender
  }

  void attempt()

  return {
    send: async (channel, payload) => {
      // A commit that waits for a synchronous standby holds the server's lock for notifications: without a limit each
      // replacement of this connection would leave one more backend that waits for the lock.
      await sender()`select set_config('lock_timeout', '2s', true), pg_notify(${channel}, ${payload})`
    },
    sender,
    restart: () => {
      if (current !== undefined) handleLoss(current)
    },
    close: async () => {
      closed = true
      clearTimeout(retry)
      const last = current
      current = undefined
      open = false
      if (last !== undefined) await end(last, closeTimeoutS)
    },
  }
}
