import { createLinkedList, type Link, type LinkedList } from './linked-list.ts'

/**
 * A queue that takes turns between keys, in one or more dimensions: an item has several keys, such as the address and the
 * account of a sign-in, and waits behind the earlier items of each of them. An item counts for its keys from `add` until
 * `remove`, so one that was taken goes on counting while its work runs.
 *
 * Guarantee: items are taken in rounds. In a round at most one of those that count for a key is taken, and the first that was
 * added comes first. So the first item of a key is in this round, however many wait under another key, and no item waits for
 * ever: a round ends after at most `itemsPerRound`. No more than `takenPerKey` items that count for a key are taken; further
 * ones wait outside the rounds and keep no other item waiting.
 *
 * Cost: constant for each item and key, on average over its stay.
 */
export type FairQueue<T> = {
  add(item: T, keys: readonly string[]): void
  /** The next item, which goes on counting for its keys. */
  take(): T | undefined
  /** Ends an item, whether it waits or was taken. Does nothing for another one. */
  remove(item: T): void
  /** Whether `takenPerKey` items count for one of the keys, so that a new item would be outside the rounds. */
  isFull(keys: readonly string[]): boolean
  /**
   * The newest item of the key with the most items that wait. Undefined, unless those are at least two more than wait under
   * each of the given keys.
   */
  findDisplaceable(keys: readonly string[]): T | undefined
  /** Ends all items that wait. */
  removeWaiting(): T[]
  /** Items that wait. */
  readonly size: number
}

/** Items in the order in which they are taken. Rounds have ascending numbers. */
type Round<T> = { readonly number: number; readonly items: LinkedList<Entry<T>> }

type Key<T> = {
  readonly name: string
  /** Items that wait, oldest first: those in rounds, then those outside. */
  readonly waiting: LinkedList<Entry<T>>
  /** Those outside the rounds. */
  readonly outside: LinkedList<Entry<T>>
  /** Items that count for the key. */
  items: number
  /** Items in rounds, and taken ones. */
  admitted: number
  /** The round of the newest item in a round, or else the round in which the last one was taken. */
  lastRound: Link<Round<T>> | undefined
  takenIn: Link<Round<T>> | undefined
}

type Entry<T> = {
  readonly item: T
  readonly keys: readonly Key<T>[]
  /** In `Key.waiting` of each key. */
  readonly links: readonly Link<Entry<T>>[]
  state:
    | { readonly kind: 'in round'; readonly round: Link<Round<T>>; readonly link: Link<Entry<T>> }
    | { readonly kind: 'outside'; readonly key: Key<T>; readonly link: Link<Entry<T>> }
    | { readonly kind: 'taken' }
}

/** Finds the key with the most items that wait. Constant cost, because a number of items changes by one. */
const createLengths = () => {
  const keysByLength = new Map<number, Set<string>>()
  let longest = 0
  return {
    change: (key: string, from: number, to: number) => {
      const keys = keysByLength.get(from)
      keys?.delete(key)
      if (keys?.size === 0) keysByLength.delete(from)
      if (to > 0) keysByLength.set(to, (keysByLength.get(to) ?? new Set()).add(key))
      if (to > longest || !keysByLength.has(longest)) longest = to
    },
    get longest() {
      return longest
    },
    findLongest: (): string | undefined => keysByLength.get(longest)?.values().next().value,
  }
}

/** Newer items of new keys wait for the next round, once this number has been taken in one. */
const itemsPerRound = 1_000

/** The items in rounds, and the round that is under way. */
const createRounds = <T>() => {
  const rounds = createLinkedList<Round<T>>()
  const addRound = () => rounds.add({ number: (rounds.last?.value.number ?? 0) + 1, items: createLinkedList() })
  let current = addRound()
  let taken = 0

  const hasEnded = (round: Link<Round<T>>) => round.value.number < current.value.number

  /** A round without items is not kept, so that finding the next one costs the same however many items were removed. */
  const leave = (round: Link<Round<T>>, link: Link<Entry<T>>) => {
    round.value.items.remove(link)
    if (round !== current && round.value.items.size === 0) rounds.remove(round)
  }

  return {
    leave,
    /** The round of an item: after the last one of each of its keys. */
    roundFor: (keys: readonly Key<T>[]): Link<Round<T>> => {
      let last: Link<Round<T>> | undefined
      if (taken >= itemsPerRound) last = current
      for (const { lastRound } of keys) {
        if (lastRound === undefined || hasEnded(lastRound)) continue
        if (last === undefined || lastRound.value.number > last.value.number) last = lastRound
      }
      return last === undefined ? current : (last.after ?? addRound())
    },
    take: (): Entry<T> | undefined => {
      const next = current.after
      if (current.value.items.size === 0 && next !== undefined) {
        rounds.remove(current)
        current = next
        taken = 0
      }
      const { first } = current.value.items
      if (first === undefined) return undefined
      taken += 1
      for (const key of first.value.keys) key.takenIn = current
      leave(current, first)
      return first.value
    },
  }
}

