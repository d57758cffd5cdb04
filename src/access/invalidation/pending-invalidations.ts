import type { Clock } from '../../kit/clock.ts'
import { type FactKey, isWhole, partOf } from '../policy/facts/registry.ts'
import type { InvalidationEvent } from './model.ts'

/** An event, and when it was first heard of, on the monotonic clock: after its commit. */
export type ReceivedEvent = InvalidationEvent & { readonly receivedAtMs: number }

/**
 * The changes the outer cache may not have forgotten yet. As long as one stands, nobody here believes that cache about
 * what it touched.
 */
export type PendingInvalidations = {
  add(event: InvalidationEvent): void
  remove(ids: Iterable<string>): void
  has(key: FactKey): boolean
  find(id: string): ReceivedEvent | undefined
  /** In the order they were heard of. Goes on where it was while events come and go. */
  list(): IterableIterator<ReceivedEvent>
  readonly size: number
}

export const createPendingInvalidations = (clock: Clock): PendingInvalidations => {
  const events = new Map<string, ReceivedEvent>()
  const counts = new Map<FactKey, number>()
  /** Of those, what was touched as a whole, and every part of it with it. */
  const wholes = new Map<FactKey, number>()
  let everything = 0

  const countOne = (of: Map<FactKey, number>, key: FactKey, step: 1 | -1) => {
    const left = (of.get(key) ?? 0) + step
    if (left === 0) of.delete(key)
    else of.set(key, left)
  }
  const count = ({ keys }: InvalidationEvent, step: 1 | -1) => {
    if (keys === 'everything') {
      everything += step
      return
    }
    for (const key of keys) {
      countOne(counts, key, step)
      if (isWhole(key)) countOne(wholes, key, step)
      const part = partOf(key)
      if (part !== undefined) countOne(counts, part.whole, step)
    }
  }
  const isOfWhole = (key: FactKey): boolean => {
    const part = wholes.size === 0 ? undefined : partOf(key)
    return part !== undefined && wholes.has(part.whole)
  }

  return {
    add: (event) => {
      if (events.has(event.id)) return
      events.set(event.id, { ...event, receivedAtMs: clock.monotonic() })
      count(event, 1)
    },
    remove: (ids) => {
      for (const id of ids) {
        const event = events.get(id)
        if (event === undefined) continue
        events.delete(id)
        count(event, -1)
      }
    },
    has: (key) => everything > 0 || counts.has(key) || isOfWhole(key),
    find: (id) => events.get(id),
    list: () => events.values(),
    get size() {
      return events.size
    },
  }
}
