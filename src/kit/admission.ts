import type { Clock } from './clock.ts'

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

/** Of this number of turns between work that waits, one goes to the lowest priority, so that it is not shut out. */
const turnsOfLowest = 8

const firstLimit = 10
/** Once the limit has fallen, it rises by this, and falls to no less than this share of it, at the end of a window. */
const step = 0.5
const lowestShare = 0.4
/** The least that the limit falls to. */
const lowestLimit = 2
/** Without a sample of work that was alone for this long, the limit is 1 for a moment to get some. */
const probeMs = 30_000
/** The same for the first sample. */
const firstProbeMs = 1_000
const samplesPerProbe = 16
/** How much a sample counts: of many, and of the few of a probe. */
const weight = 1 / 32
const probeWeight = 1 / 8
const samplesPerWindow = 24
/** Samples after which it is known how long work of a kind takes alone. */
const samplesOfKind = 5
/** Further kinds of work give no samples. */
const maxKinds = 1_000
/** The limit falls while half of the work takes longer than this, in multiples of its time alone. */
const tolerance = 1.3
/** Shorter work is compared with this: its time is that of the event loop. */
const shortestMs = 1

/** In overload work may wait for half of the time that it takes, so that its whole time stays within twice that; between these. */
const leastWaitMs = 4
const longestWaitMs = 8
/** How long overload lasts after the last refusal. */
const strictMs = 1_000
/** The queue grows while more arrives than leaves in such a period, and it is never empty. */
const periodMs = 100
/** A burst is served. It is overload once the queue has grown for this number of periods, or is longer than this. */
const burstPeriods = 20
const burstSize = 1_000
/** How much the last of the times counts by which waits are estimated. */
const recentWeight = 0.05
const samplesOfAverage = 10
/** Without overload, waits are estimated once the queue is this old: at first, work may be slow because connections are opened. */
const estimateAfterMs = 1_000
/** A longer time, in multiples of the average, counts as this: work that hung says nothing about the next. */
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
  /** Calls at an interval until the returned function is called. */
  readonly every?: (ms: number, callback: () => void) => () => void
}

const everyInterval = (ms: number, callback: () => void) => {
  const timer = setInterval(callback, ms)
  return () => clearInterval(timer)
}

type Waiter = {
  readonly sinceMs: number
  readonly start: () => void
  readonly refuse: () => void
}

/**
 * Admits work to one resource, such as Postgres, by how the resource does under it.
 *
 * Guarantee: at most `limit` work is under way. Unless it is fixed, the limit follows the resource between 1 and `max`: it
 * falls while work takes longer than `tolerance` times as long as alone, compared with work of the same kind, and rises while
 * it is reached and that is not so. Further work waits by priority, first come first served.
 *
 * Overload begins when work would wait for longer than it may, or when the queue has grown for 2 s or to 1,000. It ends when a
 * second has passed without a refusal. In overload, work that would wait for longer than half the time of work (4 to 8 ms) is
 * refused with `Overloaded` at once, and so is work that has waited longer. While the queue grows, the latest work is served
 * first: so that it is in time, also before it is known whether the rest is a burst.
 *
 * Degrades: where the resource becomes slower or faster for another reason, the limit is wrong for up to 30 s of steady load:
 * then the time of work alone is learnt anew.
 */
export type Admission = Load & {
  /** `kind`: work that takes about as long. `maxWaitMs`: work that would wait longer is refused. */
  run<T>(priority: Priority, kind: unknown, maxWaitMs: number, work: () => Promise<T>): Promise<T>
  readonly overloaded: boolean
}

/** Learns what work of each kind takes alone, and sets the limit by it. */
const createLimit = ({ clock, max, fixed = false }: AdmissionOptions) => {
  /** What work takes that is the only work, by kind. Other kinds give no samples. */
  const aloneMs = new Map<unknown, { ms: number; samples: number }>()
  const lowest = Math.min(lowestLimit, max)
  let limit = fixed ? max : Math.min(firstLimit, max)
  let ratios: number[] = []
  /** In this window: work had to wait; the most work under way. */
  let reached = false
  let busiest = 0
  let aloneAtMs = clock.monotonic() - probeMs + firstProbeMs
  /** Until the limit first falls, it rises by half: a start under load reaches its limit in a few windows. */
  let rising = true
  /** While the limit is 1 for samples: the limit before. */
  let interrupted: number | undefined

  const learn = (kind: unknown, ms: number) => {
    const known = aloneMs.get(kind)
    if (known === undefined) {
      if (aloneMs.size < maxKinds) aloneMs.set(kind, { ms, samples: 1 })
      return
    }
    known.samples += 1
    known.ms += (ms - known.ms) * Math.max(interrupted === undefined ? weight : probeWeight, 1 / known.samples)
  }

  const endWindow = () => {
    const median = ratios.sort((a, b) => a - b)[ratios.length >> 1] ?? 1
    if (interrupted !== undefined) {
      limit = interrupted
      interrupted = undefined
    } else if (median > tolerance && busiest >= limit / 2) {
      rising = false
      limit = Math.max(lowest, limit * Math.max(lowestShare, tolerance / median))
    } else if (median <= tolerance && reached) limit = Math.min(max, rising ? limit * 1.5 : limit + step)
    ratios = []
    reached = false
    busiest = 0
  }

  return {
    get current() {
      return Math.floor(limit)
    },
    reach: () => {
      reached = true
      if (fixed || interrupted !== undefined || clock.monotonic() - aloneAtMs < probeMs) return
      interrupted = limit
      limit = 1
      ratios = []
    },
    /** `inFlight`: the work under way when this began, itself included. */
    sample: (kind: unknown, ms: number, inFlight: number) => {
      if (fixed) return
      busiest = Math.max(busiest, inFlight)
      if (inFlight === 1) {
        aloneAtMs = clock.monotonic()
        learn(kind, ms)
      } else if (interrupted !== undefined) return
      const alone = aloneMs.get(kind)
      if (alone === undefined || alone.samples < samplesOfKind) return
      ratios.push(ms / Math.max(alone.ms, shortestMs))
      if (ratios.length >= (interrupted === undefined ? samplesPerWindow : samplesPerProbe)) endWindow()
    },
  }
}

