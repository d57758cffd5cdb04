/** Values that double are this many buckets apart: a quantile is told to within 1/8 of an octave, 9 %. */
const perOctave = 8
/** What is smaller counts as this. */
const smallest = 2 ** -10
const octaves = 34

/**
 * How a quantity is distributed, in a fixed 1 KiB whatever was recorded: counts in buckets whose bounds grow by 9 %.
 *
 * Promise: `record` costs a logarithm. `quantile(share)` is no less than the value that so much of all that was recorded
 * does not exceed, more than it by 9 % at most, and never more than the greatest; undefined while there is nothing.
 */
export type Histogram = {
  record(value: number): void
  quantile(share: number): number | undefined
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
    quantile: (share) => {
      if (count === 0) return undefined
      let left = Math.max(1, Math.ceil(share * count))
      for (const [index, members] of buckets.entries()) {
        left -= members
        if (left > 0) continue
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
