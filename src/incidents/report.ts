/** From the least to the most severe. */
export const severities = ['low', 'medium', 'high', 'critical'] as const
export type Severity = (typeof severities)[number]

/** Every kind of incident, with its meaning. A kind is part of the API and never changes its meaning. */
export const incidentKinds = {
  'operator.reported': 'An operator opened it',
  'cache.entry_forged': 'Redis held an entry that no instance with this SECRET has written',
  'dependency.unavailable': 'Calls to a dependency fail, and its breaker is open',
  'bus.queue_filling': 'The queue of Postgres for notifications fills; when it is full every change fails',
  'audit.events_dropped': 'Decision events were dropped, because more came than can be stored',
  'audit.chain_broken': 'An event, link or signed head of the audit log was altered, removed, swapped or inserted',
  'context.session_moved': 'A session was used from a place or a device that does not fit the one it was opened from',
  'anomaly.credential_stuffing': 'One source tries many accounts, each with few passwords',
  'anomaly.password_spraying': 'Many accounts are tried with the same few passwords',
  'anomaly.token_replayed': 'A token is used from another country than its session',
  'anomaly.ids_enumerated': 'One principal asks about many resources that do not exist or that it may not see',
  'anomaly.scraping': 'One principal reads far more resources than others do',
  'anomaly.unusual': 'One principal behaves unlike its own history and that of all others',
} as const satisfies Record<string, string>
export type IncidentKind = keyof typeof incidentKinds

/** What an incident can be about. */
export const incidentSubjects = [
  'user',
  'session',
  'service_key',
  'team',
  'address',
  'network',
  'dependency',
  'deployment',
] as const
export type IncidentSubject = { readonly type: (typeof incidentSubjects)[number]; readonly id: string }

/** Figures, names and ids that support the report. Never a secret: operators read it. */
export type Evidence = Readonly<Record<string, string | number | boolean | null>>

/** Pieces of evidence that an incident keeps: the first one and the latest. */
export const maxEvidence = 10

export type IncidentReport = {
  readonly kind: IncidentKind
  readonly severity: Severity
  readonly subject: IncidentSubject
  readonly evidence?: Evidence
}

/**
 * Opens an incident, or counts one more occurrence of the open incident of the same kind about the same subject.
 *
 * Guarantee: returns at once, never throws, and waits for nothing: a report is stored within about a second, with all those of
 * that second in one statement. Where Postgres is away it is kept and stored later. Degrades: reports about more than 1,000
 * subjects between two statements, and those of a process that is killed before, are lost; the former are counted.
 */
export type OpenIncident = (report: IncidentReport) => void
