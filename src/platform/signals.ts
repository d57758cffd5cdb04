import process from 'node:process'

const sameSignalMs = 250

/**
 * `first` when this process is told to end (SIGTERM, SIGINT), `again` when it is told once more. A terminal signals its
 * whole process group, and a runner in it passes the same signal on: what comes within 250 ms is one telling.
 */
export const onTermination = (first: (signal: string) => void, again: (signal: string) => void): void => {
  let toldMs: number | undefined
  const told = (signal: string) => {
    const nowMs = performance.now()
    if (toldMs === undefined) {
      toldMs = nowMs
      first(signal)
    } else if (nowMs - toldMs >= sameSignalMs) {
      again(signal)
    }
  }
  process.on('SIGTERM', told)
  process.on('SIGINT', told)
}
