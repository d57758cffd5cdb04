import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { DistinctSketch, RollingDistinct } from '../../src/kit/distinct-sketch.ts'

const idOf = (number: number) => `01980000-0000-7000-8000-${number.toString(16).padStart(12, '0')}`
const sketchOf = (ids: Iterable<string>): DistinctSketch => {
  const sketch = new DistinctSketch()
  for (const id of ids) sketch.add(id)
  return sketch
}
const idsOf = (from: number, to: number) => Array.from({ length: to - from }, (_, at) => idOf(from + at))

describe('a sketch of distinct texts', () => {
  test('estimates few exactly and many to 2.5 %', () => {
    for (const number of [0, 1, 2, 10, 50]) expect(sketchOf(idsOf(0, number)).estimate()).toBe(number)
    for (const number of [1_000, 10_000, 40_000, 60_000, 200_000]) {
      const estimate = sketchOf(idsOf(0, number)).estimate()
      expect(Math.abs(estimate - number) / number).toBeLessThan(0.025)
    }
  })

  test('counts a text once, however often it comes', () => {
    const sketch = sketchOf(idsOf(0, 20))
    for (const id of idsOf(0, 20)) sketch.add(id)
    expect(sketch.estimate()).toBe(20)
  })

  test('is, as the union of others, the sketch of all their texts', () => {
    fc.assert(
      fc.property(fc.array(fc.array(fc.uuid(), { maxLength: 50 }), { maxLength: 4 }), (parts) => {
        const union = new DistinctSketch()
        for (const part of parts) union.union(sketchOf(part))
        expect(union.encode()).toEqual(sketchOf(parts.flat()).encode())
      }),
    )
  })

  test('is the same after it was encoded and decoded, with few texts and with many', () => {
    for (const number of [0, 3, 5_000, 6_000, 50_000]) {
      const sketch = sketchOf(idsOf(0, number))
      const bytes = sketch.encode()
      expect(bytes.length).toBeLessThanOrEqual(16_384)
      expect(DistinctSketch.decode(bytes)?.encode()).toEqual(bytes)
      expect(DistinctSketch.decode(bytes)?.estimate()).toBe(sketch.estimate())
    }
  })

  test('is not decoded from bytes of anything else', () => {
    const tooHigh = new Uint8Array(16_384).fill(34)
    for (const bytes of [
      Uint8Array.of(1),
      Uint8Array.of(64, 0, 1),
      Uint8Array.of(0, 0, 34),
      tooHigh,
      new Uint8Array(20_000),
    ])
      expect(DistinctSketch.decode(bytes)).toBeUndefined()
  })
})

describe('distinct texts of a rolling window', () => {
  test('count while they were added within it', () => {
    const users = new RollingDistinct(60_000)
    users.add('ada', 0)
    users.add('bob', 30_000)
    users.add('ada', 31_000)
    const counts = [0, 31_000, 59_999, 89_999, 90_000, 1e9].map((nowMs) => users.sketch(nowMs).estimate())
    expect(counts).toEqual([2, 2, 2, 2, 0, 0])
  })

  test('count again after they were forgotten', () => {
    const users = new RollingDistinct(60_000)
    users.add('ada', 0)
    users.add('ada', 200_000)
    expect(users.sketch(200_000).estimate()).toBe(1)
  })

  test('beyond those that are remembered are estimated as well', () => {
    const users = new RollingDistinct(60_000)
    for (const id of idsOf(0, 50_000)) users.add(id, 1)
    expect(Math.abs(users.sketch(1).estimate() - 50_000)).toBeLessThan(1_250)
  })
})
