import type { DecisionCounters } from '../access/cache/decision-counters.ts'
import type { ForgeryReport } from '../access/cache/forgery-report.ts'
import type { SharedOutage } from '../access/cache/shared-outage.ts'
import type { Caches } from '../access/caches.ts'
import type { NotificationQueue } from '../access/invalidation/notification-queue.ts'
import type { Mode } from '../access/policy/modes.ts'
import type { OwnMode } from '../access/policy/restrictions.ts'
import type { Chainer } from '../audit/chainer.ts'
import type { AuditSink } from '../audit/sink.ts'
import type { Load } from '../kit/admission.ts'
import type { Admissions } from '../kit/admitted-deadline.ts'
import type { Readers } from '../kit/readers.ts'
import type { Limits } from '../limits/limits.ts'
import type { Breakers } from '../platform/breaker.ts'
import type { Redis } from '../platform/redis.ts'
import type { Screening } from '../security-context/screening.ts'
import type { SiemSender } from '../siem/sender.ts'
import type { Metrics, OwnMetrics } from './model.ts'

/** What the detection of anomalies has found on this instance. */
type AnomalyFigures = {
  readonly mode: 'off' | 'monitor' | 'enforce'
  readonly counts: {
    readonly lost: number
    readonly principals: number
    readonly verdicts: Readonly<Record<string, number>>
  }
  active(): number
}

export type InstanceMetricsDependencies = {
  readonly caches: Pick<
    Caches,
    'memory' | 'redisCache' | 'redisUse' | 'bus' | 'pendingInvalidations' | 'flags' | 'staleDetector'
  >
  readonly decisionCounters: Pick<DecisionCounters, 'decisions'>
  /** Undefined: no Redis is configured. */
  readonly redis: Pick<Redis, 'state' | 'counts'> | undefined
  readonly forgeries: Pick<ForgeryReport, 'counts'>
  readonly outage: Pick<SharedOutage, 'isShared' | 'refusal'>
  readonly ownMode: OwnMode
  readonly admissions: Admissions
  readonly uploads: { readonly load: Load }
  readonly passwords: { readonly load: Load }
  readonly limits: Pick<Limits, 'mode' | 'counts' | 'decisions' | 'keysInMemory'>
  /** Undefined: no receiver of security events is configured. */
  readonly siem: Pick<SiemSender, 'figures'> | undefined
  readonly screening: Pick<Screening, 'mode' | 'rolloutPercent' | 'countriesAsOf' | 'counts'>
  readonly notificationQueue: Pick<NotificationQueue, 'usage'>
  readonly readers: Readers
  readonly l1: { readonly maxEntries: number; readonly maxBytes: number }
  readonly auditSink: Pick<AuditSink, 'figures'>
  readonly chainer: Pick<Chainer, 'figures'>
  /** Undefined: ANOMALY is off. */
  readonly anomalies: AnomalyFigures | undefined
  readonly breakers: Pick<Breakers, 'list'>
  readonly modeInForce: () => Mode | 'unknown'
}

const roundedMs = (ms: number | undefined): number | null => (ms === undefined ? null : Math.round(ms * 1_000) / 1_000)

const shareOf = (part: number, whole: number): number | null => (whole === 0 ? null : part / whole)

const toAudit = (
  auditSink: InstanceMetricsDependencies['auditSink'],
  chainer: InstanceMetricsDependencies['chainer'],
): Metrics['audit'] => {
  const { linked, restarted, lagMs } = chainer.figures
  return { ...auditSink.figures, linked, chains_restarted: restarted, chain_lag_ms: roundedMs(lagMs) }
}

const toBreakers = (breakers: InstanceMetricsDependencies['breakers']): Metrics['breakers'] =>
  breakers.list().map(({ name, dependency, state, counts: { opened, failed, refused } }) => ({
    name,
    dependency,
    state,
    opened,
    failed,
    refused,
  }))

/**
 * The counters of this instance since its start, collected when they are asked for.
 *
 * Guarantee: reads memory only, so it works while Postgres and Redis are down. A hit rate never appears without the count of
 * stale facts.
 */
