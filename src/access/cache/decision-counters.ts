import { deeper, type Tier, tiers } from './tiered-loader.ts'

const deepestFirst = tiers.toReversed()

/**
 * Counts decisions by the deepest tier that each needed. A decision whose facts were prefetched while its caller was
 * authenticated finds them in memory, and is attributed to the tier they were loaded from.
 *
 * Guarantee: every decision is counted once, for one tier. Degrades: facts prefetched for a decision that is then not made,
 * because the request is refused, are attributed to a later decision. So the hit rate of memory is reported too low rather
 * than too high.
 */
export type DecisionCounters = {
  readonly decisions: Readonly<Record<Tier, number>>
  count(tier: Tier, decisions?: number): void
  /** The facts of this number of decisions, which are counted later, were prefetched from a tier. */
  recordPrefetch(tier: Tier, decisions: number): void
}

export const createDecisionCounters = (): DecisionCounters => {
  const decisions = { l1: 0, l2: 0, l3: 0, database: 0 }
  const prefetched = { l1: 0, l2: 0, l3: 0, database: 0 }
  let unattributed = 0
  /** Counts decisions for the tiers that were prefetched from, the deepest first. Returns the number left. */
  const attribute = (tier: Tier, number: number): number => {
    let left = number
    for (const source of deepestFirst) {
      const covered = Math.min(left, prefetched[source])
      prefetched[source] -= covered
      unattributed -= covered
      left -= covered
      decisions[deeper(source, tier)] += covered
    }
    return left
  }
  return {
    decisions,
    count: (tier, number = 1) => {
      const own = unattributed === 0 ? number : attribute(tier, number)
      decisions[tier] += own
    },
    recordPrefetch: (tier, number) => {
      if (tier === 'l1') return
      prefetched[tier] += number
      unattributed += number
    },
  }
}
