import type { AnomalyMode } from '../config.ts'
import type { IncidentKind, IncidentReport } from '../incidents/report.ts'
import type { PrincipalKind } from './delta.ts'
import { factors, type Level, type Verdict } from './verdicts.ts'

const severities = { 0: 'low', 1: 'medium', 2: 'high', 3: 'critical' } as const satisfies Record<Level, string>
const subjectTypes = { user: 'user', key: 'service_key', address: 'address' } as const satisfies Record<
  PrincipalKind,
  string
>

/** Stuffing tries accounts that were leaked elsewhere, most of which do not exist here; spraying tries accounts that do. */
const kindOf = ({ reason, features }: Verdict): IncidentKind => {
  if (reason === 'resources.guessed') return 'anomaly.ids_enumerated'
  if (reason === 'resources.harvested') return 'anomaly.scraping'
  if (reason === 'session.two_places') return 'anomaly.token_replayed'
  return features.failedUnknown * 2 >= features.failed ? 'anomaly.credential_stuffing' : 'anomaly.password_spraying'
}

/** What an incident says of a verdict: the figures of the minute before. */
export const toReport = (verdict: Verdict, id: string, mode: AnomalyMode): IncidentReport => {
  const { kind, reason, level, strength, features, untilMs } = verdict
  const { requests, denied, failed, signedIn, resources, missing, accounts } = features
  return {
    kind: kindOf(verdict),
    severity: severities[level],
    subject: { type: subjectTypes[kind], id },
    evidence: {
      reason,
      times_threshold: Math.round(strength * 100) / 100,
      factor: mode === 'enforce' ? factors[level] : 1,
      expires_at: new Date(untilMs).toISOString(),
      requests,
      denied,
      resources,
      missing,
      failed_sign_ins: failed,
      accounts,
      sign_ins: signedIn,
    },
  }
}
