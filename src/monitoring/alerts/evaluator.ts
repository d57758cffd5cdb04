import type { Figures } from '../figures.ts'
import { histogramOf } from '../judgement.ts'
import {
  minErrors,
  minSamples,
  type ShareMetric,
  shareMetrics,
  type TargetMetric,
  targetMetrics,
  targetShares,
  targetsMs,
} from '../targets.ts'

export const alertMetrics = [...targetMetrics, ...shareMetrics] as const
export type AlertMetric = TargetMetric | ShareMetric

export const alertSeverities = ['warning', 'critical'] as const
export type AlertSeverity = (typeof alertSeverities)[number]

/** Multiples of the target. An alert clears below the last one, so that a value at the threshold does not open and clear it. */
export const thresholds = { warning: 1.5, critical: 2, clear: 1.3 } as const
/** Besides the window of 10 s: so an alert clears 20 s after the last slow request. */
export const clearAfterMs = 10_000

/** A value that should be low: milliseconds of the P95, or a share of misses or errors. */
export type AlertFigure = { readonly value: number; readonly target: number; readonly samples: number }

type TenSeconds = Pick<Figures['windows']['10s'], 'counts' | 'times'>

const shareFigure = ({ counts, times }: TenSeconds, metric: ShareMetric): AlertFigure | undefined => {
  if (metric === 'error_rate') {
    const samples = times.api.slice.count
    const errors = times.api.failed
    return {
      value: samples === 0 || errors < minErrors ? 0 : errors / samples,
      target: targetShares.error_rate,
      samples,
    }
  }
  const misses = counts.decisions_l3 + counts.decisions_database
  const samples = misses + counts.decisions_l1 + counts.decisions_l2
  return { value: samples === 0 ? 0 : misses / samples, target: 1 - targetShares.hit_rate, samples }
}

/** Undefined with fewer than 20 samples in the window. */
export const figureOf = (window: TenSeconds, metric: AlertMetric): AlertFigure | undefined => {
  const figure =
    metric === 'hit_rate' || metric === 'error_rate'
      ? shareFigure(window, metric)
      : {
          value: histogramOf(window.times[metric]).quantile(0.95) ?? 0,
          target: targetsMs[metric],
          samples: window.times[metric].slice.count,
        }
  return figure === undefined || figure.samples < minSamples ? undefined : figure
}

/** An alert that is open. `worst` is the highest value since it opened. */
export type OpenAlert = { readonly severity: AlertSeverity; readonly worst: number }

/** Since when the values of an open alert are low again; undefined: they are not. */
export type AlertState = { readonly alert: OpenAlert | undefined; readonly calmSinceMs: number | undefined }

export type AlertChange = 'opened' | 'raised' | 'cleared'

const severityOf = ({ value, target }: AlertFigure): AlertSeverity | undefined => {
  // A product of fractions is not exact: 1.5 x 0.05 is above 0.075.
  const multiple = Math.round((value / target) * 1e9) / 1e9
  if (multiple > thresholds.critical) return 'critical'
  return multiple > thresholds.warning ? 'warning' : undefined
}

/**
 * The next state of one metric, and what changed.
 *
 * Guarantee: an alert opens with the first window above a threshold, and clears only after all windows of 10 s in a row
 * were below 1.3 times the target. Its severity rises while it is open, and never falls. A window with fewer than 20
 * samples opens nothing, and counts as calm, so that an alert does not stay open once requests cease.
 */
export const evaluate = (
  state: AlertState,
  figure: AlertFigure | undefined,
  nowMs: number,
): { readonly state: AlertState; readonly change: AlertChange | undefined } => {
  const { alert } = state
  const severity = figure && severityOf(figure)
  if (alert === undefined) {
    if (figure === undefined || severity === undefined) return { state, change: undefined }
    return { state: { alert: { severity, worst: figure.value }, calmSinceMs: undefined }, change: 'opened' }
  }
  const worst = Math.max(alert.worst, figure?.value ?? 0)
  if (alert.severity === 'warning' && severity === 'critical')
    return { state: { alert: { severity, worst }, calmSinceMs: undefined }, change: 'raised' }
  const isCalm = figure === undefined || figure.value < thresholds.clear * figure.target
  const calmSinceMs = isCalm ? (state.calmSinceMs ?? nowMs) : undefined
  if (calmSinceMs !== undefined && nowMs - calmSinceMs >= clearAfterMs)
    return { state: { alert: undefined, calmSinceMs: undefined }, change: 'cleared' }
  return { state: { alert: { ...alert, worst }, calmSinceMs }, change: undefined }
}
