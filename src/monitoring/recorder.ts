import type { Clock } from '../kit/clock.ts'
import { RollingDistinct } from '../kit/distinct-sketch.ts'
import { RollingWindows, type WindowReading } from '../kit/rolling-windows.ts'
import { type PoolName, poolNames, type StatementTimes } from '../platform/postgres.ts'

/**
 * The times that are recorded. From the arrival of a request to its response: `authentication`, signing in and refreshing;
 * `registration`; `authorization`, requests for decisions; `api`, every request. Reading the facts of a decision: `l1` from
 * memory, `l2` from Redis, `l3` from the rows of effective access in Postgres. `database`: statements, without their wait for a
 * connection. `event_loop`: how late timers run. `acknowledgement`: how long a change waits until every other instance has
 * applied it.
 */
export const timedMetrics = [
  'authentication',
  'registration',
  'authorization',
  'l1',
  'l2',
  'l3',
  'database',
  'api',
  'event_loop',
  'acknowledgement',
] as const
export type TimedMetric = (typeof timedMetrics)[number]

/** `10s` is that of alerts. */
export const windowLengths = {
  '10s': { ms: 10_000, stepMs: 1_000 },
  '1m': { ms: 60_000, stepMs: 1_000 },
  '5m': { ms: 300_000, stepMs: 5_000 },
  '1h': { ms: 3_600_000, stepMs: 60_000 },
} as const
export type WindowName = keyof typeof windowLengths
export const windowNames = Object.keys(windowLengths) as WindowName[]

/** Of concurrent users. */
const usersWindowMs = 60_000

/**
 * Times of everything that this instance does, over rolling windows.
 *
 * Guarantee: every value is counted, none is sampled. Cost of a record: a reading of the clock and one write; see
 * `test/bench/recorder.ts`.
 */
export const createRecorder = ({ clock }: { readonly clock: Pick<Clock, 'monotonic'> }) => {
  const windows = Object.fromEntries(timedMetrics.map((metric) => [metric, new RollingWindows(windowLengths)])) as {
    readonly [M in TimedMetric]: RollingWindows<WindowName>
  }
  const waits = Object.fromEntries(
    poolNames.map((pool) => [pool, new RollingWindows({ '1m': windowLengths['1m'] })]),
  ) as { readonly [P in PoolName]: RollingWindows<'1m'> }
  const users = new RollingDistinct(usersWindowMs)
  return {
    /** `nowMs` is the time of the clock, for those who have just read it. */
    record: (metric: TimedMetric, ms: number, failed: boolean, nowMs = clock.monotonic()): void =>
      windows[metric].record(ms, failed, nowMs),
    /** Memory had all facts of a decision, as of `startedMs` on the clock. */
    memoryRead: (startedMs: number): void => {
      const nowMs = clock.monotonic()
      windows.l1.record(nowMs - startedMs, false, nowMs)
    },
    /** A statement is over. */
    statement: ({ pool, ms, waitMs, failed }: StatementTimes): void => {
      const nowMs = clock.monotonic()
      if (ms !== undefined) windows.database.record(ms, failed, nowMs)
      waits[pool].record(waitMs, ms === undefined, nowMs)
    },
    /** How long statements waited for their turn on a connection of each pool. Those that had none count as failed. */
    poolWaits: () => {
      const nowMs = clock.monotonic()
      return Object.fromEntries(poolNames.map((pool) => [pool, waits[pool].read('1m', nowMs)])) as {
        readonly [P in PoolName]: WindowReading
      }
    },
    /** A person or a service asked for something. */
    seen: (principalId: string, nowMs = clock.monotonic()): void => users.add(principalId, nowMs),
    window: (name: WindowName): { readonly [M in TimedMetric]: WindowReading } => {
      const nowMs = clock.monotonic()
      return Object.fromEntries(timedMetrics.map((metric) => [metric, windows[metric].read(name, nowMs)])) as {
        [M in TimedMetric]: WindowReading
      }
    },
    read: (metric: TimedMetric, name: WindowName): WindowReading => windows[metric].read(name, clock.monotonic()),
    /** Since the start. */
    total: (metric: TimedMetric): WindowReading => windows[metric].total(),
    /** The distinct principals of the last minute. */
    users: () => users.sketch(clock.monotonic()),
  }
}

export type Recorder = ReturnType<typeof createRecorder>
