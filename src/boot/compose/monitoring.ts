import { Buffer } from 'node:buffer'
import process from 'node:process'
import type { Mode } from '../../access/policy/modes.ts'
import { createAccessLog } from '../../monitoring/access-log.ts'
import { createAlerts } from '../../monitoring/alerts/service.ts'
import { createAlertStore } from '../../monitoring/alerts/store.ts'
import { createCollector } from '../../monitoring/collector.ts'
import { createComponents } from '../../monitoring/components.ts'
import { createFiguresExchange } from '../../monitoring/exchange.ts'
import { createFiguresStore } from '../../monitoring/figures-store.ts'
import { createHealth } from '../../monitoring/health.ts'
import { createInstanceMetrics } from '../../monitoring/instance-metrics.ts'
import { createMonitoring } from '../../monitoring/service.ts'
import { createMonitoringStore } from '../../monitoring/store.ts'
import { createFigureStreams } from '../../monitoring/streams.ts'
import { findOwnProcess } from '../../platform/child-process.ts'
import type { SiemSender } from '../../siem/sender.ts'
import type { AccessParts } from './access.ts'
import type { composeAudit } from './audit.ts'
import type { composeMedia, GenerationParts } from './generations.ts'
import type { Infrastructure } from './infrastructure.ts'
import type { Shared } from './shared.ts'

type Parts = Pick<Shared, 'limits' | 'anomalies' | 'mail'> &
  Pick<GenerationParts, 'runner'> &
  Pick<ReturnType<typeof composeMedia>, 'uploads'> &
  Pick<ReturnType<typeof composeAudit>, 'chainer'> & { readonly siem: SiemSender | undefined }

/** What this instance has measured, and what all have. */
const composeFigures = (
  infrastructure: Infrastructure,
  { caches, decisionCounters, watch }: AccessParts,
  { runner }: Pick<Parts, 'runner'>,
) => {
  const { recorder, redis, admissions, database, passwords, images, clock, realClock } = infrastructure
  const collector = createCollector({
    recorder,
    caches,
    decisionCounters,
    redis,
    admissions,
    database,
    workers: { hashing: passwords.threads, rendering: images.threads },
    runningJobs: () => runner.running,
    process: findOwnProcess(process.env),
    clock,
  })
  const figuresExchange = createFiguresExchange({
    instance: caches.bus.instance,
    collect: collector.collect,
    bus: caches.bus,
    redis,
    prefix: `velro:figures:${Buffer.from(infrastructure.keyedHash('outage', Buffer.from('figures'))).toString('base64url')}:`,
    macs: infrastructure.secrets.macs('redis-figures'),
    onForged: infrastructure.forgeries.onForged,
    store: createFiguresStore(database.batch),
    requireAvailable: watch.requireAvailable,
    clock,
    realClock,
  })
  return { collector, figuresExchange }
}

/** Figures and health of this instance and of all, and who is sent them. */
export const composeMonitoring = (
  infrastructure: Infrastructure,
  access: AccessParts,
  parts: Parts,
  stack: AsyncDisposableStack,
) => {
  const { config, database, redis, breakers, auditSink, recorder, clock, realClock, log } = infrastructure
  const { caches, notificationQueue, watch } = access
  const accessLog = createAccessLog({ every: config.accessLogEvery, log, clock: realClock })
  if (accessLog !== undefined) infrastructure.requestRecorder.onAnswered(accessLog)
  const { mail, siem, chainer, anomalies } = parts
  const { collector, figuresExchange } = composeFigures(infrastructure, access, parts)
  const modeInForce = (): Mode | 'unknown' => {
    const restrictions = access.access.restrictionsFromMemory()
    return restrictions === 'unknown' ? 'unknown' : (restrictions?.mode ?? 'normal')
  }
  const health = createHealth({
    components: createComponents({
      caches,
      notificationQueue,
      watch,
      redis,
      breakers,
      mail,
      siem,
      auditSink,
      chainer,
      collector,
      recorder,
    }),
    modeInForce,
    clock,
  })
  const monitoring = createMonitoring({
    ownMetrics: createInstanceMetrics({
      caches,
      limits: parts.limits,
      decisionCounters: access.decisionCounters,
      redis,
      forgeries: infrastructure.forgeries,
      outage: access.outage,
      ownMode: access.ownMode,
      admissions: infrastructure.admissions,
      uploads: parts.uploads,
      passwords: infrastructure.passwords,
      notificationQueue,
      readers: infrastructure.readers,
      siem,
      screening: infrastructure.screening,
      l1: { maxEntries: config.l1MaxEntries, maxBytes: config.l1MaxBytes },
      auditSink,
      chainer,
      anomalies,
      breakers,
      modeInForce,
    }),
    exchange: figuresExchange,
    health,
    store: createMonitoringStore(database.batch),
    readers: infrastructure.readers,
  })
  const alerts = createAlerts({
    store: createAlertStore(database.admin, database.batch),
    read: figuresExchange.read,
    instance: caches.bus.instance,
    clock,
    log,
  })
  stack.defer(alerts.close)
  const figureStreams = createFigureStreams({ collect: monitoring.streamEvents, clock: realClock, log })
  stack.defer(() =>
    figuresExchange.leave().catch((error) => log.debug({ error }, 'the other instances miss the figures of this one')),
  )
  stack.defer(figureStreams.close)
  return {
    figuresExchange,
    monitoring,
    alerts,
    figureStreams,
    /** Each second. */
    measure: async (): Promise<void> => {
      collector.tick()
      health.observe()
      await figuresExchange.publish()
    },
  }
}
