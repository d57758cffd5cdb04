import type { Clock } from './clock.ts'
import { createGroupedIndex, createPlainIndex } from './key-index.ts'
import { createUseOrder, type Ordered } from './use-order.ts'

/** The result of a cache lookup. `absent` is a negative entry: the cache knows that no value exists. `miss`: it does not know. */
export type Lookup<V> =
  | { readonly kind: 'hit'; readonly value: V }
  | { readonly kind: 'absent' }
  | { readonly kind: 'miss' }

export const miss: Lookup<never> = { kind: 'miss' }
export const absent: Lookup<never> = { kind: 'absent' }

interface Entry<V> extends Ordered<Entry<V>> {
  readonly key: string
  lookup: Lookup<V>
  /** When the value was read from its source, on the monotonic clock. */
  asOfMs: number
  expiresAtMs: number
  /** From when on a use makes the value due for renewal. */
  renewFromMs: number
  bytes: number
}

/**
 * A bounded in-process LRU cache with a time to live.
 *
 * Guarantee: at most `maxEntries` entries and, by the estimate of `sizeOf`, at most `maxBytes`. An expired entry is a miss. It
 * stays until eviction, so `peekStale` can still read it. `get` is O(1); `set` is O(1) plus its evictions; no call scans the
 * map. Negative entries live for `absentTtlMs`, and make place for each other beyond `maxAbsent`: keys that do not exist are
 * without number, so lookups of them would evict the values. `jitter` shortens each time to live by a random fraction, so that
 * entries loaded together do not expire together.
 */
export type TtlMap<V> = {
  /** Marks the entry as used. `nowMs`: the monotonic time, if the caller has read it already. */
  get(key: string, nowMs?: number): Lookup<V>
  /** As `get` of `group:id`; with the option `grouped` it does not make the key. */
  getIn(group: string, id: string, nowMs?: number): Lookup<V>
  /** Like `peek`, but also returns an expired entry (a stale read). */
  peekStale(key: string): Lookup<V>
  /** `ageMs`: the age of the value, if it comes from another cache. */
  set(key: string, value: V, ageMs?: number): void
  setAbsent(key: string): void
  /** Replaces the value of a hit without changing its age, expiry or recency. Undefined deletes the entry. */
  update(key: string, change: (value: V) => V | undefined): void
  delete(key: string): void
  clear(): void
  /**
   * The keys of values that were used within `renewAheadMs` of their expiry, each once. The next call returns only further
   * ones.
   */
  takeDue(): string[]
  /** The age of the entry, expired or not; undefined without one. `nowMs`: as of `get`. */
  ageMs(key: string, nowMs?: number): number | undefined
  /** As `ageMs` of `group:id`; see `getIn`. */
  ageMsIn(group: string, id: string, nowMs?: number): number | undefined
  /** Keys, most recently used first. */
  keysByRecency(): Iterable<string>
  /** Like `get`, without marking the entry as used. Returns the same object until the key is set, updated or deleted. */
  peek(key: string): Lookup<V>
  /** Keys in insertion order, oldest first, each group by itself. The iterator stays valid while entries are added and removed. */
  keysByInsertion(): Iterator<string>
  /** Whether adding an entry would evict an unexpired one. */
  readonly wouldEvict: boolean
  /** Since the start. */
  readonly counts: TtlMapCounts
  readonly size: number
  readonly bytes: number
}

/** Why values that were set are not found any more. */
export type TtlMapCounts = {
  /** Unexpired entries that made room for others. */
  readonly evicted: number
  /** Look-ups of entries that have expired. */
  readonly expired: number
  /** Entries that were deleted. */
  readonly deleted: number
}

export type TtlMapOptions<V> = {
  clock: Clock
  /** All keys have the form `group:id`, with few groups. Default false. */
  grouped?: boolean
  /** Default 10,000. */
  maxEntries?: number
  /** The most negative entries among them. Default: no bound of their own. */
  maxAbsent?: number
  /** Default: no bound. */
  maxBytes?: number
  /** Estimated size of an entry in bytes. Default: 0. */
  sizeOf?: (key: string, value: V | undefined) => number
  ttlMs: number
  /** How long before its expiry a value that is used is due for renewal. Default: never. Negative entries are never due. */
  renewAheadMs?: number
  /** Default: `ttlMs / 10`. */
  absentTtlMs?: number
  /** Largest fraction, 0 to 1, by which a time to live is shortened. Default 0.1. */
  jitter?: number
  random?: () => number
}

