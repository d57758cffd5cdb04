import type { StreamPermission } from '../../access/permission-recheck.ts'
import { type FactKey, isWhole, partOf } from '../../access/policy/facts/registry.ts'
import { Fault } from '../../fault.ts'

type Subscriber = { readonly generationId: string; readonly permission: StreamPermission }

/** The subscribers of this instance, indexed by the facts their permission depends on; with limits on their number. */
export type SubscriberIndex<S extends Subscriber> = {
  /** Throws a fault when the instance, the session or the user is at its limit. */
  requireCapacity(permission: StreamPermission): void
  add(subscriber: S): void
  /** False: it was removed before. */
  remove(subscriber: S): boolean
  /** The subscribers whose permission depends on a fact. Projects are not indexed: always empty for them. */
  dependingOn(fact: FactKey): readonly S[]
  all(): readonly S[]
  readonly size: number
}

const factsOf = ({ generationId, permission: { sessionId, userId } }: Subscriber): FactKey[] => [
  `session:${sessionId}`,
  `account:${userId}`,
  `generation:${generationId}`,
]

type Limits = { readonly perSession: number; readonly perPerson: number; readonly perInstance: number }

export const createSubscriberIndex = <S extends Subscriber>(limits: Limits): SubscriberIndex<S> => {
  const subscribers = new Set<S>()
  const byFact = new Map<FactKey, Set<S>>()
  return {
    requireCapacity: ({ sessionId, userId }) => {
      if (subscribers.size >= limits.perInstance) {
        throw new Fault('generation.streams_full', { extensions: { limit: limits.perInstance } })
      }
      const ofSession = byFact.get(`session:${sessionId}`)?.size ?? 0
      const ofPerson = byFact.get(`account:${userId}`)?.size ?? 0
      if (ofSession >= limits.perSession) {
        throw new Fault('generation.too_many_streams', { extensions: { limit: limits.perSession } })
      }
      if (ofPerson >= limits.perPerson) {
        throw new Fault('generation.too_many_streams', { extensions: { limit: limits.perPerson } })
      }
    },
    add: (subscriber) => {
      subscribers.add(subscriber)
      for (const fact of factsOf(subscriber)) {
        const dependents = byFact.get(fact)
        if (dependents === undefined) byFact.set(fact, new Set([subscriber]))
        else dependents.add(subscriber)
      }
    },
    remove: (subscriber) => {
      for (const fact of factsOf(subscriber)) {
        const dependents = byFact.get(fact)
        dependents?.delete(subscriber)
        if (dependents?.size === 0) byFact.delete(fact)
      }
      return subscribers.delete(subscriber)
    },
    dependingOn: (fact) => {
      // Grants of a user affect every stream of that user, so they are looked up by account.
      const whole = partOf(fact)?.whole ?? fact
      const key: FactKey = isWhole(whole) ? `account:${whole.slice(whole.indexOf(':') + 1)}` : fact
      return [...(byFact.get(key) ?? [])]
    },
    all: () => [...subscribers],
    get size() {
      return subscribers.size
    },
  }
}
