import type { DecisionCounters } from '../access/cache/decision-counters.ts'
import type { Caches } from '../access/caches.ts'
import type { Admissions } from '../kit/admitted-deadline.ts'
import type { Clock } from '../kit/clock.ts'
import { RollingCounts } from '../kit/rolling-counts.ts'
import type { ProcessOfSupervisor } from '../platform/child-process.ts'
import type { Database } from '../platform/postgres.ts'
import type { Redis } from '../platform/redis.ts'
import type { WorkerPool } from '../platform/worker-pool.ts'
import { type CountName, type InstanceFigures, recordOf, type WorkerName, workerNames } from './figures.ts'
import { type Recorder, timedMetrics, windowLengths, windowNames } from './recorder.ts'

type Threads = Pick<WorkerPool<unknown, unknown>, 'size' | 'busy' | 'queued'>

type Dependencies = {
  readonly recorder: Recorder
  readonly caches: Pick<Caches, 'memory' | 'redisCache' | 'staleDetector' | 'bus'>
  readonly decisionCounters: Pick<DecisionCounters, 'decisions'>
  readonly redis: Pick<Redis, 'counts'> | undefined
  readonly admissions: Admissions
  readonly database: Pick<Database, 'pools'>
  readonly workers: Readonly<Record<WorkerName, Threads>>
  /** Jobs that this instance makes now. */
  readonly runningJobs: () => number
  /** Undefined: this process has no supervisor. */
  readonly process: ProcessOfSupervisor | undefined
  readonly clock: Clock
}

/** Collects what this instance has measured. Reads memory alone. Call `tick` each second: rates need the counters of then. */
export const createCollector = (dependencies: Dependencies) => {
  const { recorder, caches, decisionCounters, redis, admissions, database, workers, runningJobs, process, clock } =
    dependencies
  const { memory, redisCache, staleDetector, bus } = caches

  const readCounts = (): Record<CountName, number> => {
    const { l1, l2, l3, database: base } = decisionCounters.decisions
    return {
      decisions_l1: l1,
      decisions_l2: l2,
      decisions_l3: l3,
      decisions_database: base,
      l2_hits: redisCache?.counts.hits ?? 0,
      l2_misses: redisCache?.counts.misses ?? 0,
      l2_failures: redis === undefined ? 0 : redis.counts.errors + redis.counts.timeouts,
      stale_facts: staleDetector.counts.stale,
      facts_compared: staleDetector.counts.compared,
      memory_evicted: memory.counts.evicted,
      memory_expired: memory.counts.expired,
      memory_invalidated: memory.counts.deleted,
      events_received: bus.counts.events,
      changes_acknowledged: bus.counts.acknowledged,
      changes_lapsed: bus.counts.lapsed,
      shed: admissions.statements.shed + admissions.batches.shed + admissions.changes.shed,
    }
  }
  const counts = new RollingCounts(windowLengths, readCounts, clock.monotonic())

  const workerUse = () =>
    recordOf(workerNames, (name) => {
      const { size, busy, queued } = workers[name]
      return { size, busy, waiting: queued }
    })

  return {
    tick: (): void => counts.tick(clock.monotonic()),
    collect: (): InstanceFigures => ({
      instance: bus.instance,
      takenAtMs: clock.now(),
      process: process ?? { supervisor: bus.instance, number: 0 },
      totals: { times: recordOf(timedMetrics, (metric) => recorder.total(metric)), counts: readCounts() },
      windows: recordOf(windowNames, (name) => ({
        times: recorder.window(name),
        counts: counts.read(name, clock.monotonic()),
      })),
      users: recorder.users(),
      pools: database.pools(),
      poolWaits: recorder.poolWaits(),
      workers: workerUse(),
      jobs: runningJobs(),
    }),
    workers: workerUse,
  }
}

export type Collector = ReturnType<typeof createCollector>
