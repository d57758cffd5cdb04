import process from 'node:process'

const sameSignalMs = 250

/**
 * Calls `first` on the first SIGTERM or SIGINT and `again` on later ones. A terminal signals the whole process group and a
 * runner forwards the same signal, so signals within 250 ms count as one.
 */
export const onTermination = (first: (signal: string) => void, again: (signal: string) => void): void => {
  let firstMs: number | undefined
  const handle = (signal: string) => {
    const nowMs = performance.now()
    if (firstMs === undefined) {
      firstMs = nowMs
      first(signal)
    } else if (nowMs - firstMs >= sameSignalMs) {
      again(signal)
    }
  }
  process.on('SIGTERM', handle)
  process.on('SIGINT', handle)
}
