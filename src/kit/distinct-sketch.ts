/** A power of two. */
const registers = 2 ** 14
const registerBits = 14
/** `alpha` of HyperLogLog for this number of registers, times the square of it. */
const raw = (0.7213 / (1 + 1.079 / registers)) * registers * registers
/** Up to this estimate, counting empty registers is more exact. */
const linearUpTo = 2.5 * registers
const prime = 0x01000193

const mix = (hash: number): number => {
  const once = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  const twice = Math.imul(once ^ (once >>> 13), 0xc2b2ae35)
  return (twice ^ (twice >>> 16)) >>> 0
}

/**
 * How many distinct texts there were, without keeping them (HyperLogLog, 16 KB).
 *
 * Guarantee: the standard error is 0.8 %, less below 10,000; up to a hundred the estimate is nearly always exact. The union of
 * sketches equals the sketch of all their texts, in any process. Not for texts that clients choose: they could make it too high.
 */
export class DistinctSketch {
  readonly #registers = new Uint8Array(registers)

  add(text: string): void {
    let one = 0x811c9dc5
    let other = 0x9747b28c
    for (let at = 0; at < text.length; at += 1) {
      const code = text.charCodeAt(at)
      one = Math.imul(one ^ code, prime)
      other = Math.imul(other ^ code, 0x5bd1e995)
    }
    const register = mix(one) >>> (32 - registerBits)
    // The position of the first one of 32 bits that do not depend on the register.
    const rank = Math.clz32(mix(other ^ mix(one + 1))) + 1
    if (rank > (this.#registers[register] as number)) this.#registers[register] = rank
  }

  union(other: DistinctSketch): void {
    for (let at = 0; at < registers; at += 1) {
      const rank = other.#registers[at] as number
      if (rank > (this.#registers[at] as number)) this.#registers[at] = rank
    }
  }

  estimate(): number {
    let empty = 0
    let sum = 0
    for (const rank of this.#registers) {
      if (rank === 0) empty += 1
      sum += 2 ** -rank
    }
    const estimate = raw / sum
    if (estimate <= linearUpTo && empty > 0) return Math.round(registers * Math.log(registers / empty))
    return Math.round(estimate)
  }

  clear(): void {
    this.#registers.fill(0)
  }

  /** The occupied registers, in three bytes each; all of them, in one byte each, where that is shorter. */
  encode(): Uint8Array {
    const occupied = this.#registers.reduce((sum, rank) => sum + (rank > 0 ? 1 : 0), 0)
    if (3 * occupied >= registers) return this.#registers.slice()
    const bytes = new Uint8Array(3 * occupied)
    let at = 0
    for (let register = 0; register < registers; register += 1) {
      const rank = this.#registers[register] as number
      if (rank === 0) continue
      bytes.set([register >>> 8, register & 0xff, rank], at)
      at += 3
    }
    return bytes
  }

  /** Undefined where the bytes are of no sketch. */
  static decode(bytes: Uint8Array): DistinctSketch | undefined {
    const sketch = new DistinctSketch()
    if (bytes.length === registers) sketch.#registers.set(bytes)
    else if (bytes.length > registers || bytes.length % 3 !== 0) return undefined
    else {
      for (let at = 0; at < bytes.length; at += 3) {
        const register = ((bytes[at] as number) << 8) | (bytes[at + 1] as number)
        if (register >= registers) return undefined
        sketch.#registers[register] = bytes[at + 2] as number
      }
    }
    return sketch.#registers.every((rank) => rank <= maxRank) ? sketch : undefined
  }
}

const maxRank = 33

const steps = 12
/** Texts of one step that are known to be counted. */
const maxKnown = 20_000

/**
 * How many distinct texts there were within a window, whose steps are a twelfth of it.
 *
 * Guarantee: every text of the last `windowMs` less one step counts, and none that was last added before `windowMs`. Cost: one
 * look-up for a text that was added in this step before. Memory: 200 KB, and the texts of one step.
 */
export class RollingDistinct {
  readonly #stepMs: number
  readonly #sketches = Array.from({ length: steps }, () => new DistinctSketch())
  readonly #known = new Set<string>()
  #step = 0
  #nextStepMs = Number.NEGATIVE_INFINITY

  constructor(windowMs: number) {
    this.#stepMs = windowMs / steps
  }

  add(text: string, nowMs: number): void {
    if (nowMs >= this.#nextStepMs) this.#advance(nowMs)
    if (this.#known.has(text)) return
    if (this.#known.size >= maxKnown) this.#known.clear()
    this.#known.add(text)
    this.#sketches[this.#step % steps]?.add(text)
  }

  /** Of the whole window. */
  sketch(nowMs: number): DistinctSketch {
    if (nowMs >= this.#nextStepMs) this.#advance(nowMs)
    const whole = new DistinctSketch()
    for (const sketch of this.#sketches) whole.union(sketch)
    return whole
  }

  #advance(nowMs: number): void {
    const step = Math.floor(nowMs / this.#stepMs)
    const from = Math.max(this.#step + 1, step - steps + 1)
    for (let each = from; each <= step; each += 1) this.#sketches[each % steps]?.clear()
    this.#step = step
    this.#nextStepMs = (step + 1) * this.#stepMs
    this.#known.clear()
  }
}
