import type { Answer, Report } from './exchange.ts'
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
  /** When refused: in how long the same demand could be admitted. Else: in how long the next units will be free. */
  readonly retryAfterMs: number
}

type Waiting = {
  readonly cost: number
  readonly sinceMs: number
  readonly resolve: (outcome: Outcome) => void
}

/** What this instance knows of one key of a budget. */
export type Key = {
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
  /** Units that may be admitted before the next exchange, and as many as there were at first. */
  share: number
  granted: number
  /** The share is the one after a pause. */
  isOpening: boolean
  /** No demand of `refusedCost` or more can be admitted before. */
  refusedUntilMs: number
  refusedCost: number
  /** Reports under way. */
  inFlight: number
  isDirty: boolean
  /** Demands that wait for an exchange, and whether one is under way for those before them. */
  waiting: Waiting[]
  isAsking: boolean
  /** To which epoch of the exchange `own` was reported. */
  epoch: string | undefined
}

/** Knowledge of the others admits units for no longer; it refuses for a window. */
const freshMs = 1_000
/** Part of the limit that is admitted after a pause before the first exchange. */
const openingShare = 0.01

export const createKey = ({ budget, id, limit, windowMs }: Demand): Key => ({
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
  waiting: [],
  isAsking: false,
  epoch: undefined,
})

export const setLimit = (key: Key, limit: number): void => {
  if (key.limit === limit) return
  key.limit = limit
  key.share = 0
  key.refusedUntilMs = Number.NEGATIVE_INFINITY
}

export const slotOf = (key: Key, nowMs: number): number => Math.floor(nowMs / key.slotMs)

export const expireKey = (key: Key, nowMs: number): void => expire(key.own, slotOf(key, nowMs))

/** Counts units that were admitted. */
export const count = (key: Key, units: number, slot: number, isReported: boolean): void => {
  add(key.own, slot, units)
  if (!isReported) add(key.unreported, slot, units)
}

/** The others' units expire as if they had come evenly. */
export const othersAt = (key: Key, nowMs: number): number =>
  key.others === 0 ? 0 : Math.ceil(key.others * Math.max(0, 1 - (nowMs - key.syncedAtMs) / key.windowMs))

const freeInMs = (key: Key, nowMs: number, units: number): number =>
  (slotOf(key, nowMs) + slotsUntilFree(key.own, slotOf(key, nowMs), units)) * key.slotMs - nowMs

/** The outcome of units just counted. */
export const admitted = (key: Key, nowMs: number, others: number): Outcome => {
  const { own, slotMs, limit } = key
  const oldest = own.slots[own.head] ?? 0
  return {
    admitted: true,
    remaining: Math.max(0, limit - own.total - others),
    retryAfterMs: (oldest + slotsPerWindow + 1) * slotMs - nowMs,
  }
}

export const isRefusedUntilLater = (key: Key, cost: number, nowMs: number): boolean =>
  nowMs < key.refusedUntilMs && cost >= key.refusedCost

/** Units that are missing for a demand, by what this instance knows. */
export const missing = (key: Key, cost: number, nowMs: number): number =>
  key.own.total + cost + othersAt(key, nowMs) - key.limit

/** Units that are missing for a demand by the own count alone, which nothing in the exchange can lower. */
export const missingHere = (key: Key, cost: number): number => key.own.total + cost - key.limit

/** In how long that many units will be free, by what this instance knows. */
export const freeAfterMs = (key: Key, nowMs: number, units: number): number =>
  key.own.total === 0 ? key.windowMs / 4 : freeInMs(key, nowMs, Math.min(units, key.own.total))

/** In how long a demand could be admitted by the own count alone; 0 where it could now. */
export const waitHereMs = (key: Key, cost: number, nowMs: number): number => {
  const units = missingHere(key, cost)
  return units > 0 ? freeAfterMs(key, nowMs, units) : 0
}

/** Whether units may be admitted before the next exchange. After a pause: little, and only once. */
export const hasShare = (key: Key, cost: number, nowMs: number): boolean => {
  const isFresh = nowMs - key.syncedAtMs < freshMs || (key.isOpening && key.share >= cost)
  if (!isFresh) {
    const isKnown = key.unreported.total === 0 && key.inFlight === 0
    const left = Math.max(0, key.limit - key.own.total - key.others)
    key.granted = isKnown ? Math.min(left, Math.max(1, Math.floor(key.limit * openingShare))) : 0
    key.share = key.granted
    key.isOpening = true
  }
  return key.share >= cost && missingHere(key, cost) <= 0
}

/** Moves the unreported units into a report; to another epoch, those of the whole window. */
export const prepareReport = (
  key: Key,
  { cost, isPartial, nowMs, epoch }: { cost: number; isPartial: boolean; nowMs: number; epoch: string | undefined },
): Report => {
  const slot = slotOf(key, nowMs)
  expire(key.own, slot)
  expire(key.unreported, slot)
  const isOther = key.epoch !== undefined && epoch !== undefined && key.epoch !== epoch
  const units = agesOf(isOther ? key.own : key.unreported, slot)
  const refused = key.unreportedRefusals
  key.epoch = epoch ?? key.epoch
  key.unreportedRefusals = 0
  key.isDirty = false
  key.inFlight += 1
  clear(key.unreported)
  const { budget, id, windowMs, limit } = key
  return { budget, id, windowMs, limit, cost, isPartial, admitted: units, refused }
}

/** The outcome of a report is unknown, so it is made again. Units are counted twice at worst, never not at all. */
export const restoreReport = (key: Key, { admitted: units, refused }: Report, nowMs: number): void => {
  const slot = slotOf(key, nowMs)
  const since = agesOf(key.unreported, slot)
  clear(key.unreported)
  for (const [age, each] of [...units, ...since]) add(key.unreported, slot - age, each)
  expire(key.unreported, slot)
  key.unreportedRefusals += refused
  key.inFlight -= 1
  key.share = 0
}

/** Learns from an answer. */
export const settleReport = (
  key: Key,
  { total, taken, retryAfterMs }: Answer,
  { refusedCost, instances, nowMs }: { refusedCost: number; instances: number; nowMs: number },
): void => {
  expireKey(key, nowMs)
  key.inFlight -= 1
  key.syncedAtMs = nowMs
  key.others = Math.max(0, total - (key.own.total - key.unreported.total) - taken)
  if (taken > 0) count(key, taken, slotOf(key, nowMs), true)
  const left = Math.max(0, key.limit - total - key.unreported.total)
  // Half a share: the others may hold shares from earlier exchanges.
  key.granted = instances > 1 ? Math.floor(left / (2 * instances)) : left
  key.share = key.granted
  key.isOpening = false
  if (retryAfterMs > 0) {
    key.refusedUntilMs = nowMs + retryAfterMs
    key.refusedCost = refusedCost
  }
}
