import type { Clock } from '../../kit/clock.ts'
import { absent, type Lookup, miss } from '../../kit/ttl-map.ts'
import type { PendingInvalidations } from '../invalidation/pending-invalidations.ts'
import type { FactQuery } from '../policy/facts/queries.ts'
import { type Fact, type FactKey, type FactKind, factKey } from '../policy/facts/registry.ts'
import { isAnswered, keysNeeded, type Source } from '../policy/facts/resource-walk.ts'
import type { FactStore, LoadedFacts } from './fact-store.ts'
import type { RedisCache } from './redis-cache.ts'

/**
 * Where a fact was read: `l1` memory, `l2` Redis, `l3` and `database` Postgres. With `l3` access is read from the table of
 * effective access that triggers maintain, with `database` it is derived from the base tables.
 */
export const tiers = ['l1', 'l2', 'l3', 'database'] as const
export type Tier = (typeof tiers)[number]

export const deeper = (one: Tier, other: Tier): Tier => (tiers.indexOf(one) < tiers.indexOf(other) ? other : one)

export type Loaded = {
  readonly facts: LoadedFacts
  readonly tier: Tier
  /** The facts that came from Redis, with the time since each was read from Postgres. The others were read just now. */
  readonly redisAgesMs: ReadonlyMap<FactKey, number>
}

/** With `bypassRedis` all facts come from one statement, so from one snapshot. */
export type LoadOptions = { readonly bypassRedis?: boolean }
/** Loads facts from the tiers below memory. */
export type LoadFacts = (queries: readonly FactQuery[], options?: LoadOptions) => Promise<Loaded>

export type TierFlags = { readonly l1: boolean; readonly l2: boolean; readonly l3: boolean }

const noRedisAges: ReadonlyMap<FactKey, number> = new Map()

/** Loads from Postgres alone. `requireAvailable` throws while Postgres does not answer. */
export const loadFromStore =
  (store: FactStore, flags: { readonly l3: boolean }, requireAvailable: () => void = () => {}): LoadFacts =>
  async (queries) => {
    requireAvailable()
    return {
      facts: await store.load(queries, { effective: flags.l3 }),
      tier: flags.l3 ? 'l3' : 'database',
      redisAgesMs: noRedisAges,
    }
  }

const sourceOf =
  (known: LoadedFacts): Source =>
  (kind, id) => {
    const fact = known.get(factKey(kind, id))
    if (fact === undefined) return miss
    return fact === null ? absent : ({ kind: 'hit', value: fact } as Lookup<never>)
  }

/**
 * Rounds of Redis lookups for one load. The id of a needed fact is known only from the fact that needs it, and the longest
 * chain has three: media, their generation, its project.
 */
const maxRounds = 3

/**
 * Redis in front of Postgres.
 *
 * Guarantee: a fact it returns reflects every change answered before the load began. It may predate a later change; the
 * caller drops it if the invalidation arrives during the load. Hence Redis is not read without a lease, nor for keys with a
 * pending invalidation. The lease is checked once, when the load begins. If it ends during the load, facts from Redis may be
 * older than changes answered meanwhile, so a caller that needs them as of the end must hold a lease then.
 *
 * Facts read from Postgres fill Redis in the background, under nonces that were taken before the read; absent facts do not, nor
 * those that a pending invalidation names: that the nonce is still there may be the work of another writer.
 * Degrades: without Redis, or with a slow one, every load goes to Postgres.
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
    if (options?.bypassRedis || !isUsable()) return fromStore(queries)
    const known = new Map<FactKey, Fact[FactKind] | null>()
    const redisAgesMs = new Map<FactKey, number>()
    const nonces = new Map<FactKey, { readonly nonce: string; readonly missedAtMs: number }>()
    const source = sourceOf(known)
    const asked = new Set<FactKey>()
    for (let round = 1; round <= maxRounds; round += 1) {
      const keys = new Set(queries.flatMap((query) => keysNeeded(source, query)))
      const unasked = [...keys].filter((key) => !asked.has(key) && !pendingInvalidations.has(key))
      if (unasked.length === 0) break
      for (const key of unasked) asked.add(key)
      for (const { key, ...answer } of await redisCache.lookup(unasked)) {
        if ('nonce' in answer) nonces.set(key, answer)
        else {
          known.set(key, answer.fact)
          redisAgesMs.set(key, answer.ageMs)
        }
      }
    }
    const unanswered = queries.filter((query) => !isAnswered(source, query))
    if (unanswered.length === 0) return { facts: known, tier: 'l2', redisAgesMs }
    const { facts, tier } = await fromStore(unanswered)
    // Without a lease the connections of the pools may have moved to another database already.
    const mayFill = isUsable()
    for (const [key, fact] of facts) {
      known.set(key, fact)
      redisAgesMs.delete(key)
      const missed = nonces.get(key)
      if (!mayFill || missed === undefined || fact === null || pendingInvalidations.has(key)) continue
      redisCache.fill(key, fact, missed.nonce, missed.missedAtMs)
    }
    return { facts: known, tier, redisAgesMs }
  }
}
