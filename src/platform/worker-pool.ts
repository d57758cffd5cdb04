import type { Deadline } from '../kit/deadline.ts'

/** Raised at once when a pool has as much waiting as it may. */
export class PoolBusy extends Error {
  override readonly name = 'PoolBusy'
}

/** What a worker file answers to: `{ id, work }` in, `{ id, result }` or `{ id, error }` out. */
export type WorkMessage<W> = { readonly id: number; readonly work: W }
export type ResultMessage<R> =
  | { readonly id: number; readonly result: R }
  | { readonly id: number; readonly error: string }

/**
 * Threads for work that would block the event loop.
 *
 * Promise: each worker has one piece of work at a time; at most `maxQueued` wait, and one more is a `PoolBusy` at once;
 * work whose deadline has passed is dropped before it is begun; a worker that dies fails its own piece and is replaced.
 */
export type WorkerPool<W, R> = {
  run(work: W, deadline: Deadline): Promise<R>
  readonly queued: number
  close(): Promise<void>
}

type Job<W, R> = {
  readonly id: number
  readonly work: W
  readonly deadline: Deadline
  readonly resolve: (result: R) => void
  readonly reject: (error: unknown) => void
}

type Seat<W, R> = { worker: Worker; job: Job<W, R> | undefined; dead: boolean }

const respawnMs = 250

export const createWorkerPool = <W, R>({
  url,
  size,
  maxQueued,
}: {
  url: URL
  size: number
  maxQueued: number
}): WorkerPool<W, R> => {
  const queue: Job<W, R>[] = []
  let nextId = 1
  let closed = false

  const hire = (seat: Seat<W, R>): Worker => {
    const worker = new Worker(url.href, { type: 'module' })
    worker.onmessage = ({ data }: MessageEvent<ResultMessage<R>>) => {
      const { job } = seat
      if (job === undefined || job.id !== data.id) return
      seat.job = undefined
      if ('error' in data) job.reject(new Error(data.error))
      else job.resolve(data.result)
      assign(seat)
    }
    worker.onerror = (event) => {
      event.preventDefault?.()
      if (seat.worker === worker) replace(seat, new Error(`A worker failed: ${event.message}`))
    }
    // Only Bun tells of a worker that ended without an error.
    worker.addEventListener('close', () => {
      if (seat.worker === worker && !seat.dead) replace(seat, new Error('A worker ended'))
    })
    return worker
  }

  const replace = (seat: Seat<W, R>, error: Error) => {
    const { job } = seat
    seat.job = undefined
    seat.dead = true
    seat.worker.terminate()
    job?.reject(error)
    // Not at once: a worker that cannot start would otherwise be replaced in a tight loop.
    setTimeout(() => {
      if (closed) return
      seat.worker = hire(seat)
      seat.dead = false
      assign(seat)
    }, respawnMs)
  }

  const assign = (seat: Seat<W, R>) => {
    while (seat.job === undefined && !seat.dead) {
      const job = queue.shift()
      if (job === undefined) return
      if (job.deadline.remainingMs() <= 0) continue
      seat.job = job
      seat.worker.postMessage({ id: job.id, work: job.work } satisfies WorkMessage<W>)
    }
  }

  const seats = Array.from({ length: size }, () => {
    const seat = { job: undefined, dead: false } as unknown as Seat<W, R>
    seat.worker = hire(seat)
    return seat
  })

  return {
    run: async (work, deadline) => {
      const free = seats.find((seat) => seat.job === undefined && !seat.dead)
      if (closed || (free === undefined && queue.length >= maxQueued)) throw new PoolBusy()
      const { promise, resolve, reject } = Promise.withResolvers<R>()
      queue.push({ id: nextId, work, deadline, resolve, reject })
      nextId += 1
      if (free !== undefined) assign(free)
      return deadline.run(promise)
    },
    get queued() {
      return queue.length
    },
    close: async () => {
      closed = true
      for (const job of queue.splice(0)) job.reject(new PoolBusy())
      for (const seat of seats) {
        seat.job?.reject(new PoolBusy())
        seat.worker.terminate()
      }
    },
  }
}
