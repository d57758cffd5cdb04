import type { Clock } from '../kit/clock.ts'
import type { Answer, Exchange, LimitedKey } from './exchange.ts'
import {
  admitted,
  count,
  type Demand,
  expireKey,
  freeAfterMs,
  hasShare,
  isRefusedUntilLater,
  type Key,
  missing,
  missingHere,
  type Outcome,
  othersAt,
  slotOf,
  waitHereMs,
} from './key.ts'
import { createKeyMap } from './key-map.ts'
import { createReporter, type Reporter } from './reporter.ts'
import { expire } from './slot-counts.ts'

export type { Demand, Outcome } from './key.ts'

/**
 * Budgets: at most `limit` units of a key in any window, over all instances.
 *
 * A window slides in 120 slots: a unit counts for one window, and at most a slot longer. Refused demands count nothing.
 *
 * No instance admits more than `limit` by its own count, whatever the exchange says.
 *
 * `take` is exact. Every instance asks the exchange (Redis, or the bus) before it admits, in one round trip, and the exchange
 * orders the demands of all instances. A refusal is remembered until the time that came with it: no unit can become free before.
 *
 * `takeLocally` decides by memory alone and needs no promise, or returns undefined, and then `take` must decide. Between two
 * exchanges an instance admits its share: half of the units left, divided by the number of instances; after a pause, 1 % of the
 * limit. So a key is overdrawn by a few percent at most, at any rate of requests. Admitted units are reported in the
 * background: at once when half of a share is used up, else every 250 ms.
 *
 * Degrades: while the exchange is slow or gone, each instance decides by its own count of the window and the last known count
 * of the others, which decreases to 0 within a window. So all of them together admit at most `limit` for each instance. Their
 * counts carry over: when the exchange is back, or has lost its data, every instance reports its whole window first, and no
 * key starts anew. A server that restored its data counts those units twice, for one window.
 *
 * Not by rate-limiter-flexible: its windows are fixed, so that twice the limit passes around the end of one, refused demands
 * count on, and what its insurance counted is forgotten when Redis is back.
 */
export type Budgets = {
  takeLocally(demand: Demand): Outcome | undefined
  /** All demands, or none where one does not fit: the outcome of the first that does not, else of the one with least left. */
  take(demands: readonly Demand[]): Promise<Decided>
  /** Adds units that are not refused, such as the second unit of a failed sign-in. */
  charge(demand: Demand): void
  /** In how long units of a key will be free, by what this instance knows; 0 where there are some. Counts nothing. */
  limitedForMs(demand: Demand): number
  /** Drops the count of a key here. */
  forget(budget: string, id: string): void
  /** Drops the count of a key here and in the exchange; false where that could not be reached. */
  lift(budget: string, id: string): Promise<boolean>
  /** Keys without units left: of all instances where the exchange knows them, else of this one. */
  list(limit: number): Promise<readonly LimitedKey[]>
  readonly counts: BudgetCounts
  /** Keys in memory. */
  readonly size: number
  close(): Promise<void>
}

export type Decided = Outcome & { readonly demand: Demand }

export type BudgetCounts = {
  /** Decisions by memory alone. */
  local: number
  /** Decisions by the exchange. */
  shared: number
  /** Decisions here because the exchange was not available or too slow. */
  fallback: number
}

type Dependencies = {
  /** Only the monotonic time is used. */
  readonly clock: Pick<Clock, 'monotonic'>
  /** Undefined: this instance counts alone. */
  readonly exchange: Exchange | undefined
  /** How many instances share the budgets, this one included. */
  readonly instances: () => number
  readonly maxKeys?: number
  /** How often admitted units are reported. */
  readonly reportEveryMs?: number
}

/** When units that were admitted after a pause are reported. */
const openingReportMs = 20
/** Leaves a request that waits within 100 ms. */
const deadlineMs = 90

/** The outcome to answer with: the first refusal, else the one with the least left. */
const decisive = (demands: readonly Demand[], outcomes: readonly Outcome[]): Decided => {
  const all = outcomes.map((outcome, at) => ({ ...outcome, demand: demands[at] as Demand }))
  const refused = all.find(({ admitted: isAdmitted }) => !isAdmitted)
  return refused ?? all.reduce((least, each) => (each.remaining < least.remaining ? each : least))
}

