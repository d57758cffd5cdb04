import type { Clock } from '../kit/clock.ts'

const everyMs = 50

/**
 * Measures how late the timers of the event loop run, twenty times a second, by a timer: on Deno the histogram of `perf_hooks`
 * sees nothing of a blocked loop. A block counts once, with all of its length but up to 50 ms. Call the result to stop.
 */
export const measureEventLoop = (clock: Pick<Clock, 'monotonic'>, onLag: (ms: number) => void): (() => void) => {
  let dueMs = 0
  let timer: ReturnType<typeof setTimeout>
  const wait = () => {
    dueMs = clock.monotonic() + everyMs
    timer = setTimeout(() => {
      onLag(Math.max(0, clock.monotonic() - dueMs))
      wait()
    }, everyMs)
  }
  wait()
  return () => clearTimeout(timer)
}
