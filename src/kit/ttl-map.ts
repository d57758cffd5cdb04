import type { Clock } from './clock.ts'

/** What a cache can say. `absent` is knowledge (there is no such thing), `miss` is ignorance. */
export type Lookup<V> =
  | { readonly kind: 'hit'; readonly value: V }
  | { readonly kind: 'absent' }
  | { readonly kind: 'miss' }

export const miss: Lookup<never> = { kind: 'miss' }
export const absent: Lookup<never> = { kind: 'absent' }

type Entry<V> = { readonly lookup: Lookup<V>; readonly expiresAtMs: number }

/**
 * A bounded in-process cache: least recently used goes first, nothing outlives its time to live.
 *
 * Promise: never more than `maxEntries` entries; an expired entry is a miss and is dropped when met; `get` and `set`
 * are O(1), no call scans the map. Absent answers live for `absentTtlMs`, so that a flood of unknown keys is forgotten
 * soon. `jitter` shortens each time to live by a random share of up to that fraction, so that entries made together do
 * not expire together.
 */
export type TtlMap<V> = {
  get(key: string): Lookup<V>
  set(key: string, value: V): void
  setAbsent(key: string): void
  delete(key: string): void
  clear(): void
  readonly size: number
}

export type TtlMapOptions = {
  clock: Clock
  /** Default 10,000. */
  maxEntries?: number
  ttlMs: number
  /** Default: `ttlMs / 10`. */
  absentTtlMs?: number
  /** Fraction of the time to live, 0 to 1. Default 0.1. */
  jitter?: number
  random?: () => number
}

export const createTtlMap = <V>(options: TtlMapOptions): TtlMap<V> => {
  const { clock, ttlMs, maxEntries = 10_000, absentTtlMs = ttlMs / 10, jitter = 0.1, random = Math.random } = options
  // A Map iterates in insertion order, so re-inserting on use keeps the least recently used entry first.
  const entries = new Map<string, Entry<V>>()
  let newest: string | undefined

  const put = (key: string, lookup: Lookup<V>, livesMs: number) => {
    if (!entries.delete(key) && entries.size >= maxEntries) {
      const oldest = entries.keys().next()
      if (!oldest.done) entries.delete(oldest.value)
    }
    entries.set(key, { lookup, expiresAtMs: clock.monotonic() + livesMs * (1 - jitter * random()) })
    newest = key
  }

  return {
    get: (key) => {
      const entry = entries.get(key)
      if (entry === undefined) return miss
      if (entry.expiresAtMs <= clock.monotonic()) {
        entries.delete(key)
        return miss
      }
      if (key !== newest) {
        entries.delete(key)
        entries.set(key, entry)
        newest = key
      }
      return entry.lookup
    },
    set: (key, value) => put(key, { kind: 'hit', value }, ttlMs),
    setAbsent: (key) => put(key, absent, absentTtlMs),
    delete: (key) => {
      entries.delete(key)
    },
    clear: () => entries.clear(),
    get size() {
      return entries.size
    },
  }
}