/** Admits and refuses by what this instance knows. */
const createCounting = (reporter: Reporter | undefined, reportEveryMs: number) => {
  const admit = (key: Key, units: number, slot: number) => {
    count(key, units, slot, reporter === undefined)
    if (reporter === undefined) return
    const isHalfUsed = key.share < key.granted / 2
    reporter.report(key, isHalfUsed ? (key.isOpening ? openingReportMs : 0) : reportEveryMs)
  }

  const refuse = (key: Key, retryAfterMs: number): Outcome => {
    key.refused += 1
    key.unreportedRefusals += 1
    reporter?.report(key)
    return { admitted: false, remaining: 0, retryAfterMs: Math.max(1, retryAfterMs) }
  }

  const takeHere = (key: Key, cost: number, nowMs: number): Outcome => {
    const units = missing(key, cost, nowMs)
    if (units > 0) return refuse(key, freeAfterMs(key, nowMs, units))
    admit(key, cost, slotOf(key, nowMs))
    return admitted(key, nowMs, othersAt(key, nowMs))
  }

  const takeAllHere = (demands: readonly Demand[], taken: readonly Key[], nowMs: number): Decided => {
    const costOf = (at: number) => demands[at]?.cost ?? 0
    const misfit = taken.findIndex((key, at) => missing(key, costOf(at), nowMs) > 0)
    const decided = misfit < 0 ? taken : taken.slice(misfit, misfit + 1)
    const outcomes = decided.map((key, at) => takeHere(key, costOf(misfit < 0 ? at : misfit), nowMs))
    return decisive(misfit < 0 ? demands : demands.slice(misfit), outcomes)
  }

  return { admit, refuse, takeHere, takeAllHere }
}

/** Takes units of one key by the exchange. */
const createAsking = ({
  clock,
  reporter,
  counts,
  takeHere,
  refuse,
}: {
  clock: Pick<Clock, 'monotonic'>
  reporter: Reporter
  counts: BudgetCounts
} & Pick<ReturnType<typeof createCounting>, 'takeHere' | 'refuse'>) => {
  /** Asks for all demands that wait for a key at once. Those that come meanwhile wait for the next time. */
  const ask = async (key: Key): Promise<void> => {
    key.isAsking = true
    let isAnswered = true
    while (key.waiting.length > 0) {
      const batch = key.waiting
      key.waiting = []
      const waitedMs = clock.monotonic() - (batch[0]?.sinceMs ?? 0)
      expireKey(key, clock.monotonic())
      const wanted = Math.min(
        batch.reduce((sum, { cost }) => sum + cost, 0),
        Math.max(0, key.limit - key.own.total),
      )
      const answers: readonly Answer[] | undefined = isAnswered
        ? await reporter.send([key], { costs: [wanted], isPartial: true, withinMs: Math.max(1, deadlineMs - waitedMs) })
        : undefined
      const nowMs = clock.monotonic()
      expireKey(key, nowMs)
      const answer: Answer | undefined = answers?.[0]
      isAnswered = answer !== undefined
      counts[isAnswered ? 'shared' : 'fallback'] += batch.length
      let left = answer?.taken ?? 0
      for (const { cost, resolve } of batch) {
        if (answer === undefined) resolve(takeHere(key, cost, nowMs))
        else if (cost <= left) {
          left -= cost
          resolve(admitted(key, nowMs, key.others))
        } else resolve(refuse(key, Math.max(answer.retryAfterMs, waitHereMs(key, cost, nowMs))))
      }
      // Taken for demands of which it was only a part.
      if (left > 0) count(key, -left, slotOf(key, nowMs), false)
    }
    key.isAsking = false
  }

  return (demand: Demand, key: Key, nowMs: number): Promise<Decided> =>
    new Promise<Outcome>((resolve) => {
      key.waiting.push({ cost: demand.cost, sinceMs: nowMs, resolve })
      if (!key.isAsking) void ask(key)
    }).then((outcome) => ({ ...outcome, demand }))
}

