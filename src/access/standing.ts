import type { AccessEvent } from './bus.ts'
import { type FactKey, partOf } from './model.ts'

/**
 * The changes the outer cache may not have forgotten yet. As long as one stands, nobody here believes that cache about
 * what it touched.
 */
export type Standing = {
  add(event: AccessEvent): void
  remove(ids: Iterable<string>): void
  has(key: FactKey): boolean
  list(): AccessEvent[]
  readonly size: number
}

export const createStanding = (): Standing => {
  const events = new Map<string, AccessEvent>()
  const counts = new Map<FactKey, number>()
  let everything = 0

  const countOne = (key: FactKey, step: 1 | -1) => {
    const left = (counts.get(key) ?? 0) + step
    if (left === 0) counts.delete(key)
    else counts.set(key, left)
  }
  const count = ({ touched }: AccessEvent, step: 1 | -1) => {
    if (touched === 'everything') {
      everything += step
      return
    }
    for (const key of touched) {
      countOne(key, step)
      const part = partOf(key)
      if (part !== undefined) countOne(part.whole, step)
    }
  }
  const add = (event: AccessEvent) => {
    if (events.has(event.id)) return
    events.set(event.id, event)
    count(event, 1)
  }

  return {
    add,
    remove: (ids) => {
      for (const id of ids) {
        const event = events.get(id)
        if (event === undefined) continue
        events.delete(id)
        count(event, -1)
      }
    },
    has: (key) => everything > 0 || counts.has(key),
    list: () => [...events.values()],
    get size() {
      return events.size
    },
  }
}
