import { redisUses } from '../access/cache/redis-registry.ts'
import { refusals } from '../access/cache/shared-outage.ts'
import { noLeaseReasons } from '../access/invalidation/tracking.ts'
import { modes } from '../access/policy/modes.ts'
import { securityContextModes } from '../config.ts'
import { closed, oneOf, type Static, t, timestamp } from '../http/schema-types.ts'
import { breakerStates, dependencies } from '../platform/breaker.ts'
import { fleet } from './report-model.ts'

const count = (description?: string) => t.Integer({ minimum: 0, ...(description !== undefined && { description }) })
const share = (description: string) => t.Union([t.Number({ minimum: 0, maximum: 1 }), t.Null()], { description })
const milliseconds = t.Union([t.Number({ minimum: 0 }), t.Null()])

const caches = closed({
  hit_rate: share(
    'Share of the decisions of this instance that did not query Postgres; null before the first decision',
  ),
  l1_share: share('Share of the decisions of this instance that used its memory alone'),
  stale_facts: count('Facts in memory that differed from Postgres: should always be 0'),
  facts_compared: count('Facts in memory that were compared with Postgres'),
  decisions: closed({
    total: count(),
    l1: count(),
    l2: count(),
    l3: count('By the effective access rows in Postgres'),
    database: count('By the base tables in Postgres, while `l3` is off'),
  }),
  l1: closed({
    enabled: t.Boolean(),
    entries: count(),
    max_entries: count(),
    bytes: count('Estimated'),
    max_bytes: count(),
  }),
  l2: closed({
    enabled: t.Boolean(),
    /** `none`: no Redis is configured. `tripped`: the circuit breaker is open, after timeouts or errors. */
    state: oneOf(['none', 'up', 'down', 'tripped'] as const),
    use: {
      ...oneOf(redisUses),
      description:
        'Whether this instance uses Redis. `other_server`: it does not, because the other instances use another Redis server. `other_secret`: it does not, because they have another SECRET or version. `not_registered`: it has not yet agreed with the others since the bus or Redis was connected',
    },
    hits: count('Facts, not decisions'),
    misses: count(),
    timeouts: count(),
    errors: count(),
    unreadable: count('Values that did not match their schema'),
    forged: count(
      'Entries, notes, statements of instances and counts of limits in Redis that no instance wrote: should always be 0. None is believed',
    ),
    outdated: count('Facts in Redis that were older than their time to live: perhaps put back by someone'),
    full: count('Facts not stored in Redis because its memory is full and it evicts nothing'),
    refused: count(
      'Facts not stored in Redis because they were invalidated, evicted or expired there while they were loaded',
    ),
  }),
  l3: closed({ enabled: t.Boolean() }),
})

const bus = closed({
  instance: t.String({ description: 'Id of the instance that answered' }),
  lease_held: t.Boolean({ description: 'Whether the instance holds its lease and trusts its memory' }),
  no_lease_reason: t.Union([oneOf(noLeaseReasons), t.Null()], {
    description:
      'Why the instance holds no lease. `connecting`: the connections of the bus are not open. `late`: its heartbeats come back late. `unreachable`: a connection of the bus cannot be opened. `pooler`: notifications do not arrive, because DATABASE_BUS_URL leads through a pooler in transaction mode. `other_database`: DATABASE_BUS_URL leads to another database than DATABASE_URL. `gap`: an invalidation event was lost. `other_version`: the database has the functions of another version. Null while the lease is held',
  }),
  members: t.Array(t.String(), { description: 'The other instances whose heartbeats it receives' }),
  members_of_other_version: t.Array(t.String(), {
    description:
      'Of those, the instances of another version of the wire: each change waits until their leases are over',
  }),
  events_received: count('Invalidation events received, those of this instance among them'),
  gaps: count('How often an invalidation event was found to be missing; each time memory was cleared'),
  changes_committed: count('Changes this instance committed'),
  pending_invalidations: count('Invalidation events that Redis has not confirmed yet'),
  notification_queue_usage: share(
    'Share of the queue of Postgres for notifications that listeners have not read; when it is full every change fails. Measured every 10 s; null before that',
  ),
  waits: closed({
    acknowledged: count('Changes that every other instance acknowledged'),
    lapsed: count('Changes that waited out the lease of an instance that did not acknowledge'),
    p50_ms: milliseconds,
    p99_ms: milliseconds,
    max_ms: milliseconds,
  }),
})

const siem = t.Union(
  [
    closed({
      state: {
        ...oneOf(['sending', 'standby', 'failing'] as const),
        description:
          '`standby`: another instance sends. `failing`: the receiver did not take the last batch, which is sent again',
      },
      sent: count('Security events that this instance has sent'),
      failures: count('Attempts that failed, or whose outcome is unknown'),
      lag_events: count('Events of the audit log that are not sent yet, of all instances'),
      lag_seconds: t.Number({ minimum: 0, description: 'Age of the oldest of them' }),
    }),
    t.Null(),
  ],
  { description: 'The receiver of security events; null where none is configured' },
)

