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
