import { countsUpTo } from '../../kit/log-histogram.ts'
import type { WindowReading } from '../../kit/rolling-windows.ts'
import { poolNames } from '../../platform/postgres.ts'
import type { Aggregate } from '../exchange.ts'
import { type CountName, type InstanceFigures, workerNames } from '../figures.ts'
import type { TimedMetric } from '../recorder.ts'

/** The format of Prometheus, version 0.0.4. */
export const expositionType = 'text/plain; version=0.0.4; charset=utf-8'

/** Upper bounds of buckets in seconds: those of OpenTelemetry, finer ones for reads of memory, and every target. */
export const bucketsS = [
  0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
] as const

type Labels = Readonly<Record<string, string>>
type Sample = { readonly suffix?: string; readonly labels: Labels; readonly value: number }
type Family = {
  readonly name: string
  readonly type: 'counter' | 'gauge' | 'histogram'
  readonly help: string
  readonly samples: readonly Sample[]
}

const lineOf = (name: string, { suffix = '', labels, value }: Sample): string => {
  const pairs = Object.entries(labels).map(([label, text]) => `${label}="${text}"`)
  return `${name}${suffix}${pairs.length === 0 ? '' : `{${pairs.join(',')}}`} ${value}`
}

const familyText = ({ name, type, help, samples }: Family): string =>
  [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...samples.map((sample) => lineOf(name, sample))].join('\n')

/** A value within 0.55 % of a bound may be counted on its other side. */
const histogramSamples = ({ slice }: WindowReading, labels: Labels): Sample[] => {
  const counts = countsUpTo(
    slice,
    bucketsS.map((bound) => bound * 1_000),
  )
  return [
    ...bucketsS.map((bound, at) => ({
      suffix: '_bucket',
      labels: { ...labels, le: String(bound) },
      value: counts[at] as number,
    })),
    { suffix: '_bucket', labels: { ...labels, le: '+Inf' }, value: slice.count },
    { suffix: '_sum', labels, value: slice.sum / 1_000 },
    { suffix: '_count', labels, value: slice.count },
  ]
}

const ofEach = (
  processes: readonly InstanceFigures[],
  samples: (figures: InstanceFigures, process: Labels) => readonly Sample[],
): Sample[] => processes.flatMap((figures) => samples(figures, { process: String(figures.process.number) }))

/** The processes of the same supervisor. Of several with one number, this one, else the one that measured last. */
const processesOf = ({ parts, answeredBy }: Pick<Aggregate, 'parts' | 'answeredBy'>): InstanceFigures[] => {
  const own = parts.filter(({ instance }) => instance === answeredBy)
  const others = parts
    .filter(({ instance, process }) => instance !== answeredBy && process.supervisor === own[0]?.process.supervisor)
    .toSorted((one, other) => one.takenAtMs - other.takenAtMs)
  const byNumber = new Map([...others, ...own].map((figures) => [figures.process.number, figures]))
  return [...byNumber.values()].toSorted((one, other) => one.process.number - other.process.number)
}

type Times = {
  readonly name: string
  readonly help: string
  readonly label?: string
  readonly metrics: readonly TimedMetric[]
}

const timeFamilies: readonly Times[] = [
  {
    name: 'http_server_request_duration_seconds',
    help: 'Time from the arrival of a request to its response, of all routes.',
    metrics: ['api'],
  },
  {
    name: 'velro_operation_duration_seconds',
    help: 'Time of requests that sign in or refresh, register, or ask for decisions.',
    label: 'operation',
    metrics: ['authentication', 'registration', 'authorization'],
  },
  {
    name: 'velro_fact_read_duration_seconds',
    help: 'Time to read the facts of decisions from memory (l1), Redis (l2) and Postgres (l3).',
    label: 'tier',
    metrics: ['l1', 'l2', 'l3'],
  },
  {
    name: 'db_client_operation_duration_seconds',
    help: 'Time of statements, without their wait for a connection.',
    metrics: ['database'],
  },
  { name: 'velro_event_loop_delay_seconds', help: 'How late timers of a process run.', metrics: ['event_loop'] },
]

type Counter = {
  readonly name: string
  readonly help: string
  readonly label?: string
  readonly counts: Partial<Record<CountName, string>>
}

const counters: readonly Counter[] = [
  {
    name: 'velro_decisions_total',
    help: 'Decisions by the deepest tier that they needed.',
    label: 'tier',
    counts: { decisions_l1: 'l1', decisions_l2: 'l2', decisions_l3: 'l3', decisions_database: 'database' },
  },
  {
    name: 'velro_redis_lookups_total',
    help: 'Facts looked up in Redis.',
    label: 'result',
    counts: { l2_hits: 'hit', l2_misses: 'miss', l2_failures: 'failure' },
  },
  {
    name: 'velro_memory_removals_total',
    help: 'Facts that left memory.',
    label: 'reason',
    counts: { memory_evicted: 'evicted', memory_expired: 'expired', memory_invalidated: 'invalidated' },
  },
  { name: 'velro_compared_facts_total', help: 'Cached facts compared with Postgres.', counts: { facts_compared: '' } },
  {
    name: 'velro_stale_facts_total',
    help: 'Cached facts that differed from Postgres. Must stay 0.',
    counts: { stale_facts: '' },
  },
  {
    name: 'velro_invalidation_events_total',
    help: 'Invalidation events received.',
    counts: { events_received: '' },
  },
  {
    name: 'velro_changes_total',
    help: 'Changes by how the wait for the other instances ended.',
    label: 'outcome',
    counts: { changes_acknowledged: 'acknowledged', changes_lapsed: 'lapsed' },
  },
  { name: 'velro_requests_shed_total', help: 'Requests refused under load.', counts: { shed: '' } },
]

