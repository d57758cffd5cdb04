import { Buffer } from 'node:buffer'
import type { Anomalies } from '../../anomaly/service.ts'
import { createBudgets } from '../../limits/budgets.ts'
import { createLimits } from '../../limits/limits.ts'
import { createRedisExchange } from '../../limits/redis-exchange.ts'
import type { AccessParts } from './access.ts'
import type { Infrastructure } from './infrastructure.ts'

/** Between access and features: the budgets that requests count on. */
export const composeLimits = (
  { config, clock, realClock, log, redis, keyedHash, secrets, forgeries }: Infrastructure,
  { caches: { bus } }: AccessParts,
  anomalies: Anomalies | undefined,
  stack: AsyncDisposableStack,
) => {
  // The same for all instances of a deployment.
  const prefix = Buffer.from(keyedHash('limits', new Uint8Array())).toString('base64url').slice(0, 22)
  const [mac] = secrets.macs('redis-units')
  const { onForged } = forgeries
  const budgets = createBudgets({
    clock: realClock,
    exchange:
      redis && config.limits !== 'off'
        ? createRedisExchange({ redis, prefix, instance: bus.instance, mac, onForged, clock: realClock })
        : undefined,
    instances: () => 1 + bus.members().length,
  })
  stack.defer(budgets.close)
  if (config.limits === 'off') {
    log.warn({ event: 'limits.off' }, 'LIMITS is off: no request is limited')
  }
  const limits = createLimits({
    budgets,
    policy: config.policy,
    mode: config.limits,
    clock,
    log,
    adaptation: anomalies,
  })
  bus.on('limit_lifted', ({ budget, key }) => {
    limits.forget(budget, key)
    anomalies?.lift(key)
  })
  return limits
}
