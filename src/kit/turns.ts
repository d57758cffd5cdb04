/**
 * Shares the event loop among long computations that are cut into slices: one slice of one of them runs between two rounds of
 * I/O and timers, in the order of arrival, however many there are.
 */
export type Turns = {
  /** Resolves when the caller may compute one slice. */
  next(): Promise<void>
}

export const createTurns = (schedule: (run: () => void) => void = (run) => void setTimeout(run, 0)): Turns => {
  const waiting: (() => void)[] = []
  const run = () => {
    waiting.shift()?.()
    if (waiting.length > 0) schedule(run)
  }
  return {
    next: () =>
      new Promise((resolve) => {
        waiting.push(resolve)
        if (waiting.length === 1) schedule(run)
      }),
  }
}
