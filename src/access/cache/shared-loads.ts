import type { TtlMap } from '../../kit/ttl-map.ts'
import type { NamedQueries } from '../policy/facts/queries.ts'
import { type Fact, type FactKey, type FactKind, isWhole, partOf } from '../policy/facts/registry.ts'
import { type CollectedLoads, createCollectedLoads } from './collected-loads.ts'
import type { Loaded, LoadFacts, LoadOptions } from './tiered-loader.ts'

/** The keys of some invalidations, in order. */
export type Invalidations = readonly (ReadonlySet<FactKey> | 'everything')[]
/** A place in the sequence of invalidations. It leads to all that arrived after it, which are kept as long as it is. */
export type Place = { readonly keys: Invalidations[number]; readonly next: Place | undefined }
/** What was loaded, without the facts that were invalidated meanwhile. `place`: when it ended. */
export type CurrentLoad = { readonly loaded: Loaded; readonly place: Place }
export type SharedLoad = Promise<CurrentLoad>

export const invalidationsSince = (place: Place): Invalidations => {
  const found: Invalidations[number][] = []
  for (let at = place.next; at !== undefined; at = at.next) found.push(at.keys)
  return found
}

/** The candidates that are parts of an invalidated whole. Visits them only if a whole was invalidated. */
export const partsOf = (invalidated: ReadonlySet<FactKey>, candidates: Iterable<string>): FactKey[] => {
  if (!invalidated.values().some(isWhole)) return []
  return [...(candidates as Iterable<FactKey>)].filter((key) => {
    const part = partOf(key)
    return part !== undefined && invalidated.has(part.whole)
  })
}

/** Whether a fact that was loaded or held before these invalidations may have changed. */
export const isInvalidated = (key: FactKey, invalidations: Invalidations): boolean =>
  invalidations.some((keys) => {
    if (keys === 'everything' || keys.has(key)) return true
    const part = partOf(key)
    if (part !== undefined) return keys.has(part.whole)
    // Memory excludes the part from the whole; here the whole goes. A load that began after this invalidation may have put the
    // complete whole into memory already, and a late result must not replace it by one with a part excluded.
    return isWhole(key) && keys.values().some((invalidated) => partOf(invalidated)?.whole === key)
  })

/**
 * Single-flight loads into memory: concurrent misses on one fact share one load.
 *
 * Guarantee: an invalidation detaches every load in flight, also those of other keys. No caller joins a detached load any
 * more, and the facts in it that were invalidated reach neither memory nor the callers that had joined it. The other facts
 * in it reach both. A load that fails rejects for every caller that joined it, and puts nothing into memory.
 */
export type SharedLoads = {
  /** The load in flight for a query that can still be joined, if any. */
  find(name: string): SharedLoad | undefined
  /** Begins one at once, for many decisions of one caller. */
  startSharedLoad(queries: NamedQueries): SharedLoad
  /** For one decision, collected with those of others before it begins; see `CollectedLoads`. */
  readonly collected: CollectedLoads<CurrentLoad>
  /**
   * Collected too, for callers that may not join a load in flight: as of the snapshot of one statement. Invalidations that
   * arrive meanwhile are not applied.
   */
  readonly snapshots: CollectedLoads<Loaded>
  /** Loads into memory through `prefetchLoad`, unshared: no caller joins it. Invalidations filter its result all the same. */
  prefetch(queries: NamedQueries): Promise<void>
  /** The place of the newest invalidation. */
  readonly place: Place
  detach(keys: ReadonlySet<FactKey> | 'everything'): void
}

export const createSharedLoads = ({
  load,
  snapshotLoad,
  prefetchLoad,
  memory,
}: {
  load: LoadFacts
  snapshotLoad: LoadFacts
  prefetchLoad: LoadFacts
  memory: TtlMap<Fact[FactKind]>
}): SharedLoads => {
  const sharedLoads = new Map<string, SharedLoad>()
  let place: { keys: Place['keys']; next: Place | undefined } = { keys: new Set(), next: undefined }

  /** A load also returns facts that no query named, so it is filtered by the keys of its facts, not by its queries. */
  const loadIntoMemory = async (queries: NamedQueries, from: LoadFacts, options?: LoadOptions) => {
    const began = place
    const loaded = await from([...queries.values()], options)
    const { redisAgesMs } = loaded
    const invalidations = invalidationsSince(began)
    const facts = new Map(loaded.facts)
    if (invalidations.length > 0)
      for (const key of facts.keys()) if (isInvalidated(key, invalidations)) facts.delete(key)
    for (const [key, fact] of facts) {
      if (fact === null) memory.setAbsent(key)
      else memory.set(key, fact, redisAgesMs.get(key))
    }
    return { loaded, current: { loaded: { ...loaded, facts }, place } }
  }

  const startSharedLoad = (queries: NamedQueries): SharedLoad => {
    const sharedLoad: SharedLoad = loadIntoMemory(queries, load)
      .then(({ current }) => current)
      .finally(() => {
        for (const name of queries.keys()) if (sharedLoads.get(name) === sharedLoad) sharedLoads.delete(name)
      })
    for (const name of queries.keys()) sharedLoads.set(name, sharedLoad)
    return sharedLoad
  }

  return {
    find: (name) => sharedLoads.get(name),
    startSharedLoad,
    collected: createCollectedLoads(startSharedLoad),
    snapshots: createCollectedLoads(async (queries) => {
      const { loaded } = await loadIntoMemory(queries, snapshotLoad, { bypassRedis: true })
      return loaded
    }),
    prefetch: async (queries) => {
      await loadIntoMemory(queries, prefetchLoad)
    },
    get place() {
      return place
    },
    detach: (keys) => {
      const next = { keys, next: undefined }
      place.next = next
      place = next
      sharedLoads.clear()
    },
  }
}
