import type { StartDeadline } from '../../kit/deadline.ts'
import { createFairSlots } from '../../kit/fair-slots.ts'
import type { LoadFacts } from './tiered-loader.ts'

/** A decision needs no more facts than this, so a load of more is one for many decisions. */
const maxFactsOfOne = 16
const slots = 2

/**
 * Lets loads for many decisions take turns: two at once, for different people. The rows of one are read without a pause, about
 * 10 µs each, so that many results which arrive together would hold up every decision from memory.
 *
 * Degrades: a load that gets no turn within `maxWaitMs` fails with `DeadlinePassed`.
 */
export const withTurns = (load: LoadFacts, startDeadline: StartDeadline, maxWaitMs: number): LoadFacts => {
  const turns = createFairSlots({ slots, slotsPerKey: 1, maxWaiting: Number.POSITIVE_INFINITY })
  return async (queries, options) => {
    if (queries.length <= maxFactsOfOne) return load(queries, options)
    const person = queries.find(({ userId }) => userId !== null)?.userId ?? ''
    return turns.run([person], startDeadline(maxWaitMs), () => load(queries, options))
  }
}
