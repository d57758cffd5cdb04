import { createKey, type Demand, type Key, setLimit } from './key.ts'

type Generation = Map<string, Map<string, Key>>

/**
 * The keys of all budgets, in two generations: a key is moved to the younger one when it is used. A generation lasts for the
 * longest window, so a key that is dropped with its generation has nothing left to count. Nothing is scanned.
 *
 * Degrades: a generation of `maxKeys` keys ends early, so that a flood of keys takes no more memory than two of them. Keys that
 * were not used in the meantime are then dropped with their counts.
 */
export const createKeyMap = (maxKeys: number, startedMs: number) => {
  let current: Generation = new Map()
  let previous: Generation = new Map()
  let startedAtMs = startedMs
  let size = 0
  let longestWindowMs = 0

  const idsOf = (budget: string): Map<string, Key> => {
    const found = current.get(budget)
    if (found !== undefined) return found
    const made = new Map<string, Key>()
    current.set(budget, made)
    return made
  }

  const end = (nowMs: number) => {
    previous = current
    current = new Map()
    size = 0
    startedAtMs = nowMs
  }

  return {
    /** The key of a demand; a new one for the first. */
    get: (demand: Demand, nowMs: number): Key => {
      if (nowMs - startedAtMs > longestWindowMs || size >= maxKeys) end(nowMs)
      const { budget, id, limit, windowMs } = demand
      const ids = idsOf(budget)
      const known = ids.get(id)
      if (known !== undefined) {
        if (known.limit !== limit) setLimit(known, limit)
        return known
      }
      if (windowMs > longestWindowMs) longestWindowMs = windowMs
      const earlier = previous.get(budget)?.get(id)
      const key = earlier?.windowMs === windowMs ? earlier : createKey(demand)
      setLimit(key, limit)
      ids.set(id, key)
      size += 1
      return key
    },
    delete: (budget: string, id: string): Key | undefined => {
      const key = current.get(budget)?.get(id) ?? previous.get(budget)?.get(id)
      if (current.get(budget)?.delete(id)) size -= 1
      previous.get(budget)?.delete(id)
      return key
    },
    /** Every key, those of the older generation that were not used since too. */
    *all(): Generator<Key> {
      for (const ids of current.values()) yield* ids.values()
      for (const [budget, ids] of previous) {
        for (const [id, key] of ids) if (current.get(budget)?.has(id) !== true) yield key
      }
    },
    get size() {
      return size
    },
  }
}

export type KeyMap = ReturnType<typeof createKeyMap>