const staleReads = closed({
  allowed: t.Boolean({
    description: 'Whether stale reads would be safe now: every instance has stated that it cannot reach Postgres',
  }),
  refused_because: t.Union([oneOf(refusals), t.Null()], {
    description:
      '`others_unknown`: an instance that may have committed changes has not stated that it cannot reach Postgres. `no_redis`: several instances run without Redis. `redis_silent`: Redis did not answer. `events_missing`: another instance has applied an event that this one has not. Null while they are allowed',
  }),
})

const load = closed({
  in_flight: count('Under way'),
  limit: count('Most that may be under way now'),
  waiting: count(),
  shed: count('Refused under load'),
})

/** Work of requests. `batches` load the facts of many decisions at once, `statements` those of one; `hashes` are of passwords. */
const admission = closed({ statements: load, batches: load, changes: load, uploads: load, hashes: load })

const counted = closed({
  admitted: count('Requests of this instance since its start'),
  refused: count('Or, with LIMITS=monitor, those that would have been'),
})
const limits = closed({
  mode: oneOf(['on', 'monitor', 'off'] as const),
  budgets: closed({
    api: counted,
    generation: counted,
    media: counted,
    auth_account_and_address: counted,
    auth_account: counted,
    auth_address: counted,
    anonymous: counted,
    service_key: counted,
  }),
  decisions: closed({
    local: count('By memory alone'),
    shared: count('By Redis'),
    fallback: count('By this instance alone, because Redis was not reached or too slow'),
  }),
  keys: count('Keys of budgets in memory'),
})

const securityContext = closed({
  mode: oneOf(securityContextModes),
  rollout_percent: t.Integer({ minimum: 0, maximum: 100 }),
  countries_as_of: { ...timestamp(), description: 'When the database of countries was made; see GEOIP_COUNTRY_DB' },
  assessments: count(
    'Clients that were compared with a session. A client is compared again only once the session was read again, after a minute by default',
  ),
  refusals: count('Requests that were answered 401 `session.reauthentication_required` for it'),
  signals: closed({
    impossible_travel: count('Assessments with this signal'),
    country_changed: count(),
    platform_changed: count(),
    browser_changed: count(),
    network_changed: count(),
  }),
})

const reader = closed({
  name: t.String({
    description:
      'The queue of the reader: `jobs`, `outbound` (mails and other work that reaches outside), `webhooks` (events that no sender has noticed), `cancellations` (of orders at providers), `invalidations` (until Redis has confirmed them), and others',
  }),
  lag_ms: {
    ...milliseconds,
    description: 'How long the oldest entry that is due has waited, of all instances; null: none waits',
  },
})

const audit = closed({
  queued: count('Events and decisions that are not stored yet'),
  dropped: count('Events and decisions that were not recorded, because the queue was full: should always be 0'),
  written: count(),
  linked: count('Events that this instance has linked into the hash chain'),
  chains_restarted: count('Chains begun anew because their head was missing or changed: should always be 0'),
  chain_lag_ms: { ...milliseconds, description: 'How long the oldest event that is not linked has waited' },
})

const anomalies = t.Union(
  [
    closed({
      mode: oneOf(['monitor', 'enforce'] as const),
      active: count('Principals under a verdict now'),
      principals: count('Principals that are watched'),
      lost: count('Requests that were not judged, because too many came'),
      verdicts: t.Array(closed({ reason: t.String(), count: count('Verdicts since the start') })),
    }),
    t.Null(),
  ],
  { description: 'Null where ANOMALY is off' },
)

const breaker = closed({
  name: t.String(),
  dependency: oneOf(dependencies),
  state: oneOf(breakerStates),
  opened: count('How often it opened since the start'),
  failed: count('Failures since the start'),
  refused: count('Calls that were not sent, since the start'),
})

/** Of the instance that answered. */
const own = {
  mode: {
    ...oneOf([...modes, 'unknown'] as const),
    description: 'The mode in force on this instance; `unknown` while its memory does not know it',
  },
  audit,
  anomalies,
  breakers: t.Array(breaker),
  limits,
  admission,
  caches,
  bus,
  stale_reads: staleReads,
  instance_mode: t.Union([oneOf(modes), t.Null()], {
    description: 'The mode that open circuit breakers have set for this instance alone; null: none',
  }),
  security_context: securityContext,
  readers: t.Array(reader, {
    description: 'Readers learn of entries by notifications, and look by themselves too. Measured every 10 s',
  }),
  siem,
}
const ownMetrics = closed(own)
export type OwnMetrics = Static<typeof ownMetrics>

export const metrics = closed({ ...fleet, ...own })
export type Metrics = Static<typeof metrics>
