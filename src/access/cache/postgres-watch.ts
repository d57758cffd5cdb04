import type { Clock } from '../../kit/clock.ts'
import type { Breakers } from '../../platform/breaker.ts'
import { type Database, PostgresNotAnswering } from '../../platform/postgres.ts'

/** How often the watch looks. */
const everyMs = 100
/** Statements that get no answer on any connection for so long are suspicious. */
const silentMs = 600
/** How long a suspicion waits for an answer on a new connection. With the silence before it, under two seconds. */
const suspicionMs = 750
/** How long a probe waits while the breaker is open, when nothing waits for it. */
const probeMs = 3_000
/** After a suspicion that was not confirmed. */
const pauseMs = 1_000
/** This process was paused or busy for so long, and may have read no answer meanwhile. */
const lateMs = 500

/**
 * Watches whether Postgres answers, and opens its breaker where it does not.
 *
 * Errors and silence make it suspicious: half of the lease has passed without a heartbeat of this instance that came back, or
 * statements are under way and no connection receives anything. Then it asks on a new connection, and the breaker opens if
 * that gets no answer and no other connection has received one meanwhile. So slow statements, locks and a commit that waits
 * for a standby never open it.
 *
 * Guarantee: where Postgres answers on no connection any more, the breaker is open within two seconds. From then on no statement is
 * sent: those under way have failed, as have those that waited, on connections that are closed; all others fail at once.
 * Probes find out when Postgres answers again, and statements then run on new connections.
 *
 * Degrades: with the policy `closed` the breaker never opens, and each request waits for its deadline.
 *
 * Cost: a comparison for each statement of requests, and one connection for each suspicion, at most one a second.
 */
export type PostgresWatch = {
  /** Whether the breaker is open. */
  isOpen(): boolean
  /** Throws `PostgresNotAnswering` while it is. */
  requireAvailable(): void
  /** Whether Postgres answers on a new connection. Concurrent calls share one probe; false at once while none is due. */
  probe(): Promise<boolean>
  /** Adds a listener, called in the turn in which the breaker opens. */
  onOpen(listener: () => void): void
  onClose(listener: () => void): void
  /** From now on it watches the lease too. */
  start(bus: { readonly lease: { readonly untilMs: number } }): void
  close(): void
}

type Dependencies = {
  readonly breakers: Pick<Breakers, 'create'>
  readonly database: Pick<Database, 'isReachable' | 'refuseStatements' | 'admitStatements' | 'traffic'>
  /** That of leases. */
  readonly clock: Clock
  readonly leaseMs: number
}

/** Why the breaker opened. */
class NoAnswer extends Error {
  override readonly name = 'NoAnswer'
  readonly code = 'no_answer'
}

export const createPostgresWatch = ({ breakers, database, clock, leaseMs }: Dependencies): PostgresWatch => {
  const openListeners: (() => void)[] = []
  const closeListeners: (() => void)[] = []
  let isOpen = false
  let lease: { readonly untilMs: number } = { untilMs: Number.NEGATIVE_INFINITY }
  let received = 0
  let receivedAtMs = clock.monotonic()
  let lookedAtMs = receivedAtMs
  let nextSuspicionMs = receivedAtMs
  let probing: Promise<boolean> | undefined
  const error = new PostgresNotAnswering()

  const breaker = breakers.create({
    dependency: 'postgres',
    onOpen: () => {
      isOpen = true
      database.refuseStatements(error)
      for (const listener of openListeners) listener()
    },
    onClose: () => {
      isOpen = false
      database.admitStatements()
      receivedAtMs = clock.monotonic()
      nextSuspicionMs = receivedAtMs + pauseMs
      for (const listener of closeListeners) listener()
    },
  })

  const ask = async (): Promise<boolean> => {
    const wasOpen = isOpen
    const before = { received: database.traffic().received, leaseUntilMs: lease.untilMs }
    const isAnswered = () => database.traffic().received > before.received || lease.untilMs > before.leaseUntilMs
    try {
      return await breaker.execute(async () => {
        if (await database.isReachable(wasOpen ? probeMs : suspicionMs)) return true
        if (!wasOpen && isAnswered()) return true
        throw new NoAnswer()
      })
    } catch {
      return false
    } finally {
      nextSuspicionMs = clock.monotonic() + pauseMs
    }
  }
  const probe = (): Promise<boolean> => {
    probing ??= ask().finally(() => {
      probing = undefined
    })
    return probing
  }

  const isSuspicious = (nowMs: number): boolean => {
    const traffic = database.traffic()
    const wasLate = nowMs - lookedAtMs > everyMs + lateMs
    if (wasLate || traffic.received > received || traffic.underWay === 0) receivedAtMs = nowMs
    received = traffic.received
    lookedAtMs = nowMs
    const { untilMs } = lease
    const isLeaseLate = Number.isFinite(untilMs) && untilMs - nowMs < leaseMs / 2
    return !wasLate && (isLeaseLate || nowMs - receivedAtMs >= silentMs)
  }

  const look = () => {
    const nowMs = clock.monotonic()
    const isSuspected = isSuspicious(nowMs)
    if (probing !== undefined) return
    // While the breaker is open, it says itself when a probe is due.
    if (isOpen || (isSuspected && nowMs >= nextSuspicionMs)) void probe()
  }
  const timer = setInterval(look, everyMs)

  return {
    isOpen: () => isOpen,
    requireAvailable: () => {
      if (isOpen) throw error
    },
    probe,
    onOpen: (listener) => void openListeners.push(listener),
    onClose: (listener) => void closeListeners.push(listener),
    start: (bus) => {
      lease = bus.lease
    },
    close: () => clearInterval(timer),
  }
}
