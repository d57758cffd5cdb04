/** The complementary error function, to seven digits (Abramowitz and Stegun 7.1.26). For `x` from 0 on. */
const complementaryError = (x: number): number => {
  const t = 1 / (1 + 0.3275911 * x)
  const polynomial = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
  return polynomial * Math.exp(-x * x)
}

/**
 * The two-sided Mann-Whitney U test of two samples: `p` is how likely a difference as great as theirs is where both come from one
 * distribution. Normal approximation with corrections for ties and continuity, so each sample needs about 20 values.
 */
export const mannWhitney = (one: readonly number[], other: readonly number[]): { u: number; p: number } => {
  const all = [...one.map((value) => ({ value, ours: true })), ...other.map((value) => ({ value, ours: false }))]
  all.sort((left, right) => left.value - right.value)
  const n = all.length
  let rankSum = 0
  let ties = 0
  for (let from = 0; from < n; ) {
    let to = from + 1
    while (to < n && all[to]?.value === all[from]?.value) to += 1
    const count = to - from
    const rank = (from + 1 + to) / 2
    rankSum += rank * all.slice(from, to).filter(({ ours }) => ours).length
    ties += count ** 3 - count
    from = to
  }
  const u = rankSum - (one.length * (one.length + 1)) / 2
  const pairs = one.length * other.length
  const deviation = Math.sqrt((pairs / 12) * (n + 1 - ties / (n * (n - 1))))
  if (deviation === 0) return { u, p: 1 }
  const z = Math.max(0, Math.abs(u - pairs / 2) - 0.5) / deviation
  return { u, p: Math.min(1, complementaryError(z / Math.SQRT2)) }
}
