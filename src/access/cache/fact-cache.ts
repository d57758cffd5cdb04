import type { Clock } from '../../kit/clock.ts'
import type { Deadline } from '../../kit/deadline.ts'
import { type Lookup, miss, type TtlMap } from '../../kit/ttl-map.ts'
import { restrictionsId } from '../policy/facts/mode.ts'
import { type FactQuery, queryName, toFactQuery } from '../policy/facts/queries.ts'
import { type Fact, type FactKey, type FactKind, factKey, partOf } from '../policy/facts/registry.ts'
import { factIn, type ResourceFacts, readResource, type Source } from '../policy/facts/resource-walk.ts'
import type { ResourceRef } from '../policy/matrix.ts'
import type { RestrictionFacts } from '../policy/restrictions.ts'
import type { Facts } from '../policy/rules.ts'
import { createGather, createHeldFacts, findMisses, type GatheredFacts, type PrincipalFacts } from './gather.ts'
import { readFacts } from './read-facts.ts'
import { createSharedLoads, partsOf } from './shared-loads.ts'
import type { LoadFacts } from './tiered-loader.ts'

/**
 * The facts that decisions depend on, cached in memory.
 *
 * The lease says until when memory may be trusted (except by `peekStale`). The bus grants it: while it lasts, `invalidate`
 * has been called here for every change whose caller has been answered.
 *
 * Guarantee, for reads that begin after `invalidate(keys)` has returned: none uses a value of these facts, or of their
 * parts, that was read before. No load in flight can be joined any more, and the invalidated facts are filtered from its
 * result.
 *
 * Guarantee, for one `gather`: it is linearizable. It reflects every change answered before it began, and its facts are
 * mutually consistent: as of the return, or as of the snapshot of the one statement that loaded them all. Invalidations
 * that arrive while a gather falls back to such a statement are not filtered from its result.
 *
 * Concurrent misses on one fact share one load. Absent resources are cached too (negative entries), for a shorter time.
 *
 * Degrades: without a lease memory is not read, and no load in flight is joined: one statement, sent after the gather began,
 * answers it and others that wait (see `CollectedLoads`). So it is where a gather used more than one source and ends without
 * a lease, because an invalidation may not have arrived.
 */
export type FactCache = {
  /** The facts of a signed-in request, from memory; undefined when memory lacks any. */
  peekPrincipal(sessionId: string, userId: string): PrincipalFacts | undefined
  /** Mode and blocked networks, from memory; undefined when memory lacks either. */
  peekRestrictions(): RestrictionFacts | undefined
  /** The fact about a service key and the restrictions, from memory; undefined when memory lacks any. */
  peekService(keyId: string): (RestrictionFacts & { readonly key: Fact['service_key'] | undefined }) | undefined
  /** One fact from memory. */
  peek<K extends FactKind>(kind: K, id: string): Lookup<Fact[K]>
  /**
   * The facts about a resource and a user's access to it, from memory; undefined when memory lacks any. The account of the
   * user is not among them: `peek` reads it.
   */
  peekResource(ref: ResourceRef, userId: string): ResourceFacts | undefined
  /** As `peekResource`, with the account: everything that a decision needs. */
  peekFacts(ref: ResourceRef, userId: string): Facts | undefined
  /**
   * Loads what memory lacks: in one statement, or in two for a user with too many grants for one fact; in more only if
   * invalidations interfere. The deadline ends the wait and not the loads, which go on to fill memory. A load that fails
   * fails every gather that joined it, and caches nothing.
   */
  gather(queries: readonly FactQuery[], deadline: Deadline): Promise<GatheredFacts>
  /**
   * A stale read: answers wholly from memory, ignoring lease, tier switch and expiry; undefined when memory lacks a fact.
   * The result holds its facts: a later eviction or invalidation does not change it.
   */
  peekStale(queries: readonly FactQuery[]): GatheredFacts | undefined
  /** Loads what memory lacks into memory. No request waits for it or joins it. */
  prefetch(queries: readonly FactQuery[]): Promise<void>
  /**
   * Loads the facts in memory that are in use and expire soon, so that no request finds them expired. A fact that is not
   * loaded in time, or whose load fails, expires. Facts in use are read as often as without it, but in batches.
   */
  renew(): Promise<void>
  /** As `peekFacts`, with the time since the oldest of the facts was last read from Postgres. */
  peekFactsWithAge(ref: ResourceRef, userId: string): { readonly facts: Facts; readonly ageMs: number } | undefined
  /**
   * What `read` makes of memory, under one reading of the lease; undefined without a lease, and where `read` says so. It must
   * not wait, so that all facts it finds are valid together.
   */
  readMemory<T>(read: (source: Source) => T | undefined): T | undefined
  invalidate(keys: Iterable<FactKey> | 'everything'): void
}

/** Facts in one load of `renew`. */
const renewedAtOnce = 200

type Dependencies = {
  readonly load: LoadFacts
  /** Loads for callers without a lease, from Postgres alone. Default: `load`. */
  readonly snapshotLoad?: LoadFacts
  /** Loads for `prefetch`. Default: `load`. */
  readonly prefetchLoad?: LoadFacts
  readonly memory: TtlMap<Fact[FactKind]>
  readonly clock: Clock
  /** Default: `clock`. */
  readonly leaseClock?: Clock
  /** Until when memory may be trusted, on the monotonic time of `leaseClock`. */
  readonly lease: { readonly untilMs: number }
  readonly flags: { readonly l1: boolean }
}

