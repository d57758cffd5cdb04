import type { Deadline } from '../kit/deadline.ts'

/** The queue of the pool is full. */
export class PoolBusy extends Error {
  override readonly name = 'PoolBusy'
}

/** A task exceeded `workLimitMs`; its worker was terminated. */
export class WorkTimedOut extends Error {
  override readonly name = 'WorkTimedOut'
}

/**
 * The protocol of a worker file: it receives `{ id, work }` and posts any number of `{ id, progress }`, then one
 * `{ id, result }` or `{ id, error }`. `cancelled` is present if the work can be cancelled; then its first element becomes 1.
 */
export type WorkMessage<W> = { readonly id: number; readonly work: W; readonly cancelled?: Int32Array }
export type ResultMessage<R> =
  | { readonly id: number; readonly result: R }
  | { readonly id: number; readonly error: string }
  | { readonly id: number; readonly progress: number }

export type WorkOptions = {
  /** Cancels the work: the caller is rejected at once, queued work is removed, and a running worker is signalled. */
  readonly signal?: AbortSignal | undefined
  /** Receives the worker's progress reports, from 0 to 1. */
  readonly onProgress?: ((fraction: number) => void) | undefined
}

/**
 * A pool of threads for work that would block the event loop.
 *
 * Guarantee: a worker runs one task at a time. At most `maxQueued` tasks wait; one more is rejected at once with `PoolBusy`
 * (backpressure). A task whose deadline passes in the queue is never started. Degrades: a worker that dies or exceeds
 * `workLimitMs` fails its own task and is replaced.
 */
export type WorkerPool<W, R> = {
  run(work: W, deadline: Deadline, options?: WorkOptions): Promise<R>
  readonly queued: number
  /** Threads, and how many of them have a task. */
  readonly size: number
  readonly busy: number
  close(): Promise<void>
}

type Task<W, R> = {
  readonly id: number
  readonly work: W
  readonly cancelled: Int32Array | undefined
  readonly onProgress: WorkOptions['onProgress']
  readonly deadline: Deadline
  readonly resolve: (result: R) => void
  readonly reject: (error: unknown) => void
}

type Slot<W, R> = {
  /** Undefined in a `lazy` pool until the first task. */
  worker: Worker | undefined
  task: Task<W, R> | undefined
  dead: boolean
  limit: ReturnType<typeof setTimeout> | undefined
}

const respawnMs = 250

export const createWorkerPool = <W, R>({
  url,
  size,
  maxQueued,
  workLimitMs,
  lazy = false,
}: {
  url: URL
  size: number
  maxQueued: number
  /** Limit on the running time of a task, without its time in the queue. Default: none. */
  workLimitMs?: number
  /** Starts each worker with its first task instead of at creation. */
  lazy?: boolean
}): WorkerPool<W, R> => {
  const queue: Task<W, R>[] = []
  let nextId = 1
  let closed = false

  const startWorker = (slot: Slot<W, R>): Worker => {
    const worker = new Worker(url.href, { type: 'module' })
    worker.onmessage = ({ data }: MessageEvent<ResultMessage<R>>) => {
      const { task } = slot
      if (task === undefined || task.id !== data.id) return
      if ('progress' in data) {
        task.onProgress?.(data.progress)
        return
      }
      release(slot)
      if ('error' in data) task.reject(new Error(data.error))
      else task.resolve(data.result)
      assign(slot)
    }
    worker.onerror = (event) => {
      event.preventDefault?.()
      if (slot.worker === worker) replace(slot, new Error(`A worker failed: ${event.message}`))
    }
    // Bun only: a worker that exits without an error.
    worker.addEventListener('close', () => {
      if (slot.worker === worker && !slot.dead) replace(slot, new Error('A worker exited'))
    })
    return worker
  }

  const release = (slot: Slot<W, R>) => {
    clearTimeout(slot.limit)
    slot.task = undefined
  }

  const replace = (slot: Slot<W, R>, error: Error) => {
    const { task } = slot
    release(slot)
    slot.dead = true
    slot.worker?.terminate()
    task?.reject(error)
    // Delayed, so that a worker that cannot start is not restarted in a tight loop.
    setTimeout(() => {
      if (closed) return
      slot.worker = lazy ? undefined : startWorker(slot)
      slot.dead = false
      assign(slot)
    }, respawnMs)
  }

  const assign = (slot: Slot<W, R>) => {
    while (slot.task === undefined && !slot.dead) {
      const task = queue.shift()
      if (task === undefined) return
      if (task.deadline.remainingMs() <= 0) continue
      slot.task = task
      slot.worker ??= startWorker(slot)
      if (workLimitMs !== undefined) {
        const timeout = new WorkTimedOut(`A worker was terminated after ${workLimitMs} ms`)
        slot.limit = setTimeout(() => replace(slot, timeout), workLimitMs)
      }
      const { id, work, cancelled } = task
      slot.worker.postMessage(
        (cancelled === undefined ? { id, work } : { id, work, cancelled }) satisfies WorkMessage<W>,
      )
    }
  }

  const slots = Array.from({ length: size }, () => {
    const slot: Slot<W, R> = { worker: undefined, task: undefined, dead: false, limit: undefined }
    if (!lazy) slot.worker = startWorker(slot)
    return slot
  })

  return {
    run: async (work, deadline, { signal, onProgress } = {}) => {
      signal?.throwIfAborted()
      const free = slots.find((slot) => slot.task === undefined && !slot.dead)
      if (closed || (free === undefined && queue.length >= maxQueued)) throw new PoolBusy()
      const { promise, resolve, reject } = Promise.withResolvers<R>()
      const cancelled = signal && new Int32Array(new SharedArrayBuffer(4))
      const task: Task<W, R> = { id: nextId, work, cancelled, onProgress, deadline, resolve, reject }
      nextId += 1
      queue.push(task)
      if (free !== undefined) assign(free)
      if (signal === undefined || cancelled === undefined) return deadline.run(promise)
      const cancel = () => {
        const at = queue.indexOf(task)
        if (at !== -1) queue.splice(at, 1)
        Atomics.store(cancelled, 0, 1)
        reject(signal.reason)
      }
      signal.addEventListener('abort', cancel, { once: true })
      try {
        return await deadline.run(Object.assign(promise, { cancel: cancel }))
      } finally {
        signal.removeEventListener('abort', cancel)
      }
    },
    get queued() {
      return queue.length
    },
    size,
    get busy() {
      return slots.filter(({ task }) => task !== undefined).length
    },
    close: async () => {
      closed = true
      for (const task of queue.splice(0)) task.reject(new PoolBusy())
      for (const slot of slots) {
        clearTimeout(slot.limit)
        slot.task?.reject(new PoolBusy())
        slot.worker?.terminate()
      }
    },
  }
}
