import type { Clock } from '../../kit/clock.ts'
import type { BusTiming } from './timing.ts'

type Dependencies = {
  readonly clock: Clock
  readonly timing: BusTiming
  readonly send: (heartbeatId: string) => void
  /** Replaces a connection on which no heartbeat of ours comes back. */
  readonly restart: () => void
}

/**
 * The lease of this instance, renewed by its own heartbeats.
 *
 * Guarantee: the lease ends `leaseMs` after the newest heartbeat that came back was *sent*. Notifications arrive in commit
 * order, so every change committed before that moment has been applied here.
 */
export const createHeartbeat = ({ clock, timing, send, restart }: Dependencies) => {
  const lease = { untilMs: Number.NEGATIVE_INFINITY }
  /** Heartbeats of this connection that have not come back, oldest first. */
  const sentAtMs = new Map<string, number>()
  let count = 0
  let lastReturnedMs = Number.POSITIVE_INFINITY
  let interval: ReturnType<typeof setInterval> | undefined
  let connectionEpoch = 0

  const sendHeartbeat = () => {
    if (clock.monotonic() - lastReturnedMs > timing.silenceMs) return restart()
    count += 1
    const heartbeatId = `${connectionEpoch}.${count}`
    sentAtMs.set(heartbeatId, clock.monotonic())
    send(heartbeatId)
  }
  const stop = () => {
    clearInterval(interval)
    sentAtMs.clear()
  }

  return {
    lease: lease as { readonly untilMs: number },
    sendHeartbeat,
    /** Begins on a new connection. The silence is measured from now on, because the next read on it may hang. */
    start: (epoch: number) => {
      stop()
      connectionEpoch = epoch
      lastReturnedMs = clock.monotonic()
      interval = setInterval(sendHeartbeat, timing.heartbeatMs)
    },
    /** Ignores a heartbeat of an earlier connection, and one older than another that came back. */
    onReturned: (heartbeatId: string) => {
      const atMs = sentAtMs.get(heartbeatId)
      if (atMs === undefined) return
      for (const earlier of sentAtMs.keys()) {
        sentAtMs.delete(earlier)
        if (earlier === heartbeatId) break
      }
      lastReturnedMs = clock.monotonic()
      lease.untilMs = atMs + timing.leaseMs
    },
    /** Heartbeats under way no longer renew the lease, which runs out by itself. */
    stop,
    /** Ends the lease at once. */
    close: () => {
      stop()
      lease.untilMs = Number.NEGATIVE_INFINITY
    },
  }
}
