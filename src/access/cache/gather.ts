import type { Deadline } from '../../kit/deadline.ts'
import { absent, type Lookup, miss, type TtlMap } from '../../kit/ttl-map.ts'
import type { FactQuery } from '../policy/facts/queries.ts'
import { type Fact, type FactKey, type FactKind, factKey } from '../policy/facts/registry.ts'
import {
  factIn,
  isAnswered,
  noResource,
  type ResourceFacts,
  readResource,
  type Source,
} from '../policy/facts/resource-walk.ts'
import type { ResourceRef } from '../policy/matrix.ts'
import { dropInvalidated, queryName, type SharedLoad, type SharedLoads } from './shared-loads.ts'
import { deeper, type Loaded, type LoadFacts, type Tier } from './tiered-loader.ts'

/** The facts of a signed-in request. */
export type PrincipalFacts = {
  readonly session: Fact['session'] | undefined
  readonly account: Fact['account'] | undefined
}

export type GatheredFacts = {
  /** The deepest tier that was read. */
  readonly tier: Tier
  /** How long ago the oldest of them was true. */
  readonly ageMs: number
  /** A stale read: served from memory without a lease, while Postgres is down. */
  readonly stale: boolean
  /** Undefined: absent, or not asked for. */
  find<K extends FactKind>(kind: K, id: string): Fact[K] | undefined
  principal(sessionId: string, userId: string): PrincipalFacts
  resource(ref: ResourceRef, userId: string): ResourceFacts
}

/** Rounds of loads before one statement loads everything at once, because invalidations keep arriving in between. */
const maxRounds = 4

export const findMisses = (source: Source, queries: readonly FactQuery[]): Map<string, FactQuery> => {
  const misses = new Map<string, FactQuery>()
  const onMiss = (kind: FactKind, id: string, userId: string | null) => {
    const query = { kind, id, userId }
    misses.set(queryName(query), query)
  }
  for (const query of queries) isAnswered(source, query, onMiss)
  return misses
}

export const viewOf = (source: Source, tier: Tier, ageMs: number, stale = false): GatheredFacts => ({
  tier,
  ageMs,
  stale,
  find: (kind, id) => factIn(source(kind, id)),
  principal: (sessionId, userId) => ({
    session: factIn(source('session', sessionId)),
    account: factIn(source('account', userId)),
  }),
  resource: (ref, userId) => readResource(source, ref, userId) ?? noResource,
})

/** Facts held for one gather, so that an eviction or expiry in between cannot take them away. */
const createKnownFacts = (
  memory: Pick<TtlMap<Fact[FactKind]>, 'ageMs'>,
  memoryIsTrusted: () => boolean,
  fromMemory: Source,
) => {
  const known = new Map<FactKey, Fact[FactKind] | null>()
  /** Where they came from. Facts of several sources belong together only under a lease, which reports changes in between. */
  const sources = new Set<unknown>()
  let ageMs = 0
  const fromKnown: Source = (kind, id) => {
    const fact = known.get(factKey(kind, id))
    if (fact === undefined) return miss
    return fact === null ? absent : ({ kind: 'hit', value: fact } as Lookup<never>)
  }
  const add = ({ facts, ages }: Loaded) => {
    for (const [key, fact] of facts) known.set(key, fact)
    sources.add(facts)
    if (ages.size > 0) sources.add(ages)
    for (const age of ages.values()) ageMs = Math.max(ageMs, age)
  }
  return {
    known,
    fromKnown,
    /** Known facts, then memory; a hit in memory becomes known. */
    fromKnownOrMemory: ((kind, id) => {
      const found = fromKnown(kind, id)
      if (found.kind !== 'miss' || !memoryIsTrusted()) return found
      const remembered = fromMemory(kind, id)
      if (remembered.kind !== 'miss') {
        const key = factKey(kind, id)
        known.set(key, remembered.kind === 'hit' ? remembered.value : null)
        sources.add(memory)
        ageMs = Math.max(ageMs, memory.ageMs(key) ?? 0)
      }
      return remembered
    }) satisfies Source as Source,
    add,
    replace: (loaded: Loaded) => {
      known.clear()
      ageMs = 0
      add(loaded)
    },
    isOneSnapshot: () => sources.size <= 1,
    view: (tier: Tier) => viewOf(fromKnown, tier, ageMs),
  }
}

type Dependencies = {
  readonly load: LoadFacts
  readonly sharedLoads: SharedLoads
  readonly memory: Pick<TtlMap<Fact[FactKind]>, 'ageMs'>
  readonly fromMemory: Source
  readonly memoryIsTrusted: () => boolean
  readonly isLeased: () => boolean
}

/** Loads in rounds until every query is answered, because a fact may name further facts only once it is loaded. */
export const createGather =
  ({ load, sharedLoads, memory, fromMemory, memoryIsTrusted, isLeased }: Dependencies) =>
  async (queries: readonly FactQuery[], deadline: Deadline): Promise<GatheredFacts> => {
    const facts = createKnownFacts(memory, memoryIsTrusted, fromMemory)
    const invalidations = sharedLoads.watch()
    try {
      let tier: Tier = 'l1'
      for (let round = 1; ; round += 1) {
        const misses = findMisses(facts.fromKnownOrMemory, queries)
        const isConsistent = facts.isOneSnapshot() || isLeased()
        if (misses.size === 0 && isConsistent) return facts.view(tier)
        deadline.check()
        if (round > maxRounds || misses.size === 0) {
          // Invalidated each time, or possibly so without a lease: one snapshot answers, for this caller alone.
          const loaded = await deadline.run(load(queries, { past: 'l2' }))
          facts.replace(loaded)
          return facts.view(loaded.tier)
        }
        invalidations.length = 0
        const joined = new Set<SharedLoad>()
        const own = new Map<string, FactQuery>()
        const mayJoin = isLeased()
        for (const [name, query] of misses) {
          const sharedLoad = mayJoin ? sharedLoads.find(name) : undefined
          if (sharedLoad === undefined) own.set(name, query)
          else joined.add(sharedLoad)
        }
        if (own.size > 0) joined.add(sharedLoads.startSharedLoad(own))
        for (const loaded of await deadline.run(Promise.all(joined))) {
          facts.add(loaded)
          tier = deeper(tier, loaded.tier)
        }
        dropInvalidated(facts.known, invalidations)
      }
    } finally {
      sharedLoads.unwatch(invalidations)
    }
  }
