import { Fault } from '../../fault.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Deadline } from '../../kit/deadline.ts'
import { isConnectFailure, isUnavailable } from '../../platform/postgres.ts'
import type { FactQuery } from '../policy/facts/queries.ts'
import type { FactCache } from './fact-cache.ts'
import type { GatheredFacts } from './gather.ts'

/** How long Postgres is not asked again after it was found gone. */
const retryMs = 500

/**
 * What an instance goes by while Postgres is gone: what it remembers, for a limited time.
 *
 * Promise: memory stands in only where Postgres cannot be reached, only after the lease ended (until then memory is good
 * by itself) and for no more than `limitMs` after that; whoever was answered by it is marked. Nothing can be revoked
 * meanwhile, because a revocation is a write to Postgres; but an instance that alone is cut off does not hear of one.
 * That it cannot be reached is what connecting says. A question whose connection is lost is put once more where Postgres
 * takes a new one; one that is lost again has failed, for itself alone.
 */
export type StaleReads = {
  readonly facts: FactCache
  /** Whether the request with this deadline was answered by memory that nobody vouches for. */
  isDegraded(deadline: Deadline): boolean
}

/** Postgres, and not one connection to it. */
class PostgresGone extends Fault {
  constructor(cause?: unknown) {
    super('database.unavailable', { cause })
  }
}

export const withStaleReads = ({
  facts,
  isReachable,
  clock,
  lease,
  limitMs,
}: {
  facts: FactCache
  /** Whether Postgres answers on a new connection. Does not reject. */
  isReachable: () => Promise<boolean>
  clock: Clock
  lease: { readonly untilMs: number }
  /** 0: never. */
  limitMs: number
}): StaleReads => {
  let goneAtMs = Number.NEGATIVE_INFINITY
  let reaching: Promise<boolean> | undefined
  /** Those who wait: when one of them learns that Postgres is gone, none waits any longer. */
  const waiting = new Set<(gone: PostgresGone) => void>()
  const degraded = new WeakSet<Deadline>()

  const mayStandIn = (nowMs: number) => nowMs >= lease.untilMs && nowMs < lease.untilMs + limitMs

  const unlessGone = <T>(work: Promise<T>): Promise<T> =>
    new Promise((resolve, reject) => {
      waiting.add(reject)
      work.then(resolve, reject).finally(() => waiting.delete(reject))
    })

  const tellGone = (cause: unknown): PostgresGone => {
    goneAtMs = clock.monotonic()
    const gone = new PostgresGone(cause)
    for (const tell of waiting) tell(gone)
    waiting.clear()
    return gone
  }

  /** One asks for all who wonder. */
  const reach = (): Promise<boolean> => {
    reaching ??= isReachable().finally(() => {
      reaching = undefined
    })
    return reaching
  }

  const ask = async (queries: readonly FactQuery[], deadline: Deadline, isFirst = true): Promise<GatheredFacts> => {
    try {
      return await unlessGone(facts.gather(queries, deadline))
    } catch (error) {
      if (!isUnavailable(error)) throw error
      if (isConnectFailure(error)) throw tellGone(error)
      if (!isFirst) throw error
      if (!(await unlessGone(deadline.run(reach())))) throw tellGone(error)
      return ask(queries, deadline, false)
    }
  }

  const standIn = (queries: readonly FactQuery[], deadline: Deadline) => {
    const recalled = facts.peekStale(queries)
    if (recalled === undefined) throw new PostgresGone()
    degraded.add(deadline)
    return recalled
  }

  return {
    isDegraded: (deadline) => degraded.has(deadline),
    facts: {
      ...facts,
      gather: async (queries, deadline) => {
        const startedMs = clock.monotonic()
        const isKnownGone = startedMs - goneAtMs < retryMs && startedMs >= lease.untilMs
        try {
          if (isKnownGone) throw new PostgresGone()
          const gathered = await ask(queries, deadline)
          goneAtMs = Number.NEGATIVE_INFINITY
          return gathered
        } catch (error) {
          if (!(error instanceof PostgresGone) || !mayStandIn(clock.monotonic())) throw error
          return standIn(queries, deadline)
        }
      },
    },
  }
}
