import { DistinctSketch } from '../kit/distinct-sketch.ts'
import { type HistogramSlice, LogHistogram } from '../kit/log-histogram.ts'
import type { WindowReading } from '../kit/rolling-windows.ts'
import type { ProcessOfSupervisor } from '../platform/child-process.ts'
import { type PoolName, type PoolUse, poolNames } from '../platform/postgres.ts'
import { type TimedMetric, timedMetrics, type WindowName, windowNames } from './recorder.ts'

/**
 * Counters, for rates over windows. `decisions_...`: by the deepest tier that a decision needed. `l2_...`: facts looked up
 * in Redis. `memory_...`: why facts are not in memory any more. `changes_...`: how the waits of writers for the other instances
 * ended. `shed`: requests refused under load.
 */
export const countNames = [
  'decisions_l1',
  'decisions_l2',
  'decisions_l3',
  'decisions_database',
  'l2_hits',
  'l2_misses',
  'l2_failures',
  'stale_facts',
  'facts_compared',
  'memory_evicted',
  'memory_expired',
  'memory_invalidated',
  'events_received',
  'changes_acknowledged',
  'changes_lapsed',
  'shed',
] as const
export type CountName = (typeof countNames)[number]
export type Counts = Readonly<Record<CountName, number>>

export const workerNames = ['hashing', 'rendering'] as const
export type WorkerName = (typeof workerNames)[number]
/** Threads, how many of them have work, and the work that waits for one. */
export type WorkerUse = { readonly size: number; readonly busy: number; readonly waiting: number }

export type WindowFigures = {
  readonly times: Readonly<Record<TimedMetric, WindowReading>>
  readonly counts: Counts
}

/** The figures that are added up over instances. */
export type Figures = {
  readonly windows: Readonly<Record<WindowName, WindowFigures>>
  /** The distinct principals of the last minute. */
  readonly users: DistinctSketch
  readonly pools: Readonly<Record<PoolName, PoolUse>>
  /** How long statements of the last minute waited for their turn on a connection. */
  readonly poolWaits: Readonly<Record<PoolName, WindowReading>>
  readonly workers: Readonly<Record<WorkerName, WorkerUse>>
  /** Jobs that are made now. */
  readonly jobs: number
}

/** The figures of one instance. `takenAtMs` by the clock that all share. */
export type InstanceFigures = Figures & {
  readonly instance: string
  readonly takenAtMs: number
  readonly process: ProcessOfSupervisor
  /** Since the start of the process. */
  readonly totals: WindowFigures
}

/** A record with the value of each name. */
export const recordOf = <N extends string, V>(names: readonly N[], make: (name: N) => V): Record<N, V> =>
  Object.fromEntries(names.map((name) => [name, make(name)])) as Record<N, V>

const sumOf = <K extends string>(
  keys: readonly K[],
  parts: readonly Readonly<Record<K, number>>[],
): Record<K, number> => recordOf(keys, (key) => parts.reduce((sum, part) => sum + part[key], 0))

const mergeSlices = (slices: readonly HistogramSlice[]): HistogramSlice => {
  const whole = new LogHistogram()
  for (const slice of slices) whole.add(slice)
  return whole.freeze()
}

const mergeReadings = (readings: readonly WindowReading[]): WindowReading => ({
  slice: mergeSlices(readings.map(({ slice }) => slice)),
  failed: readings.reduce((sum, { failed }) => sum + failed, 0),
})

const poolKeys = ['max', 'idle', 'busy', 'connecting', 'waiting'] as const
const workerKeys = ['size', 'busy', 'waiting'] as const

/** As if one instance had done all: histograms and counts are added, and a user of several instances counts once. */
export const mergeFigures = (all: readonly Figures[]): Figures => {
  const users = new DistinctSketch()
  for (const figures of all) users.union(figures.users)
  return {
    windows: recordOf(windowNames, (name) => ({
      times: recordOf(timedMetrics, (metric) => mergeReadings(all.map(({ windows }) => windows[name].times[metric]))),
      counts: sumOf(
        countNames,
        all.map(({ windows }) => windows[name].counts),
      ),
    })),
    users,
    pools: recordOf(poolNames, (pool) =>
      sumOf(
        poolKeys,
        all.map(({ pools }) => pools[pool]),
      ),
    ),
    poolWaits: recordOf(poolNames, (pool) => mergeReadings(all.map(({ poolWaits }) => poolWaits[pool]))),
    workers: recordOf(workerNames, (worker) =>
      sumOf(
        workerKeys,
        all.map(({ workers }) => workers[worker]),
      ),
    ),
    jobs: all.reduce((sum, { jobs }) => sum + jobs, 0),
  }
}
