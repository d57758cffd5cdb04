import type { Suspicion } from '../../src/anomaly/rules.ts'
import type { Features } from '../../src/anomaly/window.ts'
import { createRandom } from '../../src/kit/random.ts'
import { createHalfSpaceTrees } from './half-space-trees.ts'

/** A figure between 0 and 1, by its logarithm; `most` is 1. */
const scaled = (figure: number, most: number) => Math.min(1, Math.log1p(figure) / Math.log1p(most))

/** The same features as the thresholds have. */
const pointOf = (features: Features): number[] => {
  const { requests, resources, missing, activeSlots, missingSlots, accounts, signedIn, minutes, usual } = features
  return features.kind === 'address' && requests === 0
    ? [
        scaled(accounts, 100),
        scaled(signedIn, 100),
        accounts / Math.max(1, accounts + signedIn),
        features.accountSlots / 12,
        scaled(features.failedUnknown, 100),
      ]
    : [
        scaled(requests, 300),
        scaled(resources, 300),
        scaled(missing, 100),
        activeSlots / 12,
        missingSlots / 12,
        missing / Math.max(1, missing + resources),
        minutes === 0
          ? 0.5
          : 0.5 + Math.max(-0.5, Math.min(0.5, Math.log1p(resources) - Math.log1p(usual.resources)) / 6),
      ]
}

/** Suspects by half-space trees: one model for sign-ins by address, one for requests by principal. */
export const createHalfSpaceJudge = (seed: number, limits: { signIns: number; requests: number }) => {
  const options = { random: createRandom(seed), trees: 25, depth: 12, window: 1_000 }
  const signIns = createHalfSpaceTrees({ ...options, dimensions: 5 })
  const requests = createHalfSpaceTrees({ ...options, dimensions: 7 })
  return (features: Features): readonly Suspicion[] => {
    const isSignIns = features.kind === 'address' && features.requests === 0
    const model = isSignIns ? signIns : requests
    const point = pointOf(features)
    const score = model.score(point) ?? 0
    model.learn(point)
    const strength = score / (isSignIns ? limits.signIns : limits.requests)
    return strength >= 1 ? [{ reason: 'resources.harvested', strength }] : []
  }
}
