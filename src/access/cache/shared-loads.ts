import type { TtlMap } from '../../kit/ttl-map.ts'
import type { NamedQueries } from '../policy/facts/queries.ts'
import { type Fact, type FactKey, type FactKind, isWhole, partOf } from '../policy/facts/registry.ts'
import { type CollectedLoads, createCollectedLoads } from './collected-loads.ts'
import type { Loaded, LoadFacts, LoadOptions } from './tiered-loader.ts'

/** The keys of the invalidations that arrived since `watch`, in order. */
export type Invalidations = (ReadonlySet<FactKey> | 'everything')[]
export type SharedLoad = Promise<Loaded>
/** The candidates that are parts of an invalidated whole. Visits them only if a whole was invalidated. */
export const partsOf = (invalidated: ReadonlySet<FactKey>, candidates: Iterable<string>): FactKey[] => {
  if (!invalidated.values().some(isWhole)) return []
  return [...(candidates as Iterable<FactKey>)].filter((key) => {
    const part = partOf(key)
    return part !== undefined && invalidated.has(part.whole)
  })
}

/** Removes the facts that were invalidated while they were loaded or held. */
export const dropInvalidated = (facts: Map<FactKey, unknown>, invalidations: Invalidations): void => {
  for (const keys of invalidations) {
    if (keys === 'everything') facts.clear()
    else {
      for (const key of keys) {
        facts.delete(key)
        // Memory excludes the part from the whole; here the whole goes. A load that began after this invalidation may have
        // put the complete whole into memory already, and a late result must not replace it by one with a part excluded.
        const part = partOf(key)
        if (part !== undefined) facts.delete(part.whole)
      }
      for (const key of partsOf(keys, facts.keys())) facts.delete(key)
    }
  }
}

/** Whether `dropInvalidated` would remove the fact. */
export const isInvalidated = (key: FactKey, invalidations: Invalidations): boolean =>
  invalidations.some((keys) => {
    if (keys === 'everything' || keys.has(key)) return true
    const part = partOf(key)
    if (part !== undefined) return keys.has(part.whole)
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
  readonly collected: CollectedLoads
  /**
   * Collected too, for callers that may not join a load in flight: as of the snapshot of one statement. Invalidations that
   * arrive meanwhile are not applied.
   */
  readonly snapshots: CollectedLoads
  /** Loads into memory through `prefetchLoad`, unshared: no caller joins it. Invalidations filter its result all the same. */
  prefetch(queries: NamedQueries): Promise<void>
  /** Starts a list to which every later invalidation is appended, until `unwatch`. */
  watch(): Invalidations
  unwatch(invalidations: Invalidations): void
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
  const watchers = new Set<Invalidations>()

  const watch = (): Invalidations => {
    const invalidations: Invalidations = []
    watchers.add(invalidations)
    return invalidations
  }
  const unwatch = (invalidations: Invalidations) => void watchers.delete(invalidations)

  /** A load also returns facts that no query named, so it is filtered by the keys of its facts, not by its queries. */
  const loadIntoMemory = async (queries: NamedQueries, from: LoadFacts, options?: LoadOptions) => {
    const invalidations = watch()
    try {
      const loaded = await from([...queries.values()], options)
      const { redisAgesMs } = loaded
      const current = new Map(loaded.facts)
      dropInvalidated(current, invalidations)
      for (const [key, fact] of current) {
        if (fact === null) memory.setAbsent(key)
        else memory.set(key, fact, redisAgesMs.get(key))
      }
      return { loaded, current: { ...loaded, facts: current } }
    } finally {
      unwatch(invalidations)
    }
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
    watch,
    unwatch,
    detach: (keys) => {
      for (const invalidations of watchers) invalidations.push(keys)
      sharedLoads.clear()
    },
  }
}
