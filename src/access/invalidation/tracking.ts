import type { Clock } from '../../kit/clock.ts'
import { createHeartbeat } from './heartbeat.ts'
import { createPositions } from './positions.ts'
import type { BusTiming } from './timing.ts'
import type { DatabasePosition } from './topics.ts'

/**
 * Why an instance holds no lease. `connecting`: the connections of the bus are not open. `late`: our heartbeats come back late.
 * `unreachable`: a connection of the bus could not be opened.
 * `pooler`: notifications that Postgres has sent do not arrive. `other_database`: the database that is listened to is not
 * the one of the changes. `gap`: an event was lost. `other_version`: the database has the functions of another version of the
 * program.
 */
export const noLeaseReasons = [
  'connecting',
  'late',
  'unreachable',
  'pooler',
  'other_database',
  'gap',
  'other_version',
] as const
export type NoLeaseReason = (typeof noLeaseReasons)[number]
/** A reason that stays until something is changed or replaced. */
export type BusProblem = Exclude<NoLeaseReason, 'connecting' | 'late'>

/** Why there is no lease. A found problem stays the reason until a lease is held again. */
const createLeaseReport = (
  onProblem: (problem: BusProblem | undefined) => void,
  onReason: ((reason: NoLeaseReason) => void) | undefined,
) => {
  let reason: NoLeaseReason = 'connecting'
  let hasProblem = false
  const setReason = (found: NoLeaseReason) => {
    if (found !== reason) onReason?.(found)
    reason = found
  }
  return {
    reason: () => reason,
    onProblem: (problem: BusProblem) => {
      if (hasProblem && reason === problem) return
      hasProblem = true
      setReason(problem)
      onProblem(problem)
    },
    onRenewed: () => {
      setReason('late')
      if (hasProblem) onProblem(undefined)
      hasProblem = false
    },
    onLost: () => {
      if (!hasProblem) setReason('connecting')
    },
  }
}

type Dependencies = {
  readonly clock: Clock
  readonly leaseClock: Clock
  readonly timing: BusTiming
  readonly sendHeartbeat: (heartbeatId: string) => Promise<void>
  /** The newest state of the database that was seen before, if any. */
  readonly seen?: DatabasePosition | undefined
  /** Events are missing, or the database is another one or in an older state. Called before `restart`. */
  readonly onGap: (isOther: boolean) => void
  readonly restart: () => void
  /** The lease was renewed or ended. */
  readonly onLease?: ((untilMs: number) => void) | undefined
  /** There is another reason why there would be no lease. */
  readonly onReason?: ((reason: NoLeaseReason) => void) | undefined
  readonly onProblem: (problem: BusProblem | undefined) => void
}

/**
 * Decides whether what arrives on a connection is complete, and so whether our heartbeats may renew the lease.
 *
 * Guarantee: the lease is renewed only by a heartbeat that the database we listen to has notified, and only if every event up
 * to the position it saw has been applied. When anything else is found, the lease ends at once.
 */
export const createTracking = (dependencies: Dependencies) => {
  const { clock, leaseClock, timing, sendHeartbeat, onGap, restart, onLease, onReason, onProblem } = dependencies
  const report = createLeaseReport(onProblem, onReason)
  const positions = createPositions(dependencies.seen)
  /** Whether heartbeats of the connection can renew the lease. */
  let isTracking = false

  const heartbeat = createHeartbeat({
    clock,
    leaseClock,
    timing,
    send: sendHeartbeat,
    onLease,
    onInterval: () => {
      if (heartbeat.isUnheard()) report.onProblem('pooler')
      if (heartbeat.isSilent()) restart()
      else sendNow()
    },
  })
  const sendNow = () => {
    if (isTracking) heartbeat.send(positions.received())
  }

  /** Heartbeats under way belong to the connection, so they renew nothing after it is replaced. */
  const endLease = (problem: 'gap' | 'other_database') => {
    report.onProblem(problem)
    heartbeat.revoke()
    onGap(problem === 'other_database')
    restart()
  }
  /** Events of another version have no positions for us: nothing proves that none is missed. */
  const stopTracking = () => {
    isTracking = false
    report.onProblem('other_version')
    heartbeat.revoke()
  }

  return {
    lease: heartbeat.lease,
    /** Why no lease is held; undefined while one is. */
    noLeaseReason: () => (leaseClock.monotonic() < heartbeat.lease.untilMs ? undefined : report.reason()),
    /** Whether a heartbeat came back on this connection. */
    isProven: heartbeat.hasReturned,
    /** Begins on a new connection, whose heartbeats renew nothing until `open`. */
    start: (epoch: number) => {
      isTracking = false
      heartbeat.start(epoch)
    },
    /** The database of the changes, compared with the one that is listened to. Otherwise there is no lease. */
    compare: (changes: DatabasePosition, listeningTo: string | undefined): 'same' | 'replaced' | 'other' => {
      // The connections are replaced, and compared again, after the silence that follows.
      if (changes.identity !== listeningTo) {
        report.onProblem('other_database')
        return 'other'
      }
      if (positions.identity === undefined || positions.identity === changes.identity) return 'same'
      // The lease was earned on the database of the connection before.
      heartbeat.revoke()
      return 'replaced'
    },
    /** Returns whether it is the database of the connection before, in a state no older than the one seen there. */
    open: (snapshot: DatabasePosition): boolean => {
      isTracking = true
      return positions.open(snapshot)
    },
    sendHeartbeat: sendNow,
    /** Returns whether the event may be applied. If not, the connections are being replaced. */
    onEvent: (position: number | undefined): boolean => {
      if (position === undefined) stopTracking()
      else if (!positions.onEvent(position)) {
        endLease('gap')
        return false
      }
      return true
    },
    onOwnHeartbeat: (heartbeatId: string, seen: DatabasePosition | undefined) => {
      const returned = heartbeat.onReturned(heartbeatId)
      if (returned === undefined || !isTracking) return
      if (seen === undefined) return stopTracking()
      const verdict = positions.check(seen, returned.received)
      if (verdict !== 'complete') return endLease(verdict)
      heartbeat.renew(returned)
      if (leaseClock.monotonic() < heartbeat.lease.untilMs) report.onRenewed()
    },
    onUnreachable: () => report.onProblem('unreachable'),
    /** There was no room to pass a message on. */
    onOverflow: () => endLease('gap'),
    /** Returns whether events were complete until now. */
    onLost: (): boolean => {
      const wasTracking = isTracking
      isTracking = false
      heartbeat.stop()
      report.onLost()
      return wasTracking
    },
    /** Ends the lease for good: a heartbeat under way renews it no more. */
    close: () => {
      heartbeat.stop()
      heartbeat.revoke()
    },
  }
}
