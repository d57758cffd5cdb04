import type { Clock } from '../../kit/clock.ts'
import { type FactKey, isWhole, partOf } from '../policy/facts/registry.ts'
import type { InvalidationEvent } from './model.ts'

/** An event and when it was first received, on the monotonic clock. That is after its commit. */
export type ReceivedEvent = InvalidationEvent & { readonly receivedAtMs: number }

/**
 * The events Redis has not confirmed yet.
 *
 * Guarantee: while an event is pending, no fact under its keys is served from Redis.
 */
export type PendingInvalidations = {
  add(event: InvalidationEvent): void
  remove(ids: Iterable<string>): void
  /**
   * Another database numbers its events anew. Known events stay pending under negative ids, which no row has, so that an event
   * with an id that comes again is not taken for one of them.
   */
  renumber(): void
  has(key: FactKey): boolean
  find(id: string): ReceivedEvent | undefined
  /** In the order received. The iterator stays valid while events are added and removed. */
  list(): IterableIterator<ReceivedEvent>
  readonly size: number
}

export const createPendingInvalidations = (clock: Clock): PendingInvalidations => {
  const events = new Map<string, ReceivedEvent>()
  const counts = new Map<FactKey, number>()
  /** Of those, the keys that cover every key that is part of them, as `grants` of a user covers each `grant`. */
  const wholes = new Map<FactKey, number>()
  let everything = 0
  let renumbered = 0

  const adjust = (counter: Map<FactKey, number>, key: FactKey, step: 1 | -1) => {
    const count = (counter.get(key) ?? 0) + step
    if (count === 0) counter.delete(key)
    else counter.set(key, count)
  }
  const countKeys = ({ keys }: InvalidationEvent, step: 1 | -1) => {
    if (keys === 'everything') {
      everything += step
      return
    }
    for (const key of keys) {
      adjust(counts, key, step)
      if (isWhole(key)) adjust(wholes, key, step)
      const part = partOf(key)
      if (part !== undefined) adjust(counts, part.whole, step)
    }
  }
  const isPartOfPendingWhole = (key: FactKey): boolean => {
    const part = wholes.size === 0 ? undefined : partOf(key)
    return part !== undefined && wholes.has(part.whole)
  }

  return {
    add: (event) => {
      if (events.has(event.id)) return
      events.set(event.id, { ...event, receivedAtMs: clock.monotonic() })
      countKeys(event, 1)
    },
    remove: (ids) => {
      for (const id of ids) {
        const event = events.get(id)
        if (event === undefined) continue
        events.delete(id)
        countKeys(event, -1)
      }
    },
    renumber: () => {
      const known = [...events.values()]
      events.clear()
      for (const event of known) {
        renumbered += 1
        const id = String(-renumbered)
        events.set(id, { ...event, id })
      }
    },
    has: (key) => everything > 0 || counts.has(key) || isPartOfPendingWhole(key),
    find: (id) => events.get(id),
    list: () => events.values(),
    get size() {
      return events.size
    },
  }
}
