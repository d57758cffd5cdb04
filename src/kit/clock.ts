/** Time is passed in, so tests control it: only `main` uses the system clock. */
export type Clock = {
  /** Wall-clock time in milliseconds since the epoch. For times that are stored or sent; it may step. */
  now(): number
  /** Monotonic milliseconds from an arbitrary origin. For ages, leases and deadlines. */
  monotonic(): number
}

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
}

/** A clock for tests that moves only by `advance`. */
export const manualClock = (startMs = Date.UTC(2026, 0, 1)) => {
  let elapsedMs = 0
  return {
    now: () => startMs + elapsedMs,
    monotonic: () => elapsedMs,
    advance: (ms: number) => {
      elapsedMs += ms
    },
  }
}

/** Readings of the two clocks of a system are not taken at the same moment, and the wall clock counts whole milliseconds. */
const toleranceMs = 10

/**
 * A clock for leases. Its monotonic time advances as the monotonic or the wall clock does, whichever advanced more: the
 * monotonic clock of a virtual machine may stand still while the machine is paused, and the wall clock is corrected after it.
 *
 * Guarantee: between two readings it advances by no less than either clock did, but for 10 ms. A wall clock set forward ends
 * leases early; one set back changes nothing. Not for waits, nor for the ages of what others hold: they would be over early.
 */
export const createLeaseClock = ({ now, monotonic }: Clock): Clock => {
  let aheadMs = Number.POSITIVE_INFINITY
  let missedMs = 0
  return {
    now,
    monotonic: () => {
      const monotonicMs = monotonic()
      const nowAheadMs = now() - monotonicMs
      if (nowAheadMs < aheadMs) aheadMs = nowAheadMs
      else if (nowAheadMs > aheadMs + toleranceMs) {
        missedMs += nowAheadMs - aheadMs
        aheadMs = nowAheadMs
      }
      return monotonicMs + missedMs
    },
  }
}
