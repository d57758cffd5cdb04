import type { FactCache } from '../../src/access/cache/fact-cache.ts'
import type { Changes } from '../../src/access/invalidation/committed-change.ts'
import { createChanges } from '../../src/access/invalidation/committed-change.ts'
import type { Sql } from '../../src/platform/postgres.ts'

/** What an instance has that is the only one: a lease that does not end, and every tier. */
export const always = { lease: { untilMs: Number.POSITIVE_INFINITY }, flags: { l1: true, l2: true, l3: true } } as const

/** Changes that nobody else has to hear of. */
export const changesAlone = (sql: Sql, facts: Pick<FactCache, 'invalidate'>): Changes =>
  createChanges({
    sql,
    facts,
    bus: { instance: 'alone', registerCommit: () => ({ acknowledgedByAll: async () => {}, abandon: () => {} }) },
    onCommitted: () => {},
  })
