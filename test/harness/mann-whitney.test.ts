import { describe, expect, test } from 'bun:test'
import { mannWhitney } from './mann-whitney.ts'

describe('the Mann-Whitney U test', () => {
  test('has the figures of scipy.stats.mannwhitneyu(method="asymptotic")', () => {
    const { u, p } = mannWhitney([19, 22, 16, 29, 24], [20, 11, 17, 12])
    expect(u).toBe(17)
    expect(p).toBeCloseTo(0.111346886533, 6)
  })

  test('is the same for the samples in either order, and corrects for ties', () => {
    const [one, other] = [
      [1, 1, 2, 2, 3, 3, 4, 5],
      [2, 3, 3, 4, 4, 5, 6, 7],
    ]
    expect(mannWhitney(one, other).p).toBeCloseTo(mannWhitney(other, one).p, 12)
    expect(mannWhitney([1, 1, 1], [1, 1, 1]).p).toBe(1)
  })

  test('tells apart what differs by a twentieth of its spread, with 500 values of each', () => {
    const values = Array.from({ length: 500 }, (_, index) => index / 500)
    expect(mannWhitney(values, [...values]).p).toBeGreaterThan(0.99)
    const shifted = values.map((value) => value + 0.06)
    expect(mannWhitney(values, shifted).p).toBeLessThan(0.01)
  })
})
