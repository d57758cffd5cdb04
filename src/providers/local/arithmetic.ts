/**
 * Arithmetic that is bit-identical on every engine. IEEE 754 fixes the results of + - * / and the square root only; Math.sin
 * and similar functions may differ between engine versions, and rendered images would differ with them.
 */
export const clamp = (value: number, low = 0, high = 1): number => Math.max(low, Math.min(value, high))
export const mix = (from: number, to: number, share: number): number => from + (to - from) * share
/** Smoothstep: 0 up to `low`, 1 from `high`, and smooth in between. */
export const smooth = (low: number, high: number, value: number): number => {
  const share = clamp((value - low) / (high - low))
  return share * share * (3 - 2 * share)
}

const fullTurn = 6.283185307179586

export const sine = (radians: number): number => {
  const turns = radians / fullTurn
  let x = (turns - Math.floor(turns + 0.5)) * fullTurn
  if (x > fullTurn / 4) x = fullTurn / 2 - x
  else if (x < -fullTurn / 4) x = -fullTurn / 2 - x
  const square = x * x
  return x * (1 - (square / 6) * (1 - (square / 20) * (1 - (square / 42) * (1 - square / 72))))
}
export const cosine = (radians: number): number => sine(radians + fullTurn / 4)

/** An approximation of e^-x for x ≥ 0, accurate enough for fading light. */
export const fade = (x: number): number => {
  let value = 1 / (1 + x / 64)
  for (let squaring = 0; squaring < 6; squaring += 1) value *= value
  return value
}

/** A seeded pseudo-random generator of numbers from 0 to 1 (mulberry32). */
export type Chance = {
  (): number
  between(low: number, high: number): number
  pick<T>(items: readonly T[]): T
}

export const createChance = (seed: number): Chance => {
  let state = seed >>> 0
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
  return Object.assign(next, {
    between: (low: number, high: number) => mix(low, high, next()),
    pick: <T>(items: readonly T[]) => items[Math.floor(next() * items.length)] as T,
  })
}

/** A hash of a grid cell, as a number from 0 to 1. */
export const cellHash = (x: number, y: number, seed: number): number => {
  let hash = Math.imul(x, 0x27d4eb2d) ^ Math.imul(y, 0x165667b1) ^ seed
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d)
  hash = Math.imul(hash ^ (hash >>> 12), 0x297a2d39)
  return ((hash ^ (hash >>> 15)) >>> 0) / 4_294_967_296
}

const d = Math.SQRT1_2
const directionsX = new Float64Array([1, -1, 0, 0, d, -d, d, -d])
const directionsY = new Float64Array([0, 0, 1, -1, d, d, -d, -d])

const slope = (cellX: number, cellY: number, seed: number, x: number, y: number): number => {
  let hash = Math.imul(cellX, 0x27d4eb2d) ^ Math.imul(cellY, 0x165667b1) ^ seed
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d)
  const direction = (hash ^ (hash >>> 13)) & 7
  return (directionsX[direction] as number) * x + (directionsY[direction] as number) * y
}

/** Gradient noise, from about -0.7 to 0.7. */
export const noise = (x: number, y: number, seed: number): number => {
  const cellX = Math.floor(x)
  const cellY = Math.floor(y)
  const fx = x - cellX
  const fy = y - cellY
  const sx = fx * fx * fx * (fx * (fx * 6 - 15) + 10)
  const sy = fy * fy * fy * (fy * (fy * 6 - 15) + 10)
  const upper = mix(slope(cellX, cellY, seed, fx, fy), slope(cellX + 1, cellY, seed, fx - 1, fy), sx)
  const lower = mix(slope(cellX, cellY + 1, seed, fx, fy - 1), slope(cellX + 1, cellY + 1, seed, fx - 1, fy - 1), sx)
  return mix(upper, lower, sy)
}

/** Fractal noise from about -0.8 to 0.8: each octave has half the amplitude and twice the frequency, rotated to hide the grid. */
export const fractalNoise = (x: number, y: number, seed: number, octaves: number): number => {
  let sum = 0
  let strength = 0.5
  let px = x
  let py = y
  for (let octave = 0; octave < octaves; octave += 1) {
    sum += strength * noise(px, py, seed + octave * 101)
    const turned = 1.6 * px + 1.2 * py + 17.3
    py = 1.6 * py - 1.2 * px + 9.1
    px = turned
    strength *= 0.5
  }
  return sum * 1.6
}
