import type { TimedMetric } from './recorder.ts'

/** For the P95 of each metric that has a target. */
export const targetsMs = {
  authentication: 50,
  registration: 150,
  authorization: 75,
  l1: 5,
  l2: 20,
  l3: 100,
  database: 25,
  api: 100,
} as const satisfies Partial<Readonly<Record<TimedMetric, number>>>
export type TargetMetric = keyof typeof targetsMs
export const targetMetrics = Object.keys(targetsMs) as [TargetMetric, ...TargetMetric[]]

/** Shares. The rate of hits is judged by that of misses. */
export const shareMetrics = ['hit_rate', 'error_rate'] as const
export type ShareMetric = (typeof shareMetrics)[number]
export const targetShares: Readonly<Record<ShareMetric, number>> = { hit_rate: 0.95, error_rate: 0.001 }

/** With fewer samples in a window nothing is graded. */
export const minSamples = 20
/** Errors that are needed before a rate of errors is above its target. */
export const minErrors = 3

export const grades = ['A', 'B', 'C', 'D', 'F'] as const
export type Grade = (typeof grades)[number]

/** Of a value that should be low, as a multiple of its target. */
export const gradeOf = (multiple: number): Grade => {
  if (multiple <= 0.5) return 'A'
  if (multiple <= 0.8) return 'B'
  if (multiple <= 1) return 'C'
  return multiple <= 1.5 ? 'D' : 'F'
}

export const trends = ['improving', 'steady', 'worsening'] as const
export type Trend = (typeof trends)[number]

/** Compares a value that should be low with that of a longer window. */
export const trendOf = (value: number, longer: number): Trend => {
  if (value > 1.2 * longer) return 'worsening'
  return value < 0.8 * longer ? 'improving' : 'steady'
}