/** Notices that the queue grows. A burst is no growth once it has arrived, however long its queue is. */
const createGrowth = (clock: Clock) => {
  let startedAtMs = clock.monotonic()
  let arrived = 0
  let left = 0
  let wasEmpty = true
  let periods = 0
  return {
    arrive: (isFirst: boolean) => {
      arrived += 1
      if (isFirst) wasEmpty = true
    },
    leave: () => {
      left += 1
    },
    /** For how many periods the queue has been growing. */
    count: (): number => {
      const nowMs = clock.monotonic()
      if (nowMs - startedAtMs < periodMs) return periods
      periods = !wasEmpty && arrived > 1.2 * left + 2 ? periods + 1 : 0
      startedAtMs = nowMs
      arrived = 0
      left = 0
      wasEmpty = false
      return periods
    },
  }
}

const createAverage = () => {
  let average = 0
  let samples = 0
  return {
    add: (ms: number) => {
      samples += 1
      const bounded = samples > samplesOfAverage ? Math.min(ms, outlier * average + shortestMs) : ms
      average += (bounded - average) * Math.max(recentWeight, 1 / samples)
    },
    get current() {
      return average
    },
    get isKnown() {
      return samples >= samplesOfAverage
    },
  }
}

export const createAdmission = (options: AdmissionOptions): Admission => {
  const { clock, every = everyInterval } = options
  const limit = createLimit(options)
  const growth = createGrowth(clock)
  const queues = priorities.map((): Waiter[] => [])
  const refusable = priorities.indexOf('read')
  let inFlight = 0
  let waiting = 0
  let shed = 0
  const workMs = createAverage()
  /** Between two ends of work while other work waits: what each place in the queue takes. */
  const gapMs = createAverage()
  let endedAtMs: number | undefined
  let queuedSinceMs = Number.NEGATIVE_INFINITY
  let turn = 0
  let strictUntilMs = Number.NEGATIVE_INFINITY
  let stopSweeping: (() => void) | undefined

  const isStrict = () => clock.monotonic() < strictUntilMs
  const strictWaitMs = () => Math.min(longestWaitMs, Math.max(leastWaitMs, workMs.current / 2))
  const mayWaitMs = (maxWaitMs: number) => (isStrict() ? Math.min(maxWaitMs, strictWaitMs()) : maxWaitMs)

  const refuse = () => {
    shed += 1
    strictUntilMs = clock.monotonic() + strictMs
  }

  const leave = () => {
    waiting -= 1
    growth.leave()
    if (waiting > 0) return
    stopSweeping?.()
    stopSweeping = undefined
  }

  const take = (level: number): Waiter | undefined => {
    const lastFirst = level >= refusable && growth.count() > 0
    const waiter = lastFirst ? queues[level]?.pop() : queues[level]?.shift()
    if (waiter !== undefined) leave()
    return waiter
  }

  /** In overload, refuses work that has waited too long. The first of a queue has waited longest. */
  const sweep = () => {
    if (!isStrict() && (growth.count() >= burstPeriods || waiting > burstSize))
      strictUntilMs = clock.monotonic() + strictMs
    if (!isStrict()) return
    const arrivedBeforeMs = clock.monotonic() - strictWaitMs()
    for (let level = refusable; level < queues.length; level += 1) {
      while ((queues[level]?.[0]?.sinceMs ?? Number.POSITIVE_INFINITY) < arrivedBeforeMs) {
        refuse()
        queues[level]?.shift()?.refuse()
        leave()
      }
    }
  }

  const nextLevel = (): number => {
    const first = queues.findIndex(({ length }) => length > 0)
    if (first !== refusable) return first
    turn += 1
    return turn % turnsOfLowest === 0 ? queues.findLastIndex(({ length }) => length > 0) : first
  }

  const admitWaiting = () => {
    if (waiting > 0) sweep()
    while (waiting > 0 && inFlight < limit.current) take(nextLevel())?.start()
  }

  const estimateWaitMs = (level: number): number => {
    let ahead = 1
    for (let each = 0; each <= level; each += 1) ahead += queues[each]?.length ?? 0
    return ahead * (gapMs.isKnown ? gapMs.current : workMs.current / limit.current)
  }

  /** Resolves when the work may begin. Rejects with `Overloaded`. */
  const wait = (level: number, maxWaitMs: number): Promise<void> => {
    limit.reach()
    if (waiting === 0) queuedSinceMs = clock.monotonic()
    const isKnown = isStrict() || clock.monotonic() - queuedSinceMs >= estimateAfterMs
    if (level >= refusable && isKnown && estimateWaitMs(level) > mayWaitMs(maxWaitMs)) {
      refuse()
      return Promise.reject(overloaded)
    }
    growth.arrive(waiting === 0)
    waiting += 1
    stopSweeping ??= every(sweepMs, admitWaiting)
    return new Promise((resolve, reject) => {
      queues[level]?.push({
        sinceMs: clock.monotonic(),
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
    if (endedAtMs !== undefined) gapMs.add(clock.monotonic() - endedAtMs)
    endedAtMs = waiting > 0 ? clock.monotonic() : undefined
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
      return isStrict()
    },
  }
}
