import type { Caches } from '../access/caches.ts'
import type { NotificationQueue } from '../access/invalidation/notification-queue.ts'
import type { Chainer } from '../audit/chainer.ts'
import type { AuditSink } from '../audit/sink.ts'
import type { Breakers } from '../platform/breaker.ts'
import { poolNames } from '../platform/postgres.ts'
import type { Redis } from '../platform/redis.ts'
import type { SiemSender } from '../siem/sender.ts'
import type { Collector } from './collector.ts'
import { workerNames } from './figures.ts'
import { type Components, degraded, down, type Finding, off, up } from './health.ts'
import { percentilesOf } from './judgement.ts'
import type { Recorder } from './recorder.ts'
import { minSamples } from './targets.ts'

type Dependencies = {
  readonly caches: Pick<Caches, 'bus' | 'redisUse'>
  readonly notificationQueue: Pick<NotificationQueue, 'isFilling'>
  readonly watch: { isOpen(): boolean }
  readonly redis: Pick<Redis, 'state'> | undefined
  readonly breakers: Pick<Breakers, 'list'>
  readonly mail: { readonly isConfigured: boolean; isWorking(): boolean }
  readonly siem: Pick<SiemSender, 'figures'> | undefined
  readonly auditSink: Pick<AuditSink, 'figures'>
  readonly chainer: Pick<Chainer, 'figures'>
  readonly collector: Pick<Collector, 'workers'>
  readonly recorder: Pick<Recorder, 'poolWaits' | 'read'>
}

/** P95 of the wait of statements for a connection from which on a pool is too small for its work. */
const poolWaitMs = 50
/** P95 of the lag of the event loop from which on requests feel it. */
const loopLagMs = 100
const chainLagMs = 60_000

const busOf = ({ bus }: Dependencies['caches'], queue: Dependencies['notificationQueue']): Finding => {
  const reason = bus.noLeaseReason()
  if (reason !== undefined)
    return degraded(`${reason}: this instance holds no lease, and every decision queries Postgres`)
  if (queue.isFilling) return degraded('the queue of Postgres for notifications is filling')
  const other = bus.membersOfOtherVersion().length
  return other > 0 ? degraded(`${other} instances are of another version: changes wait for their leases`) : up
}

const redisOf = ({ caches, redis }: Dependencies): Finding => {
  if (redis === undefined) return off
  const state = redis.state()
  if (state === 'down') return down('not connected')
  if (state === 'tripped') return degraded('the circuit breaker is open, after timeouts or errors')
  const use = caches.redisUse()
  return use === 'used' || use === 'not_registered' ? up : degraded(use)
}

const breakerOf = (breakers: Dependencies['breakers'], dependency: string): Finding => {
  const all = breakers.list().filter((each) => each.dependency === dependency)
  if (all.length === 0) return off
  const open = all.filter(({ state }) => state !== 'closed')
  if (open.length === 0) return up
  const names = open.map(({ name, reason }) => `${name} (${reason ?? 'unknown'})`).join(', ')
  const detail = `nothing is sent to ${names}`
  return open.length === all.length ? down(detail) : degraded(detail)
}

const auditOf = ({ auditSink, chainer }: Dependencies): Finding => {
  const { dropped } = auditSink.figures
  if (dropped > 0) return degraded(`${dropped} events and decisions were not recorded since the start`)
  const { lagMs } = chainer.figures
  return lagMs > chainLagMs ? degraded(`events have waited ${Math.round(lagMs / 1_000)} s to be linked`) : up
}

const poolsOf = ({ recorder }: Dependencies): Finding => {
  const poolWaits = recorder.poolWaits()
  const slow = poolNames.flatMap((pool) => {
    const p95 = poolWaits[pool].slice.count < minSamples ? undefined : percentilesOf(poolWaits[pool])?.p95
    return p95 !== undefined && p95 > poolWaitMs ? [`${pool} (P95 ${Math.round(p95)} ms)`] : []
  })
  return slow.length === 0 ? up : degraded(`statements wait for a connection of ${slow.join(', ')}`)
}

const workersOf =
  ({ collector }: Dependencies, name: (typeof workerNames)[number]) =>
  (): Finding => {
    const { size, busy, waiting } = collector.workers()[name]
    return busy >= size && waiting > 0 ? degraded(`all ${size} threads are busy, and ${waiting} tasks wait`) : up
  }

const eventLoopOf = ({ recorder }: Dependencies): Finding => {
  const p95 = percentilesOf(recorder.read('event_loop', '10s'))?.p95 ?? 0
  return p95 > loopLagMs ? degraded(`timers run late: P95 ${Math.round(p95)} ms in 10 seconds`) : up
}

const siemOf = ({ siem }: Dependencies): Finding => {
  if (siem === undefined) return off
  const { state, lag } = siem.figures
  return state === 'failing' ? degraded(`the receiver did not take the last batch; ${lag.events} events wait`) : up
}

/** What an instance consists of and depends on. `storage` is that of media. */
export const createComponents = (dependencies: Dependencies): Components => {
  const { caches, notificationQueue, watch, breakers, mail } = dependencies
  return {
    postgres: () => (watch.isOpen() ? down('Postgres does not answer') : up),
    redis: () => redisOf(dependencies),
    bus: () => busOf(caches, notificationQueue),
    storage: () => breakerOf(breakers, 'storage'),
    providers: () => breakerOf(breakers, 'provider'),
    mail: () => {
      if (!mail.isConfigured) return off
      return mail.isWorking() ? up : down('the mail server could not be reached')
    },
    siem: () => siemOf(dependencies),
    audit: () => auditOf(dependencies),
    pools: () => poolsOf(dependencies),
    event_loop: () => eventLoopOf(dependencies),
    ...Object.fromEntries(workerNames.map((name) => [`workers.${name}`, workersOf(dependencies, name)])),
  }
}
