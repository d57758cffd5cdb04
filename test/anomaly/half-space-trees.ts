import type { Random } from '../../src/kit/random.ts'

/**
 * Streaming half-space trees: S. C. Tan, K. M. Ting, F. T. Liu, "Fast Anomaly Detection for Streaming Data", IJCAI 2011.
 *
 * Each tree halves a random dimension of its work space at every node, before any data are seen, and counts how many points of a
 * window fall into each node. A point where the reference window has little mass is an anomaly. Memory and time of a point are
 * constant. Values are between 0 and 1.
 */
export type HalfSpaceTrees = {
  /** From 0, where every point is, to 1, where none is. Undefined until a window is complete. */
  score(point: readonly number[]): number | undefined
  learn(point: readonly number[]): void
}

type Options = {
  readonly dimensions: number
  readonly random: Random
  readonly trees?: number
  readonly depth?: number
  /** Points of a window. */
  readonly window?: number
}

const precision = 1_000_000

export const createHalfSpaceTrees = ({
  dimensions,
  random,
  trees = 25,
  depth = 10,
  window = 500,
}: Options): HalfSpaceTrees => {
  const nodes = 2 ** (depth + 1) - 1
  const inner = 2 ** depth - 1
  const splits = new Uint8Array(trees * inner)
  const middles = new Float32Array(trees * inner)
  let reference = new Uint16Array(trees * nodes)
  let latest = new Uint16Array(trees * nodes)
  let points = 0
  let isReady = false
  /** A node with less mass is not descended. */
  const smallMass = window / 10

  for (let tree = 0; tree < trees; tree += 1) {
    const ranges = Array.from({ length: dimensions }, () => {
      const centre = random.below(precision) / precision
      const reach = 2 * Math.max(centre, 1 - centre)
      return { low: centre - reach, high: centre + reach }
    })
    const build = (node: number, level: number): void => {
      if (level === depth) return
      const dimension = random.below(dimensions)
      const range = ranges[dimension] as { low: number; high: number }
      const { low, high } = range
      const middle = (low + high) / 2
      splits[tree * inner + node] = dimension
      middles[tree * inner + node] = middle
      range.high = middle
      build(2 * node + 1, level + 1)
      range.high = high
      range.low = middle
      build(2 * node + 2, level + 1)
      range.low = low
    }
    build(0, 0)
  }

  const childOf = (tree: number, node: number, point: readonly number[]): number => {
    const at = tree * inner + node
    return (point[splits[at] ?? 0] ?? 0) < (middles[at] ?? 0) ? 2 * node + 1 : 2 * node + 2
  }

  const mostMass = Math.log2(window * 2 ** depth + 1)

  return {
    score: (point) => {
      if (!isReady) return undefined
      let sum = 0
      for (let tree = 0; tree < trees; tree += 1) {
        let node = 0
        let level = 0
        while (level < depth && (reference[tree * nodes + node] ?? 0) > smallMass) {
          node = childOf(tree, node, point)
          level += 1
        }
        sum += (reference[tree * nodes + node] ?? 0) * 2 ** level
      }
      return 1 - Math.log2(sum / trees + 1) / mostMass
    },
    learn: (point) => {
      for (let tree = 0; tree < trees; tree += 1) {
        let node = 0
        for (let level = 0; ; level += 1) {
          const at = tree * nodes + node
          latest[at] = (latest[at] ?? 0) + 1
          if (level === depth) break
          node = childOf(tree, node, point)
        }
      }
      points += 1
      if (points < window) return
      points = 0
      isReady = true
      const last = reference
      reference = latest
      latest = last.fill(0)
    },
  }
}
