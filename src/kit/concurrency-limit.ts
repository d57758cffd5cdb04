/** The least that the limit falls to. Times are learnt with no more work than this under way. */
const lowestLimit = 2
/** The limit falls while half of the work takes longer than this, in multiples of its time alone. */
const tolerance = 1.3
/** In one window it rises by this, and falls to no less than this share of it. */
const step = 0.5
const lowestShare = 0.4
/** The samples of a window. */
const samplesPerWindow = 24
/** Samples after which the time alone is known. */
const samplesOfKind = 8
/** A later one moves it by this part of itself: up or down, so that it comes to be the median. */
const weight = 1 / 64
/** Work takes less than this part of its time alone where that is out of date: then all are learnt anew. */
const tooFast = 0.6
/** Shorter work is compared with this: its time is that of the event loop. */
const shortestMs = 1
/** Further kinds of work give no samples. */
const maxKinds = 1_000

const towards = (ms: number, median: number): number => median * (ms > median ? 1 + weight : 1 - weight)

export type ConcurrencyLimit = {
  readonly current: number
  /** Work has to wait for the limit. */
  reach(): void
  /** `inFlight`: the work under way when this began, itself included. */
  sample(kind: unknown, ms: number, inFlight: number): void
}

/**
 * How much work a resource takes at once: TCP Vegas (Brakmo and Peterson, 1994), as Netflix's concurrency-limits applies it to
 * requests. Work that takes longer than it does almost alone has waited inside the resource. So the limit falls while the median
 * work takes more than 1.3 times as long, and rises while work waits for the limit and that is not so.
 *
 * Times are compared by kind, because a slow statement is no sign of load. The time alone of a kind is its median with at most
 * two under way. Where most work is of kinds that are not known yet the limit falls as under load, to two, and so they are learnt.
 *
 * Degrades: what other processes do on the same resource counts as its own speed where this one learns. Each then takes its
 * share of a slower resource.
 */
export const createConcurrencyLimit = (max: number): ConcurrencyLimit => {
  const aloneMs = new Map<unknown, { ms: number; samples: number }>()
  const lowest = Math.min(lowestLimit, max)
  // A part of the connections of this process, so that many processes do not begin with too much together.
  let limit = Math.max(lowest, max / 4)
  let ratios: number[] = []
  /** In this window: work had to wait; the most work under way. */
  let reached = false
  let busiest = 0
  /** Until it first falls the limit rises by half, as TCP starts. */
  let isStarting = true

  /** The time of work of this kind almost alone; undefined: not known, and not to be. */
  const learn = (kind: unknown, ms: number, inFlight: number): number | undefined => {
    const known = aloneMs.get(kind)
    if (inFlight > lowestLimit) {
      if (known !== undefined && known.samples >= samplesOfKind) return known.ms
      return aloneMs.size < maxKinds || known !== undefined ? 0 : undefined
    }
    if (known === undefined) {
      if (aloneMs.size >= maxKinds) return undefined
      aloneMs.set(kind, { ms, samples: 1 })
      return 0
    }
    known.samples += 1
    known.ms = known.samples <= samplesOfKind ? known.ms + (ms - known.ms) / known.samples : towards(ms, known.ms)
    return known.samples >= samplesOfKind ? known.ms : 0
  }

  const endWindow = () => {
    const median = ratios.sort((a, b) => a - b)[ratios.length >> 1] ?? 1
    if (median > tolerance && busiest >= limit / 2) {
      isStarting = false
      limit = Math.max(lowest, limit * Math.max(lowestShare, tolerance / median))
    } else if (median <= tolerance && reached) limit = Math.min(max, isStarting ? limit * 1.5 : limit + step)
    if (median < tooFast) {
      aloneMs.clear()
      isStarting = true
    }
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
    },
    sample: (kind, ms, inFlight) => {
      busiest = Math.max(busiest, inFlight)
      const alone = learn(kind, ms, inFlight)
      if (alone === undefined) return
      ratios.push(alone === 0 ? Number.POSITIVE_INFINITY : Math.max(ms, shortestMs) / Math.max(alone, shortestMs))
      if (ratios.length >= samplesPerWindow) endWindow()
    },
  }
}

/** A limit that stays. */
export const createFixedLimit = (max: number): ConcurrencyLimit => ({ current: max, reach: () => {}, sample: () => {} })
