import { type Delta, type PrincipalKind, sketchBits } from './delta.ts'
import { newPlaceHistory, type PlaceHistory } from './places.ts'

/** A window slides by slots. */
export const slotMs = 5_000
export const slots = 12
export const windowMs = slots * slotMs
const words = sketchBits / 32

const counters = ['requests', 'denied', 'unauthorized', 'failed', 'failedUnknown'] as const
type Counter = (typeof counters)[number]
const sketches = ['resources', 'missing', 'accounts', 'signedIn'] as const
type Sketch = (typeof sketches)[number]

/** The state of one principal: its last minute, its habits, and its usual places. */
export type Window = {
  readonly kind: PrincipalKind
  /** Counts of all slots, a ring. */
  readonly counts: Uint16Array
  /** Bits of all slots. Undefined until the first bit is set. */
  readonly bits: Partial<Record<Sketch, Uint32Array>>
  /** Number of the newest slot. */
  slot: number
  readonly places: PlaceHistory
  /** Of complete minutes with requests: how many, and the moving mean of each habit, as logarithm. */
  minutes: number
  readonly means: Record<Habit, number>
  minute: number
}

export const habits = ['requests', 'resources', 'missing'] as const
export type Habit = (typeof habits)[number]

export const newWindow = (kind: PrincipalKind, nowMs: number): Window => ({
  kind,
  counts: new Uint16Array(counters.length * slots),
  bits: {},
  slot: Math.floor(nowMs / slotMs),
  places: newPlaceHistory(),
  minutes: 0,
  means: { requests: 0, resources: 0, missing: 0 },
  minute: Math.floor(nowMs / windowMs),
})

const clearSlot = (window: Window, slot: number) => {
  const at = slot % slots
  window.counts.fill(0, at * counters.length, (at + 1) * counters.length)
  for (const sketch of sketches) window.bits[sketch]?.fill(0, at * words, (at + 1) * words)
}

/** Moves the window to the slot of `nowMs`, and forgets the slots before it. */
export const slide = (window: Window, nowMs: number): void => {
  const slot = Math.floor(nowMs / slotMs)
  const from = Math.max(window.slot + 1, slot - slots + 1)
  for (let each = from; each <= slot; each += 1) clearSlot(window, each)
  if (slot > window.slot) window.slot = slot
}

const countOf = (window: Window, counter: Counter): number => {
  const at = counters.indexOf(counter)
  let sum = 0
  for (let slot = 0; slot < slots; slot += 1) sum += window.counts[slot * counters.length + at] ?? 0
  return sum
}

