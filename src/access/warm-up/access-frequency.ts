import type { ResourceFacts } from '../policy/facts/resource-walk.ts'
import type { ResourceRef } from '../policy/matrix.ts'
import type { AccessFrequencyStore, SampledPair } from './access-frequency-store.ts'

/** How often the samples are written to Postgres. */
export const frequencyFlushMs = 60_000
/** One decision in 64, on average, is sampled. */
export const sampledOneIn = 64
const maxPairs = 10_000

/**
 * Samples which pairs of user and resource are asked about most, for the warm-up.
 *
 * Cost: a decision that is not sampled costs a decrement; no decision waits. The gap between samples is random, so that
 * periodic requests are neither missed nor counted twice. At most 10,000 pairs are held between two flushes; beyond that
 * only known pairs are counted. A resource that does not exist is not recorded, so that guessed ids cannot fill the table.
 * A flush that fails loses its samples, which are an estimate anyway.
 */
export type AccessFrequency = {
  record(userId: string, ref: ResourceRef, facts: ResourceFacts): void
  flush(): Promise<void>
}

/** Media count as the generation they belong to. */
const listed = ({ type, id }: ResourceRef, { media }: ResourceFacts): Pick<SampledPair, 'type' | 'id'> =>
  type === 'media' ? { type: 'generation', id: media?.generationId ?? id } : { type, id }

type Pair = { -readonly [K in keyof SampledPair]: SampledPair[K] }

export const createAccessFrequency = ({
  store,
  flags,
  random = Math.random,
}: {
  store: Pick<AccessFrequencyStore, 'add'>
  flags: { readonly warm_up: boolean }
  /** A number from 0 to below 1. */
  random?: () => number
}): AccessFrequency => {
  let pairs = new Map<string, Pair>()
  // Uniform from 1 to 2 × 64 - 1, so that the mean is 64.
  const draw = () => 1 + Math.floor(random() * (2 * sampledOneIn - 1))
  let untilSample = draw()

  const sample = (userId: string, ref: ResourceRef, facts: ResourceFacts) => {
    untilSample = draw()
    if (!flags.warm_up || (facts.project === undefined && facts.generation === undefined)) return
    const { type, id } = listed(ref, facts)
    const key = `${userId}/${id}`
    const known = pairs.get(key)
    if (known !== undefined) known.hits += sampledOneIn
    else if (pairs.size < maxPairs) pairs.set(key, { userId, type, id, hits: sampledOneIn })
  }

  return {
    record: (userId, ref, facts) => {
      untilSample -= 1
      if (untilSample === 0) sample(userId, ref, facts)
    },
    flush: async () => {
      if (pairs.size === 0) return
      const sampled = [...pairs.values()]
      pairs = new Map()
      await store.add(sampled)
    },
  }
}
