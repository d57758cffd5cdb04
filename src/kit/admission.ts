import type { Clock } from './clock.ts'
import { createConcurrencyLimit, createFixedLimit } from './concurrency-limit.ts'

/** Thrown instead of work that would wait too long. */
export class Overloaded extends Error {
  override readonly name = 'Overloaded'
}

/** One for all refusals: the stack of each would cost as much as the rest of a refusal. */
const overloaded = new Overloaded()

/**
 * In the order in which work is admitted. `revocation` takes access away and is never refused. `continuation` is further work of a
 * request that was admitted before, and is not refused either: the work already done for it would be lost.
 */
const priorities = ['revocation', 'continuation', 'read', 'other'] as const
export type Priority = (typeof priorities)[number]
const refusable = priorities.indexOf('read')
export const isRefusable = (priority: Priority): boolean => priorities.indexOf(priority) >= refusable

/** Of this number of turns between work that waits, one goes to the lowest priority, so that it is not shut out. */
const turnsOfLowest = 8
/** In a queue with a longer wait the latest work is served first. */
const latestFirstMs = 100
/** Work is refused by an estimate once the queue is this old: at first, work may be slow because connections are opened. */
const estimateAfterMs = 1_000
/** In overload work may wait for half of the time that it takes, so that its whole time stays within twice that; between these. */
const leastWaitMs = 4
const longestWaitMs = 8
/** How long overload lasts after the last refusal. */
const overloadMs = 1_000
/** How much the last of the times of work counts in their average; a longer one, in multiples of that, counts as this. */
const recentWeight = 0.05
const outlier = 4
const sweepMs = 2

/** What a resource does now, and the work that it refused since the start. */
export type Load = {
  readonly inFlight: number
  readonly limit: number
  readonly waiting: number
  readonly shed: number
}

export type AdmissionOptions = {
  readonly clock: Clock
  /** The most work under way, such as the number of connections. */
  readonly max: number
  /** The limit is always `max`: for work that waits for other work, such as for locks, which is no sign of load. */
  readonly fixed?: boolean
  /**
   * Whether work failed because the resource is gone. Then what waits for it begins, to fail in the same way and not as
   * overload.
   */
  readonly isGone?: (error: unknown) => boolean
  /** Calls at an interval until the returned function is called. */
  readonly every?: (ms: number, callback: () => void) => () => void
}

const everyInterval = (ms: number, callback: () => void) => {
  const timer = setInterval(callback, ms)
  return () => clearInterval(timer)
}

type Waiter = {
  readonly sinceMs: number
  readonly untilMs: number
  readonly start: () => void
  readonly refuse: () => void
}

/**
 * Admits work to one resource, such as Postgres. At most `limit` is under way (see `createConcurrencyLimit`); the rest queues
 * here, by priority, as in "Fail at Scale" (Maurer, ACM Queue 2015), which applies CoDel to requests:
 *
 * A burst waits and is served, first come first served. Where the wait is over 100 ms by Little's law, the latest is served
 * first, because it can still be in time. Once work waits, or would wait by that law, for longer than it may, it is
 * overload: then work waits for 4 to 8 ms at most, and is refused at once with `Overloaded` where it would wait longer. So
 * admitted work takes at most twice as long as without load. Overload ends when a second has passed without a refusal.
 */
export type Admission = Load & {
  /** `kind`: work that takes about as long. `maxWaitMs`: work that would wait longer is refused. */
  run<T>(priority: Priority, kind: unknown, maxWaitMs: number, work: () => Promise<T>): Promise<T>
  readonly overloaded: boolean
}

/** The average time of the last work. */
const createAverage = () => {
  let average = 0
  let samples = 0
  return {
    add: (ms: number) => {
      samples += 1
      const bounded = samples * recentWeight > 1 ? Math.min(ms, outlier * average + 1) : ms
      average += (bounded - average) * Math.max(recentWeight, 1 / samples)
    },
    get current() {
      return average
    },
  }
}

