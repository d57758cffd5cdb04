import { type CircumstanceFinding, type Circumstances, finding, noCircumstances } from './findings.ts'

/** The modes of the service, from the least to the most strict. */
export const modes = ['normal', 'no-register', 'read-only', 'lockdown'] as const
export type Mode = (typeof modes)[number]

export const stricterOf = (one: Mode, other: Mode): Mode => (modes.indexOf(one) < modes.indexOf(other) ? other : one)

const findings: Readonly<Record<Mode, CircumstanceFinding>> = {
  normal: finding('abstain', 'emergency.normal'),
  'no-register': finding('abstain', 'emergency.no_register'),
  'read-only': finding('abstain', 'emergency.read_only'),
  lockdown: finding('deny', 'emergency.lockdown'),
}

export const lockdownReason = findings.lockdown.reason

/** What layer 9 finds where it is given nothing. */
export const inNormalMode = findings.normal

const circumstancesOfMode: Readonly<Record<Mode, Circumstances>> = {
  normal: noCircumstances,
  'no-register': Object.freeze({ emergency: findings['no-register'] }),
  'read-only': Object.freeze({ emergency: findings['read-only'] }),
  lockdown: Object.freeze({ emergency: findings.lockdown }),
}

/** The circumstances of a request with the finding of the mode. */
export const circumstancesIn = (mode: Mode, given: Circumstances = noCircumstances): Circumstances => {
  if (mode === 'normal') return given
  return given === noCircumstances ? circumstancesOfMode[mode] : { ...given, emergency: findings[mode] }
}
