import { expect, test } from 'bun:test'
import { newDelta, type Observation } from '../../src/anomaly/delta.ts'
import { createDetector, type Finding } from '../../src/anomaly/detector.ts'
import { judge, judgePlace } from '../../src/anomaly/rules.ts'

type Seen = Partial<Observation>
const tickMs = 5_000

const setUp = (options: { maxPrincipals?: number } = {}) => {
  const detector = createDetector({
    judges: { judge, judgePlace },
    areNear: (one, other) => one + other === 99,
    ...options,
  })
  let nowMs = 1_000_000_000
  /** A slot in which this was seen. */
  const slot = (...seen: readonly Seen[]): readonly Finding[] => {
    for (const each of seen)
      detector.observe({
        atMs: nowMs,
        kind: 'user',
        principal: 1,
        outcome: 'ok',
        subject: 0,
        accountExists: true,
        isKnown: false,
        session: 0,
        network: 0,
        country: 0,
        device: 0,
        ...each,
      })
    const { findings } = detector.tick(nowMs)
    nowMs += tickMs
    return findings
  }
  const reasons = (findings: readonly Finding[]) => [...new Set(findings.map(({ reason }) => reason))]
  const pass = (ms: number) => {
    nowMs += ms
  }
  return { detector, slot, reasons, pass }
}

const numbers = (from: number, count: number) => Array.from({ length: count }, (_, at) => from + at)
const failed = (account: number, more: Seen = {}): Seen => ({
  kind: 'address',
  outcome: 'failed',
  subject: account,
  ...more,
})
const signedIn = (account: number): Seen => ({ kind: 'address', outcome: 'signed_in', subject: account })

test('failed sign-ins to six accounts from one address are found, and those to five are not', () => {
  expect(setUp().slot(...numbers(1, 5).map((at) => failed(at)))).toEqual([])
  const { slot, reasons } = setUp()
  expect(reasons(slot(...numbers(1, 6).map((at) => failed(at))))).toEqual(['sign_in.many_accounts'])
})

test('an office where many sign in and some mistype is not found, nor are failures on known devices, nor many on one account', () => {
  expect(setUp().slot(...numbers(1, 12).map((at) => failed(at)), ...numbers(100, 9).map(signedIn))).toEqual([])
  expect(setUp().slot(...numbers(1, 40).map((at) => failed(at, { isKnown: true })))).toEqual([])
  expect(setUp().slot(...numbers(1, 40).map(() => failed(7)))).toEqual([])
})

test('one account that signs in again and again does not speak for an address', () => {
  const { slot, reasons } = setUp()
  const attack = [...numbers(1, 12).map((at) => failed(at)), ...numbers(1, 40).map(() => signedIn(7))]
  expect(reasons(slot(...attack))).toEqual(['sign_in.many_accounts'])
})

test('ids that are guessed over 20 seconds are found; a list of deleted resources that is opened once is not', () => {
  const missing = (at: number): Seen => ({ outcome: 'not_found', subject: at * 7 })
  expect(setUp().slot(...numbers(1, 26).map(missing))).toEqual([])
  const { slot, reasons } = setUp()
  const found = numbers(0, 4).flatMap((round) => [...slot(...numbers(round * 2 + 1, 2).map(missing))])
  expect(reasons(found)).toEqual(['resources.guessed'])
})

test('resources of others that are read evenly are found; a gallery that is opened by pages is not', () => {
  const read = (at: number): Seen => ({ subject: at * 7 })
  const scraper = setUp()
  const found = numbers(0, 8).flatMap((round) => [...scraper.slot(...numbers(round * 4, 4).map(read))])
  expect(scraper.reasons(found)).toEqual(['resources.harvested'])
  const reader = setUp()
  const pages = numbers(0, 4).flatMap((page) => [
    ...reader.slot(...numbers(page * 30, 30).map(read)),
    ...reader.slot(),
    ...reader.slot(),
  ])
  expect(pages).toEqual([])
})

/** Reads batches of these sizes, one in each slot; 0 is a slot without one. */
const readBatches = (sizes: readonly number[], more: Seen = {}) => {
  const { slot, reasons } = setUp()
  let next = 1
  return reasons(
    sizes.flatMap((size) => {
      next += size
      return [...slot(...numbers(next - size, size).map((at): Seen => ({ subject: at * 7, ...more })))]
    }),
  )
}

