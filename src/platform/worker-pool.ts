import type { Deadline } from '../kit/deadline.ts'

/** Raised at once when a pool has as much waiting as it may. */
export class PoolBusy extends Error {
  override readonly name = 'PoolBusy'
}

/** Raised when a piece of work took longer than any may; its worker was ended. */
export class WorkTimedOut extends Error {
  override readonly name = 'WorkTimedOut'
}

/**
 * What a worker file answers to: `{ id, work }` in, `{ id, result }` or `{ id, error }` out, and before that as many
 * `{ id, progress }` as it likes. `stop` is there when the work can be called off: it is not zero once it was.
 */
export type WorkMessage<W> = { readonly id: number; readonly work: W; readonly cancelled?: Int32Array }
export type ResultMessage<R> =
  | { readonly id: number; readonly result: R }
  | { readonly id: number; readonly error: string }
  | { readonly id: number; readonly progress: number }

export type WorkOptions = {
  /** Calls the work off: the caller is answered at once, what waits is dropped, and who works on it is told. */
  readonly signal?: AbortSignal | undefined
  /** Hears how far the work has come, from 0 to 1, as often as the worker tells. */
  readonly onProgress?: ((fraction: number) => void) | undefined
}

/**
 * Threads for work that would block the event loop.
 *
 * Promise: each worker has one piece of work at a time; at most `maxQueued` wait, and one more is a `PoolBusy` at once;
 * work whose deadline has passed is dropped before it is begun; a worker that dies, or takes longer than `workLimitMs`,
 * fails its own piece and is replaced.
 */
export type WorkerPool<W, R> = {
  run(work: W, deadline: Deadline, options?: WorkOptions): Promise<R>
  readonly queued: number
  close(): Promise<void>
}

type Job<W, R> = {
  readonly id: number
  readonly work: W
  readonly stop: Int32Array | undefined
  readonly onProgress: WorkOptions['onProgress']
  readonly deadline: Deadline
  readonly resolve: (result: R) => void
  readonly reject: (error: unknown) => void
}

type Seat<W, R> = {
  /** Undefined before its first work where workers are hired `whenNeeded`. */
  worker: Worker | undefined
  job: Job<W, R> | undefined
  dead: boolean
  limit: ReturnType<typeof setTimeout> | undefined
}

const respawnMs = 250

export const createWorkerPool = <W, R>({
  url,
  size,
  maxQueued,
  workLimitMs,
  whenNeeded = false,
}: {
  url: URL
  size: number
  maxQueued: number
  /** Default: no limit. It counts from when a worker is given the work. */
  workLimitMs?: number
  /** Workers are started with their first work and not before. */
  whenNeeded?: boolean
}): WorkerPool<W, R> => {
  const queue: Job<W, R>[] = []
  let nextId = 1
  let closed = false

  const hire = (seat: Seat<W, R>): Worker => {
    const worker = new Worker(url.href, { type: 'module' })
    worker.onmessage = ({ data }: MessageEvent<ResultMessage<R>>) => {
      const { job } = seat
      if (job === undefined || job.id !== data.id) return
      if ('progress' in data) {
        job.onProgress?.(data.progress)
        return
      }
      vacate(seat)
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

  const vacate = (seat: Seat<W, R>) => {
    clearTimeout(seat.limit)
    seat.job = undefined
  }

  const replace = (seat: Seat<W, R>, error: Error) => {
    const { job } = seat
    vacate(seat)
    seat.dead = true
    seat.worker?.terminate()
    job?.reject(error)
    // Not at once: a worker that cannot start would otherwise be replaced in a tight loop.
    setTimeout(() => {
      if (closed) return
      seat.worker = whenNeeded ? undefined : hire(seat)
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
      seat.worker ??= hire(seat)
      if (workLimitMs !== undefined) {
        const tooLong = new WorkTimedOut(`A worker was ended after ${workLimitMs} ms`)
        seat.limit = setTimeout(() => replace(seat, tooLong), workLimitMs)
      }
      const { id, work, stop: cancelled } = job
      seat.worker.postMessage(
        (cancelled === undefined ? { id, work } : { id, work, cancelled }) satisfies WorkMessage<W>,
      )
    }
  }

  const seats = Array.from({ length: size }, () => {
    const seat: Seat<W, R> = { worker: undefined, job: undefined, dead: false, limit: undefined }
    if (!whenNeeded) seat.worker = hire(seat)
    return seat
  })

  return {
    run: async (work, deadline, { signal, onProgress } = {}) => {
      signal?.throwIfAborted()
      const free = seats.find((seat) => seat.job === undefined && !seat.dead)
      if (closed || (free === undefined && queue.length >= maxQueued)) throw new PoolBusy()
      const { promise, resolve, reject } = Promise.withResolvers<R>()
      const stop = signal && new Int32Array(new SharedArrayBuffer(4))
      const job: Job<W, R> = { id: nextId, work, stop, onProgress, deadline, resolve, reject }
      nextId += 1
      queue.push(job)
      if (free !== undefined) assign(free)
      if (signal === undefined || stop === undefined) return deadline.run(promise)
      const callOff = () => {
        const at = queue.indexOf(job)
        if (at !== -1) queue.splice(at, 1)
        Atomics.store(stop, 0, 1)
        reject(signal.reason)
      }
      signal.addEventListener('abort', callOff, { once: true })
      try {
        return await deadline.run(Object.assign(promise, { cancel: callOff }))
      } finally {
        signal.removeEventListener('abort', callOff)
      }
    },
    get queued() {
      return queue.length
    },
    close: async () => {
      closed = true
      for (const job of queue.splice(0)) job.reject(new PoolBusy())
      for (const seat of seats) {
        clearTimeout(seat.limit)
        seat.job?.reject(new PoolBusy())
        seat.worker?.terminate()
      }
    },
  }
}
