import type { Deadline } from '../kit/deadline.ts'
import { absent, type Lookup, miss, type TtlMap } from '../kit/ttl-map.ts'
import {
  type AccountFact,
  type Fact,
  type FactKey,
  type FactKind,
  factKey,
  type GenerationFact,
  type GrantFact,
  grantId,
  type ProjectFact,
  type ResourceRef,
  type ServiceKeyFact,
  type SessionFact,
} from './model.ts'
import type { FactStore, LoadedFacts, Wanted as WantedFact } from './store.ts'

export type Tier = 'l1' | 'database'

export type Principal = { readonly session: SessionFact | undefined; readonly account: AccountFact | undefined }
/** A thing as one person has it: what it is, and what was granted to that person. */
export type ResourceFacts = {
  readonly project: ProjectFact | undefined
  readonly generation: GenerationFact | undefined
  readonly grant: GrantFact | undefined
}

/** What a request wants to know in one go. */
export type Wanted = {
  readonly session?: { readonly id: string; readonly userId: string }
  readonly accounts?: readonly string[]
  readonly resources?: readonly { readonly ref: ResourceRef; readonly userId: string }[]
  readonly serviceKey?: string
}

/**
 * The facts that decisions are made of, cached.
 *
 * Promise: once `invalidate(keys)` has returned, no later read is answered from what was known of those before, whatever
 * loads were under way: what they bring of those is dropped where they land, and nobody joins them any more. What one
 * `gather` gives is what was known together at its end. Concurrent misses on one fact make one statement. Things that do
 * not exist are remembered too, for a shorter time.
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
  gather(wanted: Wanted, deadline: Deadline): Promise<GatheredFacts>
  invalidate(keys: Iterable<FactKey>): void
}

export type GatheredFacts = {
  readonly tier: Tier
  principal(sessionId: string, userId: string): Principal
  account(userId: string): AccountFact | undefined
  resource(ref: ResourceRef, userId: string): ResourceFacts
  serviceKey(id: string): ServiceKeyFact | undefined
}

/** What was invalidated while somebody watched. */
type Overtaken = ReadonlySet<FactKey>[]
type Flight = Promise<LoadedFacts>
type Source = <K extends FactKind>(kind: K, id: string) => Lookup<Fact[K]>

const nothing: ResourceFacts = Object.freeze({ project: undefined, generation: undefined, grant: undefined })
/** How often a question is asked again because what it is about was changed meanwhile. */
const maxRounds = 4

const factIn = <V>(lookup: Lookup<V>): V | undefined => (lookup.kind === 'hit' ? lookup.value : undefined)

type OnMiss = (kind: FactKind, id: string, userId: string) => void

/** Reads a project's facts for one person; of a grant only where one could matter. */
const readProject = (
  source: Source,
  projectId: string,
  userId: string,
  onMiss: OnMiss,
): Omit<ResourceFacts, 'generation'> | undefined => {
  const lookup = source('project', projectId)
  if (lookup.kind === 'miss') return void onMiss('project', projectId, userId)
  if (lookup.kind === 'absent') return nothing
  const project = lookup.value
  if (project.ownerId === userId || project.visibility === 'private') return { project, grant: undefined }
  const grant = source('grant', grantId(userId, projectId))
  if (grant.kind === 'miss') return void onMiss('grant', projectId, userId)
  return { project, grant: factIn(grant) }
}

/** Reads a thing's facts from a source; where one is missing, names it to `onMiss` and returns undefined. */
const readResource = (
  source: Source,
  { type, id }: ResourceRef,
  userId: string,
  onMiss: OnMiss,
): ResourceFacts | undefined => {
  if (type === 'project') {
    const found = readProject(source, id, userId, onMiss)
    return found && { project: found.project, generation: undefined, grant: found.grant }
  }
  const lookup = source('generation', id)
  if (lookup.kind === 'miss') return void onMiss('generation', id, userId)
  if (lookup.kind === 'absent') return nothing
  const generation = lookup.value
  if (generation.projectId === null) return { project: undefined, generation, grant: undefined }
  const found = readProject(source, generation.projectId, userId, onMiss)
  return found && { project: found.project, generation, grant: found.grant }
}

const ignore = () => {}

/** Names what a load is asked for; for a thing also by whom, because what was granted to that person comes along. */
const wantedKey = (kind: FactKind, id: string, userId: string | null): string =>
  userId === null ? factKey(kind, id) : `${kind}:${id}/${userId}`

/** Everything a question is about, as if nothing were known. */
const everything = ({ session, accounts = [], resources = [], serviceKey }: Wanted): WantedFact[] => [
  ...(session === undefined
    ? []
    : ([
        { kind: 'session', id: session.id, userId: null },
        { kind: 'account', id: session.userId, userId: null },
      ] as const)),
  ...(serviceKey === undefined ? [] : ([{ kind: 'service_key', id: serviceKey, userId: null }] as const)),
  ...accounts.map((id) => ({ kind: 'account', id, userId: null }) as const),
  ...resources.map(({ ref, userId }) => ({ kind: ref.type, id: ref.id, userId })),
]

