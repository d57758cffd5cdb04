import type { Clock } from './clock.ts'

/** Thrown by a deadline that has passed; the HTTP layer maps it to a response. */
export class DeadlinePassed extends Error {
  override readonly name = 'DeadlinePassed'
}

/**
 * Work that can be cancelled, such as a query of postgres.js. Work that is not `active` yet is never cancelled: a query
 * cancelled while its connection is being opened takes that connection out of its pool for good (postgres 3.4.9).
 */
type Cancellable = { cancel?: () => unknown; readonly active?: boolean }

/**
 * Resources whose work is admitted by how they do under it: single statements, loads for many decisions at once, and
 * transactions.
 */
export type Resource = 'statements' | 'batches' | 'changes'

/**
 * The one deadline of a request, handed down to every function that waits on its behalf.
 *
 * Guarantee: `run` settles within 25 ms of the deadline, however long the work takes, and cancels work that is late. There
 * is one deadline and no nesting: a wait inside a wait ends at the same moment.
 */
export type Deadline = {
  /** What it is the deadline of, such as the context of a request. */
  owner?: object | undefined
  /** When it began, on its clock. */
  readonly startedMs?: number
  remainingMs(): number
  /** Throws `DeadlinePassed` when no time is left. */
  check(): void
  run<T>(work: PromiseLike<T> & Cancellable): Promise<T>
  /** As `run` and then `next` of its result, or `failed` of its error or of `DeadlinePassed`: in one promise less. */
  settle<T, U>(
    work: PromiseLike<T> & Cancellable,
    next: (value: T) => U | PromiseLike<U>,
    failed: (error: unknown) => U | PromiseLike<U>,
  ): Promise<U>
  /**
   * Runs work on a resource once it is admitted. `kind` is shared by work that takes about as long; undefined: that of the
   * request. Absent from deadlines of background work: see `admitted`.
   */
  admit?<T>(resource: Resource, kind: string | undefined, work: () => Promise<T>): Promise<T>
  /** How long work may wait before it begins, and is refused then. Absent: all the time that is left. */
  maxWaitMs?(): number
}

/** Runs work on a resource: for a request once it is admitted, for background work at once. */
export const admitted = <T>(
  deadline: Deadline,
  resource: Resource,
  kind: string | undefined,
  work: () => Promise<T>,
): Promise<T> => deadline.admit?.(resource, kind, work) ?? work()

export type StartDeadline = (budgetMs: number) => Deadline

/** A wait of one deadline, and a node of the list of all. */
type Wait = {
  readonly deadline: Deadline
  readonly expire: () => void
  previous: Wait | undefined
  next: Wait | undefined
  isOver: boolean
}

const sweepMs = 25

/**
 * All waits under the deadlines of one owner, checked at intervals: a timer for each would cost more than most of the work they
 * wait for.
 */
export class Waits {
  #first: Wait | undefined
  #timer: ReturnType<typeof setInterval> | undefined

  add(deadline: Deadline, expire: () => void): Wait {
    const next = this.#first
    const wait: Wait = { deadline, expire, previous: undefined, next, isOver: false }
    if (next !== undefined) next.previous = wait
    this.#first = wait
    this.#timer ??= setInterval(() => this.#sweep(), sweepMs)
    return wait
  }

  /** Does nothing for one that was ended before. */
  end(wait: Wait): void {
    if (wait.isOver) return
    wait.isOver = true
    if (wait.next !== undefined) wait.next.previous = wait.previous
    if (wait.previous === undefined) this.#first = wait.next
    else wait.previous.next = wait.next
  }

  #sweep(): void {
    for (let wait = this.#first; wait !== undefined; wait = wait.next) {
      if (wait.isOver || wait.deadline.remainingMs() > 0) continue
      this.end(wait)
      wait.expire()
    }
    if (this.#first !== undefined) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}

/** A class for speed: one is created for every request, and closures would be created anew for each. */
export class ClockDeadline implements Deadline {
  readonly #clock: Clock
  readonly #waits: Waits
  readonly #endsAtMs: number
  owner: object | undefined = undefined
  readonly startedMs: number

  constructor(clock: Clock, waits: Waits, budgetMs: number) {
    this.#clock = clock
    this.#waits = waits
    this.startedMs = clock.monotonic()
    this.#endsAtMs = this.startedMs + budgetMs
  }

  remainingMs() {
    return this.#endsAtMs - this.#clock.monotonic()
  }

  check() {
    if (this.remainingMs() <= 0) throw new DeadlinePassed()
  }

  run<T>(work: PromiseLike<T> & Cancellable): Promise<T> {
    return this.settle(work, same, rethrow)
  }

  settle<T, U>(
    work: PromiseLike<T> & Cancellable,
    next: (value: T) => U | PromiseLike<U>,
    failed: (error: unknown) => U | PromiseLike<U>,
  ): Promise<U> {
    return new Promise((resolve, reject) => {
      const settle = <V>(then: (value: V) => U | PromiseLike<U>, value: V) => {
        try {
          resolve(then(value))
        } catch (error) {
          reject(error)
        }
      }
      const expire = () => {
        if (work.active !== false) work.cancel?.()
        settle(failed, new DeadlinePassed())
      }
      if (this.remainingMs() <= 0) {
        expire()
        work.then(ignore, ignore)
        return
      }
      const wait = this.#waits.add(this, expire)
      work.then(
        (value) => {
          if (wait.isOver) return
          this.#waits.end(wait)
          settle(next, value)
        },
        (error) => {
          if (wait.isOver) return
          this.#waits.end(wait)
          settle(failed, error)
        },
      )
    })
  }
}

const same = <T>(value: T): T => value
const ignore = () => {}
const rethrow = (error: unknown): never => {
  throw error
}

/** Starts deadlines on a clock. They share one timer, which runs only while work is waited for. */
export const createDeadlines = (clock: Clock): StartDeadline => {
  const waits = new Waits()
  return (budgetMs) => new ClockDeadline(clock, waits, budgetMs)
}
