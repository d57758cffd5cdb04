import { modes } from '../access/policy/modes.ts'
import { closed, oneOf, type Static, t, timestamp } from '../http/schema-types.ts'
import { type PoolName, poolNames } from '../platform/postgres.ts'
import { workerNames } from './figures.ts'
import { reportWindows } from './judgement.ts'
import { grades, shareMetrics, targetMetrics, trends } from './targets.ts'

const count = (description?: string) => t.Integer({ minimum: 0, ...(description !== undefined && { description }) })
const nullable = (description: string) => t.Union([t.Number({ minimum: 0 }), t.Null()], { description })
const ms = (description: string) => nullable(`Milliseconds; ${description}; null without samples`)
const window = { ...oneOf(reportWindows), description: 'The last minute, five minutes or hour' }
const grade = t.Union([oneOf(grades), t.Null()], {
  description:
    'Of the P95 as a multiple of the target, or of the share of misses or errors: A up to 0.5, B up to 0.8, C up to 1, D up to 1.5, else F. Null with fewer than 20 samples',
})
const trend = t.Union([oneOf(trends), t.Null()], {
  description:
    'Against the next longer window: `worsening` above 1.2 times its value, `improving` below 0.8 times. Null for the hour, and with fewer than 20 samples',
})

/** Of which instances the figures are. */
export const instances = closed({
  answered_by: t.String({ description: 'The instance that answered' }),
  included: t.Array(t.String(), { description: 'The instances whose figures are added up' }),
  missing: t.Array(t.String(), {
    description:
      'Instances that ran within the last minute and have not ended in good order, but whose figures of the last 5 seconds could not be read',
  }),
  complete: t.Boolean({
    description:
      'Whether every running instance is included. False also while the bus is not connected, because others are not known then',
  }),
})

const timeFigures = {
  window,
  samples: count(),
  failed: count('Requests that were answered 5xx, statements and loads that failed'),
  per_second: t.Number({ minimum: 0 }),
  mean_ms: ms('the mean'),
  p50_ms: ms('the median, to 0.55 %'),
  p95_ms: ms('to 0.55 %'),
  p99_ms: ms('to 0.55 %'),
  max_ms: ms('exact'),
}

const timeMetric = closed({
  metric: {
    ...oneOf(targetMetrics),
    description:
      '`authentication` (sign-in and refresh), `registration`, `authorization` (checks, batches, explanations, AuthZEN) and `api` (every request): from the arrival of a request until its response is handed to the server. `l1`, `l2`, `l3`: reading the facts of decisions from memory, Redis and Postgres. `database`: statements, without their wait for a connection',
  },
  target_ms: t.Number({ description: 'For the P95' }),
  windows: t.Array(closed({ ...timeFigures, grade, trend })),
})

const shareMetric = closed({
  metric: {
    ...oneOf(shareMetrics),
    description:
      '`hit_rate`: the share of decisions that did not query Postgres, judged by the share that did. `error_rate`: the share of requests that were answered 5xx; fewer than 3 errors are never above the target',
  },
  target: t.Number({ description: 'At least for `hit_rate`, at most for `error_rate`' }),
  windows: t.Array(
    closed({ window, samples: count(), value: nullable('A share; null without samples'), grade, trend }),
  ),
})

const share = (description: string) => t.Union([t.Number({ minimum: 0, maximum: 1 }), t.Null()], { description })

const tiers = closed({
  window,
  decisions: closed({ total: count(), l1: count(), l2: count(), l3: count(), database: count() }),
  l1_hit_rate: share('Share of the decisions that memory alone answered; null without decisions'),
  l2_hit_rate: share('Share of the facts looked up in Redis that were there; null without look-ups'),
  l2_failures: count('Commands that Redis did not answer in time, or refused'),
  stale_facts: count('Facts in memory that differed from Postgres: should always be 0'),
  facts_compared: count('Facts in memory that were compared with Postgres'),
  memory: closed({
    evicted: count('Facts that made room for others'),
    expired: count('Look-ups of facts whose time to live was over'),
    invalidated: count('Facts that a change made untrue'),
  }),
  invalidations: closed({
    events: count('Invalidation events received, by each instance'),
    acknowledged: count('Changes that every other instance acknowledged'),
    lapsed: count('Changes that waited out the lease of a silent instance'),
  }),
  shed: count('Requests refused under load'),
})

