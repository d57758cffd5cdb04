import { poolNames } from '../platform/postgres.ts'
import type { Aggregate } from './exchange.ts'
import { workerNames } from './figures.ts'
import {
  complianceOf,
  describeTimes,
  judgeShare,
  judgeTimes,
  percentilesOf,
  type ReportWindow,
  reportWindows,
  type TimeJudgement,
} from './judgement.ts'
import type { TimedMetric } from './recorder.ts'
import type { ComplianceReport, Recommendation, Report } from './report-model.ts'
import { shareMetrics, targetMetrics, targetShares, targetsMs } from './targets.ts'

const rounded = (value: number): number => Math.round(value * 1_000) / 1_000
const roundedOrNull = (value: number | undefined): number | null => (value === undefined ? null : rounded(value))
/** Shares are small: six digits. */
const shareOrNull = (value: number | undefined): number | null =>
  value === undefined ? null : Math.round(value * 1e6) / 1e6
const shareOf = (part: number, whole: number): number | null =>
  whole === 0 ? null : (shareOrNull(part / whole) ?? null)

export const toInstances = ({ answeredBy, included, missing, membersKnown }: Aggregate): Report['instances'] => ({
  answered_by: answeredBy,
  included: [...included],
  missing: [...missing],
  complete: membersKnown && missing.length === 0,
})

const toTimes = (
  window: ReportWindow,
  { samples, failed, perSecond, meanMs, percentiles, maxMs }: Omit<TimeJudgement, 'grade' | 'trend'>,
): Report['event_loop'][number] => ({
  window,
  samples,
  failed,
  per_second: rounded(perSecond),
  mean_ms: roundedOrNull(meanMs),
  p50_ms: roundedOrNull(percentiles?.p50),
  p95_ms: roundedOrNull(percentiles?.p95),
  p99_ms: roundedOrNull(percentiles?.p99),
  max_ms: roundedOrNull(maxMs),
})

const toAllTimes = ({ windows }: Aggregate, metric: TimedMetric): Report['event_loop'] =>
  reportWindows.map((window) => toTimes(window, describeTimes(windows[window].times[metric], window)))

const toTiers = ({ windows }: Aggregate, window: ReportWindow): Report['tiers'][number] => {
  const { counts } = windows[window]
  const { decisions_l1: l1, decisions_l2: l2, decisions_l3: l3, decisions_database: database } = counts
  const total = l1 + l2 + l3 + database
  return {
    window,
    decisions: { total, l1, l2, l3, database },
    l1_hit_rate: shareOf(l1, total),
    l2_hit_rate: shareOf(counts.l2_hits, counts.l2_hits + counts.l2_misses),
    l2_failures: counts.l2_failures,
    stale_facts: counts.stale_facts,
    facts_compared: counts.facts_compared,
    memory: {
      evicted: counts.memory_evicted,
      expired: counts.memory_expired,
      invalidated: counts.memory_invalidated,
    },
    invalidations: {
      events: counts.events_received,
      acknowledged: counts.changes_acknowledged,
      lapsed: counts.changes_lapsed,
    },
    shed: counts.shed,
  }
}

/** Figures of all instances besides times: users, pools, threads and the event loop. */
export const toFleet = (aggregate: Aggregate) => ({
  taken_at: new Date(aggregate.takenAtMs).toISOString(),
  instances: toInstances(aggregate),
  concurrent_users: aggregate.users.estimate(),
  pools: poolNames.map((name) => ({
    name,
    ...aggregate.pools[name],
    wait_p95_ms: roundedOrNull(percentilesOf(aggregate.poolWaits[name])?.p95),
    gave_up: aggregate.poolWaits[name].failed,
  })),
  workers: workerNames.map((name) => ({ name, ...aggregate.workers[name] })),
  jobs_running: aggregate.jobs,
  event_loop: toAllTimes(aggregate, 'event_loop'),
  acknowledgements: toAllTimes(aggregate, 'acknowledgement'),
})

/** How each metric does in each window, by its target. */
export const toReport = (aggregate: Aggregate, recommendations: readonly Recommendation[]): Report => ({
  ...toFleet(aggregate),
  metrics: targetMetrics.map((metric) => ({
    metric,
    target_ms: targetsMs[metric],
    windows: reportWindows.map((window) => {
      const judgement = judgeTimes(aggregate, metric, window)
      return { ...toTimes(window, judgement), grade: judgement.grade ?? null, trend: judgement.trend ?? null }
    }),
  })),
  shares: shareMetrics.map((metric) => ({
    metric,
    target: targetShares[metric],
    windows: reportWindows.map((window) => {
      const { samples, value, grade, trend } = judgeShare(aggregate, metric, window)
      return { window, samples, value: shareOrNull(value), grade: grade ?? null, trend: trend ?? null }
    }),
  })),
  tiers: reportWindows.map((window) => toTiers(aggregate, window)),
  recommendations: [...recommendations],
})

/** Whether the service meets its requirements. Nothing is said where there are too few samples. */
export const toCompliance = (aggregate: Aggregate, window: ReportWindow): ComplianceReport => {
  const times = targetMetrics.map((metric) => {
    const { samples, percentiles } = judgeTimes(aggregate, metric, window)
    return {
      metric,
      target_ms: targetsMs[metric],
      p50_ms: roundedOrNull(percentiles?.p50),
      p95_ms: roundedOrNull(percentiles?.p95),
      p99_ms: roundedOrNull(percentiles?.p99),
      samples,
      status: complianceOf(samples, percentiles !== undefined && percentiles.p95 <= targetsMs[metric]),
    }
  })
  const shares = shareMetrics.map((metric) => {
    const { samples, value, grade } = judgeShare(aggregate, metric, window)
    const isWithin = grade === 'A' || grade === 'B' || grade === 'C'
    const target = targetShares[metric]
    return { metric, target, measured: shareOrNull(value), samples, status: complianceOf(samples, isWithin) }
  })
  const all = [...times, ...shares].map(({ status }) => status)
  return {
    taken_at: new Date(aggregate.takenAtMs).toISOString(),
    instances: toInstances(aggregate),
    window,
    status: all.includes('missed') ? 'missed' : all.includes('insufficient_data') ? 'insufficient_data' : 'met',
    times,
    shares,
    stale_facts: aggregate.windows[window].counts.stale_facts,
  }
}
