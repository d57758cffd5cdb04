import { closed, oneOf, type Static, t } from '../http/schema-types.ts'

const count = (description?: string) => t.Integer({ minimum: 0, ...(description !== undefined && { description }) })
const share = (description: string) => t.Union([t.Number({ minimum: 0, maximum: 1 }), t.Null()], { description })
const milliseconds = t.Union([t.Number({ minimum: 0 }), t.Null()])

const caches = closed({
  hit_rate: share('Of the decisions of this instance, those for which Postgres was not asked; null before the first'),
  l1_share: share('Of the decisions of this instance, those made from its memory alone'),
  stale_facts: count('Facts in memory that were found not to be true any more: 0, always'),
  facts_compared: count('Facts in memory that were compared with Postgres to find such'),
  decisions: closed({
    total: count(),
    l1: count(),
    l2: count(),
    l3: count('By the effective rows in Postgres'),
    database: count('By the base tables in Postgres, as while `l3` is switched off'),
  }),
  l1: closed({
    enabled: t.Boolean(),
    entries: count(),
    max_entries: count(),
    bytes: count('As an estimate'),
    max_bytes: count(),
  }),
  l2: closed({
    enabled: t.Boolean(),
    /** `none`: no Redis is configured; `tripped`: it answers too late or with errors. */
    state: oneOf(['none', 'up', 'down', 'tripped'] as const),
    hits: count('Facts, not decisions'),
    misses: count(),
    timeouts: count(),
    errors: count(),
    unreadable: count('Values that were not what they should be'),
    refused: count('Facts not kept because they were changed while they were fetched'),
  }),
  l3: closed({ enabled: t.Boolean() }),
})

const bus = closed({
  instance: t.String({ description: 'Which instance this is about' }),
  lease_held: t.Boolean({ description: 'Whether it believes its own memory' }),
  members: t.Array(t.String(), { description: 'The other instances it heard of lately' }),
  events_heard: count(),
  changes_announced: count(),
  pending_invalidations: count('Changes that Redis has not confirmed yet to have forgotten'),
  waits: closed({
    acknowledged: count('Changes that all others had applied when they were answered'),
    lapsed: count('Changes answered without one that said nothing, when that believed its memory no more'),
    p50_ms: milliseconds,
    p99_ms: milliseconds,
    max_ms: milliseconds,
  }),
})

export const metrics = closed({ caches, bus })
export type Metrics = Static<typeof metrics>
