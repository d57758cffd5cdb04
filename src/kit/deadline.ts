import type { Clock } from './clock.ts'

/** Raised by a deadline that has passed; whoever holds the door turns it into an answer. */
export class DeadlinePassed extends Error {
  override readonly name = 'DeadlinePassed'
}

/** Work that can be told to stop, such as a query of postgres.js. */
type Cancellable = { cancel?: () => unknown }

/**
 * The one deadline of a request, handed down to whatever waits on its behalf.
 *
 * Promise: `run` settles by the deadline whatever the work does, and asks the work to cancel when it is late. There is
 * one deadline and no nesting: a wait inside a wait ends at the same moment.
 */
export type Deadline = {
  remainingMs(): number
  /** Throws `DeadlinePassed` when there is no time left. */
  check(): void
  run<T>(work: PromiseLike<T> & Cancellable): Promise<T>
}

export const createDeadline = (clock: Clock, budgetMs: number): Deadline => {
  const endsAtMs = clock.monotonic() + budgetMs
  const remainingMs = () => endsAtMs - clock.monotonic()
  return {
    remainingMs,
    check: () => {
      if (remainingMs() <= 0) throw new DeadlinePassed()
    },
    run: (work) =>
      new Promise((resolve, reject) => {
        const timer = setTimeout(
          () => {
            reject(new DeadlinePassed())
            work.cancel?.()
          },
          Math.max(0, remainingMs()),
        )
        work.then(
          (value) => {
            clearTimeout(timer)
            resolve(value)
          },
          (error) => {
            clearTimeout(timer)
            reject(error)
          },
        )
      }),
  }
}
