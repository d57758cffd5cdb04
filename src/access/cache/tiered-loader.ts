import type { Clock } from '../../kit/clock.ts'
import { absent, type Lookup, miss } from '../../kit/ttl-map.ts'
import type { PendingInvalidations } from '../invalidation/pending-invalidations.ts'
import type { FactQuery } from '../policy/facts/queries.ts'
import { type Fact, type FactKey, type FactKind, factKey } from '../policy/facts/registry.ts'
import { isAnswered, keysNeeded, type Source } from '../policy/facts/resource-walk.ts'
import type { FactStore, LoadedFacts } from './fact-store.ts'
import type { RedisCache } from './redis-cache.ts'

/** Where a fact was read: memory, Redis, the effective rows in Postgres that triggers keep, or the base tables. */
export const tiers = ['l1', 'l2', 'l3', 'database'] as const
export type Tier = (typeof tiers)[number]

export const deeper = (one: Tier, other: Tier): Tier => (tiers.indexOf(one) < tiers.indexOf(other) ? other : one)

export type Loaded = {
  readonly facts: LoadedFacts
  readonly tier: Tier
  /** How long ago a fact was true, for facts that came from Redis. */
  readonly ages: ReadonlyMap<FactKey, number>
}

/** Loads facts from beyond memory. `past: 'l2'` bypasses Redis. */
export type LoadFacts = (queries: readonly FactQuery[], options?: { readonly past?: 'l2' }) => Promise<Loaded>

export type TierFlags = { readonly l1: boolean; readonly l2: boolean; readonly l3: boolean }

const noAges: ReadonlyMap<FactKey, number> = new Map()

/** Loads from Postgres alone. */
export const loadFromStore =
  (store: FactStore, flags: { readonly l3: boolean }): LoadFacts =>
  async (queries) => ({
    facts: await store.load(queries, { effective: flags.l3 }),
    tier: flags.l3 ? 'l3' : 'database',
    ages: noAges,
  })

const sourceOf =
  (known: LoadedFacts): Source =>
  (kind, id) => {
    const fact = known.get(factKey(kind, id))
    if (fact === undefined) return miss
    return fact === null ? absent : ({ kind: 'hit', value: fact } as Lookup<never>)
  }

/**
 * Rounds of Redis lookups for one load. Media name their generation after the first, a generation its project after the
 * second, and so each later round looks up what the one before it named.
 */
const maxRounds = 3

/**
 * Redis in front of Postgres.
 *
 * Guarantee: a fact it returns was true after the load began, or its invalidation arrives during the load and the caller
 * drops it. So Redis is read only under a lease, and never for keys with a pending invalidation. Facts read from Postgres
 * are written back in the background, under nonces that were taken before the read. Degrades: without Redis, or with a slow
 * one, every load goes to Postgres.
 */
export const loadThroughRedis = ({
  redisCache,
  fromStore,
  flags,
  clock,
  lease,
  pendingInvalidations,
}: {
  redisCache: RedisCache
  fromStore: LoadFacts
  flags: { readonly l2: boolean }
  clock: Clock
  lease: { readonly untilMs: number }
  pendingInvalidations: PendingInvalidations
}): LoadFacts => {
  const isUsable = () => flags.l2 && clock.monotonic() < lease.untilMs

  return async (queries, options) => {
    if (options?.past === 'l2' || !isUsable()) return fromStore(queries)
    const known = new Map<FactKey, Fact[FactKind] | null>()
    const ages = new Map<FactKey, number>()
    const nonces = new Map<FactKey, string>()
    const source = sourceOf(known)
    const asked = new Set<FactKey>()
    for (let round = 1; round <= maxRounds; round += 1) {
      const keys = new Set(queries.flatMap((query) => keysNeeded(source, query)))
      const unasked = [...keys].filter((key) => !asked.has(key) && !pendingInvalidations.has(key))
      if (unasked.length === 0) break
      for (const key of unasked) asked.add(key)
      for (const { key, ...answer } of await redisCache.lookup(unasked)) {
        if ('nonce' in answer) nonces.set(key, answer.nonce)
        else {
          known.set(key, answer.fact)
          ages.set(key, answer.ageMs)
        }
      }
    }
    const unanswered = queries.filter((query) => !isAnswered(source, query))
    if (unanswered.length === 0) return { facts: known, tier: 'l2', ages }
    const { facts, tier } = await fromStore(unanswered)
    for (const [key, fact] of facts) {
      known.set(key, fact)
      ages.delete(key)
      const nonce = nonces.get(key)
      if (nonce !== undefined && fact !== null) redisCache.writeBack(key, fact, nonce)
    }
    return { facts: known, tier, ages }
  }
}
