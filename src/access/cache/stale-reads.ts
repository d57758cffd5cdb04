import { Fault } from '../../fault.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Deadline } from '../../kit/deadline.ts'
import { isConnectFailure, isUnavailable } from '../../platform/postgres.ts'
import type { FactQuery } from '../policy/facts/queries.ts'
import type { FactCache } from './fact-cache.ts'
import type { GatheredFacts } from './gather.ts'

/** After Postgres was found unreachable, gathers fail at once for this long. */
const retryMs = 500

/**
 * Stale reads: while Postgres is unreachable, memory answers without a lease for a limited time.
 *
 * Guarantee: facts are read stale only while Postgres refuses connections, only after the lease has ended (until then memory
 * is trusted as usual), and for at most `limitMs` after that. Every request answered so is marked as degraded. Nothing can
 * be revoked while Postgres is down, because a revocation is a write to Postgres. Not covered: an instance that alone is cut
 * off misses revocations made elsewhere.
 *
 * Only a failure to connect counts as unreachable. A gather that loses its connection is retried once if Postgres accepts
 * a new one; if it loses that one too, it fails alone.
 */
export type StaleReads = {
  readonly facts: FactCache
  /** Whether the request with this deadline got stale facts. */
  isDegraded(deadline: Deadline): boolean
}

/** Postgres itself is unreachable, rather than one connection lost. */
class PostgresUnreachable extends Fault {
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
  let unreachableAtMs = Number.NEGATIVE_INFINITY
  let probing: Promise<boolean> | undefined
  /** Gathers under way: once one finds Postgres unreachable, all of them fail at once. */
  const waiting = new Set<(error: PostgresUnreachable) => void>()
  const degraded = new WeakSet<Deadline>()

  const mayReadStale = (nowMs: number) => nowMs >= lease.untilMs && nowMs < lease.untilMs + limitMs

  const rejectIfUnreachable = <T>(work: Promise<T>): Promise<T> =>
    new Promise((resolve, reject) => {
      waiting.add(reject)
      work.then(resolve, reject).finally(() => waiting.delete(reject))
    })

  const rejectAllWaiting = (cause: unknown): PostgresUnreachable => {
    unreachableAtMs = clock.monotonic()
    const error = new PostgresUnreachable(cause)
    for (const reject of waiting) reject(error)
    waiting.clear()
    return error
  }

  /** One probe at a time, shared by all gathers. */
  const probe = (): Promise<boolean> => {
    probing ??= isReachable().finally(() => {
      probing = undefined
    })
    return probing
  }

  const gather = async (queries: readonly FactQuery[], deadline: Deadline, isFirst = true): Promise<GatheredFacts> => {
    try {
      return await rejectIfUnreachable(facts.gather(queries, deadline))
    } catch (error) {
      if (!isUnavailable(error)) throw error
      if (isConnectFailure(error)) throw rejectAllWaiting(error)
      if (!isFirst) throw error
      if (!(await rejectIfUnreachable(deadline.run(probe())))) throw rejectAllWaiting(error)
      return gather(queries, deadline, false)
    }
  }

  const readStale = (queries: readonly FactQuery[], deadline: Deadline) => {
    const stale = facts.peekStale(queries)
    if (stale === undefined) throw new PostgresUnreachable()
    degraded.add(deadline)
    return stale
  }

  return {
    isDegraded: (deadline) => degraded.has(deadline),
    facts: {
      ...facts,
      gather: async (queries, deadline) => {
        const startedMs = clock.monotonic()
        const isKnownUnreachable = startedMs - unreachableAtMs < retryMs && startedMs >= lease.untilMs
        try {
          if (isKnownUnreachable) throw new PostgresUnreachable()
          const gathered = await gather(queries, deadline)
          unreachableAtMs = Number.NEGATIVE_INFINITY
          return gathered
        } catch (error) {
          if (!(error instanceof PostgresUnreachable) || !mayReadStale(clock.monotonic())) throw error
          return readStale(queries, deadline)
        }
      },
    },
  }
}
