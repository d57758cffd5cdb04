import type { Log } from './log.ts'
import { type Connection, connect, type Sql } from './postgres.ts'

type Options = {
  readonly connection: Connection
  readonly channels: readonly string[]
  /** Called in commit order for every notification committed after `onOpen`. */
  readonly onMessage: (payload: string) => void
  /** Listening has started or restarted. Earlier notifications may have been missed. */
  readonly onOpen: (sql: Sql) => void
  readonly onLost: () => void
  readonly log: Log
}

/**
 * One LISTEN connection to Postgres, replaced whenever it is lost.
 *
 * Guarantee: between `onOpen` and `onLost`, messages arrive in commit order without gaps. Degrades: without a connection,
 * `send` rejects at once. Reconnects forever, after 50 ms at first and then with backoff up to 1 s; an attempt that is not
 * listening within 5 s counts as lost. Must not go through a pooler in transaction mode, which would drop messages.
 */
export type Notifications = {
  /** Sends on the listening connection, so success also proves that this connection works. */
  send(channel: string, payload: string): Promise<void>
  /** Replaces the connection. For one that is open but silent. */
  restart(): void
  close(): Promise<void>
}

const minRetryMs = 50
const maxRetryMs = 1_000
const closeTimeoutS = 0.2
/** Until it listens. connect_timeout does not cover a server that accepts and then stays silent. */
const openTimeoutMs = 5_000

export class NotConnected extends Error {
  override readonly name = 'NotConnected'
}

export const listen = ({ connection, channels, onMessage, onOpen, onLost, log }: Options): Notifications => {
  let current: Sql | undefined
  let open = false
  let closed = false
  let retryMs = minRetryMs
  let retry: ReturnType<typeof setTimeout> | undefined

  const handleLoss = (sql: Sql) => {
    if (sql !== current) return
    current = undefined
    void sql.end({ timeout: 0 }).catch(() => {})
    if (open) {
      open = false
      log.warn({ event: 'bus.lost' }, 'the connection that receives invalidations was lost')
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
      // Never recycled, unlike a pool's connections: each replacement is a gap.
      max_lifetime: null,
      fetch_types: false,
      // Notifications do not survive a crash anyway, so a commit need not wait for the disk.
      connection: { application_name: 'velro:bus', synchronous_commit: 'off' },
      onnotify: (_channel, payload) => {
        // Messages before `onOpen` are covered by it: the caller then reads the current state.
        if (sql === current && open) onMessage(payload)
      },
      onclose: () => handleLoss(sql),
    })
    current = sql
    const timer = setTimeout(() => handleLoss(sql), openTimeoutMs)
    try {
      for (const channel of channels) await sql`listen ${sql(channel)}`
    } catch {
      return handleLoss(sql)
    } finally {
      clearTimeout(timer)
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
      if (current !== undefined) handleLoss(current)
    },
    close: async () => {
      closed = true
      clearTimeout(retry)
      const last = current
      current = undefined
      open = false
      await last?.end({ timeout: closeTimeoutS }).catch(() => {})
    },
  }
}
