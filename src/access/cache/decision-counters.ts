import { deeper, type Tier, tiers } from './tiered-loader.ts'

const deepestFirst = tiers.toReversed()

/**
 * How many decisions each tier answered, by the deepest that one of them needed. A decision whose facts were fetched when
 * its caller was let in finds them in memory a moment later: it counts for the tier they came from.
 *
 * Promise: all tiers together are the decisions made, each of them once. What was fetched ahead for a decision that was
 * then not made (the request was refused) makes a later one count for that tier: what memory spared Postgres is told too
 * low rather than too high.
 */
export type DecisionCounters = {
  readonly decisions: Readonly<Record<Tier, number>>
  count(tier: Tier, decisions?: number): void
  /** Facts for so many decisions, which are still to be counted, were fetched ahead. */
  attributePrefetch(tier: Tier, decisions: number): void
}

export const createDecisionCounters = (): DecisionCounters => {
  const decisions = { l1: 0, l2: 0, l3: 0, database: 0 }
  const ahead = { l1: 0, l2: 0, l3: 0, database: 0 }
  let owed = 0
  /** Counts for the tiers asked ahead, the deepest first, as many as they account for. */
  const redeem = (tier: Tier, number: number): number => {
    let left = number
    for (const asked of deepestFirst) {
      const some = Math.min(left, ahead[asked])
      ahead[asked] -= some
      owed -= some
      left -= some
      decisions[deeper(asked, tier)] += some
    }
    return left
  }
  return {
    decisions,
    count: (tier, number = 1) => {
      const own = owed === 0 ? number : redeem(tier, number)
      decisions[tier] += own
    },
    attributePrefetch: (tier, number) => {
      if (tier === 'l1') return
      ahead[tier] += number
      owed += number
    },
  }
}
