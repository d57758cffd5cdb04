/** Time as an argument: nothing below `main` asks the runtime what time it is. */
export type Clock = {
  /** Wall time, milliseconds since the epoch. For what is stored or sent. */
  now(): number
  /** Milliseconds from an arbitrary start that never step back. For ages, leases and deadlines. */
  monotonic(): number
}

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
}

/** A clock that moves only when told to, for tests. */
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