export const createFactCache = ({ store, memory }: { store: FactStore; memory: TtlMap<Fact[FactKind]> }): FactCache => {
  const flights = new Map<string, Flight>()
  const watchers = new Set<Overtaken>()
  // A key holds a fact of the kind that is part of it, so what comes out is of the kind asked for.
  const fromMemory: Source = (kind, id) => memory.get(factKey(kind, id)) as Lookup<never>

  const keep = (key: FactKey, fact: Fact[FactKind] | null) =>
    fact === null ? memory.setAbsent(key) : memory.set(key, fact)

  /** A load also brings facts that nobody asked for by name, so each fact is judged by itself when it lands. */
  const takeOff = (missing: ReadonlyMap<string, WantedFact>): Flight => {
    const overtaken: Overtaken = []
    watchers.add(overtaken)
    const flight: Flight = store
      .load([...missing.values()])
      .then((facts) => {
        const current = new Map(facts)
        for (const keys of overtaken) for (const key of keys) current.delete(key)
        for (const [key, fact] of current) keep(key, fact)
        return current
      })
      .finally(() => {
        watchers.delete(overtaken)
        for (const name of missing.keys()) if (flights.get(name) === flight) flights.delete(name)
      })
    for (const name of missing.keys()) flights.set(name, flight)
    return flight
  }

  const findMisses = (source: Source, { session, accounts = [], resources = [], serviceKey }: Wanted) => {
    const misses = new Map<string, WantedFact>()
    const note = (kind: FactKind, id: string, userId: string | null = null) =>
      misses.set(wantedKey(kind, id, userId), { kind, id, userId })
    if (session !== undefined) {
      if (source('session', session.id).kind === 'miss') note('session', session.id)
      if (source('account', session.userId).kind === 'miss') note('account', session.userId)
    }
    if (serviceKey !== undefined && source('service_key', serviceKey).kind === 'miss') note('service_key', serviceKey)
    for (const id of accounts) if (source('account', id).kind === 'miss') note('account', id)
    for (const { ref, userId } of resources) readResource(source, ref, userId, note)
    return misses
  }

  const viewOf = (source: Source, tier: Tier): GatheredFacts => ({
    tier,
    principal: (sessionId, userId) => ({
      session: factIn(source('session', sessionId)),
      account: factIn(source('account', userId)),
    }),
    account: (userId) => factIn(source('account', userId)),
    resource: (ref, userId) => readResource(source, ref, userId, ignore) ?? nothing,
    serviceKey: (id) => factIn(source('service_key', id)),
  })

  const gather = async (wanted: Wanted, deadline: Deadline): Promise<GatheredFacts> => {
    const learnt = new Map<FactKey, Fact[FactKind] | null>()
    const fromLearnt: Source = (kind, id) => {
      const fact = learnt.get(factKey(kind, id))
      if (fact === undefined) return miss
      return fact === null ? absent : ({ kind: 'hit', value: fact } as Lookup<never>)
    }
    // What is met in memory is held on to, because it may be evicted, or expire, before the question is answered.
    const source: Source = (kind, id) => {
      const known = fromLearnt(kind, id)
      if (known.kind !== 'miss') return known
      const found = fromMemory(kind, id)
      if (found.kind !== 'miss') learnt.set(factKey(kind, id), found.kind === 'hit' ? found.value : null)
      return found
    }
    const overtaken: Overtaken = []
    watchers.add(overtaken)
    try {
      let tier: Tier = 'l1'
      for (let round = 1; ; round += 1) {
        const misses = findMisses(source, wanted)
        if (misses.size === 0) return viewOf(fromLearnt, tier)
        deadline.check()
        tier = 'database'
        if (round > maxRounds) {
          // Always overtaken: what one statement says at one moment is an answer too, for this question alone.
          const facts = await deadline.run(store.load(everything(wanted)))
          learnt.clear()
          for (const [key, fact] of facts) learnt.set(key, fact)
          return viewOf(fromLearnt, tier)
        }
        overtaken.length = 0
        const boarded = new Set<Flight>()
        const own = new Map<string, WantedFact>()
        for (const [name, wish] of misses) {
          const flight = flights.get(name)
          if (flight === undefined) own.set(name, wish)
          else boarded.add(flight)
        }
        if (own.size > 0) boarded.add(takeOff(own))
        for (const facts of await deadline.run(Promise.all(boarded))) {
          for (const [key, fact] of facts) learnt.set(key, fact)
        }
        for (const keys of overtaken) for (const key of keys) learnt.delete(key)
      }
    } finally {
      watchers.delete(overtaken)
    }
  }

  return {
    peekPrincipal: (sessionId, userId) => {
      const session = fromMemory('session', sessionId)
      const account = fromMemory('account', userId)
      if (session.kind === 'miss' || account.kind === 'miss') return undefined
      return { session: factIn(session), account: factIn(account) }
    },
    peekAccount: (userId) => fromMemory('account', userId),
    peekResource: (ref, userId) => readResource(fromMemory, ref, userId, ignore),
    peekServiceKey: (id) => fromMemory('service_key', id),
    gather,
    invalidate: (keys) => {
      const changed: ReadonlySet<FactKey> = new Set(keys)
      for (const key of changed) memory.delete(key)
      for (const overtaken of watchers) overtaken.push(changed)
      flights.clear()
    },
  }
}
