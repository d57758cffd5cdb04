/*
 * Whether a session is used where its person is: D. M. Freeman, S. Jain, M. Dürmuth, B. Biggio, G. Giacinto, "Who Are You? A
 * Statistical Approach to Measuring User Authenticity", NDSS 2016. Each feature x of a request (network, country, device) adds the
 * logarithm of p(x | attacker) / p(x | user). An attacker may be anywhere with the same probability. What a user has not shown
 * yet is smoothed by how common it is among all users, so that a network which many use counts for little.
 */

export const placeFeatures = ['network', 'country', 'device'] as const
export type PlaceFeature = (typeof placeFeatures)[number]
export type Place = Readonly<Record<PlaceFeature, number>>

/** How often values of one feature were seen; those seen least recently are forgotten. */
const createFrequencies = (maxValues: number) => {
  const counts = new Map<number, number>()
  let total = 0
  return {
    add: (value: number): void => {
      const known = counts.get(value) ?? 0
      counts.delete(value)
      counts.set(value, known + 1)
      total += 1
      if (counts.size <= maxValues) return
      const [oldest, count] = counts.entries().next().value ?? [0, 0]
      counts.delete(oldest)
      total -= count
    },
    /** The probability of the value; of one that was not seen too. */
    probability: (value: number): number => ((counts.get(value) ?? 0) + 1) / (total + counts.size + 1),
    get size() {
      return counts.size
    },
  }
}

/** What the history of a person weighs against the population. */
const smoothing = 1

/** Places of one person: how often each value of each feature was seen. */
export type PlaceHistory = Readonly<Record<PlaceFeature, Map<number, number>>> & { total: number }

export const newPlaceHistory = (): PlaceHistory => ({
  network: new Map(),
  country: new Map(),
  device: new Map(),
  total: 0,
})

const maxOwnValues = 8

export const createPlaceScores = (maxValues = 50_000) => {
  const all = {
    network: createFrequencies(maxValues),
    country: createFrequencies(maxValues),
    device: createFrequencies(maxValues),
  }
  return {
    learn: (history: PlaceHistory, place: Place): void => {
      history.total += 1
      for (const feature of placeFeatures) {
        all[feature].add(place[feature])
        const own = history[feature]
        own.set(place[feature], (own.get(place[feature]) ?? 0) + 1)
        if (own.size > maxOwnValues) own.delete(own.keys().next().value ?? 0)
      }
    },
    /** The logarithm of how much likelier an attacker is than the person. */
    score: (history: PlaceHistory, place: Place): number => {
      let sum = 0
      for (const feature of placeFeatures) {
        const common = all[feature].probability(place[feature])
        const own = ((history[feature].get(place[feature]) ?? 0) + smoothing * common) / (history.total + smoothing)
        const attacker = 1 / (all[feature].size + 1)
        sum += Math.log(attacker / own)
      }
      return sum
    },
  }
}

export type PlaceScores = ReturnType<typeof createPlaceScores>
