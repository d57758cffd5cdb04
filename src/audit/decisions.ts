import type { Deadline } from '../kit/deadline.ts'
import type { AuditActor, AuditContext } from './event.ts'
import type { AuditSink } from './sink.ts'

type Decided = { readonly allowed: boolean; readonly reason: string }
type Ref = { readonly type: string; readonly id: string }

/** Records decisions on access. Costs a comparison and a decrement for an allowed one that is not sampled. */
export type DecisionAudit = {
  /** `actor` asked whether the user may do the action. Returns whether the decision is recorded. */
  record(decision: Decided, actor: AuditActor, userId: string, action: string, ref: Ref, deadline: Deadline): boolean
}

/** The context of the request that a deadline belongs to. */
const contextOf = ({ owner }: Deadline): AuditContext | undefined => owner as AuditContext | undefined

export const createDecisionAudit = (sink: Pick<AuditSink, 'samples' | 'decided'>): DecisionAudit => ({
  record: ({ allowed, reason }, actor, userId, action, ref, deadline) => {
    if (allowed && !sink.samples()) return false
    sink.decided(allowed, reason, { actor, userId, action, resource: ref }, contextOf(deadline))
    return true
  },
})

/** For decisions that are made again inside a transaction: those that are allowed were recorded before it. */
export const deniedOnly = ({ record }: DecisionAudit): DecisionAudit => ({
  record: (decision, ...asked) => !decision.allowed && record(decision, ...asked),
})

export const unrecorded: DecisionAudit = { record: () => false }
