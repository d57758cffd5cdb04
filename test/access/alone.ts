import type { FactCache } from '../../src/access/cache/fact-cache.ts'
import type { Changes } from '../../src/access/invalidation/committed-change.ts'
import { createChanges } from '../../src/access/invalidation/committed-change.ts'
import { systemClock } from '../../src/kit/clock.ts'
import type { Sql } from '../../src/platform/postgres.ts'

/** A single instance: a lease without end, and every tier on. */
export const always = { lease: { untilMs: Number.POSITIVE_INFINITY }, flags: { l1: true, l2: true, l3: true } } as const

/** Changes without other instances to wait for. */
export const changesAlone = (sql: Sql, facts: Pick<FactCache, 'invalidate'>): Changes =>
  createChanges({
    sql,
    clock: systemClock,
    facts,
    bus: {
      instance: 'alone',
      databaseIdentity: () => undefined,
      registerCommit: () => ({ acknowledgedByAll: async () => {}, abandon: () => {} }),
    },
    sendEvents: async () => {},
    onCommitted: () => {},
  })
