import type { Clock } from '../../kit/clock.ts'
import type { BusTiming } from './timing.ts'

/** A heartbeat of this instance that has not come back yet. */
export type SentHeartbeat = {
  /** On the clock of leases. */
  readonly leaseFromMs: number
  /** The newest position received when it was sent. */
  readonly received: number
}

type Dependencies = {
  readonly clock: Clock
  /** Advances also while a virtual machine is paused; see createLeaseClock. */
  readonly leaseClock: Clock
  readonly timing: BusTiming
  /** Sends a heartbeat. Resolves when Postgres has committed it. */
  readonly send: (heartbeatId: string) => Promise<void>
  /** The lease was renewed or ended. */
  readonly onLease?: ((untilMs: number) => void) | undefined
  /** Runs once in each interval. */
  readonly onInterval: () => void
}

/**
 * The lease of this instance, renewed by its own heartbeats.
 *
 * Guarantee: the lease ends `leaseMs` after the newest heartbeat that renewed it was *sent*. Notifications arrive in commit
 * order, so every change committed before that moment has been applied here, if no notification is missing.
 */
export const createHeartbeat = ({ clock, leaseClock, timing, send, onLease, onInterval }: Dependencies) => {
  const lease = { untilMs: Number.NEGATIVE_INFINITY }
  /** Heartbeats of this connection that have not come back, oldest first. */
  const sent = new Map<string, SentHeartbeat>()
  let count = 0
  /** When this connection began, or the newest of its heartbeats came back. */
  let lastReturnedMs = Number.POSITIVE_INFINITY
  let hasReturned = false
  let firstCommittedMs = Number.POSITIVE_INFINITY
  let interval: ReturnType<typeof setInterval> | undefined
  let connectionEpoch = 0

  const setLease = (untilMs: number) => {
    lease.untilMs = untilMs
    onLease?.(untilMs)
  }

  const stop = () => {
    clearInterval(interval)
    sent.clear()
  }

  return {
    lease: lease as { readonly untilMs: number },
    send: (received: number) => {
      count += 1
      const epoch = connectionEpoch
      const heartbeatId = `${epoch}.${count}`
      sent.set(heartbeatId, { leaseFromMs: leaseClock.monotonic(), received })
      send(heartbeatId).then(
        () => {
          if (epoch === connectionEpoch) firstCommittedMs = Math.min(firstCommittedMs, clock.monotonic())
        },
        () => {},
      )
    },
    /** Begins on a new connection. The silence is measured from now on, because the next read on it may hang. */
    start: (epoch: number) => {
      stop()
      connectionEpoch = epoch
      hasReturned = false
      firstCommittedMs = Number.POSITIVE_INFINITY
      lastReturnedMs = clock.monotonic()
      interval = setInterval(onInterval, timing.heartbeatMs)
    },
    /**
     * The heartbeat that came back. Undefined for one of an earlier connection, and for one older than another that came
     * back.
     */
    onReturned: (heartbeatId: string): SentHeartbeat | undefined => {
      const returned = sent.get(heartbeatId)
      if (returned === undefined) return undefined
      for (const earlier of sent.keys()) {
        sent.delete(earlier)
        if (earlier === heartbeatId) break
      }
      lastReturnedMs = clock.monotonic()
      hasReturned = true
      return returned
    },
    renew: ({ leaseFromMs }: SentHeartbeat) => {
      setLease(leaseFromMs + timing.leaseMs)
    },
    /** Whether a heartbeat came back on this connection. */
    hasReturned: () => hasReturned,
    /** No heartbeat has come back for so long that the connection must be replaced. */
    isSilent: () => clock.monotonic() - lastReturnedMs > timing.silenceMs,
    /** Postgres committed a heartbeat a lease ago, and none was ever received on this connection. */
    isUnheard: () => !hasReturned && clock.monotonic() - firstCommittedMs > timing.leaseMs,
    /** Heartbeats under way no longer renew the lease, which runs out by itself. */
    stop,
    /** Ends the lease at once. Heartbeats under way may still renew it. */
    revoke: () => {
      setLease(Number.NEGATIVE_INFINITY)
    },
  }
}
