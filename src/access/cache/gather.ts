import { admitted, type Deadline } from '../../kit/deadline.ts'
import { absent, type Lookup, miss, type TtlMap } from '../../kit/ttl-map.ts'
import { restrictionsId } from '../policy/facts/mode.ts'
import { type FactQuery, queryName } from '../policy/facts/queries.ts'
import { definitionOf, type Fact, type FactKey, type FactKind, factKey, kindOf } from '../policy/facts/registry.ts'
import {
  factIn,
  isAnswered,
  noResource,
  type ResourceFacts,
  readResource,
  type Source,
} from '../policy/facts/resource-walk.ts'
import type { ResourceRef } from '../policy/matrix.ts'
import type { RestrictionFacts } from '../policy/restrictions.ts'
import {
  type CurrentLoad,
  invalidationsSince,
  isInvalidated,
  type SharedLoad,
  type SharedLoads,
} from './shared-loads.ts'
import { deeper, type Loaded, type LoadFacts, type Tier } from './tiered-loader.ts'

/** Whether memory answers for facts of a kind while a lease is held. */
export const isInMemory = (kind: FactKind, { l1 }: { readonly l1: boolean }): boolean =>
  l1 || definitionOf(kind).heldWithoutL1 === true

/** The facts of a signed-in request. */
export type PrincipalFacts = RestrictionFacts & {
  readonly session: Fact['session'] | undefined
  readonly account: Fact['account'] | undefined
}

/** The facts that answer some queries. They are held: no eviction, expiry or invalidation changes them. */
export type GatheredFacts = {
  /** The deepest tier that was read, but for facts that are in memory or Postgres only. */
  readonly tier: Tier
  /** Time since the oldest of them was read from Postgres. */
  readonly ageMs: number
  /** A stale read: served from memory without a lease, while Postgres is down. */
  readonly stale: boolean
  /** Undefined both for an absent fact and for one that no query asked for: ask only for facts of the queries. */
  find<K extends FactKind>(kind: K, id: string): Fact[K] | undefined
  principal(sessionId: string, userId: string): PrincipalFacts
  restrictions(): RestrictionFacts
  resource(ref: ResourceRef, userId: string): ResourceFacts
}

/**
 * Rounds of loads before one statement loads everything at once. Without invalidations two suffice: the first loads all that
 * a query needs, and the second the separate grant of a user with too many grants for one fact. Two more make up for
 * invalidations that arrive in between; where those keep arriving, no number would.
 */
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

const viewOf = (source: Source, tier: Tier, ageMs: number, stale: boolean): GatheredFacts => ({
  tier,
  ageMs,
  stale,
  find: (kind, id) => factIn(source(kind, id)),
  principal: (sessionId, userId) => ({
    session: factIn(source('session', sessionId)),
    account: factIn(source('account', userId)),
    mode: factIn(source('mode', restrictionsId)),
    blockedNetworks: factIn(source('blocked_networks', restrictionsId)),
  }),
  restrictions: () => ({
    mode: factIn(source('mode', restrictionsId)),
    blockedNetworks: factIn(source('blocked_networks', restrictionsId)),
  }),
  resource: (ref, userId) => readResource(source, ref, userId) ?? noResource,
})

const sourceOf =
  (held: ReadonlyMap<FactKey, Fact[FactKind] | null>): Source =>
  (kind, id) => {
    const fact = held.get(factKey(kind, id))
    if (fact === undefined) return miss
    return fact === null ? absent : ({ kind: 'hit', value: fact } as Lookup<never>)
  }

/** Facts of the snapshot of one statement. */
const viewOfLoaded = ({ facts, tier }: Loaded): GatheredFacts => viewOf(sourceOf(facts), tier, 0, false)

/** Facts held for one reader, so that an eviction or expiry in between cannot take them away. */
export const createHeldFacts = (
  memory: Pick<TtlMap<Fact[FactKind]>, 'ageMs'>,
  /** Whether memory may be read for facts of this kind. */
  mayReadMemory: (kind: FactKind) => boolean,
  fromMemory: Source,
) => {
  const held = new Map<FactKey, Fact[FactKind] | null>()
  /** Results of loads, also of facts that others asked for. The latest is the first. */
  const loads: CurrentLoad[] = []
  /** Where the held facts came from: memory, Redis, the result of one load. */
  const sources = new Set<'memory' | 'redis' | Loaded>()
  let ageMs = 0
  let tier: Tier = 'l1'
  const fromHeld = sourceOf(held)
  const holdLoaded = (key: FactKey): boolean => {
    for (const { loaded, place } of loads) {
      const fact = loaded.facts.get(key)
      if (fact === undefined || isInvalidated(key, invalidationsSince(place))) continue
      held.set(key, fact)
      sources.add(loaded)
      const redisAgeMs = loaded.redisAgesMs.get(key)
      // A second source even where Redis alone answered: its entries were read from Postgres at different times.
      if (redisAgeMs !== undefined) sources.add('redis')
      ageMs = Math.max(ageMs, redisAgeMs ?? 0)
      // A kind that Redis never holds says nothing about the tier of the others.
      if (definitionOf(kindOf(key)).memoryOnly !== true) {
        tier = deeper(tier, redisAgeMs === undefined ? loaded.tier : 'l2')
      }
      return true
    }
    return false
  }
  return {
    /** Looks in the held facts, then in the results of loads, then in memory. A fact that is found is held from then on. */
    fromHeldOrMemory: ((kind, id) => {
      const alreadyHeld = fromHeld(kind, id)
      if (alreadyHeld.kind !== 'miss') return alreadyHeld
      const key = factKey(kind, id)
      if (holdLoaded(key)) return fromHeld(kind, id)
      if (!mayReadMemory(kind)) return alreadyHeld
      const found = fromMemory(kind, id)
      if (found.kind !== 'miss') {
        held.set(key, found.kind === 'hit' ? found.value : null)
        sources.add('memory')
        ageMs = Math.max(ageMs, memory.ageMs(key) ?? 0)
      }
      return found
    }) satisfies Source as Source,
    /** Its facts replace those held before. */
    add: (load: CurrentLoad) => {
      loads.unshift(load)
      for (const key of held.keys()) if (load.loaded.facts.has(key)) held.delete(key)
    },
    /**
     * Holds no fact any more, because some were invalidated. Those still valid are found again where they were. That costs less
     * than to look for each of many invalidations, where many readers wait.
     */
    reset: () => {
      held.clear()
      sources.clear()
      ageMs = 0
    },
    /** Whether all facts came from memory, or all from one statement. Then they are consistent even without a lease. */
    isSingleSource: () => sources.size <= 1,
    view: (stale = false) => viewOf(fromHeld, tier, ageMs, stale),
  }
}