const onesOf = (word: number): number => {
  let left = word - ((word >>> 1) & 0x55555555)
  left = (left & 0x33333333) + ((left >>> 2) & 0x33333333)
  return Math.imul((left + (left >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
}

/** How many values set these bits, by linear counting. */
const estimate = (ones: number): number =>
  ones === 0 ? 0 : Math.round(-sketchBits * Math.log(1 - Math.min(ones, sketchBits - 1) / sketchBits))

type Distinct = {
  /** Distinct values of the window. */
  readonly distinct: number
  /** Slots in which new ones came. */
  readonly active: number
  /** The most new ones of a slot. */
  readonly largest: number
  /** Slots from the first with new ones to the last. */
  readonly span: number
  /**
   * Over how many slots they are spread, had each the same number: the inverse of the Simpson index, (Σn)² / Σn². It is 1 for one
   * burst and 12 for a steady stream.
   */
  readonly evenness: number
}
const none: Distinct = Object.freeze({ distinct: 0, active: 0, largest: 0, span: 0, evenness: 0 })

const distinctOf = (window: Window, sketch: Sketch): Distinct => {
  const bits = window.bits[sketch]
  if (bits === undefined) return none
  const seen = new Uint32Array(words)
  let active = 0
  let largest = 0
  let ones = 0
  let squares = 0
  let oldest = 0
  let newest = 0
  // From the oldest slot on.
  for (let age = slots - 1; age >= 0; age -= 1) {
    const slot = (((window.slot - age) % slots) + slots) % slots
    let fresh = 0
    for (let word = 0; word < words; word += 1) {
      const set = bits[slot * words + word] ?? 0
      fresh += onesOf(set & ~(seen[word] ?? 0))
      seen[word] = (seen[word] ?? 0) | set
    }
    ones += fresh
    squares += fresh * fresh
    if (fresh === 0) continue
    if (active === 0) oldest = age
    newest = age
    active += 1
    if (fresh > largest) largest = fresh
  }
  const span = active === 0 ? 0 : oldest - newest + 1
  return { distinct: estimate(ones), active, largest, span, evenness: squares === 0 ? 0 : ones ** 2 / squares }
}

export const add = (window: Window, delta: Delta, nowMs: number): void => {
  slide(window, nowMs)
  const at = window.slot % slots
  for (const [index, counter] of counters.entries()) {
    const place = at * counters.length + index
    window.counts[place] = Math.min(65_535, (window.counts[place] ?? 0) + delta[counter])
  }
  for (const sketch of sketches) {
    if (delta[sketch].length === 0) continue
    const bits = window.bits[sketch] ?? new Uint32Array(words * slots)
    window.bits[sketch] = bits
    for (const given of delta[sketch]) {
      const bit = given & (sketchBits - 1)
      const place = at * words + (bit >>> 5)
      bits[place] = (bits[place] ?? 0) | (1 << (bit & 31))
    }
  }
}

/** What the rules and the model look at. */
export type Features = {
  readonly kind: PrincipalKind
  readonly requests: number
  readonly denied: number
  readonly unauthorized: number
  readonly failed: number
  readonly failedUnknown: number
  /** Distinct accounts that signed in. */
  readonly signedIn: number
  /** Distinct resources that were found, and slots in which new ones came. */
  readonly resources: number
  readonly activeSlots: number
  /** The most resources that were new in one slot. */
  readonly largestSlot: number
  /** Slots from the first with new resources to the last, and over how many they are spread; see `Distinct`. */
  readonly spanSlots: number
  readonly evenSlots: number
  readonly missing: number
  readonly missingSlots: number
  /** Distinct accounts whose sign-in failed. */
  readonly accounts: number
  readonly accountSlots: number
  /** Minutes of its history, and the usual figures of one. */
  readonly minutes: number
  readonly usual: Readonly<Record<Habit, number>>
}

export const featuresOf = (window: Window): Features => {
  const resources = distinctOf(window, 'resources')
  const missing = distinctOf(window, 'missing')
  const accounts = distinctOf(window, 'accounts')
  return {
    kind: window.kind,
    requests: countOf(window, 'requests'),
    denied: countOf(window, 'denied'),
    unauthorized: countOf(window, 'unauthorized'),
    failed: countOf(window, 'failed'),
    failedUnknown: countOf(window, 'failedUnknown'),
    signedIn: distinctOf(window, 'signedIn').distinct,
    resources: resources.distinct,
    activeSlots: resources.active,
    largestSlot: resources.largest,
    spanSlots: resources.span,
    evenSlots: resources.evenness,
    missing: missing.distinct,
    missingSlots: missing.active,
    accounts: accounts.distinct,
    accountSlots: accounts.active,
    minutes: window.minutes,
    usual: {
      requests: Math.expm1(window.means.requests),
      resources: Math.expm1(window.means.resources),
      missing: Math.expm1(window.means.missing),
    },
  }
}

/** Weight of a new minute once there are many. */
const newWeight = 0.1

/** Takes the last minute into the habits, once a minute. Call it before anything of the next minute is added. */
export const learn = (window: Window, nowMs: number): void => {
  const minute = Math.floor(nowMs / windowMs)
  if (minute === window.minute) return
  window.minute = minute
  const { requests, resources, missing } = featuresOf(window)
  if (requests === 0) return
  window.minutes += 1
  const weight = Math.max(newWeight, 1 / window.minutes)
  const found: Record<Habit, number> = { requests, resources, missing }
  for (const habit of habits) window.means[habit] += weight * (Math.log1p(found[habit]) - window.means[habit])
}
