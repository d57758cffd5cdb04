import { Buffer } from 'node:buffer'
import { DistinctSketch } from '../kit/distinct-sketch.ts'
import { decodeSlice, encodeSlice } from '../kit/log-histogram.ts'
import type { WindowReading } from '../kit/rolling-windows.ts'
import type { ProcessOfSupervisor } from '../platform/child-process.ts'
import { poolNames } from '../platform/postgres.ts'
import { countNames, type InstanceFigures, recordOf, type WindowFigures, workerNames } from './figures.ts'
import { timedMetrics, windowNames } from './recorder.ts'

/** Raise it when the encoding changes: figures of another version are missing here, not misread. */
const version = 2

/** The text encodes no figures. */
class Unreadable extends Error {
  override readonly name = 'Unreadable'
}

const toReading = ({ slice, failed }: WindowReading): [string, number] => [
  Buffer.from(encodeSlice(slice)).toString('base64'),
  failed,
]

const toWindow = ({ times, counts }: WindowFigures) => ({
  times: recordOf(timedMetrics, (metric) => toReading(times[metric])),
  counts,
})

export const encodeFigures = (figures: InstanceFigures): string => {
  const { windows, totals, poolWaits, users, ...rest } = figures
  return JSON.stringify({
    version,
    ...rest,
    windows: recordOf(windowNames, (name) => toWindow(windows[name])),
    totals: toWindow(totals),
    poolWaits: recordOf(poolNames, (pool) => toReading(poolWaits[pool])),
    users: Buffer.from(users.encode()).toString('base64'),
  })
}

const memberOf = (value: unknown, name: string): unknown => {
  if (typeof value !== 'object' || value === null) throw new Unreadable()
  return (value as Record<string, unknown>)[name]
}

const countOf = (value: unknown): number => {
  if (typeof value !== 'number' || !(value >= 0) || !Number.isFinite(value)) throw new Unreadable()
  return value
}

const textOf = (value: unknown): string => {
  if (typeof value !== 'string') throw new Unreadable()
  return value
}

const requireKnown = <T>(value: T | undefined): T => {
  if (value === undefined) throw new Unreadable()
  return value
}

const readingOf = (value: unknown): WindowReading => {
  if (!Array.isArray(value)) throw new Unreadable()
  const [encoded, failed] = value as readonly unknown[]
  return { slice: requireKnown(decodeSlice(Buffer.from(textOf(encoded), 'base64'))), failed: countOf(failed) }
}

const countsOf = <N extends string>(names: readonly N[], value: unknown): Record<N, number> =>
  recordOf(names, (name) => countOf(memberOf(value, name)))

const windowOf = (value: unknown): WindowFigures => ({
  times: recordOf(timedMetrics, (metric) => readingOf(memberOf(memberOf(value, 'times'), metric))),
  counts: countsOf(countNames, memberOf(value, 'counts')),
})

const processOf = (value: unknown): ProcessOfSupervisor => ({
  supervisor: textOf(memberOf(value, 'supervisor')),
  number: countOf(memberOf(value, 'number')),
})

const read = (text: string): InstanceFigures => {
  const given: unknown = JSON.parse(text)
  if (memberOf(given, 'version') !== version) throw new Unreadable()
  const partOf = (name: string, of: string) => memberOf(memberOf(given, name), of)
  return {
    instance: textOf(memberOf(given, 'instance')),
    takenAtMs: countOf(memberOf(given, 'takenAtMs')),
    process: processOf(memberOf(given, 'process')),
    windows: recordOf(windowNames, (name) => windowOf(partOf('windows', name))),
    totals: windowOf(memberOf(given, 'totals')),
    users: requireKnown(DistinctSketch.decode(Buffer.from(textOf(memberOf(given, 'users')), 'base64'))),
    pools: recordOf(poolNames, (pool) =>
      countsOf(['max', 'idle', 'busy', 'connecting', 'waiting'], partOf('pools', pool)),
    ),
    poolWaits: recordOf(poolNames, (pool) => readingOf(partOf('poolWaits', pool))),
    workers: recordOf(workerNames, (worker) => countsOf(['size', 'busy', 'waiting'], partOf('workers', worker))),
    jobs: countOf(memberOf(given, 'jobs')),
  }
}

/** Undefined where the text is of no figures, or of those of another version. */
export const decodeFigures = (text: string): InstanceFigures | undefined => {
  try {
    return read(text)
  } catch {
    return undefined
  }
}
