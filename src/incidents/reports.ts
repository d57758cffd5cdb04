import type { Clock } from '../kit/clock.ts'
import type { Log } from '../platform/log.ts'
import {
  type Evidence,
  type IncidentReport,
  type IncidentSubject,
  incidentKinds,
  incidentSubjects,
  maxEvidence,
  type OpenIncident,
  severities,
} from './report.ts'
import type { CollectedReport, EvidencePiece, IncidentStore } from './store.ts'

/** Interval between flushes. */
export const incidentFlushMs = 1_000
/** Subjects whose reports are kept until the next flush. */
const maxCollected = 1_000
const maxMembers = 20
const maxTextLength = 200
/** At most one line about dropped reports in this time. */
const droppedWarningMs = 60_000

const shorten = (text: string): string => {
  // Postgres stores no NUL, and a lone surrogate is no Unicode: one hostile text must not lose the reports of all others.
  const clean = text.replaceAll('\0', '').toWellFormed()
  return clean.length > maxTextLength ? `${clean.slice(0, maxTextLength - 1).toWellFormed()}…` : clean
}

const boundMember = (value: unknown): Evidence[string] => {
  if (typeof value === 'string') return shorten(value)
  if (typeof value === 'number') return Number.isFinite(value) ? value : String(value)
  return typeof value === 'boolean' ? value : null
}

const boundEvidence = (evidence: Evidence): Evidence =>
  Object.fromEntries(
    Object.entries(evidence)
      .slice(0, maxMembers)
      .map(([name, value]) => [shorten(name), boundMember(value)]),
  )

/** A report whose texts come from clients is cut to its limits, not refused. */
const boundSubject = ({ type, id }: IncidentSubject): IncidentSubject => ({ type, id: shorten(id) })

const isKnown = ({ kind, severity, subject }: IncidentReport): boolean =>
  Object.hasOwn(incidentKinds, kind) && severities.includes(severity) && incidentSubjects.includes(subject.type)

const moreSevere = (one: IncidentReport['severity'], other: IncidentReport['severity']) =>
  severities.indexOf(one) < severities.indexOf(other) ? other : one

/** The first piece of evidence and the latest ones. */
const keepEvidence = (all: readonly EvidencePiece[]): readonly EvidencePiece[] =>
  all.length <= maxEvidence ? all : [...all.slice(0, 1), ...all.slice(1 - maxEvidence)]

const combine = (one: CollectedReport, other: CollectedReport): CollectedReport => ({
  ...one,
  severity: moreSevere(one.severity, other.severity),
  count: one.count + other.count,
  lastSeenMs: other.lastSeenMs,
  evidence: keepEvidence([...one.evidence, ...other.evidence]),
})

const keyOf = ({ kind, subject }: Pick<IncidentReport, 'kind' | 'subject'>): string =>
  JSON.stringify([kind, subject.type, subject.id])

/**
 * Collects reports of incidents in memory and stores them; see `OpenIncident`.
 *
 * A flush writes each subject once and all of them in one statement. After a failure the next flush writes them.
 */
export const createIncidentReports = ({
  store,
  clock,
  log,
}: {
  store: Pick<IncidentStore, 'report'>
  clock: Clock
  log: Log
}) => {
  let collected = new Map<string, CollectedReport>()
  let flushing: Promise<void> | undefined
  const counts = { reported: 0, opened: 0, dropped: 0 }
  let warnAgainAtMs = Number.NEGATIVE_INFINITY

  const drop = (what: number) => {
    counts.dropped += what
    if (clock.monotonic() < warnAgainAtMs) return
    warnAgainAtMs = clock.monotonic() + droppedWarningMs
    log.warn({ event: 'incident.reports_dropped', dropped: counts.dropped }, 'reports of incidents were dropped')
  }

  const add = (key: string, report: CollectedReport) => {
    const known = collected.get(key)
    if (known === undefined && collected.size >= maxCollected) return drop(report.count)
    collected.set(key, known === undefined ? report : combine(known, report))
  }

  const open: OpenIncident = (report) => {
    try {
      counts.reported += 1
      if (!isKnown(report)) return drop(1)
      const nowMs = clock.now()
      const subject = boundSubject(report.subject)
      const evidence = report.evidence === undefined ? [] : [{ at_ms: nowMs, details: boundEvidence(report.evidence) }]
      const { kind, severity } = report
      add(keyOf({ kind, subject }), {
        kind,
        severity,
        subject,
        count: 1,
        firstSeenMs: nowMs,
        lastSeenMs: nowMs,
        evidence,
      })
    } catch {
      // A report that cannot even be read, such as one with a getter that throws.
      drop(1)
    }
  }

  const storeCollected = async () => {
    const pending = collected
    collected = new Map()
    try {
      for (const { id, kind, severity, subject } of await store.report([...pending.values()])) {
        counts.opened += 1
        const fields = {
          event: 'incident.opened',
          incident_id: id,
          kind,
          severity,
          subject: `${subject.type}:${subject.id}`,
        }
        log.warn(fields, incidentKinds[kind])
      }
    } catch (error) {
      const later = collected
      collected = pending
      for (const [key, report] of later) add(key, report)
      throw error
    }
  }

  return {
    open,
    counts,
    /** Stores the collected reports. A call while another is under way waits for it, and stores the later reports. */
    flush: async (): Promise<void> => {
      while (flushing !== undefined) await flushing.catch(() => {})
      if (collected.size === 0) return
      flushing = storeCollected().finally(() => {
        flushing = undefined
      })
      await flushing
    },
  }
}

export type IncidentReports = ReturnType<typeof createIncidentReports>
