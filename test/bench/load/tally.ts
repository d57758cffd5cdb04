import { type KindResult, type LoadResult, type Slice, sliceMs } from './plan.ts'

/** Buckets for each doubling: a latency is at most 1.1 % larger than said. */
const perOctave = 64
const smallestMs = 2 ** -7
const buckets = 26 * perOctave

const createLatencies = () => {
  const counts = new Uint32Array(buckets)
  let requests = 0
  let errors = 0
  let maxMs = 0
  const quantile = (share: number): number => {
    let left = Math.max(1, Math.ceil(share * requests))
    for (let index = 0; index < buckets; index += 1) {
      left -= counts[index] ?? 0
      if (left <= 0) return Math.min(maxMs, smallestMs * 2 ** (index / perOctave))
    }
    return maxMs
  }
  return {
    add: (ms: number, isError: boolean) => {
      const index = Math.ceil(Math.log2(Math.max(ms, smallestMs) / smallestMs) * perOctave)
      const at = Math.min(index, buckets - 1)
      counts[at] = (counts[at] ?? 0) + 1
      requests += 1
      if (isError) errors += 1
      if (ms > maxMs) maxMs = ms
    },
    result: (): KindResult => ({
      requests,
      errors,
      p50Ms: requests === 0 ? Number.NaN : quantile(0.5),
      p95Ms: requests === 0 ? Number.NaN : quantile(0.95),
      p99Ms: requests === 0 ? Number.NaN : quantile(0.99),
      maxMs,
    }),
  }
}

/** Counts the answers of a measurement. Latencies and errors count from `begin` on, throughput until `end`. */
export const createTally = (kinds: readonly string[]) => {
  const all = createLatencies()
  const byKind = kinds.map(() => createLatencies())
  const errors: Record<string, number> = {}
  const verdicts = { allowed: 0, denied: 0, judged: 0, staleAllows: 0 }
  const slices: { answered: number; errors: number; slowestMs: number }[] = []
  let beganMs: number | undefined
  let endedMs = Number.POSITIVE_INFINITY
  let answered = 0
  let cpu = process.cpuUsage()
  let cpuMs = 0

  const sliceAt = (nowMs: number) => {
    const index = Math.floor((nowMs - (beganMs ?? nowMs)) / sliceMs)
    while (slices.length <= index) slices.push({ answered: 0, errors: 0, slowestMs: 0 })
    return slices[index] as (typeof slices)[number]
  }

  return {
    begin: (nowMs: number) => {
      beganMs = nowMs
      cpu = process.cpuUsage()
    },
    end: (nowMs: number) => {
      endedMs = nowMs
      const used = process.cpuUsage(cpu)
      cpuMs = (used.user + used.system) / 1_000
    },
    answer: (kind: number, ms: number, error: string | undefined, nowMs: number) => {
      if (beganMs === undefined) return
      all.add(ms, error !== undefined)
      byKind[kind]?.add(ms, error !== undefined)
      if (error !== undefined) errors[error] = (errors[error] ?? 0) + 1
      if (nowMs > endedMs) return
      answered += 1
      const slice = sliceAt(nowMs)
      slice.answered += 1
      if (error !== undefined) slice.errors += 1
      if (ms > slice.slowestMs) slice.slowestMs = ms
    },
    /** An error that is no answer: a connection that was refused or lost, a request that nothing answered. */
    fail: (error: string) => {
      if (beganMs === undefined) return
      errors[error] = (errors[error] ?? 0) + 1
    },
    verdict: (allowed: boolean, hadToBeNo: boolean) => {
      if (beganMs === undefined) return
      verdicts[allowed ? 'allowed' : 'denied'] += 1
      if (!hadToBeNo) return
      verdicts.judged += 1
      if (allowed) verdicts.staleAllows += 1
    },
    result: (): LoadResult => {
      const seconds = (endedMs - (beganMs ?? endedMs)) / 1_000
      const whole: Slice[] = slices.slice(0, Math.floor((seconds * 1_000) / sliceMs))
      return {
        seconds,
        answered,
        requests: all.result().requests,
        errors,
        all: all.result(),
        kinds: Object.fromEntries(kinds.map((kind, index) => [kind, byKind[index]?.result() ?? all.result()])),
        ...verdicts,
        slices: whole,
        generatorCpu: cpuMs / (seconds * 1_000),
      }
    },
  }
}

export type Tally = ReturnType<typeof createTally>
