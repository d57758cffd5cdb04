import { type CircumstanceFinding, finding } from '../access/policy/findings.ts'
import { type Reason, reasons } from './rules.ts'
import type { Anomalies } from './service.ts'

const off = finding('skipped', 'anomaly.off')
const none = finding('abstain', 'anomaly.none')
const found = Object.fromEntries(
  reasons.map((reason) => [reason, finding('abstain', `anomaly.${reason.replace('.', '_')}`)]),
) as Readonly<Record<Reason, CircumstanceFinding>>

/**
 * Layer 10 of an explanation: why the limits of a user are lowered now. It denies nothing, because the limits do. Where a verdict
 * is only monitored, the user it is about does not see it.
 */
export const createAnomalyLayer =
  (anomalies: Pick<Anomalies, 'mode' | 'find'> | undefined) =>
  (userId: string, isOwn: boolean): CircumstanceFinding => {
    if (anomalies === undefined) return off
    const verdict = anomalies.find('user', userId)
    return verdict === undefined || (isOwn && anomalies.mode !== 'enforce') ? none : found[verdict.reason]
  }
