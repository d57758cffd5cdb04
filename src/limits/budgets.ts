import type { Clock } from '../kit/clock.ts'
import type { Answer, Exchange, LimitedKey, Report } from './exchange.ts'
import {
  add,
  agesOf,
  clear,
  createSlotCounts,
  expire,
  type SlotCounts,
  slotMsOf,
  slotsPerWindow,
  slotsUntilFree,
} from './slot-counts.ts'

/** Asks for units of one key of a budget. */
export type Demand = {
  readonly budget: string
  /** Who consumes: a person, an account, an address, a service key. */
  readonly id: string
  readonly limit: number
  readonly windowMs: number
  readonly cost: number
}

export type Outcome = {
  readonly admitted: boolean
  /** Units left in the window, by what this instance knows. */
  readonly remaining: number
  /** When refused: in how long the same demand could be admitted. Else: in how long units will be free again. */
  readonly retryAfterMs: number
}

/**
 * Budgets: at most `limit` units of a key in any window, over all instances.
 *
 * A window slides in 120 slots: a unit counts for one window, and at most a slot longer. Refused demands count nothing.
 *
 * `take` is exact. Every instance asks the exchange (Redis, or the bus) before it admits, in one round trip; two demands at once
 * on different instances are ordered there. A refusal is remembered until the time that the exchange gave with it: no unit can
 * become free before.
 *
 * `takeLocally` decides by memory alone and needs no promise, or returns undefined, and then `take` must decide. Between two
 * exchanges an instance admits its share: half of what was left, divided by the number of instances; after a pause, 1 % of the
 * limit. So a key is overdrawn by a few percent at most, at any rate of requests. Admitted units are reported in the background: at once when half of a share is used up,
 * else every 250 ms.
 *
 * Degrades: while the exchange is slow or gone, each instance admits by its own count of the window, together with what it
 * knew of the others a window ago at most. So all of them together admit at most `limit` for each instance. Their counts carry
 * over: when the exchange is back, or has lost its data, every instance reports its whole window first, and no key starts anew.
 * A server that restored its data counts those units twice, for a window.
 *
 * Bounds: keys that were idle for a window are dropped, unused ones of a flood too: past `maxKeys` those not used since the
 * last time that many were reached.
 */
export type Budgets = {
  takeLocally(demand: Demand): Outcome | undefined
  /** All demands, or none where one does not fit: the outcome of the first that does not, else of the one with least left. */
  take(demands: readonly Demand[]): Promise<Outcome & { readonly demand: Demand }>
  /** Adds units that are not refused, such as the second unit of a failed sign-in. */
  charge(demand: Demand): void
  /** Drops the count of a key here. */
  forget(budget: string, id: string): void
  /** Drops the count of a key here and in the exchange; false where that could not be reached. */
  lift(budget: string, id: string): Promise<boolean>
  /** Keys without units left: of all instances where the exchange knows them, else of this one. */
  list(limit: number): Promise<readonly LimitedKey[]>
  readonly counts: BudgetCounts
  readonly size: number
  close(): Promise<void>
}

export type BudgetCounts = {
  /** Demands decided by memory alone. */
  local: number
  /** Demands decided by the exchange. */
  shared: number
  /** Demands decided here because the exchange was not available or too slow. */
  fallback: number
}

type Key = {
  readonly budget: string
  readonly id: string
  readonly slotMs: number
  readonly windowMs: number
  limit: number
  /** Admitted here within the window. */
  readonly own: SlotCounts
  /** The part of `own` that was not reported. */
  readonly unreported: SlotCounts
  unreportedRefusals: number
  refused: number
  /** Admitted by the other instances, as of `syncedAtMs`. */
  others: number
  syncedAtMs: number
  /** Units that may be admitted before the next exchange. */
  share: number
  granted: number
  /** The share is the one after a pause. */
  isOpening: boolean
  refusedUntilMs: number
  refusedCost: number
  /** Reports under way. */
  inFlight: number
  isDirty: boolean
  /** To which epoch of the exchange `own` was reported. */
  epoch: string | undefined
}

