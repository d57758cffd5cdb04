import { LogHistogram } from '../kit/log-histogram.ts'
import type { WindowReading } from '../kit/rolling-windows.ts'
import type { Counts, Figures } from './figures.ts'
import { type WindowName, windowLengths } from './recorder.ts'
import {
  type Grade,
  gradeOf,
  minErrors,
  minSamples,
  type ShareMetric,
  type TargetMetric,
  type Trend,
  targetShares,
  targetsMs,
  trendOf,
} from './targets.ts'

/** The windows of reports, each followed by the one that its trend is found by. */
export const reportWindows = ['1m', '5m', '1h'] as const satisfies readonly WindowName[]
export type ReportWindow = (typeof reportWindows)[number]

export type Percentiles = { readonly p50: number; readonly p95: number; readonly p99: number }

export const histogramOf = ({ slice }: WindowReading): LogHistogram => {
  const histogram = new LogHistogram()
  histogram.add(slice)
  return histogram
}

/** Undefined without samples. */
export const percentilesOf = (reading: WindowReading): Percentiles | undefined => {
  const histogram = histogramOf(reading)
  const [p50, p95, p99] = [0.5, 0.95, 0.99].map((q) => histogram.quantile(q))
  return p50 === undefined || p95 === undefined || p99 === undefined ? undefined : { p50, p95, p99 }
}

export type TimeJudgement = {
  readonly samples: number
  /** Requests that were answered 5xx, or work that failed. */
  readonly failed: number
  readonly perSecond: number
  readonly meanMs: number | undefined
  readonly percentiles: Percentiles | undefined
  readonly maxMs: number | undefined
  /** Undefined with too few samples. */
  readonly grade: Grade | undefined
  /** Undefined with too few samples, and for the longest window. */
  readonly trend: Trend | undefined
}

const longerThan = (window: ReportWindow): ReportWindow | undefined => reportWindows[reportWindows.indexOf(window) + 1]

export const describeTimes = (reading: WindowReading, window: WindowName): Omit<TimeJudgement, 'grade' | 'trend'> => {
  const { slice, failed } = reading
  const isEmpty = slice.count === 0
  return {
    samples: slice.count,
    failed,
    perSecond: slice.count / (windowLengths[window].ms / 1_000),
    meanMs: isEmpty ? undefined : slice.sum / slice.count,
    percentiles: percentilesOf(reading),
    maxMs: isEmpty ? undefined : slice.max,
  }
}

/** How a metric does in a window, by its P95. */
export const judgeTimes = (
  { windows }: Pick<Figures, 'windows'>,
  metric: TargetMetric,
  window: ReportWindow,
): TimeJudgement => {
  const described = describeTimes(windows[window].times[metric], window)
  const p95 = described.samples < minSamples ? undefined : described.percentiles?.p95
  const longer = longerThan(window)
  const before = longer && percentilesOf(windows[longer].times[metric])?.p95
  return {
    ...described,
    grade: p95 === undefined ? undefined : gradeOf(p95 / targetsMs[metric]),
    trend: p95 === undefined || before === undefined ? undefined : trendOf(p95, before),
  }
}

export type ShareJudgement = {
  readonly samples: number
  /** Undefined without samples. */
  readonly value: number | undefined
  readonly grade: Grade | undefined
  readonly trend: Trend | undefined
}

const decisionsOf = (counts: Counts): number =>
  counts.decisions_l1 + counts.decisions_l2 + counts.decisions_l3 + counts.decisions_database

/** Of a share that should be low: how often it happened, and of how many. */
type Occurrences = { readonly bad: number; readonly samples: number }

const occurrencesOf = (
  { windows }: Pick<Figures, 'windows'>,
  metric: ShareMetric,
  window: ReportWindow,
): Occurrences => {
  const { counts, times } = windows[window]
  if (metric === 'error_rate') return { bad: times.api.failed, samples: times.api.slice.count }
  const samples = decisionsOf(counts)
  return { bad: samples - counts.decisions_l1 - counts.decisions_l2, samples }
}

/** `hit_rate`: the share of decisions that did not query Postgres. `error_rate`: the share of requests answered 5xx. */
export const judgeShare = (
  figures: Pick<Figures, 'windows'>,
  metric: ShareMetric,
  window: ReportWindow,
): ShareJudgement => {
  const { bad, samples } = occurrencesOf(figures, metric, window)
  if (samples === 0) return { samples, value: undefined, grade: undefined, trend: undefined }
  const share = bad / samples
  const value = metric === 'hit_rate' ? 1 - share : share
  if (samples < minSamples) return { samples, value, grade: undefined, trend: undefined }
  const target = metric === 'hit_rate' ? 1 - targetShares.hit_rate : targetShares.error_rate
  const judged = metric === 'error_rate' && bad < minErrors ? Math.min(share, target) : share
  const longer = longerThan(window)
  const before = longer && occurrencesOf(figures, metric, longer)
  return {
    samples,
    value,
    grade: gradeOf(judged / target),
    trend: before === undefined || before.samples === 0 ? undefined : trendOf(share, before.bad / before.samples),
  }
}

/** Samples below which compliance is not judged: with fewer a P99 is a single value. */
export const minComplianceSamples = 100

export type Compliance = 'met' | 'missed' | 'insufficient_data'

export const complianceOf = (samples: number, isWithin: boolean): Compliance => {
  if (samples < minComplianceSamples) return 'insufficient_data'
  return isWithin ? 'met' : 'missed'
}
