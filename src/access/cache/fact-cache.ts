import type { Clock } from '../../kit/clock.ts'
import type { Deadline } from '../../kit/deadline.ts'
import { type Lookup, miss, type TtlMap } from '../../kit/ttl-map.ts'
import { type FactQuery, resourceQuery } from '../policy/facts/queries.ts'
import { type Fact, type FactKey, type FactKind, factKey, partOf } from '../policy/facts/registry.ts'
import { factIn, keysNeeded, type ResourceFacts, readResource, type Source } from '../policy/facts/resource-walk.ts'
import type { ResourceRef } from '../policy/matrix.ts'
import { createGather, findMisses, type GatheredFacts, type PrincipalFacts, viewOf } from './gather.ts'
import { createSharedLoads, partsOf } from './shared-loads.ts'
import type { LoadFacts } from './tiered-loader.ts'

/**
 * The facts that decisions depend on, cached in memory.
 *
 * Guarantee: once `invalidate(keys)` has returned, no later read is answered by facts known before under these keys, nor by
 * parts of them. Loads under way are detached: the facts among these that they return are dropped on arrival, and no caller joins
 * them. One `gather` returns facts that were all valid together when it ended. Concurrent misses on one fact share one
 * load. Absent resources are cached too, for a shorter time. Degrades: without a lease memory is not read and no load of
 * another caller is joined; when the lease ends during a gather, one statement loads everything again, because an
 * invalidation may have been missed.
 */
export type FactCache = {
  /** Both facts of a signed-in request, or undefined when either is not in memory. */
  peekPrincipal(sessionId: string, userId: string): PrincipalFacts | undefined
  /** One fact from memory. */
  peek<K extends FactKind>(kind: K, id: string): Lookup<Fact[K]>
  /** All facts about a resource and a user, or undefined when some are not in memory. */
  peekResource(ref: ResourceRef, userId: string): ResourceFacts | undefined
  /** Loads what memory lacks, in at most one statement unless invalidations interfere. */
  gather(queries: readonly FactQuery[], deadline: Deadline): Promise<GatheredFacts>
  /** Everything from memory, with or without a lease, expired or not; undefined when memory lacks a fact. */
  peekStale(queries: readonly FactQuery[]): GatheredFacts | undefined
  /** Loads what memory lacks into memory. No request waits for it or joins it. */
  prefetch(queries: readonly FactQuery[]): Promise<void>
  /** How long ago the oldest fact in memory about a resource and a user was true. */
  ageMs(ref: ResourceRef, userId: string): number
  invalidate(keys: Iterable<FactKey> | 'everything'): void
}

type Dependencies = {
  readonly load: LoadFacts
  /** For `prefetch`. Default: `load`. */
  readonly loadAhead?: LoadFacts
  readonly memory: TtlMap<Fact[FactKind]>
  readonly clock: Clock
  /** Until when memory is trusted, on the monotonic time of `leaseClock` (default: `clock`). */
  readonly leaseClock?: Clock
  readonly lease: { readonly untilMs: number }
  readonly flags: { readonly l1: boolean }
}

export const createFactCache = ({
  load,
  loadAhead = load,
  memory,
  clock,
  leaseClock = clock,
  lease,
  flags,
}: Dependencies): FactCache => {
  let nowMs = 0
  const isLeased = () => leaseClock.monotonic() < lease.untilMs
  /** Call before `fromMemory`, which answers as of this moment. */
  const memoryIsTrusted = (): boolean => {
    nowMs = clock.monotonic()
    return flags.l1 && (leaseClock === clock ? nowMs < lease.untilMs : isLeased())
  }
  // The kind is part of the key, so the fact found is of the kind asked for.
  const fromMemory: Source = (kind, id) => memory.get(factKey(kind, id), nowMs) as Lookup<never>
  const sharedLoads = createSharedLoads({ load, loadAhead, memory })

  const invalidateInMemory = (invalidated: ReadonlySet<FactKey>) => {
    for (const key of invalidated) {
      memory.delete(key)
      const found = partOf(key)
      if (found === undefined) continue
      memory.update(found.whole, (fact) => found.part.exclude(fact, found.id) as Fact[FactKind] | undefined)
    }
    for (const key of partsOf(invalidated, memory.keysByRecency())) memory.delete(key)
  }

  return {
    peekPrincipal: (sessionId, userId) => {
      if (!memoryIsTrusted()) return undefined
      const session = fromMemory('session', sessionId)
      const account = fromMemory('account', userId)
      if (session.kind === 'miss' || account.kind === 'miss') return undefined
      return { session: factIn(session), account: factIn(account) }
    },
    peek: (kind, id) => (memoryIsTrusted() ? fromMemory(kind, id) : miss),
    peekResource: (ref, userId) => (memoryIsTrusted() ? readResource(fromMemory, ref, userId) : undefined),
    gather: createGather({ load, sharedLoads, memory, fromMemory, memoryIsTrusted, isLeased }),
    peekStale: (queries) => {
      let ageMs = 0
      const source: Source = (kind, id) => {
        const key = factKey(kind, id)
        ageMs = Math.max(ageMs, memory.ageMs(key) ?? 0)
        return memory.peekStale(key) as Lookup<never>
      }
      return findMisses(source, queries).size === 0 ? viewOf(source, 'l1', ageMs, true) : undefined
    },
    prefetch: async (queries) => {
      if (!memoryIsTrusted()) return
      const missing = findMisses(fromMemory, queries)
      if (missing.size > 0) await sharedLoads.prefetch(missing)
    },
    ageMs: (ref, userId) => {
      const keys = [factKey('account', userId), ...keysNeeded(fromMemory, resourceQuery(ref, userId))]
      return Math.max(0, ...keys.map((key) => memory.ageMs(key) ?? 0))
    },
    invalidate: (keys) => {
      const invalidated = typeof keys === 'string' ? keys : new Set(keys)
      if (invalidated === 'everything') memory.clear()
      else invalidateInMemory(invalidated)
      sharedLoads.detach(invalidated)
    },
  }
}
