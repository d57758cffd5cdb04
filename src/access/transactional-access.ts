import type { Clock } from '../kit/clock.ts'
import { createTtlMap } from '../kit/ttl-map.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { type Access, createAccess } from './access.ts'
import { createDecisionCounters } from './cache/decision-counters.ts'
import { createFactCache } from './cache/fact-cache.ts'
import { createFactStore } from './cache/fact-store.ts'
import { loadFromStore } from './cache/tiered-loader.ts'

/**
 * Access as one transaction sees it, past every cache. Asked after a row was locked, its answer holds until the commit,
 * because whoever would change it waits for that row. Each question is one statement.
 */
export type TransactionalAccess = (tx: TransactionSql) => Access

export const createTransactionalAccess =
  (clock: Clock, flags: { readonly l3: boolean }): TransactionalAccess =>
  (tx) => {
    // Nothing lives in this memory: what was known before a lock is not what is true after it.
    const facts = createFactCache({
      load: loadFromStore(createFactStore(tx), flags),
      memory: createTtlMap<never>({ clock, ttlMs: 0 }),
      clock,
      lease: { untilMs: Number.NEGATIVE_INFINITY },
      flags: { l1: false },
    })
    return createAccess({ clock, facts, decisionCounters: createDecisionCounters() })
  }
