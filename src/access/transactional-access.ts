import type { Clock } from '../kit/clock.ts'
import { createTtlMap } from '../kit/ttl-map.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { type Access, createAccess } from './access.ts'
import { createDecisionCounters } from './cache/decision-counters.ts'
import { createFactCache } from './cache/fact-cache.ts'
import { createFactStore } from './cache/fact-store.ts'
import { loadFromStore } from './cache/tiered-loader.ts'

/**
 * Access decided inside one transaction, without any cache. Asked after the transaction has locked the rows the decision
 * depends on, the answer holds until the commit: a change to them waits for the lock. Cost: one statement a question.
 */
export type TransactionalAccess = (tx: TransactionSql) => Access

export const createTransactionalAccess =
  (clock: Clock, flags: { readonly l3: boolean }): TransactionalAccess =>
  (tx) => {
    // Nothing is cached: a fact read before the lock may be stale after it.
    const facts = createFactCache({
      load: loadFromStore(createFactStore(tx), flags),
      memory: createTtlMap<never>({ clock, ttlMs: 0 }),
      clock,
      lease: { untilMs: Number.NEGATIVE_INFINITY },
      flags: { l1: false },
    })
    return createAccess({ clock, facts, decisionCounters: createDecisionCounters() })
  }
