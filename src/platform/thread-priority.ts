import { existsSync } from 'node:fs'
import { platform, setPriority } from 'node:os'

/** The nice value of threads whose work nobody waits for in the event loop. */
export const lowNiceValue = 10

/** Linux only: elsewhere the priority is that of the whole process. */
export const hasThreadPriority = platform() === 'linux' && existsSync('/proc/self/task')

/**
 * Gives the calling thread a lower CPU priority than the threads that answer requests: then it takes what these leave idle,
 * and little more. Degrades: where lowering is not permitted, the thread keeps normal priority.
 */
export const lowerThreadPriority = (): void => {
  try {
    if (hasThreadPriority) setPriority(lowNiceValue)
  } catch {}
}
