/** The share `fraction` of the values is no larger than this. */
export const percentile = (values: readonly number[], fraction: number): number => {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(sorted.length * fraction) - 1)] ?? Number.NaN
}

/** How long each of many calls took: `workers` of them at a time, for so long. The first failure ends it. */
export const timeCalls = async (
  call: (worker: number) => Promise<unknown>,
  { workers, forMs }: { workers: number; forMs: number },
): Promise<number[]> => {
  const untilMs = performance.now() + forMs
  const latenciesMs: number[] = []
  const work = async (worker: number) => {
    while (performance.now() < untilMs) {
      const sentMs = performance.now()
      await call(worker)
      latenciesMs.push(performance.now() - sentMs)
    }
  }
  await Promise.all(Array.from({ length: workers }, (_, worker) => work(worker)))
  return latenciesMs
}

/** Latencies at a fixed rate of starts, each measured from the time it was due. */
export const timeAtRate = async (
  call: (number: number) => Promise<unknown>,
  { perSecond, forMs }: { perSecond: number; forMs: number },
): Promise<number[]> => {
  const startedMs = performance.now()
  const latenciesMs: number[] = []
  const underWay: Promise<unknown>[] = []
  const total = Math.floor((perSecond * forMs) / 1_000)
  for (let number = 0; number < total; ) {
    const due = Math.min(total, Math.ceil(((performance.now() - startedMs) * perSecond) / 1_000))
    for (; number < due; number += 1) {
      const dueMs = startedMs + (number * 1_000) / perSecond
      underWay.push(call(number).then(() => latenciesMs.push(performance.now() - dueMs)))
    }
    await Bun.sleep(0)
  }
  await Promise.all(underWay)
  return latenciesMs
}
