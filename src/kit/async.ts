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
 * Starts work in order, without waiting for results in between, and rejects with the error of the first by position, once all
 * before it have settled. For statements that are sent to one transaction together: where one fails, those behind it fail
 * because of it.
 *
 * Guarantee: work that comes to its statement without waiting for anything has sent it before the next one starts, whether it
 * awaits the statement or passes it on. Statements of the driver are sent when they are awaited, one microtask later.
 */
export const allInOrder = async <T extends readonly (() => unknown)[]>(
  starts: readonly [...T],
): Promise<{ -readonly [At in keyof T]: Awaited<ReturnType<T[At]>> }> => {
  const work: Promise<unknown>[] = []
  for (const start of starts) {
    const each = (async () => await start())()
    // A rejection is handled before its turn comes.
    each.catch(() => {})
    work.push(each)
    await undefined
  }
  const results: unknown[] = []
  for (const each of work) results.push(await each)
  return results as { -readonly [At in keyof T]: Awaited<ReturnType<T[At]>> }
}