export const pool = closed({
  name: oneOf(poolNames as [PoolName, ...PoolName[]]),
  max: count('Connections that it may have'),
  idle: count(),
  busy: count(),
  connecting: count(),
  waiting: count('Statements that wait for their turn on a connection now'),
  wait_p95_ms: ms('how long statements of the last minute waited for their turn'),
  gave_up: count('Statements of the last minute that never had a turn'),
})

export const worker = closed({
  name: { ...oneOf(workerNames), description: '`hashing` of passwords, `rendering` and checking of media' },
  size: count('Threads'),
  busy: count(),
  waiting: count('Tasks that wait for a thread'),
})

export const recommendation = closed({
  code: t.String({ description: 'Names the rule', examples: ['memory.too_small'] }),
  metric: t.String({ description: 'The metric that the change improves' }),
  message: t.String({ description: 'The measurement with its figures, and the expected effect of the change' }),
  setting: t.Union([t.String(), t.Null()], { description: 'The environment variable to change; null: none' }),
})
export type Recommendation = Static<typeof recommendation>

const usage = {
  concurrent_users: count(
    'Distinct people and services with requests in the last minute, over all instances; estimated, standard error 0.8 %',
  ),
  pools: t.Array(pool, { description: 'Pools of connections to Postgres' }),
  workers: t.Array(worker),
  jobs_running: count('Generations that are made now'),
  event_loop: t.Array(closed(timeFigures), {
    description: 'How late timers of the event loop ran, measured 20 times a second',
  }),
  acknowledgements: t.Array(closed(timeFigures), {
    description: 'How long changes, revocations among them, waited until every other instance had applied them',
  }),
}

/** Figures of all instances, which `metrics` has too. */
export const fleet = { taken_at: timestamp(), instances, ...usage }

export const report = closed({
  ...fleet,
  metrics: t.Array(timeMetric),
  shares: t.Array(shareMetric),
  tiers: t.Array(tiers, { description: 'The tiers of the cache, for each window' }),
  recommendations: t.Array(recommendation),
})
export type Report = Static<typeof report>

export const complianceQuery = closed({
  window: t.Optional({ ...oneOf(reportWindows), description: 'Default: the last hour', default: '1h' }),
})

const status = {
  ...oneOf(['met', 'missed', 'insufficient_data'] as const),
  description: '`insufficient_data`: fewer than 100 samples in the window, so nothing is said',
}
export const compliance = closed({
  taken_at: timestamp(),
  instances,
  window,
  status: {
    ...oneOf(['met', 'missed', 'insufficient_data'] as const),
    description: '`missed` where any requirement is missed, else `insufficient_data` where any has too few samples',
  },
  times: t.Array(
    closed({
      metric: oneOf(targetMetrics),
      target_ms: t.Number(),
      p50_ms: ms('the median'),
      p95_ms: ms('compared with the target'),
      p99_ms: ms('beside it'),
      samples: count(),
      status,
    }),
  ),
  shares: t.Array(
    closed({
      metric: oneOf(shareMetrics),
      target: t.Number(),
      measured: nullable('Null without samples'),
      samples: count(),
      status,
    }),
  ),
  stale_facts: count('Facts in memory that differed from Postgres in the window: should always be 0'),
})
export type ComplianceReport = Static<typeof compliance>

export const componentStates = ['up', 'degraded', 'down', 'off'] as const
export type ComponentState = (typeof componentStates)[number]

const component = closed({
  name: t.String({
    description: 'Such as `postgres`, `redis`, `bus`, `storage`, `mail`, `audit` or `workers.hashing`',
  }),
  state: { ...oneOf(componentStates), description: '`off`: not configured' },
  since: { ...timestamp(), description: 'When this instance found the state, or started' },
  detail: t.Union([t.String(), t.Null()], { description: 'Why it is not `up`' }),
})
export const health = closed({
  taken_at: timestamp(),
  instances,
  status: { ...oneOf(['up', 'degraded', 'down'] as const), description: 'Of the instance that answered' },
  mode: {
    ...oneOf([...modes, 'unknown'] as const),
    description: 'The mode in force on the instance that answered; `unknown` while its memory does not know it',
  },
  components: t.Array(component, { description: 'As the instance that answered sees them' }),
})
export type Health = Static<typeof health>
