import { Buffer } from 'node:buffer'
import { createCollector } from '../../monitoring/collector.ts'
import { createFiguresExchange } from '../../monitoring/exchange.ts'
import { createFiguresStore } from '../../monitoring/figures-store.ts'
import type { AccessParts } from './access.ts'
import type { Infrastructure } from './infrastructure.ts'

/** What this instance has measured, and what all have. */
export const composeFigures = (
  infrastructure: Infrastructure,
  { caches, decisionCounters, watch }: AccessParts,
  runningJobs: () => number,
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
    runningJobs,
    clock,
  })
  const exchange = createFiguresExchange({
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
  return { collector, figuresExchange: exchange }
}
