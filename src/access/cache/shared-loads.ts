import type { TtlMap } from '../../kit/ttl-map.ts'
import type { FactQuery } from '../policy/facts/queries.ts'
import { type Fact, type FactKey, type FactKind, factKey, isWhole, partOf } from '../policy/facts/registry.ts'
import type { Loaded, LoadFacts } from './tiered-loader.ts'

/** Keys invalidated while they were watched for. */
export type Invalidations = (ReadonlySet<FactKey> | 'everything')[]
export type SharedLoad = Promise<Loaded>
/** Queries by name: those of one name share one load. */
export type NamedQueries = ReadonlyMap<string, FactQuery>

/** For a resource the name includes the user, because the load includes that user's grants. */
export const queryName = ({ kind, id, userId }: FactQuery): string =>
  userId === null ? factKey(kind, id) : `${kind}:${id}/${userId}`

/** Keys present whose whole was invalidated. Scans only where a whole was. */
export const partsOf = (invalidated: ReadonlySet<FactKey>, present: Iterable<string>): FactKey[] => {
  if (!invalidated.values().some(isWhole)) return []
  return [...(present as Iterable<FactKey>)].filter((key) => {
    const part = partOf(key)
    return part !== undefined && invalidated.has(part.whole)
  })
}

/** Drops the facts that were invalidated since they were loaded. */
export const dropInvalidated = (facts: Map<FactKey, unknown>, invalidations: Invalidations): void => {
  for (const keys of invalidations) {
    if (keys === 'everything') facts.clear()
    else {
      for (const key of keys) {
        facts.delete(key)
        // A loaded whole is dropped, not amended: another load may have read all of it since.
        const part = partOf(key)
        if (part !== undefined) facts.delete(part.whole)
      }
      for (const key of partsOf(keys, facts.keys())) facts.delete(key)
    }
  }
}

/**
 * Single-flight loads into memory: concurrent misses on one fact share one load.
 *
 * Guarantee: an invalidation detaches every load under way. No caller joins a detached load any more, and the facts in it
 * that were invalidated reach neither memory nor the callers that had joined it.
 */
export type SharedLoads = {
  /** The load under way for a query, if any. */
  find(name: string): SharedLoad | undefined
  startSharedLoad(queries: NamedQueries): SharedLoad
  /** Loads into memory through `loadAhead`; no caller can join. */
  prefetch(queries: NamedQueries): Promise<void>
  /** Collects invalidations until `unwatch`. */
  watch(): Invalidations
  unwatch(invalidations: Invalidations): void
  detach(keys: ReadonlySet<FactKey> | 'everything'): void
}

export const createSharedLoads = ({
  load,
  loadAhead,
  memory,
}: {
  load: LoadFacts
  loadAhead: LoadFacts
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

  /** A load also returns facts that no query named, so each fact is checked by itself when it arrives. */
  const loadIntoMemory = (queries: NamedQueries, from: LoadFacts): SharedLoad => {
    const invalidations = watch()
    return from([...queries.values()])
      .then(({ facts, ...rest }) => {
        const current = new Map(facts)
        dropInvalidated(current, invalidations)
        for (const [key, fact] of current) {
          if (fact === null) memory.setAbsent(key)
          else memory.set(key, fact, rest.ages.get(key))
        }
        return { facts: current, ...rest }
      })
      .finally(() => unwatch(invalidations))
  }

  return {
    find: (name) => sharedLoads.get(name),
    startSharedLoad: (queries) => {
      const sharedLoad: SharedLoad = loadIntoMemory(queries, load).finally(() => {
        for (const name of queries.keys()) if (sharedLoads.get(name) === sharedLoad) sharedLoads.delete(name)
      })
      for (const name of queries.keys()) sharedLoads.set(name, sharedLoad)
      return sharedLoad
    },
    prefetch: async (queries) => {
      await loadIntoMemory(queries, loadAhead)
    },
    watch,
    unwatch,
    detach: (keys) => {
      for (const invalidations of watchers) invalidations.push(keys)
      sharedLoads.clear()
    },
  }
}