test('resources that are read in batches through a minute are found; larger pages, fewer, or ones that end are not', () => {
  const harvested: Finding['reason'][] = ['resources.harvested']
  expect(readBatches([10, 0, 10, 0, 10, 0, 10, 0, 0, 0, 10])).toEqual(harvested)
  expect(readBatches([15, 0, 15, 0, 0, 15, 0, 0, 0, 0, 15])).toEqual(harvested)
  // Pages with more than 15 resources.
  expect(readBatches([24, 0, 24, 0, 0, 24, 0, 0, 0, 0, 24])).toEqual([])
  // Three pages, then none.
  expect(readBatches([15, 0, 0, 0, 0, 15, 0, 0, 0, 0, 15])).toEqual([])
  expect(readBatches([10, 0, 10, 0, 10, 0, 10, 0, 0])).toEqual([])
  // Small pages of one's work, 25 resources in a minute.
  expect(readBatches([5, 0, 5, 0, 5, 0, 0, 5, 0, 0, 5])).toEqual([])
})

test('resources that come evenly over six slots are found, and of one large page with few after it they are not', () => {
  expect(readBatches([3, 3, 3, 3, 3, 3])).toEqual(['resources.harvested'])
  expect(readBatches([3, 3, 3, 3, 3])).toEqual([])
  expect(readBatches([30, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2])).toEqual([])
})

test('a client without a credential that reads through 40 seconds is found, and one that opens two pages is not', () => {
  const anonymous: Seen = { kind: 'address' }
  expect(readBatches([7, 0, 0, 7, 0, 0, 0, 7], anonymous)).toEqual(['resources.harvested'])
  expect(readBatches([30, 0, 0, 0, 0, 0, 0, 30], anonymous)).toEqual([])
  expect(readBatches([7, 0, 7, 0, 7, 0, 0], anonymous)).toEqual([])
})

test('a person who reads as much as usual is not found', () => {
  const { slot, reasons, pass } = setUp()
  const minute = (from: number) =>
    numbers(0, 12).flatMap((round) => [...slot(...numbers(from + round * 4, 4).map((at) => ({ subject: at * 7 })))])
  expect(reasons(minute(0))).toEqual(['resources.harvested'])
  for (const at of numbers(1, 4)) minute(at * 1_000)
  pass(600_000)
  expect(minute(9_000)).toEqual([])
})

test('a session in another country within 15 minutes is found; in a near one, later, or in another session it is not', () => {
  const at = (country: number, session = 5): Seen => ({ session, country, network: country * 10, device: 1 })
  const moved = (...seen: readonly [Seen, number, Seen]) => {
    const { slot, reasons, pass } = setUp()
    slot(seen[0])
    pass(seen[1])
    return reasons(slot(seen[2]))
  }
  expect(moved(at(1), 60_000, at(2))).toEqual(['session.two_places'])
  expect(moved(at(1), 60_000, at(98))).toEqual([])
  expect(moved(at(1), 900_000, at(2))).toEqual([])
  expect(moved(at(1), 60_000, at(2, 6))).toEqual([])
  expect(moved(at(1), 60_000, { ...at(1), network: 77 })).toEqual([])
})

test('the memory of a detector is bounded: of too many principals those seen least recently are forgotten', () => {
  const { detector, slot } = setUp({ maxPrincipals: 100 })
  for (const round of numbers(0, 20))
    slot(...numbers(round * 50, 50).map((principal) => ({ principal, subject: principal })))
  expect(detector.size.principals).toBe(100)
})

test('instances exchange what is adverse, new or much, and nothing else', () => {
  const { detector, slot } = setUp()
  const exchanged = (...seen: readonly Seen[]) => {
    slot()
    for (const each of seen) detector.observe({ ...base, ...each })
    return detector.tick(1_000_100_000).exchanged
  }
  const base: Observation = {
    atMs: 0,
    kind: 'user',
    principal: 4,
    outcome: 'ok',
    subject: 0,
    accountExists: true,
    isKnown: false,
    session: 0,
    network: 0,
    country: 0,
    device: 0,
  }
  expect(exchanged({ subject: 1 }, { subject: 2 })).toEqual([])
  expect(exchanged({ outcome: 'not_found', subject: 3 })).toEqual([
    { ...newDelta('user', 4), requests: 1, missing: [3] },
  ])
  expect(exchanged({ session: 9, country: 1 })).toHaveLength(1)
  expect(exchanged({ session: 9, country: 1 })).toEqual([])
  expect(exchanged(...numbers(20, 8).map((subject) => ({ subject })))[0]?.resources).toHaveLength(8)
})
