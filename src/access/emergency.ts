import { Fault } from '../fault.ts'
import type { Clock } from '../kit/clock.ts'
import type { Deadline } from '../kit/deadline.ts'
import { databaseFault } from '../platform/postgres.ts'
import type { FactCache } from './facts.ts'

/** How long Postgres is not asked again after it was found gone. */
const retryMs = 500

/**
 * What an instance goes by while Postgres is gone: what it remembers, for a limited time.
 *
 * Promise: memory stands in only where Postgres cannot be reached, only after the lease ended (until then memory is good
 * by itself) and for no more than `limitMs` after that; whoever was answered by it is marked. Nothing can be revoked
 * meanwhile, because a revocation is a write to Postgres; but an instance that alone is cut off does not hear of one.
 */
export type EmergencyReads = {
  readonly facts: FactCache
  /** Whether the request with this deadline was answered by memory that nobody vouches for. */
  isDegraded(deadline: Deadline): boolean
}

const isGone = (error: unknown): boolean =>
  (error instanceof Fault ? error : databaseFault(error))?.code === 'database.unavailable'

export const withEmergencyReads = ({
  facts,
  clock,
  lease,
  limitMs,
}: {
  facts: FactCache
  clock: Clock
  lease: { readonly untilMs: number }
  /** 0: never. */
  limitMs: number
}): EmergencyReads => {
  let goneAtMs = Number.NEGATIVE_INFINITY
  /** Those who wait for facts: when one of them learns that Postgres is gone, none waits any longer. */
  let outage = Promise.withResolvers<never>()
  outage.promise.catch(() => {})
  const degraded = new WeakSet<Deadline>()

  const mayStandIn = (nowMs: number) => nowMs >= lease.untilMs && nowMs < lease.untilMs + limitMs

  const tellGone = (error: unknown) => {
    goneAtMs = clock.monotonic()
    const told = outage
    outage = Promise.withResolvers<never>()
    outage.promise.catch(() => {})
    told.reject(error)
  }

  const standIn = (wanted: Parameters<FactCache['gather']>[0], deadline: Deadline) => {
    const recalled = facts.recall(wanted)
    if (recalled === undefined) throw new Fault('database.unavailable')
    degraded.add(deadline)
    return recalled
  }

  return {
    isDegraded: (deadline) => degraded.has(deadline),
    facts: {
      ...facts,
      gather: async (wanted, deadline) => {
        const startedMs = clock.monotonic()
        const isKnownGone = startedMs - goneAtMs < retryMs && startedMs >= lease.untilMs
        try {
          if (isKnownGone) throw new Fault('database.unavailable')
          const gathered = await Promise.race([facts.gather(wanted, deadline), outage.promise])
          goneAtMs = Number.NEGATIVE_INFINITY
          return gathered
        } catch (error) {
          if (!isGone(error)) throw error
          if (!isKnownGone) tellGone(error)
          if (!mayStandIn(clock.monotonic())) throw error
          return standIn(wanted, deadline)
        }
      },
    },
  }
}