export const createFactCache = ({
  load,
  snapshotLoad = load,
  prefetchLoad = load,
  memory,
  clock,
  leaseClock = clock,
  lease,
  flags,
}: Dependencies): FactCache => {
  let nowMs = 0
  /**
   * Call it at the start of each synchronous run of reads. Returns whether a lease is held. Applies all invalidations received
   * so far, which reading `lease.untilMs` does, and sets the time by which `fromMemory` judges expiry in this run.
   */
  const beginRun = (): boolean => {
    const { untilMs } = lease
    nowMs = clock.monotonic()
    return (leaseClock === clock ? nowMs : leaseClock.monotonic()) < untilMs
  }
  /** Whether memory may be read in the run that begins, for facts of any kind. */
  const beginMemoryRead = (): boolean => beginRun() && flags.l1
  // The kind is part of the key, so the fact found is of the kind asked for.
  const fromMemory: Source = (kind, id) => memory.getIn(kind, id, nowMs) as Lookup<never>
  const staleFromMemory: Source = (kind, id) => memory.peekStale(factKey(kind, id)) as Lookup<never>
  /** Of the facts that `agingFromMemory` has found. */
  let oldestMs = 0
  const agingFromMemory: Source = (kind, id) => {
    const found = fromMemory(kind, id)
    if (found.kind !== 'miss') oldestMs = Math.max(oldestMs, memory.ageMsIn(kind, id, nowMs) ?? 0)
    return found
  }
  const restrictionsFromMemory = (): RestrictionFacts | undefined => {
    const mode = fromMemory('mode', restrictionsId)
    const blockedNetworks = fromMemory('blocked_networks', restrictionsId)
    if (mode.kind === 'miss' || blockedNetworks.kind === 'miss') return undefined
    return { mode: factIn(mode), blockedNetworks: factIn(blockedNetworks) }
  }
  const sharedLoads = createSharedLoads({ load, snapshotLoad, prefetchLoad, memory })

  const invalidateInMemory = (invalidated: ReadonlySet<FactKey>) => {
    for (const key of invalidated) {
      memory.delete(key)
      const found = partOf(key)
      if (found === undefined) continue
      // The whole keeps answering for its other parts.
      memory.update(found.whole, (fact) => found.part.exclude(fact, found.id) as Fact[FactKind] | undefined)
    }
    for (const key of partsOf(invalidated, memory.keysByRecency())) memory.delete(key)
  }

  return {
    peekPrincipal: (sessionId, userId) => {
      if (!beginMemoryRead()) return undefined
      const session = fromMemory('session', sessionId)
      const account = fromMemory('account', userId)
      if (session.kind === 'miss' || account.kind === 'miss') return undefined
      const restrictions = restrictionsFromMemory()
      if (restrictions === undefined) return undefined
      const { mode, blockedNetworks } = restrictions
      return { session: factIn(session), account: factIn(account), mode, blockedNetworks }
    },
    peekService: (keyId) => {
      if (!beginMemoryRead()) return undefined
      const key = fromMemory('service_key', keyId)
      const restrictions = key.kind === 'miss' ? undefined : restrictionsFromMemory()
      return restrictions && { key: factIn(key), ...restrictions }
    },
    peekRestrictions: () => (beginRun() ? restrictionsFromMemory() : undefined),
    peek: (kind, id) => (beginMemoryRead() ? fromMemory(kind, id) : miss),
    peekResource: (ref, userId) => (beginMemoryRead() ? readResource(fromMemory, ref, userId) : undefined),
    peekFacts: (ref, userId) => (beginMemoryRead() ? readFacts(fromMemory, ref, userId) : undefined),
    gather: createGather({ load, sharedLoads, memory, fromMemory, beginRun, flags }),
    peekStale: (queries) => {
      const held = createHeldFacts(memory, () => true, staleFromMemory)
      return findMisses(held.fromHeldOrMemory, queries).size === 0 ? held.view(true) : undefined
    },
    prefetch: async (queries) => {
      if (!beginMemoryRead()) return
      const missing = findMisses(fromMemory, queries)
      if (missing.size > 0) await sharedLoads.prefetch(missing)
    },
    peekFactsWithAge: (ref, userId) => {
      if (!beginMemoryRead()) return undefined
      oldestMs = 0
      const facts = readFacts(agingFromMemory, ref, userId)
      return facts && { facts, ageMs: oldestMs }
    },
    readMemory: (read) => (beginMemoryRead() ? read(fromMemory) : undefined),
    renew: async () => {
      const due = memory.takeDue() as FactKey[]
      for (let at = 0; at < due.length && beginMemoryRead(); at += renewedAtOnce) {
        const queries = due.slice(at, at + renewedAtOnce).map(toFactQuery)
        await sharedLoads.prefetch(new Map(queries.map((query) => [queryName(query), query])))
      }
    },
    invalidate: (keys) => {
      const invalidated = typeof keys === 'string' ? keys : new Set(keys)
      if (invalidated === 'everything') memory.clear()
      else invalidateInMemory(invalidated)
      sharedLoads.detach(invalidated)
    },
  }
}
