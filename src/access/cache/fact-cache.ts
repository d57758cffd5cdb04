import type { Clock } from '../../kit/clock.ts'
import type { Deadline } from '../../kit/deadline.ts'
import { absent, type Lookup, miss, type TtlMap } from '../../kit/ttl-map.ts'
import {
  type AccountFact,
  type Fact,
  type FactKey,
  type FactKind,
  factKey,
  grantId,
  isWhole,
  partOf,
  type ServiceKeyFact,
  type SessionFact,
  without,
} from '../policy/facts/model.ts'
import {
  factIn,
  ignore,
  noResource,
  type ResourceFacts,
  readResource,
  type Source,
} from '../policy/facts/resource-walk.ts'
import type { ResourceRef } from '../policy/matrix.ts'
import type { FactQuery as WantedFact } from './fact-store.ts'
import { deeper, type Loaded, type LoadFacts, type Tier } from './tiered-loader.ts'

export type Principal = { readonly session: SessionFact | undefined; readonly account: AccountFact | undefined }
/** What a request wants to know in one go. */
export type FactRequest = {
  readonly session?: { readonly id: string; readonly userId: string }
  /** As `session`, for many at once. */
  readonly sessions?: readonly { readonly id: string; readonly userId: string }[]
  readonly accounts?: readonly string[]
  readonly resources?: readonly { readonly ref: ResourceRef; readonly userId: string }[]
  readonly serviceKey?: string
}

/**
 * The facts that decisions are made of, cached.
 *
 * Promise: once `invalidate(touched)` has returned, no later read is answered from what was known of those before, nor
 * of what is part of them, whatever loads were under way: what they bring of those is dropped where they land, and
 * nobody joins them any more. What one `gather` gives is what was known together at its end. Concurrent misses on one
 * fact make one load. Things that do not exist are remembered too, for a shorter time. Without a lease memory is not
 * believed and no load is joined that somebody else began, and when it ends meanwhile one statement is asked for
 * everything: a change may have been missed.
 */
export type FactCache = {
  /** Both facts of a signed-in request, or undefined when either is not in memory. */
  peekPrincipal(sessionId: string, userId: string): Principal | undefined
  /** The account's fact; `miss` when it is not in memory. */
  peekAccount(userId: string): Lookup<AccountFact>
  /** All facts about a thing and a person, or undefined when some are not in memory. */
  peekResource(ref: ResourceRef, userId: string): ResourceFacts | undefined
  peekServiceKey(id: string): Lookup<ServiceKeyFact>
  /** Makes sure that everything wanted is known, in at most one statement, and says where it came from. */
  gather(wanted: FactRequest, deadline: Deadline): Promise<GatheredFacts>
  /** What is remembered of everything wanted, lease or not, time to live or not; undefined when something is not. */
  peekStale(wanted: FactRequest): GatheredFacts | undefined
  /** Puts into memory what is not there, for nobody who waits: by a load of its own, that nobody joins. */
  prefetch(wanted: readonly FactRequest[]): Promise<void>
  /** How long ago the oldest of the facts about a thing and a person was true, of those in memory. */
  ageMs(ref: ResourceRef, userId: string): number
  invalidate(touched: Iterable<FactKey> | 'everything'): void
}

export type GatheredFacts = {
  /** The deepest that was asked. */
  readonly tier: Tier
  /** How long ago the oldest of them was true. */
  readonly ageMs: number
  /** Nobody vouches for them: they are what was remembered when Postgres went away. */
  readonly stale: boolean
  principal(sessionId: string, userId: string): Principal
  account(userId: string): AccountFact | undefined
  resource(ref: ResourceRef, userId: string): ResourceFacts
  serviceKey(id: string): ServiceKeyFact | undefined
}

/** What was invalidated while somebody watched. */
type Invalidations = (ReadonlySet<FactKey> | 'everything')[]
type SharedLoad = Promise<Loaded>

/** How often a question is asked again because what it is about was changed meanwhile. */
const maxRounds = 4

/** The parts of what was changed as a whole, of those there are: gone through only where something was. */
const partsOf = (changed: ReadonlySet<FactKey>, there: Iterable<string>): FactKey[] => {
  if (!changed.values().some(isWhole)) return []
  return [...(there as Iterable<FactKey>)].filter((key) => {
    const part = partOf(key)
    return part !== undefined && changed.has(part.whole)
  })
}

const dropOvertaken = (facts: Map<FactKey, unknown>, overtaken: Invalidations) => {
  for (const keys of overtaken) {
    if (keys === 'everything') facts.clear()
    else {
      for (const key of keys) {
        facts.delete(key)
        // Nothing is left out of what is on its way: somebody else may have learnt all of it since.
        const part = partOf(key)
        if (part !== undefined) facts.delete(part.whole)
      }
      for (const key of partsOf(keys, facts.keys())) facts.delete(key)
    }
  }
}

/** Names what a load is asked for; for a thing also by whom, because what was granted to that person comes along. */
const wantedKey = (kind: FactKind, id: string, userId: string | null): string =>
  userId === null ? factKey(kind, id) : `${kind}:${id}/${userId}`

