/** Buckets for each doubling. The relative error of a quantile is at most 2^(1/8) - 1, about 9 %. */
const perOctave = 8
/** Smaller values are counted as this one. */
const smallest = 2 ** -10
const octaves = 34

/**
 * A histogram with exponential bucket bounds, in a fixed 1 KiB.
 *
 * Guarantee: `record` is O(1). `quantile(q)` is at least the exact q-quantile, exceeds it by at most 9 %, and never exceeds
 * `max`. Undefined while the histogram is empty.
 */
export type Histogram = {
  record(value: number): void
  quantile(q: number): number | undefined
  readonly count: number
  readonly max: number
}

export const createHistogram = (): Histogram => {
  const buckets = new Uint32Array(octaves * perOctave + 1)
  let count = 0
  let max = 0
  return {
    record: (value) => {
      const bucket = Math.ceil(Math.log2(Math.max(value, smallest) / smallest) * perOctave)
      const index = Math.min(bucket, buckets.length - 1)
      buckets[index] = (buckets[index] as number) + 1
      count += 1
      if (value > max) max = value
    },
    quantile: (q) => {
      if (count === 0) return undefined
      let remaining = Math.max(1, Math.ceil(q * count))
      for (const [index, bucketCount] of buckets.entries()) {
        remaining -= bucketCount
        if (remaining > 0) continue
        return index === buckets.length - 1 ? max : Math.min(max, smallest * 2 ** (index / perOctave))
      }
      return max
    },
    get count() {
      return count
    },
    get max() {
      return max
    },
  }
}
