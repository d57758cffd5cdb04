import type { Readers } from '../kit/readers.ts'
import type { Aggregate, FiguresExchange } from './exchange.ts'
import type { HealthView } from './health.ts'
import type { ReportWindow } from './judgement.ts'
import type { Metrics, OwnMetrics } from './model.ts'
import { toExposition } from './prometheus/exposition.ts'
import type { ComplianceReport, Health, Recommendation, Report } from './report-model.ts'
import { toCompliance, toFleet, toReport } from './reports.ts'
import { type MonitoringStore, type Queue, queues } from './store.ts'
import type { StreamEvent } from './streams.ts'

type Dependencies = {
  readonly ownMetrics: () => OwnMetrics
  readonly exchange: Pick<FiguresExchange, 'read'>
  readonly health: Pick<HealthView, 'read'>
  readonly store: MonitoringStore
  readonly readers: Readers
  /** Settings to change, by the measurements. */
  readonly recommend?: (aggregate: Aggregate) => readonly Recommendation[]
}

/**
 * The figures of all instances over rolling windows, and the counters of this instance since its start.
 *
 * Guarantee: works while Postgres and Redis are down, with the figures of this instance alone, and names the instances that are
 * missing.
 */
export const createMonitoring = ({
  ownMetrics,
  exchange,
  health,
  store,
  readers,
  recommend = () => [],
}: Dependencies) => {
  let lags: Partial<Record<Queue, number | null>> = {}
  for (const queue of queues) readers.register(queue, () => lags[queue] ?? null)

  const report = async (): Promise<Report> => {
    const aggregate = await exchange.read()
    return toReport(aggregate, recommend(aggregate))
  }
  const currentHealth = async (): Promise<Health> => health.read(await exchange.read())

  return {
    report,
    health: currentHealth,
    compliance: async (window: ReportWindow): Promise<ComplianceReport> => toCompliance(await exchange.read(), window),
    metrics: async (): Promise<Metrics> => ({ ...toFleet(await exchange.read()), ...ownMetrics() }),
    /** For Prometheus. */
    exposition: async (): Promise<string> => toExposition(await exchange.read()),
    /** The events of a stream. */
    streamEvents: async (): Promise<readonly StreamEvent[]> => [
      ['report', await report()],
      ['health', await currentHealth()],
    ],
    /** Measures how far the readers of queues in Postgres are behind. */
    measureQueues: async (): Promise<void> => {
      lags = await store.readLags()
    },
  }
}

export type Monitoring = ReturnType<typeof createMonitoring>