export const createAdmission = ({
  clock,
  max,
  fixed = false,
  isGone = () => false,
  every = everyInterval,
}: AdmissionOptions): Admission => {
  const limit = fixed ? createFixedLimit(max) : createConcurrencyLimit(max)
  const queues = priorities.map((): Waiter[] => [])
  const workMs = createAverage()
  let inFlight = 0
  let waiting = 0
  let shed = 0
  let turn = 0
  let queuedSinceMs = Number.NEGATIVE_INFINITY
  let overloadedUntilMs = Number.NEGATIVE_INFINITY
  let stopSweeping: (() => void) | undefined

  const isOverloaded = () => clock.monotonic() < overloadedUntilMs
  const overloadWaitMs = () => Math.min(longestWaitMs, Math.max(leastWaitMs, workMs.current / 2))

  const refuse = () => {
    shed += 1
    overloadedUntilMs = clock.monotonic() + overloadMs
  }

  /** By Little's law: as much work ends in a second as is under way, by the time that each takes. */
  const estimateWaitMs = (level: number): number => {
    let ahead = 1
    for (let each = 0; each <= level; each += 1) ahead += queues[each]?.length ?? 0
    return (ahead * workMs.current) / limit.current
  }

  const take = (level: number): Waiter | undefined => {
    const isLatestFirst = level >= refusable && estimateWaitMs(level) > latestFirstMs
    const waiter = isLatestFirst ? queues[level]?.pop() : queues[level]?.shift()
    if (waiter === undefined) return undefined
    waiting -= 1
    return waiter
  }

  const hasWaitedTooLong = ({ sinceMs, untilMs }: Waiter): boolean => {
    const nowMs = clock.monotonic()
    return nowMs >= untilMs || (isOverloaded() && nowMs - sinceMs > overloadWaitMs())
  }

  /** Refuses work that has waited too long. The first of a queue has waited longest. */
  const sweep = () => {
    for (const queue of queues.slice(refusable)) {
      for (let first = queue[0]; first !== undefined && hasWaitedTooLong(first); first = queue[0]) {
        refuse()
        queue.shift()
        waiting -= 1
        first.refuse()
      }
    }
  }

  const nextLevel = (): number => {
    const first = queues.findIndex(({ length }) => length > 0)
    if (first !== refusable) return first
    turn += 1
    return turn % turnsOfLowest === 0 ? queues.findLastIndex(({ length }) => length > 0) : first
  }

  const admitAll = () => {
    while (waiting > 0) take(nextLevel())?.start()
  }

  const admitWaiting = () => {
    if (waiting > 0) sweep()
    while (waiting > 0 && inFlight < limit.current) take(nextLevel())?.start()
    if (waiting > 0) return
    stopSweeping?.()
    stopSweeping = undefined
  }

  /** Resolves when the work may begin. Rejects with `Overloaded`. */
  const wait = (level: number, maxWaitMs: number): Promise<void> => {
    limit.reach()
    const nowMs = clock.monotonic()
    if (waiting === 0) queuedSinceMs = nowMs
    const mayWaitMs = isOverloaded() ? Math.min(maxWaitMs, overloadWaitMs()) : maxWaitMs
    const isKnown = isOverloaded() || nowMs - queuedSinceMs >= estimateAfterMs
    if (level >= refusable && isKnown && estimateWaitMs(level) > mayWaitMs) {
      refuse()
      return Promise.reject(overloaded)
    }
    waiting += 1
    stopSweeping ??= every(sweepMs, admitWaiting)
    return new Promise((resolve, reject) => {
      queues[level]?.push({
        sinceMs: nowMs,
        untilMs: nowMs + maxWaitMs,
        start: () => begin(resolve),
        refuse: () => reject(overloaded),
      })
    })
  }

  /** In the same turn of the event loop as the decision, so that no other work takes the place. */
  const begin = (then: () => void) => {
    inFlight += 1
    then()
  }

  const end = (kind: unknown, startedMs: number, inFlightThen: number) => {
    inFlight -= 1
    const ms = clock.monotonic() - startedMs
    workMs.add(ms)
    limit.sample(kind, ms, inFlightThen)
    admitWaiting()
  }

  return {
    run: async (priority, kind, maxWaitMs, work) => {
      if (waiting === 0 && inFlight < limit.current) begin(() => {})
      else await wait(priorities.indexOf(priority), maxWaitMs)
      const inFlightThen = inFlight
      const startedMs = clock.monotonic()
      try {
        return await work()
      } catch (error) {
        if (isGone(error)) admitAll()
        throw error
      } finally {
        end(kind, startedMs, inFlightThen)
      }
    },
    get inFlight() {
      return inFlight
    },
    get limit() {
      return limit.current
    },
    get waiting() {
      return waiting
    },
    get shed() {
      return shed
    },
    get overloaded() {
      return isOverloaded()
    },
  }
}
