import type { ResourceFacts } from '../policy/facts/resource-walk.ts'
import type { ResourceRef } from '../policy/matrix.ts'
import type { AccessFrequencyStore, HotPair } from './access-frequency-store.ts'

/** How often what was seen is written down. */
export const frequencyFlushMs = 60_000
/** One decision in so many is looked at. */
export const sampledOneIn = 64
const maxPairs = 10_000

/**
 * Learns what is asked about most, for the warm-up.
 *
 * Promise: a decision that is not looked at costs a decrement; none waits for anything. Which ones are looked at is drawn,
 * so that no rhythm of the questions hides from it. What is held is bounded: past it only pairs that are known already
 * grow hotter. Things that are not there are not learnt, so that nobody fills it with guesses. A flush that fails is
 * dropped: heat is a guess, and there will be more.
 */
export type AccessFrequency = {
  record(userId: string, ref: ResourceRef, facts: ResourceFacts): void
  flush(): Promise<void>
}

/** Media are as hot as what they came of. */
const listed = ({ type, id }: ResourceRef, { media }: ResourceFacts): Pick<HotPair, 'type' | 'id'> =>
  type === 'media' ? { type: 'generation', id: media?.generationId ?? id } : { type, id }

type Pair = { -readonly [K in keyof HotPair]: HotPair[K] }

export const createAccessFrequency = ({
  store,
  flags,
  random = Math.random,
}: {
  store: Pick<AccessFrequencyStore, 'add'>
  flags: { readonly warm_up: boolean }
  /** From 0, and below 1. */
  random?: () => number
}): AccessFrequency => {
  let pairs = new Map<string, Pair>()
  // Evenly from 1 to twice the mean, less one: the mean is `sampledOneIn`.
  const draw = () => 1 + Math.floor(random() * (2 * sampledOneIn - 1))
  let left = draw()

  const look = (userId: string, ref: ResourceRef, facts: ResourceFacts) => {
    left = draw()
    if (!flags.warm_up || (facts.project === undefined && facts.generation === undefined)) return
    const { type, id } = listed(ref, facts)
    const key = `${userId}/${id}`
    const known = pairs.get(key)
    if (known !== undefined) known.hits += sampledOneIn
    else if (pairs.size < maxPairs) pairs.set(key, { userId, type, id, hits: sampledOneIn })
  }

  return {
    record: (userId, ref, facts) => {
      left -= 1
      if (left === 0) look(userId, ref, facts)
    },
    flush: async () => {
      if (pairs.size === 0) return
      const seen = [...pairs.values()]
      pairs = new Map()
      await store.add(seen)
    },
  }
}
