import type { Deadline } from './deadline.ts'
import { createFairQueue } from './fair-queue.ts'

/** As many wait for a turn as may, or a requester with fewer waiting took the place. */
export class QueueFull extends Error {
  override readonly name = 'QueueFull'
}

/**
 * Limits how much work runs at once, and takes turns between the requesters whose work waits (see `createFairQueue`).
 *
 * Guarantee: at most `atOnce` pieces of work run. At most `maxWaiting` wait; one more is refused at once with `QueueFull`,
 * unless its requester has fewer waiting than another, whose newest is refused in its place. Work whose deadline passes while
 * it waits is never started.
 */
export type WorkQueue = {
  run<T>(keys: readonly string[], deadline: Deadline, work: () => Promise<T>): Promise<T>
  /** Throws `QueueFull` where `run` would refuse work with these keys, and others perhaps. */
  refuseIfFull(keys: readonly string[]): void
  readonly running: number
  readonly waiting: number
  /** Work that got no turn: refused at once, displaced by that of another requester, or not served in time. */
  readonly shed: number
  /** Refuses what waits and all further work. */
  close(): void
}

type Waiting = { readonly deadline: Deadline; readonly start: () => void; readonly refuse: () => void }

export const createWorkQueue = ({ atOnce, maxWaiting }: { atOnce: number; maxWaiting: number }): WorkQueue => {
  const queue = createFairQueue<Waiting>(maxWaiting)
  let running = 0
  let shed = 0
  let closed = false

  const waitForTurn = (keys: readonly string[], deadline: Deadline): Promise<void> => {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const waiting: Waiting = { deadline, start: resolve, refuse: () => reject(new QueueFull()) }
    const added = queue.add(waiting, keys)
    if (added === false) throw new QueueFull()
    added.displaced?.refuse()
    return deadline.run(Object.assign(promise, { cancel: () => queue.remove(waiting) }))
  }

  /** Hands the turn of finished work to the next requester who still waits. */
  const passOn = () => {
    for (let next = queue.take(); next !== undefined; next = queue.take()) {
      if (next.deadline.remainingMs() > 0) return next.start()
    }
    running -= 1
  }

  return {
    refuseIfFull: (keys) => {
      if (running < atOnce || queue.accepts(keys)) return
      shed += 1
      throw new QueueFull()
    },

    run: async (keys, deadline, work) => {
      if (closed) throw new QueueFull()
      if (running < atOnce) running += 1
      else {
        try {
          await waitForTurn(keys, deadline)
        } catch (error) {
          shed += 1
          throw error
        }
      }
      try {
        return await work()
      } finally {
        passOn()
      }
    },
    get running() {
      return running
    },
    get waiting() {
      return queue.size
    },
    get shed() {
      return shed
    },
    close: () => {
      closed = true
      for (let next = queue.take(); next !== undefined; next = queue.take()) next.refuse()
    },
  }
}
