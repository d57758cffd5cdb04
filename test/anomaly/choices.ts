import { createRandom } from '../../src/kit/random.ts'

/** Random choices of a trace: one seed gives one trace. */
export const createChoices = (seed: number) => {
  const { below, chance, pick } = createRandom(seed)
  const unit = () => (below(1_000_000) + 0.5) / 1_000_000
  const between = (low: number, high: number) => low + unit() * (high - low)
  /** A whole number from `low` to `high`, both included. */
  const whole = (low: number, high: number) => low + below(high - low + 1)
  /** Evenly distributed by its logarithm. */
  const logBetween = (low: number, high: number) => Math.exp(between(Math.log(low), Math.log(high)))
  /** The pause between two events of a Poisson process. */
  const exponential = (mean: number) => -Math.log(unit()) * mean
  /** How long people think: log-normal. */
  const thinking = (medianMs: number, sigma = 0.9) => {
    const normal = Math.sqrt(-2 * Math.log(unit())) * Math.cos(2 * Math.PI * unit())
    return medianMs * Math.exp(sigma * normal)
  }
  const weighted = <T>(table: readonly (readonly [T, number])[]): T => {
    let left = unit() * table.reduce((sum, [, weight]) => sum + weight, 0)
    for (const [value, weight] of table) {
      left -= weight
      if (left <= 0) return value
    }
    return (table.at(-1) as readonly [T, number])[0]
  }
  return { below, chance, pick, unit, between, whole, logBetween, exponential, thinking, weighted }
}

export type Choices = ReturnType<typeof createChoices>
