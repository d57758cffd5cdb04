import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../platform/log.ts'
import type { Forgery, OnForged } from '../../platform/redis.ts'

/** A kind of forgery that goes on is logged and passed on once in this time. */
const reportEveryMs = 60_000

export type ForgeryCounts = Readonly<Record<Forgery['what'], number>>

/** The forgeries of a kind since the last report. */
export type ReportedForgery = Forgery & { readonly count: number }

/**
 * Collects what readers of Redis found that no instance wrote.
 *
 * Guarantee: the first of a kind is reported at once, later ones once a minute with their number. Costs a comparison otherwise: a
 * flood of forged values floods neither the log nor the incidents. Reports are made outside of the reader's call, and a listener
 * that throws affects nothing.
 */
export const createForgeryReport = ({ clock, log }: { clock: Pick<Clock, 'monotonic'>; log: Pick<Log, 'error'> }) => {
  const counts = { fact: 0, newest_event: 0, statement: 0, limit: 0, anomaly: 0, figures: 0 } satisfies ForgeryCounts
  const unreported = { ...counts }
  const reportedAtMs = new Map<Forgery['what'], number>()
  const listeners: ((forgery: ReportedForgery) => void)[] = []

  const report = (forgery: ReportedForgery) => {
    log.error(
      { event: 'redis.forged', ...forgery },
      'redis held what no instance wrote, and it was not believed: see who can write to it, and replace its password',
    )
    for (const listener of listeners) {
      try {
        listener(forgery)
      } catch (error) {
        log.error({ error }, 'a forgery in redis was not passed on')
      }
    }
  }

  const onForged: OnForged = ({ what, key }) => {
    counts[what] += 1
    unreported[what] += 1
    const nowMs = clock.monotonic()
    if (nowMs - (reportedAtMs.get(what) ?? Number.NEGATIVE_INFINITY) < reportEveryMs) return
    reportedAtMs.set(what, nowMs)
    const forgery = { what, key: key.slice(0, 300), count: unreported[what] }
    unreported[what] = 0
    queueMicrotask(() => report(forgery))
  }

  return {
    onForged,
    counts: counts as ForgeryCounts,
    onReport: (listener: (forgery: ReportedForgery) => void): void => void listeners.push(listener),
  }
}

export type ForgeryReport = ReturnType<typeof createForgeryReport>
