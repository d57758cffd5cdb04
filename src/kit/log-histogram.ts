/** Buckets for each doubling. */
const perOctave = 64
/** Of buckets whose bounds lie this far apart, the values between differ from the returned one by at most 0.55 %. */
const ratio = 2 ** (1 / perOctave)
/** Values up to this one are counted in the first bucket, those beyond the highest bound in the last. */
const lowestExponent = -14
const highestExponent = 20
const lowest = 2 ** lowestExponent
const last = (highestExponent - lowestExponent) * perOctave
const offset = -lowestExponent * perOctave

/** What a histogram held when it was frozen: its occupied buckets. */
export type HistogramSlice = {
  readonly buckets: Uint16Array
  readonly counts: Uint32Array
  readonly count: number
  readonly sum: number
  readonly max: number
}

/** What `freeze` has found so far. */
const foundBuckets = new Uint16Array(last + 1)
const foundCounts = new Uint32Array(last + 1)

/**
 * A histogram whose buckets grow with the values (HDR, DDSketch): 9 KB for values from 2^-14 to 2^20. In milliseconds that is from
 * 61 ns to 17 minutes.
 *
 * Guarantee: `quantile(q)` differs from the exact q-quantile (nearest rank) by at most 0.55 % between those bounds, and never
 * exceeds `max`, which is exact. Histograms add up: one that others were added to equals one that recorded all their values.
 *
 * A class for speed: `record` is on the path of every request. Cost: one logarithm and no allocation.
 */
export class LogHistogram {
  readonly #counts = new Uint32Array(last + 1)
  /** No bucket outside of these is occupied. */
  #from = last
  #to = 0
  count = 0
  sum = 0
  max = 0

  /** A value that is negative or no number counts as 0. */
  record(given: number): void {
    const value = Math.max(given || 0, 0)
    const bucket = value > lowest ? Math.min(Math.ceil(Math.log2(value) * perOctave) + offset, last) : 0
    this.#counts[bucket] = (this.#counts[bucket] as number) + 1
    if (bucket < this.#from) this.#from = bucket
    if (bucket > this.#to) this.#to = bucket
    this.count += 1
    this.sum += value
    if (value > this.max) this.max = value
  }

  /** Undefined while the histogram is empty. */
  quantile(q: number): number | undefined {
    if (this.count === 0) return undefined
    let remaining = Math.min(this.count, Math.max(1, Math.ceil(q * this.count)))
    for (let bucket = this.#from; bucket < last; bucket += 1) {
      remaining -= this.#counts[bucket] as number
      if (remaining <= 0) return Math.min(this.max, middleOf(bucket))
    }
    return this.max
  }

  add({ buckets, counts, count, sum, max }: HistogramSlice): void {
    for (let at = 0; at < buckets.length; at += 1) {
      const bucket = buckets[at] as number
      this.#counts[bucket] = (this.#counts[bucket] as number) + (counts[at] as number)
    }
    if (buckets.length > 0) {
      this.#from = Math.min(this.#from, buckets[0] as number)
      this.#to = Math.max(this.#to, buckets[buckets.length - 1] as number)
    }
    this.count += count
    this.sum += sum
    if (max > this.max) this.max = max
  }

  /** Takes out a slice that was added before. `sum` and `max` stay as they are: keep those of the remaining slices. */
  remove({ buckets, counts, count }: HistogramSlice): void {
    for (let at = 0; at < buckets.length; at += 1) {
      const bucket = buckets[at] as number
      this.#counts[bucket] = (this.#counts[bucket] as number) - (counts[at] as number)
    }
    this.count -= count
  }

  freeze(): HistogramSlice {
    let occupied = 0
    for (let bucket = this.#from; bucket <= this.#to; bucket += 1) {
      const count = this.#counts[bucket] as number
      if (count === 0) continue
      foundBuckets[occupied] = bucket
      foundCounts[occupied] = count
      occupied += 1
    }
    const buckets = foundBuckets.slice(0, occupied)
    return { buckets, counts: foundCounts.slice(0, occupied), count: this.count, sum: this.sum, max: this.max }
  }

  clear(): void {
    this.#counts.fill(0, this.#from, this.#to + 1)
    this.#from = last
    this.#to = 0
    this.count = 0
    this.sum = 0
    this.max = 0
  }
}

const boundOf = (bucket: number): number => lowest * 2 ** (bucket / perOctave)
/** Between the bounds of a bucket, as far from the lower one as from the upper one in relation to them. */
const middleOf = (bucket: number): number => (bucket === 0 ? lowest : (boundOf(bucket) * 2) / (1 + ratio))

/** How many values are at most each of the rising bounds. A value within 0.55 % of a bound may be counted on its other side. */
export const countsUpTo = ({ buckets, counts }: HistogramSlice, bounds: readonly number[]): number[] => {
  let at = 0
  let sum = 0
  return bounds.map((bound) => {
    for (; at < buckets.length && middleOf(buckets[at] as number) <= bound; at += 1) sum += counts[at] as number
    return sum
  })
}

/** Bytes of `sum` and `max`, in front of the buckets. */
const headBytes = 16

/** LEB128. */
const putVarint = (bytes: number[], given: number): void => {
  let value = given
  while (value >= 0x80) {
    bytes.push((value % 0x80) + 0x80)
    value = Math.floor(value / 0x80)
  }
  bytes.push(value)
}

/** Bytes of a slice, about two for each occupied bucket. */
export const encodeSlice = ({ buckets, counts, sum, max }: HistogramSlice): Uint8Array => {
  const body: number[] = []
  let before = 0
  for (let at = 0; at < buckets.length; at += 1) {
    const bucket = buckets[at] as number
    putVarint(body, bucket - before)
    putVarint(body, counts[at] as number)
    before = bucket
  }
  const bytes = new Uint8Array(headBytes + body.length)
  const view = new DataView(bytes.buffer)
  view.setFloat64(0, sum)
  view.setFloat64(8, max)
  bytes.set(body, headBytes)
  return bytes
}

/** Undefined where the bytes are of no slice. */
export const decodeSlice = (bytes: Uint8Array): HistogramSlice | undefined => {
  if (bytes.length < headBytes) return undefined
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const sum = view.getFloat64(0)
  const max = view.getFloat64(8)
  if (!(sum >= 0 && max >= 0 && Number.isFinite(sum) && Number.isFinite(max))) return undefined
  const values: number[] = []
  for (let at = headBytes; at < bytes.length; ) {
    let value = 0
    let scale = 1
    let byte: number
    do {
      byte = bytes[at] ?? 0xff
      value += (byte & 0x7f) * scale
      scale *= 0x80
      at += 1
    } while (byte >= 0x80 && at < bytes.length && scale < 2 ** 35)
    if (byte >= 0x80 || value > 0xffff_ffff) return undefined
    values.push(value)
  }
  return sliceOf(values, sum, max)
}

const sliceOf = (values: readonly number[], sum: number, max: number): HistogramSlice | undefined => {
  if (values.length % 2 !== 0) return undefined
  const length = values.length / 2
  const buckets = new Uint16Array(length)
  const counts = new Uint32Array(length)
  let bucket = 0
  let count = 0
  for (let at = 0; at < length; at += 1) {
    const gap = values[2 * at] as number
    const own = values[2 * at + 1] as number
    bucket += gap
    if (bucket > last || own === 0 || (gap === 0 && at > 0)) return undefined
    buckets[at] = bucket
    counts[at] = own
    count += own
  }
  return { buckets, counts, count, sum, max }
}
