import type { StreamPermission } from '../../access/permission-recheck.ts'
import { type FactKey, isWhole, partOf } from '../../access/policy/facts/registry.ts'
import { Fault } from '../../fault.ts'

type Subscriber = { readonly generationId: string; readonly permission: StreamPermission }

/**
 * The subscribers of this instance, indexed by the facts their permission depends on; with limits on their number.
 *
 * A person may have an eighth as many streams as the instance has left. So people who open all they can leave room: `n` of
 * them get `capacity / (8 + n)` each, and `8 / (8 + n)` of the capacity stays free. One stream is open to everyone: where
 * none is left, the person with most gives up the oldest one.
 */
export type SubscriberIndex<S extends Subscriber> = {
  /**
   * Throws a fault where the session or the person may have no further stream, or where the instance has none left.
   * Returned is the subscriber that has to end first.
   */
  requireCapacity(permission: StreamPermission): S | undefined
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

/** The part of the streams left that one person may have open. */
const shareOfRest = 1 / 8

type Limits = { readonly perSession: number; readonly perPerson: number; readonly perInstance: number }

export const createSubscriberIndex = <S extends Subscriber>(limits: Limits): SubscriberIndex<S> => {
  const subscribers = new Set<S>()
  const byFact = new Map<FactKey, Set<S>>()

  /** The oldest subscriber of the person with most; undefined where each person has one. */
  const oldestOfMost = (): S | undefined => {
    let most: ReadonlySet<S> = new Set()
    for (const [fact, ofFact] of byFact) if (fact.startsWith('account:') && ofFact.size > most.size) most = ofFact
    const [oldest] = most
    return most.size > 1 ? oldest : undefined
  }

  return {
    requireCapacity: ({ sessionId, userId }) => {
      const left = limits.perInstance - subscribers.size
      const ofSession = byFact.get(`session:${sessionId}`)?.size ?? 0
      const ofPerson = byFact.get(`account:${userId}`)?.size ?? 0
      if (ofSession >= limits.perSession) {
        throw new Fault('generation.too_many_streams', { extensions: { limit: limits.perSession } })
      }
      const limit = Math.max(1, Math.min(limits.perPerson, Math.floor(left * shareOfRest)))
      if (ofPerson >= limit) throw new Fault('generation.too_many_streams', { extensions: { limit } })
      if (left > 0) return undefined
      const oldest = oldestOfMost()
      if (oldest === undefined) {
        throw new Fault('generation.streams_full', { extensions: { limit: limits.perInstance } })
      }
      return oldest
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
