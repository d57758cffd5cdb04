import type { Deadline } from '../kit/deadline.ts'
import { absent, type Lookup, type TtlMap } from '../kit/ttl-map.ts'
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
 * Promise: once `invalidate(keys)` has returned, no later read is answered from what was known before, whatever loads
 * were under way: those are detached, so nobody joins them any more and what they bring is not kept. Concurrent misses
 * on one fact make one statement. Things that do not exist are remembered too, for a shorter time.
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

type Flight = { readonly facts: Promise<LoadedFacts>; detached: boolean }
type Source = <K extends FactKind>(kind: K, id: string) => Lookup<Fact[K]>

const nothing: ResourceFacts = Object.freeze({ project: undefined, generation: undefined, grant: undefined })
const maxAttempts = 3

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

export const createFactCache = ({ store, memory }: { store: FactStore; memory: TtlMap<Fact[FactKind]> }): FactCache => {
  const flights = new Map<FactKey, Flight>()
  // A key holds a fact of the kind that is part of it, so what comes out is of the kind asked for.
  const fromMemory: Source = (kind, id) => memory.get(factKey(kind, id)) as Lookup<never>

  const keep = (key: FactKey, fact: Fact[FactKind] | null) =>
    fact === null ? memory.setAbsent(key) : memory.set(key, fact)

  const takeOff = (missing: ReadonlyMap<FactKey, WantedFact>): Flight => {
    const flight: Flight = {
      detached: false,
      facts: store
        .load([...missing.values()])
        .then((facts) => {
          if (!flight.detached) for (const [key, fact] of facts) keep(key, fact)
          return facts
        })
        .finally(() => {
          for (const key of missing.keys()) if (flights.get(key) === flight) flights.delete(key)
        }),
    }
    for (const key of missing.keys()) flights.set(key, flight)
    return flight
  }

  const findMisses = (source: Source, { session, accounts = [], resources = [], serviceKey }: Wanted) => {
    const misses = new Map<FactKey, WantedFact>()
    const note = (kind: FactKind, id: string, userId: string | null = null) => {
      const key = factKey(kind, kind === 'grant' && userId !== null ? grantId(userId, id) : id)
      if (!misses.has(key)) misses.set(key, { kind, id, userId })
    }
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
    let tier: Tier = 'l1'
    for (let attempt = 1; ; attempt += 1) {
      // What this attempt learnt goes before memory, where it may be evicted or switched off at any moment.
      const learnt = new Map<FactKey, Fact[FactKind] | null>()
      const source: Source = (kind, id) => {
        const fact = learnt.get(factKey(kind, id))
        if (fact === undefined) return fromMemory(kind, id)
        return fact === null ? absent : ({ kind: 'hit', value: fact } as Lookup<never>)
      }
      const boarded = new Set<Flight>()
      // A second round is for what only the first could name: the project of a generation, somebody else's grant on it.
      for (let misses = findMisses(source, wanted); misses.size > 0; misses = findMisses(source, wanted)) {
        deadline.check()
        tier = 'database'
        const joined = new Set<Flight>()
        const own = new Map<FactKey, WantedFact>()
        for (const [key, miss] of misses) {
          const flight = flights.get(key)
          if (flight === undefined) own.set(key, miss)
          else joined.add(flight)
        }
        if (own.size > 0) joined.add(takeOff(own))
        for (const facts of await deadline.run(Promise.all([...joined].map((flight) => flight.facts)))) {
          for (const [key, fact] of facts) learnt.set(key, fact)
        }
        for (const flight of joined) boarded.add(flight)
      }
      const overtaken = [...boarded].some((flight) => flight.detached)
      // A load of one's own began after the question was asked, so its answer is one the question may have.
      if (!overtaken || attempt === maxAttempts) return viewOf(source, tier)
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
      for (const key of keys) memory.delete(key)
      // A load also brings facts that nobody asked for by name (the project of a generation), so every load in the air
      // may be carrying what was just changed.
      for (const flight of flights.values()) flight.detached = true
      flights.clear()
    },
  }
}
