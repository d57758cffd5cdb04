/** The verdict of one rule on one question. Any deny denies; otherwise one allow allows; otherwise the answer is no. */
export type Finding = {
  readonly verdict: 'allow' | 'deny' | 'abstain' | 'skipped'
  readonly reason: string
}

/** A finding is made once, and decisions only refer to it. */
export const finding = <V extends Finding['verdict']>(verdict: V, reason: string): Finding & { readonly verdict: V } =>
  Object.freeze({ verdict, reason })

/** What a circumstance may be found to say. None allows. */
export type CircumstanceFinding = Finding & { readonly verdict: 'deny' | 'abstain' | 'skipped' }

/**
 * What a decision depends on besides facts about user and resource: what other parts found out about the request, its principal
 * or the service, before the decision. The findings are constants, so no decision makes one. Where one is absent, its layer
 * abstains. None depends on the resource, so a denial by one may be shown to a person who may not read the resource: its reason
 * begins with the name of its member here, and a dot.
 */
export type Circumstances = {
  /** Layer 10: the rate of the principal, and anomalies. */
  readonly anomaly?: CircumstanceFinding | undefined
  /** Layer 4, after the account: the context of the request against that of the session. */
  readonly context?: CircumstanceFinding | undefined
  /** Layer 9: the mode of the service. */
  readonly emergency?: CircumstanceFinding | undefined
}

export const noCircumstances: Circumstances = Object.freeze({})
