import type { Load } from './admission.ts'
import type { Deadline } from './deadline.ts'
import { createFairQueue } from './fair-queue.ts'

/** No slot is free, and the work may not wait for one. */
export class SlotsFull extends Error {
  override readonly name = 'SlotsFull'
}

/**
 * A bounded number of slots for work, for which requesters take turns. Work has one or more keys, such as its owner, or the
 * address and the account of a sign-in.
 *
 * Guarantee: at most `slots` are in use at once, at most `slotsPerKey` of them for one key. A free slot goes to the work whose turn
 * it is (see `FairQueue`): work of a key without others is among the next, however much waits under other keys. At most
 * `maxWaiting` wait; further work is refused at once, or takes the place of the newest work of the key that has the most
 * waiting, if its own keys have less. A deadline that has passed is refused at once, also while slots are free.
 */
export type FairSlots = Load & {
  /**
   * Resolves to the release of a slot, which does nothing when it is called again. Rejects with `SlotsFull`, and with
   * `DeadlinePassed` where the turn has not come in time: then the work has neither a slot nor a place.
   */
  take(keys: readonly string[], deadline: Deadline): Promise<() => void>
  /** Runs work in a slot. */
  run<T>(keys: readonly string[], deadline: Deadline, work: () => Promise<T>): Promise<T>
  /** Throws `SlotsFull` where work with these keys, and others perhaps, would be refused at once. */
  refuseIfFull(keys: readonly string[]): void
  /** Refuses with `SlotsFull` what waits and all further work. Slots in use stay so until their release. */
  close(): void
}

type Waiter = { readonly deadline: Deadline; readonly start: () => void; readonly refuse: () => void }

export const createFairSlots = ({
  slots,
  slotsPerKey = slots,
  maxWaiting,
}: {
  readonly slots: number
  readonly slotsPerKey?: number
  readonly maxWaiting: number
}): FairSlots => {
  const queue = createFairQueue<Waiter>({ takenPerKey: slotsPerKey })
  let inFlight = 0
  let shed = 0
  let closed = false

  const serve = () => {
    while (inFlight < slots) {
      const next = queue.take()
      if (next === undefined) return
      if (next.deadline.remainingMs() > 0) next.start()
      else queue.remove(next)
    }
  }

  /** Work to which this does not apply gets a slot at once, or waits where there is place. */
  const mustDisplace = (keys: readonly string[]) =>
    queue.size >= maxWaiting && (inFlight >= slots || queue.isFull(keys))

  const makePlaceFor = (keys: readonly string[]) => {
    if (!mustDisplace(keys)) return
    const displaced = queue.findDisplaceable(keys)
    if (displaced === undefined) throw new SlotsFull()
    queue.remove(displaced)
    displaced.refuse()
  }

  const wait = async (keys: readonly string[], deadline: Deadline): Promise<() => void> => {
    if (closed) throw new SlotsFull()
    deadline.check()
    makePlaceFor(keys)
    const { promise, resolve, reject } = Promise.withResolvers<() => void>()
    let hasSlot = false
    /** Gives up the slot, or the place in the queue. */
    const leave = () => {
      queue.remove(waiter)
      if (!hasSlot) return
      hasSlot = false
      inFlight -= 1
      serve()
    }
    const start = () => {
      hasSlot = true
      inFlight += 1
      resolve(leave)
    }
    const waiter: Waiter = { deadline, start, refuse: () => reject(new SlotsFull()) }
    queue.add(waiter, keys)
    serve()
    return hasSlot ? leave : deadline.run(Object.assign(promise, { cancel: leave }))
  }

  const take = async (keys: readonly string[], deadline: Deadline): Promise<() => void> => {
    try {
      return await wait(keys, deadline)
    } catch (error) {
      shed += 1
      throw error
    }
  }

  return {
    take,
    run: async (keys, deadline, work) => {
      const release = await take(keys, deadline)
      try {
        return await work()
      } finally {
        release()
      }
    },
    refuseIfFull: (keys) => {
      if (!closed && (!mustDisplace(keys) || queue.findDisplaceable(keys) !== undefined)) return
      shed += 1
      throw new SlotsFull()
    },
    close: () => {
      closed = true
      for (const waiter of queue.removeWaiting()) waiter.refuse()
    },
    get inFlight() {
      return inFlight
    },
    limit: slots,
    get waiting() {
      return queue.size
    },
    get shed() {
      return shed
    },
  }
}
