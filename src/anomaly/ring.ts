import { type Observation, type Outcome, outcomes, type PrincipalKind, principalKinds } from './delta.ts'

/**
 * Memory that two threads share: the one that answers requests writes records, the other reads them.
 *
 * Guarantee: a write never waits and never fails; it costs nine stores. Degrades: where the reader is late, the oldest records are
 * overwritten, and it counts how many.
 */
export type Ring = { readonly words: Int32Array; readonly head: Int32Array }

const recordWords = 8
/** A power of two, so that positions go on without a gap where the count starts over. */
export const ringRecords = 2 ** 16

export const createRing = (records = ringRecords): Ring => ({
  words: new Int32Array(new SharedArrayBuffer(4 * recordWords * records)),
  head: new Int32Array(new SharedArrayBuffer(4)),
})

/** A number of 53 bits, of the halves of a hash. */
export const toNumber = (high: number, low: number): number => (high & 0x1f_ffff) * 0x1_0000_0000 + (low >>> 0)

/** What a request shows of where it comes from; 0: not known. */
export type PlaceCodes = { readonly network: number; readonly country: number; readonly device: number }
export const noPlace: PlaceCodes = Object.freeze({ network: 0, country: 0, device: 0 })

const flags = { accountExists: 1 << 16, isKnown: 1 << 17 } as const
const kindCodes = Object.fromEntries(principalKinds.map((kind, at) => [kind, at])) as Record<PrincipalKind, number>
const outcomeCodes = Object.fromEntries(outcomes.map((outcome, at) => [outcome, at << 8])) as Record<Outcome, number>

/** Returns the number of the record. */
export const createRingWriter = ({ words, head }: Ring) => {
  const records = words.length / recordWords
  let written = Atomics.load(head, 0) >>> 0
  return (
    kind: PrincipalKind,
    outcome: Outcome,
    high: number,
    low: number,
    subject: number,
    session: number,
    place: PlaceCodes,
    accountExists = false,
    isKnown = false,
  ): number => {
    const number = written
    const at = (number % records) * recordWords
    words[at] =
      kindCodes[kind] |
      outcomeCodes[outcome] |
      (accountExists ? flags.accountExists : 0) |
      (isKnown ? flags.isKnown : 0)
    words[at + 1] = high
    words[at + 2] = low
    words[at + 3] = subject
    words[at + 4] = session
    words[at + 5] = place.network
    words[at + 6] = place.country
    words[at + 7] = place.device
    written = (number + 1) >>> 0
    Atomics.store(head, 0, written | 0)
    return number
  }
}

/** How many records were written. */
export const writtenTo = ({ head }: Ring): number => Atomics.load(head, 0) >>> 0

/** For the thread that reads, from a record on. */
export const createRingReader = ({ words, head }: Ring, from = Atomics.load(head, 0) >>> 0) => {
  const records = words.length / recordWords
  let read = from
  const seen: Observation & { number: number } = {
    atMs: 0,
    kind: 'user',
    principal: 0,
    outcome: 'ok',
    subject: 0,
    accountExists: false,
    isKnown: false,
    session: 0,
    network: 0,
    country: 0,
    device: 0,
    number: 0,
  }
  const load = (number: number, atMs: number) => {
    const at = (number % records) * recordWords
    const code = words[at] ?? 0
    seen.number = number
    seen.atMs = atMs
    seen.kind = principalKinds[code & 0xff] ?? 'user'
    seen.outcome = outcomes[(code >>> 8) & 0xff] ?? 'ok'
    seen.accountExists = (code & flags.accountExists) !== 0
    seen.isKnown = (code & flags.isKnown) !== 0
    seen.principal = toNumber(words[at + 1] ?? 0, words[at + 2] ?? 0)
    seen.subject = (words[at + 3] ?? 0) >>> 0
    seen.session = (words[at + 4] ?? 0) >>> 0
    seen.network = (words[at + 5] ?? 0) >>> 0
    seen.country = (words[at + 6] ?? 0) >>> 0
    seen.device = (words[at + 7] ?? 0) >>> 0
  }
  return {
    /** Calls `each` with every record since the last time; the object is used again. Returns how many were lost. */
    read: (atMs: number, each: (seen: Observation & { readonly number: number }) => void): number => {
      const end = Atomics.load(head, 0) >>> 0
      const count = (end - read) >>> 0
      let lost = Math.max(0, count - records)
      let next = (read + lost) >>> 0
      while (next !== end) {
        load(next, atMs)
        // The writer may have come round meanwhile.
        if (((Atomics.load(head, 0) >>> 0) - next) >>> 0 > records) lost += 1
        else each(seen)
        next = (next + 1) >>> 0
      }
      read = end
      return lost
    },
  }
}
