import type { Clock } from '../kit/clock.ts'
import type { Log } from './log.ts'
import type { Sql } from './postgres.ts'

/** How far the clock of a machine may be off. Beyond that it is left alone, because either clock may be the wrong one. */
export const maxCorrectionMs = 60_000
/** Differences of clocks that are set by NTP, and of the measurement. */
export const ignoredMs = 500

/** The wall clock of this machine, corrected to that of Postgres, which all instances share. */
export type SharedClock = Clock & {
  /** Measures the difference. Costs one statement. A failure leaves the correction as it is. */
  synchronize(sql: Sql): Promise<void>
}

/**
 * Guarantee: instances whose machines differ by up to 60 s agree on the time to 0.5 s, so a token, a session or a link that
 * one has issued is neither too young nor too old for another. The monotonic time is that of the machine. Degrades: a
 * machine that is off by more keeps its own time, which is logged as a warning.
 */
export const createSharedClock = (clock: Clock, log: Log): SharedClock => {
  let correctionMs = 0
  let isWarned = false
  return {
    now: () => clock.now() + correctionMs,
    monotonic: clock.monotonic,
    synchronize: async (sql) => {
      const startedMs = clock.now()
      const [row] = await sql<{ now: number }[]>`
        select extract(epoch from clock_timestamp())::float8 * 1000 as now`
      const elapsedMs = clock.now() - startedMs
      if (row === undefined || elapsedMs < 0 || elapsedMs > ignoredMs) return
      const differenceMs = Math.round(row.now - startedMs - elapsedMs / 2)
      const isTooFar = Math.abs(differenceMs) > maxCorrectionMs
      if (isTooFar && !isWarned) {
        log.warn(
          { event: 'clock.differs', difference_ms: differenceMs },
          'the clock of this machine differs from that of Postgres by more than 60 s: other instances may refuse its tokens',
        )
      }
      isWarned = isTooFar
      correctionMs = isTooFar || Math.abs(differenceMs) <= ignoredMs ? 0 : differenceMs
    },
  }
}
