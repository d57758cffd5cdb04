/** Resolves after `ms`. Rejects with the signal's reason as soon as the signal aborts. */
export const delay = (ms: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve, reject) => {
    signal.throwIfAborted()
    const onAbort = () => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', onAbort)
      resolve()
    }, ms)
    signal.addEventListener('abort', onAbort, { once: true })
  })

/**
 * Settles as the work does, or rejects with the signal's reason as soon as the signal aborts. The work itself goes on: this is
 * for work that cannot be cancelled.
 */
export const rejectOnAbort = <T>(work: Promise<T>, signal: AbortSignal): Promise<T> =>
  new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason)
    if (signal.aborted) onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })

/** The most bytes to process before yielding to the event loop: 1 MiB. */
export const maxSliceBytes = 1_048_576

/** Lets pending I/O and timers run. */
export const yieldToEventLoop = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0))

/**
 * Starts work in order, without waiting in between, as `Promise.all` does, but rejects with the error of the first by position,
 * once all before it have settled. For statements that are sent to one transaction together: they run in this order, and where
 * one fails, those behind it fail because of it.
 */
export const allInOrder = async <T extends readonly (() => unknown)[]>(
  starts: readonly [...T],
): Promise<{ -readonly [At in keyof T]: Awaited<ReturnType<T[At]>> }> => {
  // Awaited at once: a statement of the driver is not sent before.
  const work = starts.map(async (start) => await start())
  // A rejection is handled before its turn comes.
  void Promise.allSettled(work)
  const results: unknown[] = []
  for (const each of work) results.push(await each)
  return results as { -readonly [At in keyof T]: Awaited<ReturnType<T[At]>> }
}
