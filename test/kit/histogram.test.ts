import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { createHistogram } from '../../src/kit/histogram.ts'

describe('a histogram', () => {
  test('has no quantiles while it is empty', () => {
    const { count, max, quantile } = createHistogram()
    expect([count, max, quantile(0.5)]).toEqual([0, 0, undefined])
  })

  test('returns each quantile at most 9 % too high and never too low, for any recorded values', () => {
    const values = fc.array(fc.double({ min: 0.001, max: 1e7, noNaN: true }), { minLength: 1, maxLength: 200 })
    fc.assert(
      fc.property(values, fc.double({ min: 0, max: 1, noNaN: true }), (recorded, share) => {
        const histogram = createHistogram()
        for (const value of recorded) histogram.record(value)
        const sorted = recorded.toSorted((one, other) => one - other)
        const exact = sorted[Math.max(1, Math.ceil(share * sorted.length)) - 1] as number
        const told = histogram.quantile(share) as number
        expect(histogram.count).toBe(recorded.length)
        expect(histogram.max).toBe(sorted.at(-1) as number)
        expect(told).toBeGreaterThan(exact * 0.999_999)
        expect(told).toBeLessThan(exact * 1.091)
      }),
    )
  })

  test('accepts zero, negative values, and values beyond its last bucket', () => {
    const histogram = createHistogram()
    for (const value of [0, -5, 1e300]) histogram.record(value)
    expect(histogram.count).toBe(3)
    expect(histogram.quantile(0.5)).toBeLessThan(0.001)
    expect(histogram.quantile(1)).toBe(1e300)
  })
})
