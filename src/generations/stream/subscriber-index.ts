import type { StreamPermission } from '../../access/permission-recheck.ts'
import { type FactKey, isWhole, partOf } from '../../access/policy/facts/registry.ts'
import { Fault } from '../../fault.ts'
import type { StreamCaps } from '../../limits/policy.ts'

type Subscriber = {
  readonly generationId: string
  readonly permission: StreamPermission
  readonly address: string | undefined
}

/**
 * The subscribers of this instance, indexed by the facts their permission depends on; with limits on their number.
 *
 * A person may have an eighth as many streams as the instance has left. So people who open all they can leave room: `n` of
 * them get `capacity / (8 + n)` each, and `8 / (8 + n)` of the capacity stays free. An address may have a quarter in the same
 * way, however many accounts it uses. One stream is open to everyone: where none is left on the instance, or for the address,
 * the person with most of those gives up the oldest one.
 */
export type SubscriberIndex<S extends Subscriber> = {
  /**
   * Throws a fault where the session or the person may have no further stream, or where the instance has none left.
   * Returned is the subscriber that has to end first.
   */
  requireCapacity(permission: StreamPermission): S | undefined
  /** The same for the address of the client. */
  requireCapacityFrom(address: string, permission: StreamPermission): S | undefined
  hasCapacityFrom(address: string): boolean
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

/** The parts of the streams left that one person, and one address, may have open. */
const shareOfPerson = 1 / 8
const shareOfAddress = 1 / 4
/** However few are left, people behind one address may have this number, so that who fills the instance cannot keep them out. */
const leastOfAddress = 16

type Limits = StreamCaps & { readonly instance: number }

/** The oldest subscriber of the person with most; undefined where each person has one. */
const oldestOfMost = <S extends Subscriber>(ofEachPerson: Iterable<ReadonlySet<S>>): S | undefined => {
  let most: ReadonlySet<S> = new Set()
  for (const ofPerson of ofEachPerson) if (ofPerson.size > most.size) most = ofPerson
  const [oldest] = most
  return most.size > 1 ? oldest : undefined
}

const addTo = <K, S>(sets: Map<K, Set<S>>, key: K, member: S) => {
  const set = sets.get(key)
  if (set === undefined) sets.set(key, new Set([member]))
  else set.add(member)
}
const removeFrom = <K, S>(sets: Map<K, Set<S>>, key: K, member: S) => {
  const set = sets.get(key)
  set?.delete(member)
  if (set?.size === 0) sets.delete(key)
}

export const createSubscriberIndex = <S extends Subscriber>(limits: Limits): SubscriberIndex<S> => {
  const subscribers = new Set<S>()
  const byFact = new Map<FactKey, Set<S>>()
  const byAddress = new Map<string, Set<S>>()

  const capOf = (cap: number, share: number, least: number) =>
    Math.min(cap, Math.max(least, Math.floor((limits.instance - subscribers.size) * share)))
  const capOfAddress = () => capOf(limits.address, shareOfAddress, leastOfAddress)
  const ofPerson = (userId: string) => byFact.get(`account:${userId}`)?.size ?? 0

  return {
    requireCapacity: ({ sessionId, userId }) => {
      if ((byFact.get(`session:${sessionId}`)?.size ?? 0) >= limits.session) {
        throw new Fault('generation.too_many_streams', { extensions: { limit: limits.session } })
      }
      const limit = capOf(limits.person, shareOfPerson, 1)
      if (ofPerson(userId) >= limit) throw new Fault('generation.too_many_streams', { extensions: { limit } })
      if (subscribers.size < limits.instance) return undefined
      const persons = [...byFact].flatMap(([fact, each]) => (fact.startsWith('account:') ? [each] : []))
      const oldest = oldestOfMost(persons)
      if (oldest !== undefined) return oldest
      throw new Fault('generation.streams_full', { extensions: { limit: limits.instance } })
    },
    requireCapacityFrom: (address, { userId }) => {
      const limit = capOfAddress()
      const neighbours = byAddress.get(address) ?? new Set()
      if (neighbours.size < limit) return undefined
      const persons = new Map<string, Set<S>>()
      for (const each of neighbours) addTo(persons, each.permission.userId, each)
      const oldest = ofPerson(userId) === 0 ? oldestOfMost(persons.values()) : undefined
      if (oldest !== undefined) return oldest
      throw new Fault('generation.too_many_streams_from_address', { extensions: { limit } })
    },
    hasCapacityFrom: (address) => (byAddress.get(address)?.size ?? 0) < capOfAddress(),
    add: (subscriber) => {
      subscribers.add(subscriber)
      for (const fact of factsOf(subscriber)) addTo(byFact, fact, subscriber)
      if (subscriber.address !== undefined) addTo(byAddress, subscriber.address, subscriber)
    },
    remove: (subscriber) => {
      for (const fact of factsOf(subscriber)) removeFrom(byFact, fact, subscriber)
      if (subscriber.address !== undefined) removeFrom(byAddress, subscriber.address, subscriber)
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
