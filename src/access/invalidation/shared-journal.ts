import type { Clock } from '../../kit/clock.ts'
import { type BusRecord, decodeRecord, encodeRecord } from './bus-records.ts'
import type { LeaseTiming } from './timing.ts'
import { type NoLeaseReason, noLeaseReasons } from './tracking.ts'

/**
 * Memory that two threads share: one receives what instances exchange and holds the lease, the other decides.
 *
 * The receiving thread stores, in this order: a record in the ring; the count, which covers it; and, where a heartbeat of this
 * instance renewed the lease, the end of the lease. The deciding thread loads the lease, then the count, applies every record
 * up to it, and then compares the lease with its clocks.
 *
 * Guarantee: a lease that `sync` returns comes from a heartbeat before which every record has been applied. Each of these
 * orders is needed: reversed, a lease could be seen without a record that was received before it.
 *
 * Degrades: where the ring is full `append` returns false, and the record is lost.
 */
export type SharedJournal = { readonly words: Int32Array; readonly ring: Uint8Array }

/** Places in `words`. Both counts are in bytes, and start over after 2^32. */
const places = { written: 0, applied: 1, leaseMonotonic: 2, leaseWall: 3, reason: 4, woken: 5 } as const
const lengthBytes = 4
/** Twenty seconds of 300 changes per second fit in. */
const defaultCapacity = 2 ** 20

/** How the words are read and written. Tests pass one that runs the other thread in between. */
export type Atomic = Pick<typeof Atomics, 'load' | 'store'>

export const createSharedJournal = (capacity = defaultCapacity): SharedJournal => ({
  words: new Int32Array(new SharedArrayBuffer(4 * Object.keys(places).length)),
  // A power of two, so that positions go on without a gap where the counts start over.
  ring: new Uint8Array(new SharedArrayBuffer(2 ** Math.ceil(Math.log2(capacity)))),
})

const encoder = new TextEncoder()
const decoder = new TextDecoder()

type WriterOptions = {
  readonly journal: SharedJournal
  readonly clock: Clock
  /** See createLeaseClock. */
  readonly leaseClock: Clock
  /** Called after a record was appended that the other thread may sleep through. */
  readonly wake?: () => void
  readonly atomic?: Atomic
}

/** For the thread that receives. */
export const createJournalWriter = ({
  journal: { words, ring },
  clock,
  leaseClock,
  wake = () => {},
  atomic = Atomics,
}: WriterOptions) => {
  const put = (bytes: Uint8Array, position: number) => {
    const at = position % ring.length
    const first = bytes.subarray(0, ring.length - at)
    ring.set(first, at)
    ring.set(bytes.subarray(first.length), 0)
  }
  return {
    /** False: there is no room, and the record is lost. */
    append: (record: BusRecord): boolean => {
      const text = encoder.encode(encodeRecord(record))
      const written = atomic.load(words, places.written) >>> 0
      const used = (written - atomic.load(words, places.applied)) >>> 0
      if (used + lengthBytes + text.length > ring.length) return false
      const bytes = new Uint8Array(lengthBytes + text.length)
      new DataView(bytes.buffer).setUint32(0, text.length)
      bytes.set(text, lengthBytes)
      put(bytes, written)
      atomic.store(words, places.written, (written + bytes.length) | 0)
      if (Atomics.exchange(words, places.woken, 1) === 0) wake()
      return true
    },
    /** Whether the other thread has applied everything. */
    isDrained: () => atomic.load(words, places.written) === atomic.load(words, places.applied),
    /** `untilMs` is on the monotonic time of the clock of leases. */
    setLease: (untilMs: number) => {
      const remainingMs = Math.max(-1, untilMs - leaseClock.monotonic())
      // The other thread reads them in the other order, so it never combines a new first word with an old second one.
      atomic.store(words, places.leaseWall, Math.floor(clock.now() + remainingMs) | 0)
      atomic.store(words, places.leaseMonotonic, Math.floor(clock.monotonic() + remainingMs) | 0)
    },
    setReason: (reason: NoLeaseReason) => {
      atomic.store(words, places.reason, noLeaseReasons.indexOf(reason))
    },
  }
}

export type JournalWriter = ReturnType<typeof createJournalWriter>

type ReaderOptions = {
  readonly journal: SharedJournal
  readonly clock: Clock
  readonly leaseClock: Clock
  readonly timing: Pick<LeaseTiming, 'leaseMs'>
  /** Synchronous: when it returns, the record is applied. */
  readonly apply: (record: BusRecord) => void
  readonly atomic?: Atomic
}

const none = Number.NEGATIVE_INFINITY

/** For the thread that decides. */
export const createJournalReader = ({
  journal: { words, ring },
  clock,
  leaseClock,
  timing: { leaseMs },
  apply,
  atomic = Atomics,
}: ReaderOptions) => {
  let applied = 0
  let isApplying = false
  /** At least what our monotonic time is ahead of that of the other thread. Unknown at first, so that there is no lease. */
  let aheadMs = none
  /** The lease that was seen last, and its end on our clock of leases. */
  let seenMonotonic = 0
  let seenWall = 0
  let untilMs = none

  const take = (length: number): Uint8Array => {
    const bytes = new Uint8Array(length)
    const at = applied % ring.length
    const first = ring.subarray(at, at + length)
    bytes.set(first)
    bytes.set(ring.subarray(0, length - first.length), first.length)
    applied = (applied + length) >>> 0
    return bytes
  }

  const applyUpTo = (written: number) => {
    isApplying = true
    try {
      while (applied !== written) {
        const length = new DataView(take(lengthBytes).buffer).getUint32(0)
        apply(decodeRecord(decoder.decode(take(length))))
      }
    } finally {
      isApplying = false
      atomic.store(words, places.applied, applied | 0)
    }
  }

  /** The end of a lease, by the clock on which less of it is left: the monotonic one may stand still, and the other be set back. */
  const endOf = (monotonic: number, wall: number): number => {
    const leftMs = Math.min(
      (monotonic - Math.ceil(clock.monotonic() - aheadMs)) | 0,
      (wall - Math.floor(clock.now())) | 0,
    )
    // A lease never lasts longer. Words that are weeks old may differ by any number, because they have wrapped.
    return leftMs > leaseMs || leftMs <= 0 ? none : leaseClock.monotonic() + leftMs
  }

  return {
    /**
     * Applies everything that was received, and returns until when memory may then be trusted, on the monotonic time of the
     * clock of leases. To be called at the start of each synchronous run that trusts memory.
     */
    sync: (): number => {
      // Called by what a record causes: there are more of them.
      if (isApplying) return none
      const monotonic = atomic.load(words, places.leaseMonotonic)
      const wall = atomic.load(words, places.leaseWall)
      const written = atomic.load(words, places.written) >>> 0
      if (written !== applied) applyUpTo(written)
      if (aheadMs === none) return none
      if (monotonic !== seenMonotonic || wall !== seenWall) {
        seenMonotonic = monotonic
        seenWall = wall
        untilMs = endOf(monotonic, wall)
      }
      return untilMs
    },
    /** The other thread read `theirMs` after we had read `ourMs`: the closer they were, the less of a lease is lost. */
    onClock: (ourMs: number, theirMs: number) => {
      aheadMs = Math.max(aheadMs, ourMs - theirMs)
    },
    /** The next record wakes this thread. Before `sync`. */
    sleep: () => {
      Atomics.store(words, places.woken, 0)
    },
    noLeaseReason: (): NoLeaseReason => noLeaseReasons[atomic.load(words, places.reason)] ?? 'connecting',
  }
}

export type JournalReader = ReturnType<typeof createJournalReader>
