import { describe, expect, test } from 'bun:test'
import type { BusRecord } from '../../src/access/invalidation/bus-records.ts'
import {
  type Atomic,
  createJournalReader,
  createJournalWriter,
  createSharedJournal,
} from '../../src/access/invalidation/shared-journal.ts'
import { createLeaseClock, manualClock } from '../../src/kit/clock.ts'

const leaseMs = 1_000

/** Runs `other` before the operation of the given number. */
const interrupted = (at: number, other: () => void): Atomic & { readonly operations: number } => {
  let operations = 0
  const next = <T>(operation: () => T): T => {
    if (operations === at) {
      operations += 1
      other()
    } else operations += 1
    return operation()
  }
  return {
    load: (words: never, place: number) => next(() => Atomics.load(words, place)),
    store: (words: never, place: number, value: number) => next(() => Atomics.store(words, place, value)),
    get operations() {
      return operations
    },
  } as unknown as Atomic & { readonly operations: number }
}

const setUp = ({
  capacity,
  ofWriter = Atomics,
  ofReader = Atomics,
}: {
  capacity?: number
  ofWriter?: Atomic
  ofReader?: Atomic
} = {}) => {
  const clock = manualClock()
  const journal = createSharedJournal(capacity)
  const applied: BusRecord[] = []
  let onApply = (): void => {}
  const woken = { times: 0 }
  const writer = createJournalWriter({
    journal,
    clock,
    leaseClock: clock,
    atomic: ofWriter,
    wake: () => {
      woken.times += 1
    },
  })
  const reader = createJournalReader({
    journal,
    clock,
    leaseClock: createLeaseClock(clock),
    timing: { leaseMs },
    atomic: ofReader,
    apply: (record) => {
      applied.push(record)
      onApply()
    },
  })
  reader.onClock(clock.monotonic(), clock.monotonic())
  const isLeased = () => reader.sync() > clock.monotonic()
  return {
    clock,
    writer,
    reader,
    applied,
    woken,
    isLeased,
    renew: () => writer.setLease(clock.monotonic() + leaseMs),
    onApply: (then: () => void) => {
      onApply = then
    },
  }
}

const event = (id: number): BusRecord => ({ type: 'message', payload: `event ${id}` })

describe('two threads that share the journal', () => {
  /** What the receiving thread does when an event arrives, and then its own heartbeat. */
  const receive = ({ writer, renew }: ReturnType<typeof setUp>) => {
    writer.append(event(1))
    renew()
  }
  const isSound = ({ isLeased, applied }: ReturnType<typeof setUp>) => !isLeased() || applied.length === 1

  test('never show the lease of a heartbeat without the event before it, wherever the deciding one is interrupted', () => {
    const count = interrupted(-1, () => {})
    setUp({ ofReader: count }).reader.sync()
    expect(count.operations).toBeGreaterThan(2)
    for (let at = 0; at < count.operations; at += 1) {
      const journal = setUp({ ofReader: interrupted(at, () => receive(journal)) })
      expect({ at, sound: isSound(journal) }).toEqual({ at, sound: true })
    }
  })

  test('never show the lease of a heartbeat without the event before it, wherever the receiving one is interrupted', () => {
    const count = interrupted(-1, () => {})
    receive(setUp({ ofWriter: count }))
    expect(count.operations).toBeGreaterThan(4)
    for (let at = 0; at < count.operations; at += 1) {
      let sound = false
      const journal = setUp({
        ofWriter: interrupted(at, () => {
          sound = isSound(journal)
        }),
      })
      receive(journal)
      expect({ at, sound }).toEqual({ at, sound: true })
      expect(journal.isLeased()).toBe(true)
      expect(journal.applied).toEqual([event(1)])
    }
  })

  test('hold no lease before their clocks were compared', () => {
    const clock = manualClock()
    const journal = createSharedJournal()
    const writer = createJournalWriter({ journal, clock, leaseClock: clock })
    const reader = createJournalReader({ journal, clock, leaseClock: clock, timing: { leaseMs }, apply: () => {} })
    writer.setLease(clock.monotonic() + leaseMs)
    expect(reader.sync()).toBe(Number.NEGATIVE_INFINITY)
    reader.onClock(clock.monotonic(), clock.monotonic())
    expect(reader.sync()).toBe(clock.monotonic() + leaseMs)
  })

  test('lose what the comparison of their clocks took, and no more than the best one took', () => {
    const ours = manualClock()
    const theirs = manualClock()
    theirs.advance(5_000)
    const journal = createSharedJournal()
    const writer = createJournalWriter({ journal, clock: theirs, leaseClock: theirs })
    const reader = createJournalReader({ journal, clock: ours, leaseClock: ours, timing: { leaseMs }, apply: () => {} })
    const both = (ms: number) => {
      ours.advance(ms)
      theirs.advance(ms)
    }
    const compare = (awayMs: number) => {
      const ourMs = ours.monotonic()
      both(awayMs)
      reader.onClock(ourMs, theirs.monotonic())
      both(awayMs)
    }
    const left = () => {
      writer.setLease(theirs.monotonic() + leaseMs)
      const untilMs = reader.sync()
      both(1)
      return untilMs - ours.monotonic() + 1
    }
    compare(40)
    // The wall clock, which both share, was not advanced otherwise.
    expect(left()).toBe(leaseMs - 40)
    compare(3)
    expect(left()).toBe(leaseMs - 3)
    compare(30)
    expect(left()).toBe(leaseMs - 3)
  })

  test('end a lease by whichever clock advanced more since the heartbeat', () => {
    const clock = manualClock()
    let aheadMs = 0
    const wall = { now: () => clock.now() + aheadMs, monotonic: clock.monotonic }
    const journal = createSharedJournal()
    const theirs = createLeaseClock(wall)
    const writer = createJournalWriter({ journal, clock: wall, leaseClock: theirs })
    const leaseClock = createLeaseClock(wall)
    const reader = createJournalReader({ journal, clock: wall, leaseClock, timing: { leaseMs }, apply: () => {} })
    reader.onClock(clock.monotonic(), clock.monotonic())
    leaseClock.monotonic()
    const isLeased = () => {
      const untilMs = reader.sync()
      return leaseClock.monotonic() < untilMs
    }
    writer.setLease(theirs.monotonic() + leaseMs)
    aheadMs = leaseMs + 50
    // Not seen before the machine was paused.
    expect(isLeased()).toBe(false)
    writer.setLease(theirs.monotonic() + leaseMs)
    expect(isLeased()).toBe(true)
    // Seen before.
    aheadMs += leaseMs + 50
    expect(isLeased()).toBe(false)
    writer.setLease(theirs.monotonic() + leaseMs)
    aheadMs -= 5_000
    clock.advance(leaseMs - 1)
    expect(isLeased()).toBe(true)
    clock.advance(1)
    expect(isLeased()).toBe(false)
  })

  test('hold no lease once it was taken back, nor weeks after the last heartbeat', () => {
    const journal = setUp()
    journal.renew()
    expect(journal.isLeased()).toBe(true)
    journal.writer.setLease(Number.NEGATIVE_INFINITY)
    expect(journal.isLeased()).toBe(false)
    journal.renew()
    // The words wrap after 49 days.
    for (const days of [10, 24, 25, 30, 49, 50]) {
      journal.clock.advance(days * 86_400_000)
      expect(journal.isLeased()).toBe(false)
    }
  })
})

