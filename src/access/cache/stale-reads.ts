import { Fault } from '../../fault.ts'
import { Overloaded } from '../../kit/admission.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Deadline } from '../../kit/deadline.ts'
import { isConnectFailure, isUnavailable } from '../../platform/postgres.ts'
import type { FactQuery } from '../policy/facts/queries.ts'
import type { FactCache } from './fact-cache.ts'
import type { GatheredFacts } from './gather.ts'
import type { PostgresWatch } from './postgres-watch.ts'

/** After Postgres was found unreachable and the lease has ended, no gather sends a statement for this long. */
const retryMs = 500
/** How often a request that waits for the agreement of the other instances looks again. */
const agreementPollMs = 25

/**
 * Stale reads: while Postgres is unreachable for every instance, memory answers without a lease for a limited time.
 *
 * Guarantee: facts are stale only while Postgres is unreachable, or was within the last 500 ms; only after the lease has
 * ended, because until then memory is trusted as usual; for at most `limitMs` after the lease has ended; and only while
 * `isShared`: every other instance has stated that it cannot reach Postgres either, so nothing can be revoked. An instance
 * that is cut off alone fails. Each request that gets stale facts is recorded: the application marks its response with the
 * header `Velro-Degraded`, and decisions with a member in the body.
 *
 * Postgres is unreachable while its breaker is open, and when connecting to it fails: refused, timed out, or the server is
 * starting or shutting down (57P03). A lost connection, a transaction rolled back by the server and a lack of resources are no
 * proof: the gather then probes Postgres with `select 1` on a new connection. If that fails, Postgres is unreachable. If it
 * succeeds, the gather is retried once; if it fails again, it fails alone.
 *
 * The instances need about a second to agree. In that time after the end of the lease (`agreementMs`), and after an agreement was
 * lost, requests whose facts are in memory wait for it instead of failing.
 *
 * Cost: after Postgres is back, up to 500 ms pass before the next gather reaches it. Until then gathers are answered by
 * stale facts, or fail where memory lacks a fact.
 *
 * Used for authorization checks: `Access` decides `read` and `download` on stale facts, and nothing else. The guard refuses
 * stale facts where a route needs rows from Postgres anyway; see `createGuard`. `PermissionRecheck` refuses them too.
 */
export type StaleReads = {
  readonly facts: FactCache
  /** Whether the request with this deadline got stale facts. */
  isUsedBy(deadline: Deadline): boolean
  /** Whether a request that finds Postgres unreachable would get stale facts now, where memory has them. */
  areAllowed(): boolean
}

/** Postgres itself is unreachable, rather than one connection lost. */
class PostgresUnreachable extends Fault {
  constructor(cause?: unknown) {
    super('database.unavailable', { cause })
  }
}

export const withStaleReads = ({
  facts,
  watch,
  isShared,
  clock,
  lease,
  limitMs,
  agreementMs = 0,
  mayAgree = () => true,
}: {
  facts: FactCache
  watch: Pick<PostgresWatch, 'isOpen' | 'probe' | 'onOpen' | 'onClose'>
  /** Whether no other instance can commit a change; see `SharedOutage`. */
  isShared: () => boolean
  clock: Clock
  lease: { readonly untilMs: number }
  /** How long after the lease has ended stale reads continue. 0: never. */
  limitMs: number
  /** For how long after the end of the lease, or of an agreement, a request waits for the instances to agree. */
  agreementMs?: number
  /** Whether the instances can agree at all. */
  mayAgree?: () => boolean
}): StaleReads => {
  let unreachableAtMs = Number.NEGATIVE_INFINITY
  /** Gathers under way: once one finds Postgres unreachable, all of them fail at once. */
  const waiting = new Set<(error: PostgresUnreachable) => void>()
  /** By their deadlines, because a deadline belongs to one request. */
  const requestsWithStaleFacts = new WeakSet<Deadline>()
  /** Most processes never get stale facts, and look no request up. */
  let hasRequests = false

  let agreedAtMs = Number.NEGATIVE_INFINITY
  /** The one loop that waits for an agreement, for all requests. */
  let agreement: Promise<void> | undefined

  const isInTime = (nowMs: number) => nowMs >= lease.untilMs && nowMs < lease.untilMs + limitMs
  const mayGatherStale = (nowMs: number) => {
    const may = isInTime(nowMs) && isShared()
    if (may) agreedAtMs = nowMs
    return may
  }

  const waitForAgreement = async (): Promise<void> => {
    const isDue = (nowMs: number) =>
      mayAgree() && isInTime(nowMs) && nowMs < Math.max(lease.untilMs, agreedAtMs) + agreementMs
    // Counted as well, so that a clock that stands still ends the wait.
    for (let left = agreementMs / agreementPollMs; left > 0 && isDue(clock.monotonic()); left -= 1) {
      await new Promise((resolve) => setTimeout(resolve, agreementPollMs))
      if (mayGatherStale(clock.monotonic())) return
    }
  }
  const agreeSoon = (): Promise<void> => {
    agreement ??= waitForAgreement().finally(() => {
      agreement = undefined
    })
    return agreement
  }

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

  watch.onOpen(() => void rejectAllWaiting(undefined))
  watch.onClose(() => {
    unreachableAtMs = Number.NEGATIVE_INFINITY
  })

  const gather = async (queries: readonly FactQuery[], deadline: Deadline, isFirst = true): Promise<GatheredFacts> => {
    try {
      return await rejectIfUnreachable(facts.gather(queries, deadline))
    } catch (error) {
      // Work that hangs because Postgres does not answer keeps other work from being admitted.
      const mayHang = error instanceof Overloaded && mayGatherStale(clock.monotonic())
      if (!isUnavailable(error) && !mayHang) throw error
      if (isConnectFailure(error)) throw rejectAllWaiting(error)
      if (!isFirst) throw error
      if (!(await rejectIfUnreachable(deadline.run(watch.probe())))) throw rejectAllWaiting(error)
      if (mayHang) throw error
      return gather(queries, deadline, false)
    }
  }

  const gatherStale = (queries: readonly FactQuery[], deadline: Deadline) => {
    const stale = facts.peekStale(queries)
    if (stale === undefined) throw new PostgresUnreachable()
    hasRequests = true
    requestsWithStaleFacts.add(deadline)
    return stale
  }

  return {
    isUsedBy: (deadline) => hasRequests && requestsWithStaleFacts.has(deadline),
    areAllowed: () => mayGatherStale(clock.monotonic()),
    facts: {
      ...facts,
      gather: async (queries, deadline) => {
        const startedMs = clock.monotonic()
        const isKnownUnreachable =
          startedMs >= lease.untilMs && (watch.isOpen() || startedMs - unreachableAtMs < retryMs)
        try {
          if (isKnownUnreachable) throw new PostgresUnreachable()
          const gathered = await gather(queries, deadline)
          unreachableAtMs = Number.NEGATIVE_INFINITY
          return gathered
        } catch (error) {
          if (!(error instanceof PostgresUnreachable)) throw error
          if (mayGatherStale(clock.monotonic())) return gatherStale(queries, deadline)
          if (agreementMs === 0 || !mayAgree() || facts.peekStale(queries) === undefined) throw error
          await deadline.run(agreeSoon())
          if (mayGatherStale(clock.monotonic())) return gatherStale(queries, deadline)
          // Postgres has answered meanwhile.
          if (clock.monotonic() < lease.untilMs) return gather(queries, deadline)
          throw error
        }
      },
    },
  }
}
