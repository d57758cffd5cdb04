import type { Deadline } from '../kit/deadline.ts'
import { absent, type Lookup, type TtlMap } from '../kit/ttl-map.ts'
import {
  type AccountFact,
  type Fact,
  type FactKey,
  type FactKind,
  factKey,
  type GenerationFact,
  type ProjectFact,
  type ResourceRef,
  type SessionFact,
} from './model.ts'
import type { FactStore, LoadedFacts } from './store.ts'

export type Tier = 'l1' | 'database'

export type Principal = { readonly session: SessionFact | undefined; readonly account: AccountFact | undefined }
export type ResourceFacts = {
  readonly project: ProjectFact | undefined
  readonly generation: GenerationFact | undefined
}

/** What a request wants to know in one go. */
export type Wanted = {
  readonly session?: { readonly id: string; readonly userId: string }
  readonly accounts?: readonly string[]
  readonly resources?: readonly ResourceRef[]
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
  /** All facts about a thing, or undefined when some are not in memory. */
  peekResource(ref: ResourceRef): ResourceFacts | undefined
  /** Makes sure that everything wanted is known, in at most one statement, and says where it came from. */
  gather(wanted: Wanted, deadline: Deadline): Promise<GatheredFacts>
  invalidate(keys: Iterable<FactKey>): void
}

export type GatheredFacts = {
  readonly tier: Tier
  principal(sessionId: string, userId: string): Principal
  account(userId: string): AccountFact | undefined
  resource(ref: ResourceRef): ResourceFacts
}

type Flight = { readonly facts: Promise<LoadedFacts>; detached: boolean }
type Source = <K extends FactKind>(kind: K, id: string) => Lookup<Fact[K]>

const nothing: ResourceFacts = Object.freeze({ project: undefined, generation: undefined })
const maxAttempts = 3

const factIn = <V>(lookup: Lookup<V>): V | undefined => (lookup.kind === 'hit' ? lookup.value : undefined)

/** Reads a thing's facts from a source; where one is missing, names it to `onMiss` and returns undefined. */
const readResource = (
  source: Source,
  ref: ResourceRef,
  onMiss: (kind: FactKind, id: string) => void,
): ResourceFacts | undefined => {
  if (ref.type === 'project') {
    const project = source('project', ref.id)
    if (project.kind === 'miss') return void onMiss('project', ref.id)
    return project.kind === 'hit' ? { project: project.value, generation: undefined } : nothing
  }
  const generation = source('generation', ref.id)
  if (generation.kind === 'miss') return void onMiss('generation', ref.id)
  if (generation.kind === 'absent') return nothing
  const { projectId } = generation.value
  if (projectId === null) return { project: undefined, generation: generation.value }
  const project = source('project', projectId)
  if (project.kind === 'miss') return void onMiss('project', projectId)
  return { project: factIn(project), generation: generation.value }
}

const ignore = () => {}

export const createFactCache = ({ store, memory }: { store: FactStore; memory: TtlMap<Fact[FactKind]> }): FactCache => {
  const flights = new Map<FactKey, Flight>()
  // A key holds a fact of the kind that is part of it, so what comes out is of the kind asked for.
  const fromMemory: Source = (kind, id) => memory.get(factKey(kind, id)) as Lookup<never>

  const keep = (key: FactKey, fact: Fact[FactKind] | null) =>
    fact === null ? memory.setAbsent(key) : memory.set(key, fact)

  const takeOff = (wanted: readonly { kind: FactKind; id: string }[]): Flight => {
    const flight: Flight = {
      detached: false,
      facts: store
        .load(wanted)
        .then((facts) => {
          if (!flight.detached) for (const [key, fact] of facts) keep(key, fact)
          return facts
        })
        .finally(() => {
          for (const { kind, id } of wanted) {
            const key = factKey(kind, id)
            if (flights.get(key) === flight) flights.delete(key)
          }
        }),
    }
    for (const { kind, id } of wanted) flights.set(factKey(kind, id), flight)
    return flight
  }

  const findMisses = (source: Source, { session, accounts = [], resources = [] }: Wanted) => {
    const misses = new Map<FactKey, { kind: FactKind; id: string }>()
    const note = (kind: FactKind, id: string) => void misses.set(factKey(kind, id), { kind, id })
    if (session !== undefined) {
      if (source('session', session.id).kind === 'miss') note('session', session.id)
      if (source('account', session.userId).kind === 'miss') note('account', session.userId)
    }
    for (const id of accounts) if (source('account', id).kind === 'miss') note('account', id)
    for (const ref of resources) readResource(source, ref, note)
    return misses
  }

  const viewOf = (source: Source, tier: Tier): GatheredFacts => ({
    tier,
    principal: (sessionId, userId) => ({
      session: factIn(source('session', sessionId)),
      account: factIn(source('account', userId)),
    }),
    account: (userId) => factIn(source('account', userId)),
    resource: (ref) => readResource(source, ref, ignore) ?? nothing,
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
      // A second round is for a generation that was in memory while its project was not.
      for (let misses = findMisses(source, wanted); misses.size > 0; misses = findMisses(source, wanted)) {
        deadline.check()
        tier = 'database'
        const joined = new Set<Flight>()
        const own: { kind: FactKind; id: string }[] = []
        for (const [key, miss] of misses) {
          const flight = flights.get(key)
          if (flight === undefined) own.push(miss)
          else joined.add(flight)
        }
        if (own.length > 0) joined.add(takeOff(own))
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
    peekResource: (ref) => readResource(fromMemory, ref, ignore),
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