describe('the ring', () => {
  test('hands over records of any length in order, across its end and over many rounds', () => {
    const { writer, reader, applied } = setUp({ capacity: 256 })
    const sent: BusRecord[] = []
    for (let id = 0; id < 2_000; id += 1) {
      const record: BusRecord = { type: 'message', payload: `event ${'é'.repeat(id % 50)}${id}` }
      sent.push(record)
      expect(writer.append(record)).toBe(true)
      reader.sync()
    }
    expect(applied).toEqual(sent)
    expect(writer.isDrained()).toBe(true)
  })

  test('takes no record for which it has no room, and keeps those that it has', () => {
    const { writer, reader, applied } = setUp({ capacity: 64 })
    expect(writer.append(event(1))).toBe(true)
    expect(writer.append({ type: 'message', payload: 'x'.repeat(60) })).toBe(false)
    expect(writer.append(event(2))).toBe(true)
    expect(writer.isDrained()).toBe(false)
    reader.sync()
    expect(applied).toEqual([event(1), event(2)])
    expect(writer.append({ type: 'message', payload: 'x'.repeat(59) })).toBe(true)
  })

  test('shows no lease to what a record causes, because further records may not be applied', () => {
    const journal = setUp()
    journal.writer.append(event(1))
    journal.writer.append(event(2))
    journal.renew()
    const seen: number[] = []
    journal.onApply(() => void seen.push(journal.reader.sync()))
    expect(journal.isLeased()).toBe(true)
    expect(seen).toEqual([Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY])
  })

  test('wakes the other thread once until that sleeps again', () => {
    const { writer, reader, woken } = setUp()
    writer.append(event(1))
    writer.append(event(2))
    expect(woken.times).toBe(1)
    reader.sleep()
    reader.sync()
    writer.append(event(3))
    expect(woken.times).toBe(2)
  })

  test('keeps every member of a record', () => {
    const { writer, reader, applied } = setUp()
    const records: BusRecord[] = [
      { type: 'open' },
      { type: 'stored_event', id: '1', writer: 'me', position: 4, keys: ['account:1'] as never },
      { type: 'stored_event', id: '2', writer: 'me', position: 5, keys: 'everything' },
      { type: 'reset', epoch: 2, isContinued: false },
      { type: 'gap', isOther: true },
      { type: 'lost', wasOpen: true },
    ]
    for (const record of records) writer.append(record)
    reader.sync()
    expect(applied).toEqual(records)
  })
})