export const createBudgets = (dependencies: Dependencies): Budgets => {
  const { clock, exchange, instances, maxKeys = 100_000, reportEveryMs = 250 } = dependencies
  const keys = createKeyMap(maxKeys, clock.monotonic())
  const reporter = exchange && createReporter({ clock, exchange, keys, instances, maxKeys, everyMs: reportEveryMs })
  const counts: BudgetCounts = { local: 0, shared: 0, fallback: 0 }

  const { admit, refuse, takeHere, takeAllHere } = createCounting(reporter, reportEveryMs)
  const takeOne = reporter && createAsking({ clock, reporter, counts, takeHere, refuse })

  const take = async (demands: readonly Demand[]): Promise<Decided> => {
    const startedMs = clock.monotonic()
    const taken = demands.map((demand) => keys.get(demand, startedMs))
    for (const [at, key] of taken.entries()) {
      expireKey(key, startedMs)
      const demand = demands[at] as Demand
      if (reporter === undefined) continue
      const isRefused = isRefusedUntilLater(key, demand.cost, startedMs)
      const ownUnits = missingHere(key, demand.cost)
      if (!isRefused && ownUnits <= 0) continue
      counts.local += 1
      const waitMs = isRefused ? key.refusedUntilMs - startedMs : freeAfterMs(key, startedMs, ownUnits)
      return { ...refuse(key, waitMs), demand }
    }
    if (reporter === undefined || !reporter.isShared(startedMs)) {
      counts[reporter === undefined ? 'local' : 'fallback'] += 1
      return takeAllHere(demands, taken, startedMs)
    }
    const [first] = taken
    const [only] = demands
    if (demands.length === 1 && first !== undefined && only !== undefined && takeOne !== undefined)
      return takeOne(only, first, startedMs)
    const answers = await reporter.send(taken, { costs: demands.map(({ cost }) => cost), withinMs: deadlineMs })
    const nowMs = clock.monotonic()
    for (const key of taken) expireKey(key, nowMs)
    counts[answers === undefined ? 'fallback' : 'shared'] += 1
    if (answers === undefined) return takeAllHere(demands, taken, nowMs)
    const outcomes = taken.map((key, at): Outcome => {
      const { retryAfterMs } = answers[at] ?? { retryAfterMs: 0 }
      if (retryAfterMs === 0) return admitted(key, nowMs, key.others)
      // The exchange has counted the refusal.
      key.refused += 1
      return { admitted: false, remaining: 0, retryAfterMs }
    })
    return decisive(demands, outcomes)
  }

  const listHere = (limit: number): LimitedKey[] => {
    const nowMs = clock.monotonic()
    const found: LimitedKey[] = []
    for (const key of keys.all()) {
      if (key.refused === 0) continue
      expireKey(key, nowMs)
      const used = key.own.total + othersAt(key, nowMs)
      if (used < key.limit) continue
      const { budget, id, refused } = key
      found.push({ budget, id, limit: key.limit, used, refused, untilMs: freeAfterMs(key, nowMs, 1) })
      if (found.length === limit) break
    }
    return found
  }

  const forget = (budget: string, id: string) => {
    const key = keys.delete(budget, id)
    if (key !== undefined) reporter?.drop(key)
  }

  return {
    takeLocally: (demand) => {
      const nowMs = clock.monotonic()
      const key = keys.get(demand, nowMs)
      const slot = slotOf(key, nowMs)
      expire(key.own, slot)
      const { cost } = demand
      if (reporter !== undefined) {
        if (isRefusedUntilLater(key, cost, nowMs)) {
          counts.local += 1
          return refuse(key, key.refusedUntilMs - nowMs)
        }
        if (hasShare(key, cost, nowMs)) {
          counts.local += 1
          key.share -= cost
          admit(key, cost, slot)
          return admitted(key, nowMs, key.others)
        }
        if (reporter.isShared(nowMs)) return undefined
      }
      counts[reporter === undefined ? 'local' : 'fallback'] += 1
      return takeHere(key, cost, nowMs)
    },
    take,
    charge: (demand) => {
      const nowMs = clock.monotonic()
      const key = keys.get(demand, nowMs)
      expireKey(key, nowMs)
      count(key, demand.cost, slotOf(key, nowMs), reporter === undefined)
      reporter?.report(key, 0)
    },
    limitedForMs: (demand) => {
      const nowMs = clock.monotonic()
      const key = keys.get(demand, nowMs)
      expireKey(key, nowMs)
      const units = missing(key, 1, nowMs)
      return units > 0 ? Math.max(1, freeAfterMs(key, nowMs, units)) : 0
    },
    forget,
    lift: async (budget, id) => {
      forget(budget, id)
      return exchange === undefined || exchange.forget(budget, id)
    },
    list: async (limit) => (await exchange?.list(limit)) ?? listHere(limit),
    counts,
    get size() {
      return keys.size
    },
    close: async () => reporter?.close(),
  }
}