type Dependencies = {
  readonly load: LoadFacts
  readonly sharedLoads: SharedLoads
  readonly memory: Pick<TtlMap<Fact[FactKind]>, 'ageMs'>
  readonly fromMemory: Source
  /**
   * Applies every invalidation received, and returns whether a lease is held. Called once at the start of each synchronous run
   * that reads memory or joins a load, so that no invalidation is applied in the middle of one.
   */
  readonly beginRun: () => boolean
  readonly flags: { readonly l1: boolean }
}

/** A decision needs no more facts than this, so a gather that loads more is one for many decisions. */
const maxLoadsOfOne = 16

/** Loads of about as many facts take about as long. */
const kindOfLoad = (loads: number): string => `facts 2^${Math.ceil(Math.log2(loads))}`

/**
 * Loads in rounds until every query is answered: a fact names the further facts that it needs only once it is loaded, and an
 * invalidated fact is loaded again. Facts of several sources are consistent only under a lease, because only then has
 * every invalidation arrived that is due.
 */
export const createGather = (dependencies: Dependencies) => {
  const { memory, fromMemory, beginRun, flags, sharedLoads } = dependencies
  const gather = createRounds(dependencies)
  /** Counts the facts of many decisions that are neither in memory nor being loaded by another request. */
  const countLoads = (queries: readonly FactQuery[], isLeased: boolean): number => {
    const { fromHeldOrMemory } = createHeldFacts(memory, (kind) => isLeased && isInMemory(kind, flags), fromMemory)
    const misses = findMisses(fromHeldOrMemory, queries)
    if (!isLeased) return Math.max(1, misses.size)
    return misses.keys().reduce((sum, name) => (sharedLoads.find(name) === undefined ? sum + 1 : sum), 0)
  }
  return async (queries: readonly FactQuery[], deadline: Deadline): Promise<GatheredFacts> => {
    const isLeased = beginRun()
    // Memory may not be read, and no load in flight be joined: so one statement for all callers like this one.
    if (!isLeased && queries.length <= maxLoadsOfOne)
      return viewOfLoaded(await sharedLoads.snapshots.load(queries, deadline))
    // The loads of one decision are bounded where they are collected.
    if (queries.length <= maxLoadsOfOne) return gather(queries, deadline)
    const loads = countLoads(queries, isLeased)
    if (loads <= maxLoadsOfOne) return gather(queries, deadline)
    // Admitted before anything is read, so the facts are as of after the wait.
    return admitted(deadline, 'batches', kindOfLoad(loads), () => gather(queries, deadline))
  }
}

const createRounds =
  ({ load, sharedLoads, memory, fromMemory, beginRun, flags }: Dependencies) =>
  async (queries: readonly FactQuery[], deadline: Deadline): Promise<GatheredFacts> => {
    let isLeased = false
    const facts = createHeldFacts(memory, (kind) => isLeased && isInMemory(kind, flags), fromMemory)
    let { place } = sharedLoads
    for (let round = 1; ; round += 1) {
      isLeased = beginRun()
      if (place !== sharedLoads.place) {
        facts.reset()
        place = sharedLoads.place
      }
      const misses = findMisses(facts.fromHeldOrMemory, queries)
      const isConsistent = facts.isSingleSource() || isLeased
      if (misses.size === 0 && isConsistent) return facts.view()
      deadline.check()
      if (round > maxRounds || misses.size === 0) {
        // Invalidated in every round, or possibly invalidated unnoticed without a lease. The snapshot of one statement is
        // consistent by itself, so invalidations that arrive meanwhile are not applied.
        // Sent by itself where it answers many decisions.
        return viewOfLoaded(
          await (queries.length <= maxLoadsOfOne
            ? sharedLoads.snapshots.load(queries, deadline)
            : deadline.run(load(queries, { bypassRedis: true }))),
        )
      }
      const joined = new Set<SharedLoad>()
      const own = new Map<string, FactQuery>()
      for (const [name, query] of misses) {
        const sharedLoad = isLeased ? sharedLoads.find(name) : undefined
        if (sharedLoad === undefined) own.set(name, query)
        else joined.add(sharedLoad)
      }
      if (own.size > maxLoadsOfOne) joined.add(sharedLoads.startSharedLoad(own))
      else if (own.size > 0) joined.add(sharedLoads.collected.load([...own.values()], deadline))
      for (const load of await deadline.run(Promise.all(joined))) facts.add(load)
    }
  }
