import type { Deadline } from './deadline.ts'

/** No slot is free, and no further work may wait for one. */
export class SlotsFull extends Error {
  override readonly name = 'SlotsFull'
}

type Limits = {
  readonly slots: number
  readonly slotsPerOwner: number
  readonly maxWaiting: number
}

/**
 * A bounded number of slots that owners take turns at.
 *
 * Guarantee: a free slot goes to the waiting owner that holds the fewest slots; of several, to the one that has waited longest
 * since its last turn. Work of one owner keeps its order. Where `maxWaiting` wait already, the newest work of the owner with the most
 * waiting work gives up its place to an owner that has less, so that no owner can fill the queue against others.
 */
export type FairSlots = {
  /**
   * Resolves to the release of a slot, which does nothing when it is called again. Rejects with `SlotsFull`, and with
   * `DeadlinePassed` where the turn has not come in time.
   */
  take(owner: string, deadline: Deadline): Promise<() => void>
  readonly inUse: number
  readonly waiting: number
  readonly slots: number
  /** Work that got no slot: refused at once, pushed out of the queue, or not served in time. */
  readonly shed: number
}

type Waiter = {
  readonly resolve: (release: () => void) => void
  readonly reject: (error: unknown) => void
}

export const createFairSlots = ({ slots, slotsPerOwner, maxWaiting }: Limits): FairSlots => {
  const held = new Map<string, number>()
  /** By owner. An owner moves to the end with each turn, so the first one has waited longest. */
  const queues = new Map<string, Waiter[]>()
  let inUse = 0
  let waiting = 0
  let shed = 0

  const heldBy = (owner: string) => held.get(owner) ?? 0

  const release = (owner: string) => {
    inUse -= 1
    if (heldBy(owner) > 1) held.set(owner, heldBy(owner) - 1)
    else held.delete(owner)
    serve()
  }

  const grant = (owner: string): (() => void) => {
    inUse += 1
    held.set(owner, heldBy(owner) + 1)
    let released = false
    return () => {
      if (released) return
      released = true
      release(owner)
    }
  }

  /** The owner whose turn it is. */
  const findNext = (): string | undefined => {
    let next: string | undefined
    let fewest = slotsPerOwner
    for (const owner of queues.keys()) {
      if (heldBy(owner) >= fewest) continue
      next = owner
      fewest = heldBy(owner)
    }
    return next
  }

  const remove = (owner: string, waiter: Waiter): boolean => {
    const queue = queues.get(owner)
    const at = queue?.indexOf(waiter) ?? -1
    if (queue === undefined || at === -1) return false
    queue.splice(at, 1)
    if (queue.length === 0) queues.delete(owner)
    waiting -= 1
    return true
  }

  const serve = () => {
    while (inUse < slots) {
      const owner = findNext()
      const queue = owner === undefined ? undefined : queues.get(owner)
      const waiter = queue?.[0]
      if (owner === undefined || queue === undefined || waiter === undefined) return
      remove(owner, waiter)
      if (queues.delete(owner)) queues.set(owner, queue)
      waiter.resolve(grant(owner))
    }
  }

  /** Makes place in the full queue for one more of `owner`, at the cost of an owner that has at least two more waiting. */
  const makePlaceFor = (owner: string): boolean => {
    let longest: string | undefined
    let most = (queues.get(owner)?.length ?? 0) + 1
    for (const [each, { length }] of queues) {
      if (length <= most) continue
      longest = each
      most = length
    }
    const last = longest === undefined ? undefined : queues.get(longest)?.at(-1)
    if (longest === undefined || last === undefined) return false
    remove(longest, last)
    last.reject(new SlotsFull())
    return true
  }

  const wait = async (owner: string, deadline: Deadline): Promise<() => void> => {
    const { promise, resolve, reject } = Promise.withResolvers<() => void>()
    const waiter: Waiter = { resolve, reject }
    const queue = queues.get(owner)
    if (queue === undefined) queues.set(owner, [waiter])
    else queue.push(waiter)
    waiting += 1
    // After the deadline a slot is neither taken nor, where it was granted in the same moment, kept.
    const cancel = () => void (remove(owner, waiter) || promise.then((free) => free()).catch(() => {}))
    return deadline.run(Object.assign(promise, { cancel }))
  }

  return {
    take: async (owner, deadline) => {
      if (inUse < slots && heldBy(owner) < slotsPerOwner) return grant(owner)
      try {
        if (waiting >= maxWaiting && !makePlaceFor(owner)) throw new SlotsFull()
        return await wait(owner, deadline)
      } catch (error) {
        shed += 1
        throw error
      }
    },
    get inUse() {
      return inUse
    },
    get waiting() {
      return waiting
    },
    slots,
    get shed() {
      return shed
    },
  }
}
