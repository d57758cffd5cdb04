import type { DecisionAudit } from '../audit/decisions.ts'
import { Fault } from '../fault.ts'
import { allInOrder } from '../kit/async.ts'
import type { Clock } from '../kit/clock.ts'
import type { Deadline } from '../kit/deadline.ts'
import { createTtlMap } from '../kit/ttl-map.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { type Access, createAccess } from './access.ts'
import { createDecisionCounters } from './cache/decision-counters.ts'
import { type DecisionSubjects, lockForDecision, lockSignedIn } from './cache/decision-lock-store.ts'
import { createFactCache } from './cache/fact-cache.ts'
import { createFactStore } from './cache/fact-store.ts'
import { loadFromStore } from './cache/tiered-loader.ts'
import type { Action, ResourceRef } from './policy/matrix.ts'
import { type OwnMode, ownNormalMode } from './policy/restrictions.ts'
import type { Caller } from './principal.ts'

type LockedAccess = Access & {
  /**
   * Locks what decides about these subjects, the account and the session of the caller among it, until the transaction ends.
   * Call it first in the transaction, because accounts are locked before all other rows. Throws `identity.not_signed_in`
   * where session or account have ended.
   */
  lock(caller: Caller, subjects: DecisionSubjects): Promise<void>
  /**
   * `lock`, then `require`, in one round trip. Send no statement that may fail before this has resolved: it would end the
   * transaction for a further statement of `require`, and be answered in its place.
   */
  lockAndRequire(
    caller: Caller,
    subjects: DecisionSubjects,
    action: Action,
    resource: ResourceRef,
    deadline: Deadline,
  ): Promise<void>
}

/**
 * Access decided inside one transaction, without any cache. After `lock` a decision holds until the commit: a change of its
 * facts waits for the transaction. Cost: one statement for `lock` and for each question.
 */
export type TransactionalAccess = (tx: TransactionSql) => LockedAccess

/** Locks account and session of the caller for share. Throws `identity.not_signed_in` where one of them has ended. */
export const requireSignedInForShare = async (tx: TransactionSql, caller: Caller): Promise<void> => {
  if (!(await lockSignedIn(tx, caller))) throw new Fault('identity.not_signed_in')
}

export const createTransactionalAccess =
  (
    clock: Clock,
    flags: { readonly l3: boolean },
    decisionAudit: DecisionAudit,
    ownMode: OwnMode = ownNormalMode,
  ): TransactionalAccess =>
  (tx) => {
    // Nothing is cached: a fact read before the lock may be stale after it.
    const facts = createFactCache({
      load: loadFromStore(createFactStore(tx), flags),
      memory: createTtlMap<never>({ clock, ttlMs: 0 }),
      clock,
      lease: { untilMs: Number.NEGATIVE_INFINITY },
      flags: { l1: false },
    })
    const access = createAccess({ clock, facts, decisionCounters: createDecisionCounters(), decisionAudit, ownMode })
    const lock = async (caller: Caller, subjects: DecisionSubjects): Promise<void> => {
      if (!(await lockForDecision(tx, caller, subjects))) throw new Fault('identity.not_signed_in')
    }
    return {
      ...access,
      lock,
      // Each statement has its own snapshot, so the second sees commits that the first waited for.
      lockAndRequire: async (caller, subjects, action, resource, deadline) => {
        await allInOrder([() => lock(caller, subjects), () => access.require(caller, action, resource, deadline)])
      },
    }
  }
