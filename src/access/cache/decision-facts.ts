import { Fault } from '../../fault.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Deadline } from '../../kit/deadline.ts'
import { restrictionsId } from '../policy/facts/mode.ts'
import { factQuery, modeQuery, resourceQuery } from '../policy/facts/queries.ts'
import type { ResourceFacts } from '../policy/facts/resource-walk.ts'
import { type Action, has, publicActions, type ResourceRef } from '../policy/matrix.ts'
import type { Facts } from '../policy/rules.ts'
import type { DecisionCounters } from './decision-counters.ts'
import type { FactCache } from './fact-cache.ts'
import type { GatheredFacts } from './gather.ts'
import { readAllFacts } from './read-facts.ts'

export type Question = { readonly userId: string; readonly action: Action; readonly resource: ResourceRef }

/** Called synchronously for every decision, so it must be cheap. */
export type OnDecision = (userId: string, ref: ResourceRef, facts: ResourceFacts) => void

/** Called with the time at which memory was asked, where it had every fact of one decision or of several. */
export type OnMemoryRead = (startedMs: number) => void

/**
 * The facts of decisions. Each decision is counted once, for the tier that its facts came from, and reported once.
 *
 * Functions named `peek` read memory under one reading of the lease, and return undefined where memory lacks a fact. Functions
 * named `gather` load missing facts. They reject with `database.unavailable` for stale facts, unless the action is `read` or
 * `download`.
 */
export type DecisionFacts = ReturnType<typeof createDecisionFacts>

/** Only `read` and `download` may be decided on stale facts; any other action needs Postgres. */
const refuseStale = ({ stale }: GatheredFacts, action: Action): void => {
  if (stale && !has(publicActions, action)) throw new Fault('database.unavailable')
}

/** What the decisions on these questions need, the account of each user once. */
const queriesOf = (questions: readonly Question[]) => [
  modeQuery,
  ...Array.from(new Set(questions.map(({ userId }) => userId)), (userId) => factQuery('account', userId)),
  ...questions.map(({ userId, resource }) => resourceQuery(resource, userId)),
]

export const createDecisionFacts = ({
  facts: factCache,
  clock,
  decisionCounters,
  onDecision,
  onMemoryRead,
}: {
  facts: FactCache
  clock: Pick<Clock, 'monotonic'>
  decisionCounters: DecisionCounters
  onDecision: OnDecision
  onMemoryRead: OnMemoryRead
}) => {
  const peeked = (facts: Facts, ref: ResourceRef): Facts => {
    decisionCounters.count('l1')
    onDecision(facts.userId, ref, facts)
    return facts
  }

  const gathered = (held: GatheredFacts, { userId, resource: ref }: Question): Facts => {
    const resource = held.resource(ref, userId)
    onDecision(userId, ref, resource)
    return { userId, account: held.find('account', userId), ...resource, mode: held.find('mode', restrictionsId) }
  }

  return {
    peek: (userId: string, ref: ResourceRef): Facts | undefined => {
      const startedMs = clock.monotonic()
      const facts = factCache.peekFacts(ref, userId)
      if (facts === undefined) return undefined
      onMemoryRead(startedMs)
      return peeked(facts, ref)
    },

    /** With the age of the oldest fact. */
    peekWithAge: (userId: string, ref: ResourceRef) => {
      const startedMs = clock.monotonic()
      const found = factCache.peekFactsWithAge(ref, userId)
      if (found === undefined) return undefined
      onMemoryRead(startedMs)
      peeked(found.facts, ref)
      return found
    },

    /** Those of each question, in their order, or of none. */
    peekAll: (questions: readonly Question[]): Facts[] | undefined => {
      const startedMs = clock.monotonic()
      const all = factCache.readMemory((source) => readAllFacts(source, questions))
      if (all === undefined) return undefined
      onMemoryRead(startedMs)
      decisionCounters.count('l1', questions.length)
      for (let at = 0; at < all.length; at += 1) {
        const facts = all[at] as Facts
        onDecision(facts.userId, (questions[at] as Question).resource, facts)
      }
      return all
    },

    gather: async (userId: string, action: Action, ref: ResourceRef, deadline: Deadline) => {
      const queries = [modeQuery, factQuery('account', userId), resourceQuery(ref, userId)]
      const held = await factCache.gather(queries, deadline)
      refuseStale(held, action)
      decisionCounters.count(held.tier)
      return { facts: gathered(held, { userId, action, resource: ref }), gathered: held }
    },

    gatherAll: async (questions: readonly Question[], deadline: Deadline) => {
      const held = await factCache.gather(queriesOf(questions), deadline)
      for (const { action } of questions) refuseStale(held, action)
      decisionCounters.count(held.tier, questions.length)
      return { facts: questions.map((question) => gathered(held, question)), gathered: held }
    },
  }
}
