import { Overloaded } from '../../kit/admission.ts'
import { type Deadline, DeadlinePassed } from '../../kit/deadline.ts'
import { createLinkedList } from '../../kit/linked-list.ts'
import { type FactQuery, type NamedQueries, queryName } from '../policy/facts/queries.ts'

/** Loads under way at once. Statements find rows by key, so more of them would only wait for each other. */
const maxUnderWay = 4
/** Facts in one load. Its rows are read without a pause, about 10 µs each, while no other request is served. */
const maxFacts = 256
const sweepMs = 25

type Waiter<T> = {
  readonly queries: readonly FactQuery[]
  readonly deadline: Deadline
  /** Time left at the deadline below which the load must have begun. */
  readonly sentBeforeMs: number
  readonly resolve: (loaded: T | PromiseLike<T>) => void
  readonly reject: (error: unknown) => void
}

const overloaded = new Overloaded()

/**
 * Loads for many callers. Four are under way at most; a caller that comes meanwhile waits for the next one, which answers all
 * that wait. So the number of statements does not grow with the number of callers.
 *
 * Guarantee: the result answers all queries of the caller, from one load. That began after the call, so it reflects every
 * change answered before the call. It may answer queries of other callers too.
 *
 * Degrades: a caller whose load does not begin in time fails with `Overloaded`, and one whose deadline passes with
 * `DeadlinePassed`. A load that fails fails for all its callers. One without an answer takes its place of the four until the
 * last of their deadlines.
 */
export type CollectedLoads<T> = {
  /** For the queries of one decision. */
  load(queries: readonly FactQuery[], deadline: Deadline): Promise<T>
}

export const createCollectedLoads = <T>(send: (queries: NamedQueries) => Promise<T>): CollectedLoads<T> => {
  const waiting = createLinkedList<Waiter<T>>()
  let underWay = 0
  let sweeping: ReturnType<typeof setInterval> | undefined

  /** Those that waited longest, as many as one load answers. */
  const takeBatch = () => {
    const queries = new Map<string, FactQuery>()
    const waiters: Waiter<T>[] = []
    while (queries.size < maxFacts) {
      const { first } = waiting
      if (first === undefined) break
      waiting.remove(first)
      const waiter = first.value
      if (waiter.deadline.remainingMs() <= 0) {
        waiter.reject(new DeadlinePassed())
        continue
      }
      for (const query of waiter.queries) queries.set(queryName(query), query)
      waiters.push(waiter)
    }
    return { queries, waiters }
  }

  const latest = (waiters: readonly Waiter<T>[]): Deadline | undefined =>
    waiters.reduce<Deadline | undefined>(
      (found, { deadline }) => (found === undefined || deadline.remainingMs() > found.remainingMs() ? deadline : found),
      undefined,
    )

  const sendWaiting = () => {
    while (underWay < maxUnderWay && waiting.size > 0) {
      const { queries, waiters } = takeBatch()
      const deadline = latest(waiters)
      if (deadline === undefined) continue
      underWay += 1
      const loading = send(queries)
      for (const { resolve } of waiters) resolve(loading)
      deadline.run(loading).then(release, release)
    }
    if (waiting.size > 0) return
    clearInterval(sweeping)
    sweeping = undefined
  }

  const release = () => {
    underWay -= 1
    sendWaiting()
  }

  /** Refuses those that have waited too long. The first has waited longest. */
  const sweep = () => {
    for (let first = waiting.first; first !== undefined; first = waiting.first) {
      const { deadline, sentBeforeMs, reject } = first.value
      if (deadline.remainingMs() > sentBeforeMs) return
      waiting.remove(first)
      reject(overloaded)
    }
  }

  return {
    load: (queries, deadline) => {
      const { promise, resolve, reject } = Promise.withResolvers<T>()
      const remainingMs = deadline.remainingMs()
      const maxWaitMs = deadline.maxWaitMs?.() ?? remainingMs
      waiting.add({ queries, deadline, sentBeforeMs: remainingMs - maxWaitMs, resolve, reject })
      sendWaiting()
      if (waiting.size > 0) sweeping ??= setInterval(sweep, sweepMs)
      return deadline.run(promise)
    },
  }
}
