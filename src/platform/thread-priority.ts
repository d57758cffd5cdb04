import { existsSync } from 'node:fs'
import { getPriority, platform, setPriority } from 'node:os'

const lowest = 19

/** Linux only: elsewhere the priority is that of the whole process. */
export const hasThreadPriority = platform() === 'linux' && existsSync('/proc/self/task')

/**
 * Lowers the CPU priority of the calling thread below that of the threads that answer requests. Where both want all of a core,
 * a nice value higher by 5 leaves it about a quarter, one higher by 10 a tenth. Returns the new nice value. Degrades: where
 * lowering is not permitted, the thread keeps normal priority.
 */
export const lowerThreadPriority = (by: number): number => {
  const nice = Math.min(lowest, getPriority() + by)
  try {
    if (hasThreadPriority) setPriority(nice)
  } catch {}
  return nice
}
