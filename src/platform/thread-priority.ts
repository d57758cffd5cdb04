import { existsSync } from 'node:fs'
import { getPriority, platform, setPriority } from 'node:os'

/** Gives a thread about a third of the CPU time of one with the priority of the process, where both want all of it. */
const lowerBy = 5
const lowest = 19

/** Linux only: elsewhere the priority is that of the whole process. */
export const hasThreadPriority = platform() === 'linux' && existsSync('/proc/self/task')

/**
 * Gives the calling thread a lower CPU priority than the threads that answer requests: then it takes what these leave idle, and
 * not much more. Not the lowest, or other programs of a busy machine would starve it. Degrades: where lowering is not permitted,
 * the thread keeps normal priority.
 */
export const lowerThreadPriority = (): void => {
  try {
    if (hasThreadPriority) setPriority(Math.min(lowest, getPriority() + lowerBy))
  } catch {}
}
