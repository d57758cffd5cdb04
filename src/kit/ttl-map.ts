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
  expiresAtMs: number
  newer: Entry<V> | undefined
  older: Entry<V> | undefined
}

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
  }

  const put = (key: string, lookup: Lookup<V>, livesMs: number) => {
    const expiresAtMs = clock.monotonic() + livesMs * (1 - jitter * random())
    const known = entries.get(key)
    if (known !== undefined) {
      known.lookup = lookup
      known.expiresAtMs = expiresAtMs
      use(known)
      return
    }
    if (oldest !== undefined && entries.size >= maxEntries) drop(oldest)
    const entry: Entry<V> = { key, lookup, expiresAtMs, newer: undefined, older: undefined }
    entries.set(key, entry)
    linkAsNewest(entry)
  }

  return {
    get: (key) => {
      const entry = entries.get(key)
      if (entry === undefined) return miss
      if (entry.expiresAtMs <= clock.monotonic()) {
        drop(entry)
        return miss
      }
      use(entry)
      return entry.lookup
    },
    set: (key, value) => put(key, { kind: 'hit', value }, ttlMs),
    setAbsent: (key) => put(key, absent, absentTtlMs),
    delete: (key) => {
      const entry = entries.get(key)
      if (entry !== undefined) drop(entry)
    },
    clear: () => {
      entries.clear()
      newest = undefined
      oldest = undefined
    },
    get size() {
      return entries.size
    },
  }
}
