/** An item that waits, and the round in which it is due. */
type Entry<T> = { readonly item: T; readonly keys: readonly string[]; readonly round: number }

/**
 * A bounded queue that takes turns between keys, in two or more dimensions at once: an item has several keys, such as the
 * address and the account of a sign-in, and waits behind the earlier items of each of them.
 *
 * Guarantee: in each round at most one item of a key is taken; within a round the first that was added comes first. So items
 * of a key without others are next, however many wait under another key. A full queue takes such an item in place of the
 * newest item of the key that has the most, and refuses an item whose keys have as many as any. No item waits for ever: a
 * round ends after at most `maxItems` items. Cost: constant but for the keys dropped at the end of a round.
 */
export type FairQueue<T> = {
  /** `displaced`: the item that lost its place. False: the item was not added. */
  add(item: T, keys: readonly string[]): { readonly displaced: T | undefined } | false
  /** Whether an item with these keys, and others perhaps, could be added. */
  accepts(keys: readonly string[]): boolean
  take(): T | undefined
  /** Removes an item that waits. Does nothing for another one. */
  remove(item: T): void
  readonly size: number
}

export const createFairQueue = <T>(maxItems: number): FairQueue<T> => {
  /** The round in which items without others of their keys are due. */
  let current = 0
  let takenInRound = 0
  let lowest = 0
  let highest = 0
  const rounds = new Map<number, Entry<T>[]>()
  const entries = new Map<T, Entry<T>>()
  /** The last round in which an item of a key is due, or was taken. */
  const lastRounds = new Map<string, number>()

  const advanceTo = (round: number) => {
    if (round <= current) return
    current = round
    takenInRound = 0
    for (const [key, last] of lastRounds) if (last < current) lastRounds.delete(key)
  }

  const drop = (entry: Entry<T>) => {
    entries.delete(entry.item)
    const round = rounds.get(entry.round) ?? []
    const at = round.lastIndexOf(entry)
    if (at >= 0) round.splice(at, 1)
    if (round.length === 0) rounds.delete(entry.round)
    if (entries.size > 0) return
    // Nothing waits, so no key has to wait behind another item.
    rounds.clear()
    lastRounds.clear()
  }

  /** Drops an item that is not taken: the next item of its keys gets its round. */
  const withdraw = (entry: Entry<T>) => {
    for (const key of entry.keys) if (lastRounds.get(key) === entry.round) lastRounds.set(key, entry.round - 1)
    drop(entry)
  }

  const newestOfHighest = (): Entry<T> | undefined => {
    while (highest > lowest && !rounds.has(highest)) highest -= 1
    return rounds.get(highest)?.at(-1)
  }

  /** The round of a new item. */
  const roundOf = (keys: readonly string[]): number =>
    Math.max(current, ...keys.map((key) => (lastRounds.get(key) ?? Number.NEGATIVE_INFINITY) + 1))

  return {
    accepts: (keys) => entries.size < maxItems || (newestOfHighest()?.round ?? current) > roundOf(keys),

    add: (item, keys) => {
      const round = roundOf(keys)
      let displaced: Entry<T> | undefined
      if (entries.size >= maxItems) {
        displaced = newestOfHighest()
        if (displaced === undefined || displaced.round <= round) return false
        withdraw(displaced)
      }
      if (entries.size === 0) [lowest, highest] = [round, round]
      lowest = Math.min(lowest, round)
      highest = Math.max(highest, round)
      const entry = { item, keys, round }
      entries.set(item, entry)
      for (const key of keys) lastRounds.set(key, round)
      const others = rounds.get(round)
      if (others === undefined) rounds.set(round, [entry])
      else others.push(entry)
      return { displaced: displaced?.item }
    },

    take: () => {
      if (entries.size === 0) return undefined
      while (!rounds.has(lowest)) lowest += 1
      const entry = rounds.get(lowest)?.[0]
      if (entry === undefined) return undefined
      advanceTo(entry.round)
      takenInRound += 1
      if (takenInRound >= maxItems) advanceTo(current + 1)
      drop(entry)
      return entry.item
    },

    remove: (item) => {
      const entry = entries.get(item)
      if (entry !== undefined) withdraw(entry)
    },

    get size() {
      return entries.size
    },
  }
}