/** Everything a question is about, as if nothing were known. */
const everything = ({
  session,
  sessions = [],
  accounts = [],
  resources = [],
  serviceKey,
}: FactRequest): WantedFact[] => [
  ...[...(session === undefined ? [] : [session]), ...sessions].flatMap(
    ({ id, userId }) =>
      [
        { kind: 'session', id, userId: null },
        { kind: 'account', id: userId, userId: null },
      ] as const,
  ),
  ...(serviceKey === undefined ? [] : ([{ kind: 'service_key', id: serviceKey, userId: null }] as const)),
  ...accounts.map((id) => ({ kind: 'account', id, userId: null }) as const),
  ...resources.map(({ ref, userId }) => ({ kind: ref.type, id: ref.id, userId })),
]

type Dependencies = {
  readonly load: LoadFacts
  /** For what is fetched ahead. Default: `load`. */
  readonly loadAhead?: LoadFacts
  readonly memory: TtlMap<Fact[FactKind]>
  readonly clock: Clock
  /** Until when memory may be believed, on the monotonic time of `leaseClock` (default: `clock`). */
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
  const sharedLoads = new Map<string, SharedLoad>()
  const watchers = new Set<Invalidations>()
  let askedAtMs = 0
  const isLeased = () => leaseClock.monotonic() < lease.untilMs
  /** Whether memory may be believed; if so, `fromMemory` answers as of this moment. */
  const remembers = (): boolean => {
    askedAtMs = clock.monotonic()
    return flags.l1 && (leaseClock === clock ? askedAtMs < lease.untilMs : isLeased())
  }
  // A key holds a fact of the kind that is part of it, so what comes out is of the kind asked for.
  const fromMemory: Source = (kind, id) => memory.get(factKey(kind, id), askedAtMs) as Lookup<never>

  /** A load also brings facts that nobody asked for by name, so each fact is judged by itself when it lands. */
  const loadFacts = (missing: ReadonlyMap<string, WantedFact>, by: LoadFacts): SharedLoad => {
    const overtaken: Invalidations = []
    watchers.add(overtaken)
    return by([...missing.values()])
      .then(({ facts, ...rest }) => {
        const current = new Map(facts)
        dropOvertaken(current, overtaken)
        for (const [key, fact] of current) {
          if (fact === null) memory.setAbsent(key)
          else memory.set(key, fact, rest.ages.get(key))
        }
        return { facts: current, ...rest }
      })
      .finally(() => watchers.delete(overtaken))
  }

  /** As `fly`, and others who want the same join. */
  const startSharedLoad = (missing: ReadonlyMap<string, WantedFact>): SharedLoad => {
    const flight: SharedLoad = loadFacts(missing, load).finally(() => {
      for (const name of missing.keys()) if (sharedLoads.get(name) === flight) sharedLoads.delete(name)
    })
    for (const name of missing.keys()) sharedLoads.set(name, flight)
    return flight
  }

  const findMisses = (
    source: Source,
    { session, sessions = [], accounts = [], resources = [], serviceKey }: FactRequest,
  ) => {
    const misses = new Map<string, WantedFact>()
    const note = (kind: FactKind, id: string, userId: string | null = null) =>
      misses.set(wantedKey(kind, id, userId), { kind, id, userId })
    const look = ({ id, userId }: { readonly id: string; readonly userId: string }) => {
      if (source('session', id).kind === 'miss') note('session', id)
      if (source('account', userId).kind === 'miss') note('account', userId)
    }
    if (session !== undefined) look(session)
    for (const each of sessions) look(each)
    if (serviceKey !== undefined && source('service_key', serviceKey).kind === 'miss') note('service_key', serviceKey)
    for (const id of accounts) if (source('account', id).kind === 'miss') note('account', id)
    for (const { ref, userId } of resources) readResource(source, ref, userId, note)
    return misses
  }

  const viewOf = (source: Source, tier: Tier, ageMs: number, recalled = false): GatheredFacts => ({
    tier,
    ageMs,
    stale: recalled,
    principal: (sessionId, userId) => ({
      session: factIn(source('session', sessionId)),
      account: factIn(source('account', userId)),
    }),
    account: (userId) => factIn(source('account', userId)),
    resource: (ref, userId) => readResource(source, ref, userId, ignore) ?? noResource,
    serviceKey: (id) => factIn(source('service_key', id)),
  })

  const gather = async (wanted: FactRequest, deadline: Deadline): Promise<GatheredFacts> => {
    const learnt = new Map<FactKey, Fact[FactKind] | null>()
    /** What the answer is put together from. Changes in between are heard of under a lease, and only then. */
    const places = new Set<unknown>()
    let ageMs = 0
    const fromLearnt: Source = (kind, id) => {
      const fact = learnt.get(factKey(kind, id))
      if (fact === undefined) return miss
      return fact === null ? absent : ({ kind: 'hit', value: fact } as Lookup<never>)
    }
    // What is met in memory is held on to, because it may be evicted, or expire, before the question is answered.
    const source: Source = (kind, id) => {
      const known = fromLearnt(kind, id)
      if (known.kind !== 'miss' || !remembers()) return known
      const found = fromMemory(kind, id)
      if (found.kind !== 'miss') {
        const key = factKey(kind, id)
        learnt.set(key, found.kind === 'hit' ? found.value : null)
        places.add(memory)
        ageMs = Math.max(ageMs, memory.ageMs(key) ?? 0)
      }
      return found
    }
    const learn = ({ facts, ages }: Loaded) => {
      for (const [key, fact] of facts) learnt.set(key, fact)
      places.add(facts)
      if (ages.size > 0) places.add(ages)
      for (const age of ages.values()) ageMs = Math.max(ageMs, age)
    }
    const overtaken: Invalidations = []
    watchers.add(overtaken)
    try {
      let tier: Tier = 'l1'
      for (let round = 1; ; round += 1) {
        const misses = findMisses(source, wanted)
        const isOfOneMoment = places.size <= 1 || isLeased()
        if (misses.size === 0 && isOfOneMoment) return viewOf(fromLearnt, tier, ageMs)
        deadline.check()
        if (round > maxRounds || misses.size === 0) {
          // Overtaken, always or for all we know: what one statement says is an answer too, for this question alone.
          const loaded = await deadline.run(load(everything(wanted), { past: 'l2' }))
          learnt.clear()
          ageMs = 0
          learn(loaded)
          return viewOf(fromLearnt, loaded.tier, ageMs)
        }
        overtaken.length = 0
        const boarded = new Set<SharedLoad>()
        const own = new Map<string, WantedFact>()
        const mayJoin = isLeased()
        for (const [name, wish] of misses) {
          const flight = mayJoin ? sharedLoads.get(name) : undefined
          if (flight === undefined) own.set(name, wish)
          else boarded.add(flight)
        }
        if (own.size > 0) boarded.add(startSharedLoad(own))
        for (const loaded of await deadline.run(Promise.all(boarded))) {
          learn(loaded)
          tier = deeper(tier, loaded.tier)
        }
        dropOvertaken(learnt, overtaken)
      }
    } finally {
      watchers.delete(overtaken)
    }
  }

  const keysOf = ({ type, id }: ResourceRef, userId: string): FactKey[] => {
    const media = type === 'media' ? factIn(fromMemory('media', id)) : undefined
    const generationId = type === 'generation' ? id : (media?.generationId ?? null)
    const generation = generationId === null ? undefined : factIn(fromMemory('generation', generationId))
    const projectId = type === 'project' ? id : (generation?.projectId ?? null)
    const isMany = factIn(fromMemory('grants', userId)) === 'many'
    return [
      factKey('account', userId),
      factKey(type, id),
      factKey('grants', userId),
      ...(generationId === null ? [] : [factKey('generation', generationId)]),
      ...(projectId === null ? [] : [factKey('project', projectId)]),
      ...(projectId === null || !isMany ? [] : [factKey('grant', grantId(userId, projectId))]),
    ]
  }

  return {
    peekPrincipal: (sessionId, userId) => {
      if (!remembers()) return undefined
      const session = fromMemory('session', sessionId)
      const account = fromMemory('account', userId)
      if (session.kind === 'miss' || account.kind === 'miss') return undefined
      return { session: factIn(session), account: factIn(account) }
    },
    peekAccount: (userId) => (remembers() ? fromMemory('account', userId) : miss),
    peekResource: (ref, userId) => (remembers() ? readResource(fromMemory, ref, userId, ignore) : undefined),
    peekServiceKey: (id) => (remembers() ? fromMemory('service_key', id) : miss),
    gather,
    peekStale: (wanted) => {
      let ageMs = 0
      const source: Source = (kind, id) => {
        const key = factKey(kind, id)
        ageMs = Math.max(ageMs, memory.ageMs(key) ?? 0)
        return memory.peekStale(key) as Lookup<never>
      }
      return findMisses(source, wanted).size === 0 ? viewOf(source, 'l1', ageMs, true) : undefined
    },
    prefetch: async (wanted) => {
      if (!remembers()) return
      const missing = new Map(wanted.flatMap((each) => [...findMisses(fromMemory, each)]))
      if (missing.size > 0) await loadFacts(missing, loadAhead)
    },
    ageMs: (ref, userId) => Math.max(0, ...keysOf(ref, userId).map((key) => memory.ageMs(key) ?? 0)),
    invalidate: (touched) => {
      const changed: 'everything' | ReadonlySet<FactKey> = typeof touched === 'string' ? touched : new Set(touched)
      if (changed === 'everything') memory.clear()
      else {
        for (const key of changed) {
          memory.delete(key)
          const part = partOf(key)
          if (part !== undefined) memory.update(part.whole, (fact) => without(fact as Fact['grants'], part.projectId))
        }
        for (const key of partsOf(changed, memory.keysByRecency())) memory.delete(key)
      }
      for (const overtaken of watchers) overtaken.push(changed)
      sharedLoads.clear()
    },
  }
}
