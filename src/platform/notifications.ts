import type { Log } from './log.ts'
import { type Connection, connect, type Sql } from './postgres.ts'

type Options = {
  readonly connection: Connection
  readonly channels: readonly string[]
  /** Called in the order of commits, for everything committed after `onOpen` was called. */
  readonly onMessage: (payload: string) => void
  /** Listening has begun, again or for the first time: whatever came before may have been missed. */
  readonly onOpen: (sql: Sql) => void
  readonly onLost: () => void
  readonly log: Log
}

/**
 * One connection that listens to Postgres, made again whenever it is lost.
 *
 * Promise: messages come in the order of commits and none is left out between `onOpen` and `onLost`; what is sent while
 * there is no connection is refused at once. It never gives up: a lost connection is tried again after 50 ms, then at
 * growing intervals of up to a second, and one that does not come to listen in time counts as lost. Must not go through a pooler that shares connections between transactions.
 */
export type Notifications = {
  /** Resolves when it was sent; on the connection that listens, so that it says something about that one. */
  send(channel: string, payload: string): Promise<void>
  /** For a connection that is open and yet silent: gives it up and makes another. */
  restart(): void
  close(): Promise<void>
}

const minRetryMs = 50
const maxRetryMs = 1_000
const closingS = 0.2
/** Connecting has a bound of its own; that nobody answers once connected is found out after this. */
const openingMs = 5_000

export class NotConnected extends Error {
  override readonly name = 'NotConnected'
}

export const listen = ({ connection, channels, onMessage, onOpen, onLost, log }: Options): Notifications => {
  let current: Sql | undefined
  let open = false
  let closed = false
  let retryMs = minRetryMs
  let retry: ReturnType<typeof setTimeout> | undefined

  const lose = (sql: Sql) => {
    if (sql !== current) return
    current = undefined
    void sql.end({ timeout: 0 }).catch(() => {})
    if (open) {
      open = false
      log.warn({ event: 'bus.lost' }, 'the connection that hears of changes is lost')
      onLost()
    }
    if (closed) return
    retry = setTimeout(attempt, retryMs)
    retryMs = Math.min(2 * retryMs, maxRetryMs)
  }

  const attempt = async () => {
    const sql: Sql = connect(connection, {
      max: 1,
      idle_timeout: 0,
      // Not to be made anew after a while, as those of a pool are.
      max_lifetime: null,
      fetch_types: false,
      // What is sent here is worth nothing after a crash, so nobody waits for the disk.
      connection: { application_name: 'velro:bus', synchronous_commit: 'off' },
      onnotify: (_channel, payload) => {
        // What comes before it counts as open is covered by `onOpen`.
        if (sql === current && open) onMessage(payload)
      },
      onclose: () => lose(sql),
    })
    current = sql
    const tooLong = setTimeout(() => lose(sql), openingMs)
    try {
      for (const channel of channels) await sql`listen ${sql(channel)}`
    } catch {
      return lose(sql)
    } finally {
      clearTimeout(tooLong)
    }
    if (sql !== current || closed) return
    retryMs = minRetryMs
    open = true
    onOpen(sql)
  }

  void attempt()

  return {
    send: async (channel, payload) => {
      if (current === undefined || !open) throw new NotConnected()
      await current`select pg_notify(${channel}, ${payload})`
    },
    restart: () => {
      if (current !== undefined) lose(current)
    },
    close: async () => {
      closed = true
      clearTimeout(retry)
      const last = current
      current = undefined
      open = false
      await last?.end({ timeout: closingS }).catch(() => {})
    },
  }
}