export const createInstanceMetrics = ({
  caches,
  decisionCounters,
  redis,
  forgeries,
  outage,
  ownMode,
  l1,
  limits,
  admissions,
  uploads,
  passwords,
  notificationQueue,
  readers,
  siem,
  screening,
  auditSink,
  chainer,
  anomalies,
  breakers,
  modeInForce,
}: InstanceMetricsDependencies): (() => OwnMetrics) => {
  const { memory, redisCache, redisUse, bus, pendingInvalidations, flags, staleDetector } = caches

  const cacheMetrics = (): Metrics['caches'] => {
    const { l1: byMemory, l2: byOuter, l3, database } = decisionCounters.decisions
    const total = byMemory + byOuter + l3 + database
    return {
      hit_rate: shareOf(byMemory + byOuter, total),
      l1_share: shareOf(byMemory, total),
      stale_facts: staleDetector.counts.stale,
      facts_compared: staleDetector.counts.compared,
      decisions: { total, l1: byMemory, l2: byOuter, l3, database },
      l1: {
        enabled: flags.current.l1,
        entries: memory.size,
        max_entries: l1.maxEntries,
        bytes: memory.bytes,
        max_bytes: l1.maxBytes,
      },
      l2: {
        enabled: flags.current.l2,
        state: redis?.state() ?? 'none',
        use: redisUse(),
        hits: redisCache?.counts.hits ?? 0,
        misses: redisCache?.counts.misses ?? 0,
        timeouts: redis?.counts.timeouts ?? 0,
        errors: redis?.counts.errors ?? 0,
        unreadable: redisCache?.counts.invalidEntries ?? 0,
        forged: Object.values(forgeries.counts).reduce((sum, each) => sum + each, 0),
        outdated: redisCache?.counts.outdatedEntries ?? 0,
        full: redisCache?.counts.fullServer ?? 0,
        refused: redisCache?.counts.refusedFills ?? 0,
      },
      l3: { enabled: flags.current.l3 },
    }
  }

  const busMetrics = (): Metrics['bus'] => ({
    instance: bus.instance,
    lease_held: bus.noLeaseReason() === undefined,
    no_lease_reason: bus.noLeaseReason() ?? null,
    members: bus.members(),
    members_of_other_version: bus.membersOfOtherVersion(),
    events_received: bus.counts.events,
    gaps: bus.counts.gaps,
    changes_committed: bus.counts.commits,
    pending_invalidations: pendingInvalidations.size,
    notification_queue_usage: notificationQueue.usage ?? null,
    waits: {
      acknowledged: bus.counts.acknowledged,
      lapsed: bus.counts.lapsed,
      p50_ms: roundedMs(bus.waits.quantile(0.5)),
      p99_ms: roundedMs(bus.waits.quantile(0.99)),
      max_ms: roundedMs(bus.waits.count === 0 ? undefined : bus.waits.max),
    },
  })

  const loadOf = ({ inFlight, limit, waiting, shed }: Load) => ({ in_flight: inFlight, limit, waiting, shed })
  const admissionMetrics = (): Metrics['admission'] => ({
    statements: loadOf(admissions.statements),
    batches: loadOf(admissions.batches),
    changes: loadOf(admissions.changes),
    uploads: loadOf(uploads.load),
    hashes: loadOf(passwords.load),
  })

  const staleReads = (): Metrics['stale_reads'] => {
    const allowed = outage.isShared()
    return { allowed, refused_because: allowed ? null : (outage.refusal ?? null) }
  }

  const limitMetrics = (): Metrics['limits'] => ({
    mode: limits.mode,
    budgets: limits.counts,
    decisions: limits.decisions,
    keys: limits.keysInMemory(),
  })

  const contextMetrics = (): Metrics['security_context'] => ({
    mode: screening.mode,
    rollout_percent: screening.rolloutPercent,
    countries_as_of: screening.countriesAsOf.toISOString(),
    ...screening.counts,
  })

  const siemMetrics = (): Metrics['siem'] => {
    if (siem === undefined) return null
    const { state, sent, failures, lag } = siem.figures
    return { state, sent, failures, lag_events: lag.events, lag_seconds: lag.seconds }
  }

  const anomalyMetrics = (): Metrics['anomalies'] => {
    if (anomalies === undefined || anomalies.mode === 'off') return null
    const { principals, lost, verdicts } = anomalies.counts
    return {
      mode: anomalies.mode,
      active: anomalies.active(),
      principals,
      lost,
      verdicts: Object.entries(verdicts).map(([reason, count]) => ({ reason, count })),
    }
  }

  return () => ({
    mode: modeInForce(),
    audit: toAudit(auditSink, chainer),
    anomalies: anomalyMetrics(),
    breakers: toBreakers(breakers),
    limits: limitMetrics(),
    admission: admissionMetrics(),
    caches: cacheMetrics(),
    bus: busMetrics(),
    stale_reads: staleReads(),
    instance_mode: ownMode.current === 'normal' ? null : ownMode.current,
    security_context: contextMetrics(),
    readers: readers.list().map(({ name, lagMs }) => ({ name, lag_ms: roundedMs(lagMs ?? undefined) })),
    siem: siemMetrics(),
  })
}
