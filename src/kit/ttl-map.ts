import type { Clock } from './clock.ts'

/** What a cache can say. `absent` is knowledge (there is no such thing), `miss` is ignorance. */
export type Lookup<V> =
  | { readonly kind: 'hit'; readonly value: V }
  | { readonly kind: 'absent' }
  | { readonly kind: 'miss' }

export const miss: Lookup<never> = { kind: 'miss' }
export const absent: Lookup<never> = { kind: 'absent' }

/** An entry is also a link in the list of all, by when they were last used. */
type Entry<V> = {
  readonly key: string
  lookup: Lookup<V>
  /** When what it says was true, on the monotonic clock. */
  asOfMs: number
  expiresAtMs: number
  bytes: number
  newer: Entry<V> | undefined
  older: Entry<V> | undefined
}

/**
 * A bounded in-process cache: least recently used goes first, nothing outlives its time to live.
 *
 * Promise: never more than `maxEntries` entries nor, by the estimate of `sizeOf`, more than `maxBytes`; an expired entry
 * is a miss, and stays until its room is needed, for whoever recalls it; `get` and `set` are O(1) (`set` drops as many as
 * its size asks for), no call scans the map. Absent answers live for `absentTtlMs`. `jitter` shortens
 * each time to live by a random share of up to that fraction, so that entries made together do not expire together.
 */
export type TtlMap<V> = {
  /** `nowMs`: the monotonic time, where the caller has it already. */
  get(key: string, nowMs?: number): Lookup<V>
  /** What was known under a key last, even if its time is over; nothing counts as used. */
  peekStale(key: string): Lookup<V>
  /** `ageMs`: how long ago the value was true, where it comes from another cache. */
  set(key: string, value: V, ageMs?: number): void
  setAbsent(key: string): void
  /** Puts another value in the place of one that is there, which gets no older or younger by it; undefined removes it. */
  update(key: string, change: (value: V) => V | undefined): void
  delete(key: string): void
  clear(): void
  /** How long ago what is known under a key was true; undefined where nothing is. */
  ageMs(key: string): number | undefined
  /** Keys in use, the most recently used first. */
  keysByRecency(): Iterable<string>
  /**
   * As `get`, for who looks on: nothing counts as used. It is the same object for as long as nothing
   * was set or deleted under the key.
   */
  peek(key: string): Lookup<V>
  /** Keys in the order they were set, the longest ago first. Goes on where it was while entries come and go. */
  keysByInsertion(): Iterator<string>
  /** Whether one more entry would displace one that is still good: it is full, and the one to go has not expired. */
  readonly wouldEvict: boolean
  readonly size: number
  readonly bytes: number
}

export type TtlMapOptions<V> = {
  clock: Clock
  /** Default 10,000. */
  maxEntries?: number
  /** Default: no bound. */
  maxBytes?: number
  /** What an entry takes, as an estimate. Default: nothing. */
  sizeOf?: (key: string, value: V | undefined) => number
  ttlMs: number
  /** Default: `ttlMs / 10`. */
  absentTtlMs?: number
  /** Fraction of the time to live, 0 to 1. Default 0.1. */
  jitter?: number
  random?: () => number
}

export const createTtlMap = <V>(options: TtlMapOptions<V>): TtlMap<V> => {
  const { clock, ttlMs, maxEntries = 10_000, absentTtlMs = ttlMs / 10, jitter = 0.1, random = Math.random } = options
  const { maxBytes = Number.POSITIVE_INFINITY, sizeOf = () => 0 } = options
  let bytesInUse = 0
  const entries = new Map<string, Entry<V>>()
  // The order of use is a list of its own: relinking an entry costs a tenth of inserting it into a Map again.
  let newest: Entry<V> | undefined
  let oldest: Entry<V> | undefined

  const unlink = (entry: Entry<V>) => {
    if (entry.newer === undefined) newest = entry.older
    else entry.newer.older = entry.older
    if (entry.older === undefined) oldest = entry.newer
    else entry.older.newer = entry.newer
  }

  const linkAsNewest = (entry: Entry<V>) => {
    entry.newer = undefined
    entry.older = newest
    if (newest === undefined) oldest = entry
    else newest.newer = entry
    newest = entry
  }

  const use = (entry: Entry<V>) => {
    if (entry === newest) return
    unlink(entry)
    linkAsNewest(entry)
  }

  const drop = (entry: Entry<V>) => {
    unlink(entry)
    entries.delete(entry.key)
    bytesInUse -= entry.bytes
  }

  const put = (key: string, lookup: Lookup<V>, livesMs: number, ageMs = 0) => {
    const nowMs = clock.monotonic()
    const known = entries.get(key)
    if (known !== undefined) drop(known)
    const bytes = sizeOf(key, lookup.kind === 'hit' ? lookup.value : undefined)
    if (bytes > maxBytes) return
    while (oldest !== undefined && (entries.size >= maxEntries || bytesInUse + bytes > maxBytes)) drop(oldest)
    const entry: Entry<V> = {
      key,
      lookup,
      asOfMs: nowMs - ageMs,
      expiresAtMs: nowMs + livesMs * (1 - jitter * random()),
      bytes,
      newer: undefined,
      older: undefined,
    }
    entries.set(key, entry)
    linkAsNewest(entry)
    bytesInUse += bytes
  }

  function* keysByUse() {
    for (let entry = newest; entry !== undefined; entry = entry.older) yield entry.key
  }

  return {
    get: (key, nowMs = clock.monotonic()) => {
      const entry = entries.get(key)
      // One that has expired stays until its room is needed, for whoever recalls it.
      if (entry === undefined || entry.expiresAtMs <= nowMs) return miss
      use(entry)
      return entry.lookup
    },
    peekStale: (key) => entries.get(key)?.lookup ?? miss,
    set: (key, value, ageMs) => put(key, { kind: 'hit', value }, ttlMs, ageMs),
    setAbsent: (key) => put(key, { ...absent }, absentTtlMs),
    update: (key, change) => {
      const entry = entries.get(key)
      if (entry === undefined || entry.lookup.kind !== 'hit') return
      const value = change(entry.lookup.value)
      if (value === entry.lookup.value) return
      if (value === undefined) return drop(entry)
      entry.lookup = { kind: 'hit', value }
    },
    delete: (key) => {
      const entry = entries.get(key)
      if (entry !== undefined) drop(entry)
    },
    clear: () => {
      entries.clear()
      newest = undefined
      oldest = undefined
      bytesInUse = 0
    },
    ageMs: (key) => {
      const entry = entries.get(key)
      return entry && clock.monotonic() - entry.asOfMs
    },
    keysByRecency: keysByUse,
    peek: (key) => {
      const entry = entries.get(key)
      return entry === undefined || entry.expiresAtMs <= clock.monotonic() ? miss : entry.lookup
    },
    keysByInsertion: () => entries.keys(),
    get wouldEvict() {
      const full = entries.size >= maxEntries || bytesInUse + (oldest?.bytes ?? 0) > maxBytes
      return full && oldest !== undefined && oldest.expiresAtMs > clock.monotonic()
    },
    get size() {
      return entries.size
    },
    get bytes() {
      return bytesInUse
    },
  }
}