type Dependencies = {
  /** Monotonic time alone is used. */
  readonly clock: Pick<Clock, 'monotonic'>
  /** Undefined: this instance counts alone. */
  readonly exchange: Exchange | undefined
  /** How many instances share the budgets, this one included. */
  readonly instances: () => number
  readonly maxKeys?: number
  /** How often admitted units are reported. */
  readonly reportEveryMs?: number
}

/** What is known of the others is not relied on for longer, but for refusing less than all. */
const freshMs = 1_000
/** Of the limit: admitted after a pause before the first exchange. */
const openingShare = 0.01
/** When units admitted after a pause are reported. */
const openingReportMs = 20
/** How long instances have to report their windows to another server. */
const completeAfterMs = 1_000
/** Keys in one exchange. */
const batchSize = 200

export const createBudgets = ({
  clock,
  exchange,
  instances,
  maxKeys = 100_000,
  reportEveryMs = 250,
}: Dependencies): Budgets => {
  let current = new Map<string, Map<string, Key>>()
  let previous = new Map<string, Map<string, Key>>()
  let rotatedAtMs = clock.monotonic()
  let size = 0
  let longestWindowMs = 0
  const dirty = new Set<Key>()
  const counts: BudgetCounts = { local: 0, shared: 0, fallback: 0 }
  let timer: ReturnType<typeof setTimeout> | undefined
  let dueAtMs = Number.POSITIVE_INFINITY
  let running: Promise<void> | undefined
  let isClosed = false
  let knownEpoch: string | undefined
  let completeAtMs = Number.NEGATIVE_INFINITY
  let hasAdmitted = false

  const idsOf = (budget: string): Map<string, Key> => {
    const found = current.get(budget)
    if (found !== undefined) return found
    const made = new Map<string, Key>()
    current.set(budget, made)
    return made
  }

  /** Two generations: what was not used in the time of one is dropped with it, without a scan. */
  const rotate = (nowMs: number) => {
    previous = current
    current = new Map()
    size = 0
    rotatedAtMs = nowMs
  }

  const keyOf = ({ budget, id, limit, windowMs }: Demand, nowMs: number): Key => {
    if (nowMs - rotatedAtMs > longestWindowMs || size >= maxKeys) rotate(nowMs)
    const ids = idsOf(budget)
    let key = ids.get(id)
    if (key === undefined) {
      key = previous.get(budget)?.get(id)
      if (key === undefined || key.windowMs !== windowMs) key = newKey(budget, id, limit, windowMs)
      ids.set(id, key)
      size += 1
    }
    if (key.limit !== limit) {
      key.limit = limit
      key.share = 0
      key.refusedUntilMs = Number.NEGATIVE_INFINITY
    }
    return key
  }

  const newKey = (budget: string, id: string, limit: number, windowMs: number): Key => {
    longestWindowMs = Math.max(longestWindowMs, windowMs)
    return {
      budget,
      id,
      windowMs,
      slotMs: slotMsOf(windowMs),
      limit,
      own: createSlotCounts(),
      unreported: createSlotCounts(),
      unreportedRefusals: 0,
      refused: 0,
      others: 0,
      syncedAtMs: Number.NEGATIVE_INFINITY,
      share: 0,
      granted: 0,
      isOpening: false,
      refusedUntilMs: Number.NEGATIVE_INFINITY,
      refusedCost: 0,
      inFlight: 0,
      isDirty: false,
      epoch: undefined,
    }
  }

  const slotOf = (key: Key, nowMs: number) => Math.floor(nowMs / key.slotMs)
  const msUntil = (key: Key, nowMs: number, slots: number) => (slotOf(key, nowMs) + slots) * key.slotMs - nowMs
  const leftOf = (key: Key, others = key.others) => Math.max(0, key.limit - key.own.total - others)

  const admit = (key: Key, units: number, slot: number, isReported: boolean) => {
    hasAdmitted = true
    add(key.own, slot, units)
    if (isReported || exchange === undefined) return
    add(key.unreported, slot, units)
    report(key, key.share >= key.granted / 2 ? reportEveryMs : key.isOpening ? openingReportMs : 0)
  }

  const refuse = (key: Key, retryAfterMs: number, isReported: boolean): Outcome => {
    key.refused += 1
    if (!isReported && exchange !== undefined) {
      key.unreportedRefusals += 1
      report(key, reportEveryMs)
    }
    return { admitted: false, remaining: 0, retryAfterMs: Math.max(1, retryAfterMs) }
  }

  const admitted = (key: Key, nowMs: number, others = key.others): Outcome => {
    const { own, slotMs } = key
    const oldest = own.slots[own.head] ?? 0
    const retryAfterMs = (oldest + slotsPerWindow + 1) * slotMs - nowMs
    return { admitted: true, remaining: leftOf(key, others), retryAfterMs }
  }

  const isRefusedUntilLater = (key: Key, cost: number, nowMs: number) =>
    nowMs < key.refusedUntilMs && cost >= key.refusedCost

  /** The others' units expire as if they had come evenly. */
  const othersNow = (key: Key, nowMs: number) =>
    Math.ceil(key.others * Math.max(0, 1 - (nowMs - key.syncedAtMs) / key.windowMs))

  const takeHere = (key: Key, cost: number, nowMs: number): Outcome => {
    const others = key.others === 0 ? 0 : othersNow(key, nowMs)
    if (key.own.total + cost + others <= key.limit) {
      admit(key, cost, slotOf(key, nowMs), false)
      return admitted(key, nowMs, others)
    }
    const wanted = key.own.total + cost + others - key.limit
    const retryAfterMs = msUntil(
      key,
      nowMs,
      slotsUntilFree(key.own, slotOf(key, nowMs), Math.min(wanted, key.own.total)),
    )
    return refuse(key, key.own.total === 0 ? key.windowMs / 4 : retryAfterMs, false)
  }

  /** After a pause little is known of the others. What may be admitted before an exchange is little, and only once. */
  const openShare = (key: Key) => {
    key.granted =
      key.unreported.total > 0 || key.inFlight > 0
        ? 0
        : Math.min(leftOf(key), Math.max(1, Math.floor(key.limit * openingShare)))
    key.share = key.granted
    key.isOpening = true
  }

  const takeLocally = (demand: Demand): Outcome | undefined => {
    const nowMs = clock.monotonic()
    const key = keyOf(demand, nowMs)
    const slot = Math.floor(nowMs / key.slotMs)
    expire(key.own, slot)
    const { cost } = demand
    if (exchange === undefined) {
      counts.local += 1
      return takeHere(key, cost, nowMs)
    }
    if (isRefusedUntilLater(key, cost, nowMs)) {
      counts.local += 1
      return refuse(key, key.refusedUntilMs - nowMs, false)
    }
    if (nowMs - key.syncedAtMs >= freshMs && !(key.isOpening && key.share >= cost)) openShare(key)
    if (key.share >= cost) {
      counts.local += 1
      key.share -= cost
      admit(key, cost, slot, false)
      return admitted(key, nowMs)
    }
    if (isShared(nowMs)) return undefined
    counts.fallback += 1
    return takeHere(key, cost, nowMs)
  }

  /** Moves what was not reported into a report. */
  const prepare = (key: Key, cost: number, nowMs: number): Report => {
    const slot = slotOf(key, nowMs)
    expire(key.own, slot)
    expire(key.unreported, slot)
    const { epoch } = exchange ?? {}
    // Another server has nothing of this window.
    const isNew = key.epoch !== undefined && epoch !== undefined && key.epoch !== epoch
    const admittedUnits = agesOf(isNew ? key.own : key.unreported, slot)
    key.epoch = epoch ?? key.epoch
    clear(key.unreported)
    const refused = key.unreportedRefusals
    key.unreportedRefusals = 0
    dirty.delete(key)
    key.isDirty = false
    key.inFlight += 1
    const { budget, id, windowMs, limit } = key
    return { budget, id, windowMs, limit, cost, admitted: admittedUnits, refused }
  }

  /** The outcome is unknown, so they are reported again. Counted twice at worst, never not at all. */
  const restore = (key: Key, { admitted: units, refused }: Report, nowMs: number) => {
    key.inFlight -= 1
    const since = agesOf(key.unreported, slotOf(key, nowMs))
    clear(key.unreported)
    for (const [age, each] of [...units, ...since]) add(key.unreported, slotOf(key, nowMs) - age, each)
    key.unreportedRefusals += refused
    key.share = 0
    if (key.unreported.total > 0) report(key, reportEveryMs)
  }

  const settle = (key: Key, { total, retryAfterMs }: Answer, cost: number, isTaken: boolean, nowMs: number) => {
    key.inFlight -= 1
    key.syncedAtMs = nowMs
    key.others = Math.max(0, total - (key.own.total - key.unreported.total) - (isTaken ? cost : 0))
    if (isTaken && cost > 0) admit(key, cost, slotOf(key, nowMs), true)
    const left = Math.max(0, key.limit - total - key.unreported.total)
    const sharers = instances()
    // Half a share: the others may hold shares of what was left earlier.
    key.granted = sharers > 1 ? Math.floor(left / (2 * sharers)) : left
    key.share = key.granted
    key.isOpening = false
    if (retryAfterMs > 0) {
      key.refusedUntilMs = nowMs + retryAfterMs
      key.refusedCost = Math.max(1, cost)
    } else if (nowMs >= key.refusedUntilMs) key.refusedCost = 0
  }

  const take: Budgets['take'] = async (demands) => {
    const nowMs = clock.monotonic()
    const keys = demands.map((demand) => keyOf(demand, nowMs))
    const pick = (outcomes: readonly Outcome[]) => {
      const first = outcomes.findIndex(({ admitted: isAdmitted }) => !isAdmitted)
      const least = outcomes.reduce(
        (best, { remaining }, at) => (remaining < (outcomes[best]?.remaining ?? 0) ? at : best),
        0,
      )
      const at = first >= 0 ? first : least
      return { ...(outcomes[at] as Outcome), demand: demands[at] as Demand }
    }
    for (const [at, key] of keys.entries()) {
      expire(key.own, slotOf(key, nowMs))
      const demand = demands[at] as Demand
      if (exchange !== undefined && isRefusedUntilLater(key, demand.cost, nowMs)) {
        counts.local += 1
        return { ...refuse(key, key.refusedUntilMs - nowMs, false), demand }
      }
    }
    const takeAllHere = (atMs: number) => {
      const costs = demands.map(({ cost }) => cost)
      const misfit = keys.findIndex((key, at) => {
        expire(key.own, slotOf(key, atMs))
        return key.own.total + (costs[at] ?? 0) + othersNow(key, atMs) > key.limit
      })
      if (misfit >= 0) {
        return { ...takeHere(keys[misfit] as Key, costs[misfit] ?? 0, atMs), demand: demands[misfit] as Demand }
      }
      return pick(keys.map((key, at) => takeHere(key, costs[at] ?? 0, atMs)))
    }
    if (exchange === undefined || !isShared(nowMs)) {
      counts[exchange === undefined ? 'local' : 'fallback'] += 1
      return takeAllHere(nowMs)
    }
    const reports = keys.map((key, at) => prepare(key, demands[at]?.cost ?? 0, nowMs))
    const answers = await exchange.exchange(reports)
    const laterMs = clock.monotonic()
    if (answers === undefined) {
      for (const [at, key] of keys.entries()) restore(key, reports[at] as Report, laterMs)
      counts.fallback += 1
      return takeAllHere(laterMs)
    }
    counts.shared += 1
    const isTaken = answers.every(({ retryAfterMs }) => retryAfterMs === 0)
    return pick(
      keys.map((key, at) => {
        const { cost } = demands[at] as Demand
        const answer = answers[at] as Answer
        expire(key.own, slotOf(key, laterMs))
        settle(key, answer, cost, isTaken, laterMs)
        return answer.retryAfterMs > 0 ? refuse(key, answer.retryAfterMs, true) : admitted(key, laterMs)
      }),
    )
  }

  const reportBatch = async (keys: readonly Key[]): Promise<boolean> => {
    const nowMs = clock.monotonic()
    const reports = keys.map((key) => prepare(key, 0, nowMs))
    const answers = await exchange?.exchange(reports)
    const laterMs = clock.monotonic()
    for (const [at, key] of keys.entries()) {
      const answer = answers?.[at]
      expire(key.own, slotOf(key, laterMs))
      if (answer === undefined) restore(key, reports[at] as Report, laterMs)
      else settle(key, answer, 0, true, laterMs)
    }
    return answers !== undefined
  }

  /**
   * Another server, or the same after a restart: every key that was used here within the window is reported to it. Until the
   * other instances have done so too, what it says is not all.
   */
  const noticeEpoch = (nowMs: number) => {
    const epoch = exchange?.epoch
    if (epoch === undefined || epoch === knownEpoch) return
    knownEpoch = epoch
    if (!hasAdmitted) return
    completeAtMs = nowMs + completeAfterMs
    for (const generation of [previous, current])
      for (const ids of generation.values())
        for (const key of ids.values()) if (key.own.total > 0) report(key, reportEveryMs)
  }

  /** Whether the exchange can be asked, and knows what all instances admitted. */
  const isShared = (nowMs: number): boolean => {
    if (exchange?.isAvailable() !== true) return false
    noticeEpoch(nowMs)
    return nowMs >= completeAtMs
  }

  const run = async () => {
    dueAtMs = Number.POSITIVE_INFINITY
    // Also while the breaker is open: this is what probes.
    if (exchange?.epoch === undefined) {
      if (dirty.size > maxKeys) {
        for (const key of dirty) key.isDirty = false
        dirty.clear()
      }
      return
    }
    noticeEpoch(clock.monotonic())
    const pending = [...dirty]
    for (let at = 0; at < pending.length; at += batchSize) {
      if (!(await reportBatch(pending.slice(at, at + batchSize)))) return
    }
  }

  const start = () => {
    clearTimeout(timer)
    if (running === undefined) {
      running = run().finally(() => {
        running = undefined
        if (!isClosed) schedule(reportEveryMs)
      })
    }
  }

  /** Whichever is due first. There is always a next run, which also notices another server. */
  const schedule = (withinMs: number) => {
    const atMs = clock.monotonic() + withinMs
    if (atMs >= dueAtMs || running !== undefined || isClosed) return
    dueAtMs = atMs
    clearTimeout(timer)
    timer = setTimeout(start, withinMs)
  }

  const report = (key: Key, withinMs: number) => {
    if (!key.isDirty) {
      key.isDirty = true
      dirty.add(key)
    }
    if (withinMs < reportEveryMs) schedule(withinMs)
  }

  if (exchange !== undefined) schedule(reportEveryMs)

  const forget = (budget: string, id: string) => {
    const key = current.get(budget)?.get(id) ?? previous.get(budget)?.get(id)
    if (key === undefined) return
    dirty.delete(key)
    current.get(budget)?.delete(id)
    previous.get(budget)?.delete(id)
  }

  const listHere = (limit: number): LimitedKey[] => {
    const nowMs = clock.monotonic()
    const found: LimitedKey[] = []
    for (const generation of [current, previous]) {
      for (const ids of generation.values()) {
        for (const key of ids.values()) {
          expire(key.own, slotOf(key, nowMs))
          const used = key.own.total + othersNow(key, nowMs)
          if (found.length >= limit || key.refused === 0 || used < key.limit) continue
          const untilMs = msUntil(key, nowMs, slotsUntilFree(key.own, slotOf(key, nowMs), 1))
          found.push({ budget: key.budget, id: key.id, limit: key.limit, used, refused: key.refused, untilMs })
        }
      }
    }
    return found
  }

  return {
    takeLocally,
    take,
    charge: (demand) => {
      const nowMs = clock.monotonic()
      const key = keyOf(demand, nowMs)
      expire(key.own, slotOf(key, nowMs))
      hasAdmitted = true
      add(key.own, slotOf(key, nowMs), demand.cost)
      if (exchange === undefined) return
      add(key.unreported, slotOf(key, nowMs), demand.cost)
      report(key, 0)
    },
    forget,
    lift: async (budget, id) => {
      forget(budget, id)
      return exchange === undefined || exchange.forget(budget, id)
    },
    list: async (limit) => (await exchange?.list(limit)) ?? listHere(limit),
    counts,
    get size() {
      return size
    },
    close: async () => {
      isClosed = true
      clearTimeout(timer)
      await running
      // What was admitted last counts for the instances that stay.
      if (dirty.size > 0 && exchange?.isAvailable() === true) await run()
    },
  }
}
