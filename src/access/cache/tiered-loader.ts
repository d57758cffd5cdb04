import type { Clock } from '../../kit/clock.ts'
import { absent, type Lookup, miss } from '../../kit/ttl-map.ts'
import type { PendingInvalidations } from '../invalidation/pending-invalidations.ts'
import { type Fact, type FactKey, type FactKind, factKey, grantId } from '../policy/facts/model.ts'
import { ignore, readResource, type Source } from '../policy/facts/resource-walk.ts'
import { type ResourceType, resourceTypes } from '../policy/matrix.ts'
import type { FactQuery, FactStore, LoadedFacts } from './fact-store.ts'
import type { RedisCache } from './redis-cache.ts'

/**
 * Where a fact came from: memory, the outer cache, Postgres by the effective rows its triggers keep, or Postgres by the
 * base tables.
 */
export const tiers = ['l1', 'l2', 'l3', 'database'] as const
export type Tier = (typeof tiers)[number]

export const deeper = (one: Tier, other: Tier): Tier => (tiers.indexOf(one) < tiers.indexOf(other) ? other : one)

export type Loaded = {
  readonly facts: LoadedFacts
  readonly tier: Tier
  /** How long ago a fact was true, for those that were not read just now. */
  readonly ages: ReadonlyMap<FactKey, number>
}

/** Gets facts from beyond memory. `past: 'l2'` asks Postgres only. */
export type LoadFacts = (wanted: readonly FactQuery[], options?: { readonly past?: 'l2' }) => Promise<Loaded>

export type TierFlags = { readonly l1: boolean; readonly l2: boolean; readonly l3: boolean }

const noAges: ReadonlyMap<FactKey, number> = new Map()

/** Postgres alone. */
export const loadFromStore =
  (store: FactStore, flags: { readonly l3: boolean }): LoadFacts =>
  async (wanted) => ({
    facts: await store.load(wanted, { effective: flags.l3 }),
    tier: flags.l3 ? 'l3' : 'database',
    ages: noAges,
  })

const isResource = (kind: FactKind): kind is ResourceType => (resourceTypes as readonly string[]).includes(kind)

/** The facts a wish needs, as far as can be told by what is known: what media came of and where that is shows only then. */
const keysFor = ({ kind, id, userId }: FactQuery, known: LoadedFacts): FactKey[] => {
  if (kind === 'grant') return userId === null ? [] : [factKey('grant', grantId(userId, id))]
  const own = factKey(kind, id)
  if (!isResource(kind)) return [own]
  const keys = [own]
  const made = kind === 'media' ? (known.get(own) as Fact['media'] | null | undefined) : undefined
  const generationKey = kind === 'generation' ? own : made?.generationId && factKey('generation', made.generationId)
  if (kind === 'media' && generationKey) keys.push(generationKey)
  const generation = generationKey ? (known.get(generationKey) as Fact['generation'] | null | undefined) : undefined
  const projectId = kind === 'project' ? id : (generation?.projectId ?? null)
  if (projectId !== null) keys.push(factKey('project', projectId))
  if (userId === null) return keys
  const grants = factKey('grants', userId)
  keys.push(grants)
  if (projectId !== null && known.get(grants) === 'many') keys.push(factKey('grant', grantId(userId, projectId)))
  return keys
}

const sourceOf =
  (known: LoadedFacts): Source =>
  (kind, id) => {
    const fact = known.get(factKey(kind, id))
    if (fact === undefined) return miss
    return fact === null ? absent : ({ kind: 'hit', value: fact } as Lookup<never>)
  }

const isMet = (wish: FactQuery, known: LoadedFacts): boolean =>
  isResource(wish.kind) && wish.userId !== null
    ? readResource(sourceOf(known), { type: wish.kind, id: wish.id }, wish.userId, ignore) !== undefined
    : keysFor(wish, known).every((key) => known.has(key))

/** What media came of is known after the first look, its project after the second; and so whether somebody was granted many. */
const maxLooks = 3

/**
 * The outer cache in front of Postgres.
 *
 * Promise: what it gives was true at some moment after it was asked, or is among what the caller is told to drop
 * meanwhile: the outer cache is asked only under a lease, and never about what an unconfirmed change touched. What
 * Postgres adds is given back to the outer cache off the request's path, under nonces that were taken before Postgres was
 * asked. Without the outer cache, or when it is slow, this is Postgres alone.
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

  return async (wanted, options) => {
    if (options?.past === 'l2' || !isUsable()) return fromStore(wanted)
    const known = new Map<FactKey, Fact[FactKind] | null>()
    const ages = new Map<FactKey, number>()
    const nonces = new Map<FactKey, string>()
    const asked = new Set<FactKey>()
    for (let look = 1; look <= maxLooks; look += 1) {
      const keys = new Set(wanted.flatMap((wish) => keysFor(wish, known)))
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
    const unmet = wanted.filter((wish) => !isMet(wish, known))
    if (unmet.length === 0) return { facts: known, tier: 'l2', ages }
    const { facts, tier } = await fromStore(unmet)
    for (const [key, fact] of facts) {
      known.set(key, fact)
      ages.delete(key)
      const nonce = nonces.get(key)
      if (nonce !== undefined && fact !== null) redisCache.writeBack(key, fact, nonce)
    }
    return { facts: known, tier, ages }
  }
}
