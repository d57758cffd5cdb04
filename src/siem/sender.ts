import type { Clock } from '../kit/clock.ts'
import { type Breaker, BreakerOpen } from '../platform/breaker.ts'
import type { Log } from '../platform/log.ts'
import { BatchTooLarge } from '../platform/siem-transport.ts'
import { type OcsfEvent, toOcsf } from './ocsf.ts'
import type { SiemStore } from './store.ts'

/** How often the sender looks for new events, and for a lease that has ended. */
export const pollMs = 1_000
/** Longer than an attempt, so that two instances never send at once. */
export const leaseMs = 30_000
/** Limit of one attempt. */
export const attemptMs = 15_000
/** Events of one batch, and so the most that are in memory. */
export const batchSize = 200
const closingMs = 2_000

/** Takes a batch. Resolves once the receiver has it; rejects where that is not known. `signal` ends the attempt. */
export type SendBatch = (events: readonly OcsfEvent[], signal: AbortSignal) => Promise<void>

export type SiemState = 'sending' | 'standby' | 'failing'

export type SiemFigures = {
  /** `standby`: another instance sends. */
  readonly state: SiemState
  readonly sent: number
  readonly failures: number
  readonly lag: { readonly events: number; readonly seconds: number }
}

type Dependencies = {
  /** Names the cursor. */
  readonly sink: string
  /** Of this instance. */
  readonly holder: string
  readonly store: SiemStore
  readonly send: SendBatch
  readonly breaker: Pick<Breaker, 'execute'>
  readonly messageOf: (action: string) => string
  readonly product: { readonly name: string; readonly version: string }
  readonly clock: Pick<Clock, 'monotonic'>
  readonly log: Pick<Log, 'warn' | 'info'>
  readonly timing?: { readonly pollMs?: number; readonly leaseMs?: number }
}

/**
 * Sends the audit log to a receiver of security events.
 *
 * Guarantee: every event that is linked into its chain is sent at least once, and those of a month in the order of its chain.
 * The cursor moves only after the receiver has the batch, so a batch whose outcome is unknown is sent again from its
 * beginning: duplicates have the same `metadata.uid`. One instance sends at a time; another takes over when its lease of 30 s
 * ends. Memory holds one batch, however many events wait in the database.
 *
 * Degrades: while the receiver does not answer, the breaker `siem` lets one attempt pass at a time, and events wait in the
 * audit log for as long as that is kept.
 */
export const createSiemSender = (dependencies: Dependencies) => {
  const { sink, holder, store, send, breaker, messageOf, product, clock, log, timing = {} } = dependencies
  const lease = { forMs: timing.leaseMs ?? leaseMs, untilMs: Number.NEGATIVE_INFINITY }
  const figures = { state: 'standby' as SiemState, sent: 0, failures: 0, lag: { events: 0, seconds: 0 } }
  const stopped = new AbortController()
  let timer: ReturnType<typeof setTimeout> | undefined
  let running: Promise<void> | undefined
  let isFailing = false
  let size = batchSize

  /** Enough of the lease is left for an attempt, by the clock of this instance. */
  const mayAttempt = () => clock.monotonic() + Math.min(attemptMs, lease.forMs / 2) < lease.untilMs

  const renewLease = async (): Promise<boolean> => {
    // Counted from before the statement, so that it ends here no later than there.
    const askedMs = clock.monotonic()
    const isHeld = await store.lease(sink, holder, lease.forMs)
    lease.untilMs = isHeld ? askedMs + lease.forMs : Number.NEGATIVE_INFINITY
    return isHeld
  }

  const attempt = async (events: readonly OcsfEvent[]): Promise<boolean> => {
    try {
      const limit = AbortSignal.any([stopped.signal, AbortSignal.timeout(Math.min(attemptMs, lease.forMs / 2))])
      await breaker.execute(() => send(events, limit))
      return true
    } catch (error) {
      if (error instanceof BatchTooLarge && events.length > 1) {
        size = Math.max(1, Math.floor(events.length / 2))
        return false
      }
      if (error instanceof BreakerOpen || stopped.signal.aborted) return false
      figures.failures += 1
      if (!isFailing)
        log.warn(
          { event: 'siem.failing', error },
          'security events could not be sent: they wait in the audit log, and are sent again',
        )
      isFailing = true
      return false
    }
  }

  /** Whether there may be more to send at once. */
  const sendNext = async (): Promise<boolean> => {
    const batch = await store.next(sink, size)
    const last = batch?.events.at(-1)
    if (batch === undefined || last === undefined) return false
    const events = batch.events.map((event) =>
      toOcsf(event === last ? { ...event, head: batch.head } : event, messageOf(event.action), product),
    )
    if (!mayAttempt() && !(await renewLease())) return false
    const sizeBefore = size
    if (!(await attempt(events))) return size < sizeBefore
    if (!(await store.advance(sink, holder, { month: batch.month, sequence: last.chain.sequence }))) {
      lease.untilMs = Number.NEGATIVE_INFINITY
      return false
    }
    figures.sent += events.length
    size = Math.min(batchSize, size * 2)
    if (isFailing) log.info({ event: 'siem.sent_again' }, 'security events are sent again')
    isFailing = false
    return true
  }

  const run = async (): Promise<void> => {
    figures.state = (await renewLease()) ? (isFailing ? 'failing' : 'sending') : 'standby'
    while (figures.state !== 'standby' && !stopped.signal.aborted && (await sendNext())) {
      // Until nothing is left.
    }
    if (figures.state !== 'standby') figures.state = isFailing ? 'failing' : 'sending'
    figures.lag = await store.lag(sink)
  }

  const poll = () => {
    running ??= run()
      // Postgres does not answer. The next poll goes on.
      .catch(() => {})
      .finally(() => {
        running = undefined
        if (!stopped.signal.aborted) timer = setTimeout(poll, timing.pollMs ?? pollMs)
      })
    return running
  }

  return {
    start: (): void => void poll(),
    figures: figures as SiemFigures,
    /** Ends the attempt under way, and lets another instance send at once. */
    close: async (): Promise<void> => {
      stopped.abort()
      clearTimeout(timer)
      const waited = new Promise((resolve) => setTimeout(resolve, closingMs))
      await Promise.race([running, waited])
      await store.release(sink, holder).catch(() => {})
    },
  }
}

export type SiemSender = ReturnType<typeof createSiemSender>
