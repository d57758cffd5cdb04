import { readdirSync, readFileSync, writeFileSync } from 'node:fs'

/** Fields of /proc/PID/stat after the name of the program. */
const statOf = (pid: number): readonly string[] | undefined => {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return text.slice(text.lastIndexOf(')') + 2).split(' ')
  } catch {
    return undefined
  }
}

const usPerTick = 10_000
const sum = (fields: readonly string[], from: number, to: number) =>
  fields.slice(from, to).reduce((total, ticks) => total + Number(ticks), 0)

const childrenOf = (pid: number): number[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((candidate) => statOf(candidate)?.[1] === String(pid))

/** Processor time of a process and of its children, those that have ended included, in microseconds. */
export const processorUs = (pid: number): number => {
  const own = statOf(pid)
  if (own === undefined) return 0
  const children = childrenOf(pid).map((child) => processorUs(child))
  return usPerTick * sum(own, 11, 15) + children.reduce((total, us) => total + us, 0)
}

const familyOf = (pid: number): number[] => [pid, ...childrenOf(pid).flatMap(familyOf)]

/** Makes the peaks of resident memory start anew. */
export const resetPeaks = (pid: number): void => {
  for (const each of familyOf(pid)) {
    try {
      writeFileSync(`/proc/${each}/clear_refs`, '5')
    } catch {
      // Not permitted here: the peak is that of the whole life.
    }
  }
}

/** The peak of resident memory since then, of the largest of the processes, in megabytes. */
export const peakMb = (pid: number): number =>
  Math.max(
    ...familyOf(pid).map((each) => {
      try {
        const [, kilobytes] = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${each}/status`, 'utf8')) ?? []
        return (Number(kilobytes ?? 0) * 1_024) / 1_000_000
      } catch {
        return 0
      }
    }),
  )

/** The process that started this one. */
export const parentOf = (pid: number): number | undefined => {
  const parent = statOf(pid)?.[1]
  return parent === undefined ? undefined : Number(parent)
}