const timesOf = (processes: readonly InstanceFigures[]): Family[] =>
  timeFamilies.map(({ name, help, label, metrics }) => ({
    name,
    type: 'histogram',
    help,
    samples: ofEach(processes, ({ totals }, process) =>
      metrics.flatMap((metric) =>
        histogramSamples(totals.times[metric], label === undefined ? process : { ...process, [label]: metric }),
      ),
    ),
  }))

const countsOf = (processes: readonly InstanceFigures[]): Family[] => [
  {
    name: 'velro_http_server_errors_total',
    type: 'counter',
    help: 'Requests answered with a status of 500 or more.',
    samples: ofEach(processes, ({ totals }, labels) => [{ labels, value: totals.times.api.failed }]),
  },
  {
    name: 'velro_db_client_errors_total',
    type: 'counter',
    help: 'Statements that failed.',
    samples: ofEach(processes, ({ totals }, labels) => [{ labels, value: totals.times.database.failed }]),
  },
  ...counters.map(
    ({ name, help, label, counts }): Family => ({
      name,
      type: 'counter',
      help,
      samples: ofEach(processes, ({ totals }, process) =>
        Object.entries(counts).map(([count, value]) => ({
          labels: label === undefined ? process : { ...process, [label]: value },
          value: totals.counts[count as CountName],
        })),
      ),
    }),
  ),
]

const poolLabel = 'db_client_connection_pool_name'
const gaugesOf = (processes: readonly InstanceFigures[]): Family[] => [
  {
    name: 'db_client_connections',
    type: 'gauge',
    help: 'Connections to Postgres by pool and state.',
    samples: ofEach(processes, ({ pools }, process) =>
      poolNames.flatMap((pool) =>
        [
          ['idle', pools[pool].idle] as const,
          ['used', pools[pool].busy] as const,
          ['connecting', pools[pool].connecting] as const,
        ].map(([state, value]) => ({
          labels: { ...process, [poolLabel]: pool, db_client_connection_state: state },
          value,
        })),
      ),
    ),
  },
  {
    name: 'db_client_connection_max',
    type: 'gauge',
    help: 'Most connections of a pool.',
    samples: ofEach(processes, ({ pools }, process) =>
      poolNames.map((pool) => ({ labels: { ...process, [poolLabel]: pool }, value: pools[pool].max })),
    ),
  },
  {
    name: 'db_client_connection_pending_requests',
    type: 'gauge',
    help: 'Statements that wait for a connection.',
    samples: ofEach(processes, ({ pools }, process) =>
      poolNames.map((pool) => ({ labels: { ...process, [poolLabel]: pool }, value: pools[pool].waiting })),
    ),
  },
  {
    name: 'velro_worker_threads',
    type: 'gauge',
    help: 'Threads by pool and state.',
    samples: ofEach(processes, ({ workers }, process) =>
      workerNames.flatMap((pool) => [
        { labels: { ...process, pool, state: 'busy' }, value: workers[pool].busy },
        { labels: { ...process, pool, state: 'idle' }, value: Math.max(0, workers[pool].size - workers[pool].busy) },
      ]),
    ),
  },
  {
    name: 'velro_worker_queue_length',
    type: 'gauge',
    help: 'Work that waits for a thread.',
    samples: ofEach(processes, ({ workers }, process) =>
      workerNames.map((pool) => ({ labels: { ...process, pool }, value: workers[pool].waiting })),
    ),
  },
  {
    name: 'velro_jobs_running',
    type: 'gauge',
    help: 'Jobs that are made now.',
    samples: ofEach(processes, ({ jobs }, labels) => [{ labels, value: jobs }]),
  },
]

/** The figures of all processes of this supervisor, and how many instances could not be read. */
export const toExposition = (aggregate: Aggregate): string => {
  const processes = processesOf(aggregate)
  const families: Family[] = [
    ...timesOf(processes),
    ...countsOf(processes),
    ...gaugesOf(processes),
    {
      name: 'velro_concurrent_users',
      type: 'gauge',
      help: 'Distinct people and services of the last minute, of all instances.',
      samples: [{ labels: {}, value: aggregate.users.estimate() }],
    },
    {
      name: 'velro_instances_missing',
      type: 'gauge',
      help: 'Members whose figures could not be read.',
      samples: [{ labels: {}, value: aggregate.missing.length }],
    },
  ]
  return `${families.map(familyText).join('\n')}\n`
}