export const createFairQueue = <T>({ takenPerKey = Number.POSITIVE_INFINITY } = {}): FairQueue<T> => {
  const keys = new Map<string, Key<T>>()
  const entries = new Map<T, Entry<T>>()
  const rounds = createRounds<T>()
  const lengths = createLengths()
  let size = 0

  const keyOf = (name: string): Key<T> => {
    const known = keys.get(name)
    if (known !== undefined) return known
    const waiting = createLinkedList<Entry<T>>()
    const outside = createLinkedList<Entry<T>>()
    const key: Key<T> = { name, waiting, outside, items: 0, admitted: 0, lastRound: undefined, takenIn: undefined }
    keys.set(name, key)
    return key
  }

  const isFullKey = ({ admitted }: Key<T>) => admitted >= takenPerKey

  /** Puts an item into its round, or outside where one of its keys is full. */
  const admit = (entry: Entry<T>) => {
    const full = entry.keys.find(isFullKey)
    if (full !== undefined) {
      entry.state = { kind: 'outside', key: full, link: full.outside.add(entry) }
      return
    }
    const round = rounds.roundFor(entry.keys)
    entry.state = { kind: 'in round', round, link: round.value.items.add(entry) }
    for (const key of entry.keys) {
      key.admitted += 1
      key.lastRound = round
    }
  }

  const stopWaiting = (entry: Entry<T>) => {
    size -= 1
    for (const [at, { name, waiting }] of entry.keys.entries()) {
      const link = entry.links[at]
      if (link === undefined) continue
      waiting.remove(link)
      lengths.change(name, waiting.size + 1, waiting.size)
    }
  }

  /** The keys of an item that leaves its round untaken have their last round where their item before has its own. */
  const withdraw = ({ keys: of, links }: Entry<T>, round: Link<Round<T>>, link: Link<Entry<T>>) => {
    for (const [at, key] of of.entries()) {
      if (key.lastRound !== round) continue
      const before = links[at]?.before?.value.state
      key.lastRound = before?.kind === 'in round' ? before.round : key.takenIn
    }
    rounds.leave(round, link)
  }

  const endCount = (key: Key<T>, wasAdmitted: boolean) => {
    key.items -= 1
    if (wasAdmitted) key.admitted -= 1
    if (key.items === 0) keys.delete(key.name)
    while (!isFullKey(key)) {
      const next = key.outside.first
      if (next === undefined) return
      key.outside.remove(next)
      admit(next.value)
    }
  }

  const remove = (entry: Entry<T>) => {
    const { item, keys: of, state } = entry
    entries.delete(item)
    if (state.kind === 'in round') withdraw(entry, state.round, state.link)
    if (state.kind === 'outside') state.key.outside.remove(state.link)
    if (state.kind !== 'taken') stopWaiting(entry)
    for (const key of of) endCount(key, state.kind !== 'outside')
  }

  return {
    add: (item, names) => {
      const of = [...new Set(names)].map(keyOf)
      const links: Link<Entry<T>>[] = []
      const entry: Entry<T> = { item, keys: of, links, state: { kind: 'taken' } }
      entries.set(item, entry)
      size += 1
      for (const key of of) {
        key.items += 1
        links.push(key.waiting.add(entry))
        lengths.change(key.name, key.waiting.size - 1, key.waiting.size)
      }
      admit(entry)
    },

    take: () => {
      const entry = rounds.take()
      if (entry === undefined) return undefined
      stopWaiting(entry)
      entry.state = { kind: 'taken' }
      return entry.item
    },

    remove: (item) => {
      const entry = entries.get(item)
      if (entry !== undefined) remove(entry)
    },

    isFull: (names) => names.some((name) => (keys.get(name)?.admitted ?? 0) >= takenPerKey),

    findDisplaceable: (names) => {
      const most = Math.max(0, ...names.map((name) => keys.get(name)?.waiting.size ?? 0))
      if (lengths.longest < most + 2) return undefined
      return keys.get(lengths.findLongest() ?? '')?.waiting.last?.value.item
    },

    removeWaiting: () => {
      const waiting = [...entries.values()].filter(({ state }) => state.kind !== 'taken')
      for (const entry of waiting) remove(entry)
      return waiting.map(({ item }) => item)
    },

    get size() {
      return size
    },
  }
}
