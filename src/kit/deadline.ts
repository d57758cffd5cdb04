import type { Clock } from './clock.ts'

/** Raised by a deadline that has passed; whoever holds the door turns it into an answer. */
export class DeadlinePassed extends Error {
  override readonly name = 'DeadlinePassed'
}

/**
 * Work that can be told to stop, such as a query of postgres.js. What says that it is not `active` yet is left alone: a
 * query cancelled while its connection is being made takes that connection out of its pool for good (postgres 3.4.9).
 */
type Cancellable = { cancel?: () => unknown; readonly active?: boolean }

/**
 * The one deadline of a request, handed down to whatever waits on its behalf.
 *
 * Promise: `run` settles within 25 ms of the deadline whatever the work does, and asks the work to cancel when it is
 * late. There is one deadline and no nesting: a wait inside a wait ends at the same moment.
 */
export type Deadline = {
  remainingMs(): number
  /** Throws `DeadlinePassed` when there is no time left. */
  check(): void
  run<T>(work: PromiseLike<T> & Cancellable): Promise<T>
}

export const createDeadline = (clock: Clock, budgetMs: number): Deadline => new ClockDeadline(clock, budgetMs)

type Wait = { readonly deadline: Deadline; readonly expire: () => void }

const sweepMs = 25

/** All waits of the process, looked through at intervals: a timer for each would cost more than most of what is waited for. */
const waits = new Set<Wait>()
let sweeping: ReturnType<typeof setInterval> | undefined

const sweep = () => {
  for (const wait of waits) {
    if (wait.deadline.remainingMs() > 0) continue
    waits.delete(wait)
    wait.expire()
  }
  if (waits.size > 0) return
  clearInterval(sweeping)
  sweeping = undefined
}

/** A class for its price: one is made for every request, and closures would be made anew for each. */
class ClockDeadline implements Deadline {
  readonly #clock: Clock
  readonly #endsAtMs: number

  constructor(clock: Clock, budgetMs: number) {
    this.#clock = clock
    this.#endsAtMs = clock.monotonic() + budgetMs
  }

  remainingMs() {
    return this.#endsAtMs - this.#clock.monotonic()
  }

  check() {
    if (this.remainingMs() <= 0) throw new DeadlinePassed()
  }

  run<T>(work: PromiseLike<T> & Cancellable): Promise<T> {
    return new Promise((resolve, reject) => {
      const wait: Wait = {
        deadline: this,
        expire: () => {
          reject(new DeadlinePassed())
          if (work.active !== false) work.cancel?.()
        },
      }
      if (this.remainingMs() > 0) {
        waits.add(wait)
        sweeping ??= setInterval(sweep, sweepMs)
      } else wait.expire()
      work.then(
        (value) => {
          waits.delete(wait)
          resolve(value)
        },
        (error) => {
          waits.delete(wait)
          reject(error)
        },
      )
    })
  }
}