export const createTtlMap = <V>(options: TtlMapOptions<V>): TtlMap<V> => {
  const { clock, ttlMs, maxEntries = 10_000, absentTtlMs = ttlMs / 10, jitter = 0.1, random = Math.random } = options
  const { renewAheadMs = Number.NEGATIVE_INFINITY } = options
  const { maxBytes = Number.POSITIVE_INFINITY, maxAbsent = Number.POSITIVE_INFINITY, sizeOf = () => 0 } = options
  const counts = { evicted: 0, expired: 0, deleted: 0 }
  let bytesInUse = 0
  let due: string[] = []
  const entries = options.grouped ? createGroupedIndex<Entry<V>>() : createPlainIndex<Entry<V>>()
  /** The negative entries, oldest first. */
  const absents = new Map<string, Entry<V>>()
  const order = createUseOrder<Entry<V>>()

  const remove = (entry: Entry<V>) => {
    order.remove(entry)
    entries.delete(entry.key)
    if (entry.lookup.kind === 'absent') absents.delete(entry.key)
    bytesInUse -= entry.bytes
  }

  const insert = (key: string, lookup: Lookup<V>, lifetimeMs: number, ageMs = 0) => {
    const nowMs = clock.monotonic()
    const previous = entries.get(key)
    if (previous !== undefined) remove(previous)
    const bytes = sizeOf(key, lookup.kind === 'hit' ? lookup.value : undefined)
    if (bytes > maxBytes) return
    if (lookup.kind === 'absent') {
      const [first] = absents.size >= maxAbsent ? absents.values() : []
      if (first !== undefined) remove(first)
    }
    while (entries.size >= maxEntries || bytesInUse + bytes > maxBytes) {
      const { oldest } = order
      if (oldest === undefined) break
      if (oldest.expiresAtMs > nowMs) counts.evicted += 1
      remove(oldest)
    }
    const expiresAtMs = nowMs + lifetimeMs * (1 - jitter * random())
    const entry: Entry<V> = {
      key,
      lookup,
      asOfMs: nowMs - ageMs,
      expiresAtMs,
      renewFromMs: lookup.kind === 'hit' ? expiresAtMs - renewAheadMs : Number.POSITIVE_INFINITY,
      bytes,
      newer: undefined,
      older: undefined,
    }
    entries.set(key, entry)
    if (lookup.kind === 'absent') absents.set(key, entry)
    order.add(entry)
    bytesInUse += bytes
  }

  function* keysByRecency() {
    for (let entry = order.newest; entry !== undefined; entry = entry.older) yield entry.key
  }

  const use = (entry: Entry<V> | undefined, nowMs: number): Lookup<V> => {
    // An expired entry is not removed here: `peekStale` may read it.
    if (entry === undefined) return miss
    if (entry.expiresAtMs <= nowMs) {
      counts.expired += 1
      return miss
    }
    if (entry.renewFromMs <= nowMs) {
      entry.renewFromMs = Number.POSITIVE_INFINITY
      due.push(entry.key)
    }
    order.markUsed(entry)
    return entry.lookup
  }

  return {
    get: (key, nowMs = clock.monotonic()) => use(entries.get(key), nowMs),
    getIn: (group, id, nowMs = clock.monotonic()) => use(entries.getIn(group, id), nowMs),
    peekStale: (key) => entries.get(key)?.lookup ?? miss,
    set: (key, value, ageMs) => insert(key, { kind: 'hit', value }, ttlMs, ageMs),
    setAbsent: (key) => insert(key, { ...absent }, absentTtlMs),
    update: (key, change) => {
      const entry = entries.get(key)
      if (entry === undefined || entry.lookup.kind !== 'hit') return
      const value = change(entry.lookup.value)
      if (value === entry.lookup.value) return
      if (value === undefined) {
        counts.deleted += 1
        return remove(entry)
      }
      entry.lookup = { kind: 'hit', value }
    },
    delete: (key) => {
      const entry = entries.get(key)
      if (entry === undefined) return
      counts.deleted += 1
      remove(entry)
    },
    clear: () => {
      counts.deleted += entries.size
      entries.clear()
      absents.clear()
      order.clear()
      bytesInUse = 0
    },
    takeDue: () => {
      const taken = due
      due = []
      return taken
    },
    ageMs: (key, nowMs = clock.monotonic()) => {
      const entry = entries.get(key)
      return entry && nowMs - entry.asOfMs
    },
    ageMsIn: (group, id, nowMs = clock.monotonic()) => {
      const entry = entries.getIn(group, id)
      return entry && nowMs - entry.asOfMs
    },
    keysByRecency,
    peek: (key) => {
      const entry = entries.get(key)
      return entry === undefined || entry.expiresAtMs <= clock.monotonic() ? miss : entry.lookup
    },
    keysByInsertion: () => entries.keys(),
    get wouldEvict() {
      const { oldest } = order
      const full = entries.size >= maxEntries || bytesInUse + (oldest?.bytes ?? 0) > maxBytes
      return full && oldest !== undefined && oldest.expiresAtMs > clock.monotonic()
    },
    counts,
    get size() {
      return entries.size
    },
    get bytes() {
      return bytesInUse
    },
  }
}
