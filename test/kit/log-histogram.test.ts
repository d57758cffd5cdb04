import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { decodeSlice, encodeSlice, LogHistogram } from '../../src/kit/log-histogram.ts'

const histogramOf = (values: readonly number[]): LogHistogram => {
  const histogram = new LogHistogram()
  for (const value of values) histogram.record(value)
  return histogram
}

/** Nearest rank. */
const exactQuantile = (sorted: readonly number[], q: number) =>
  sorted[Math.max(1, Math.ceil(q * sorted.length)) - 1] as number

const values = fc.array(fc.double({ min: 0.000_1, max: 1_000_000, noNaN: true }), { minLength: 1, maxLength: 200 })
const anyValues = fc.array(fc.double({ min: 0, max: 1e7, noNaN: true }), { maxLength: 100 })

describe('a histogram', () => {
  test('has no quantiles while it is empty', () => {
    const histogram = new LogHistogram()
    expect([histogram.count, histogram.max, histogram.quantile(0.5)]).toEqual([0, 0, undefined])
  })

  test('returns each quantile to 0.55 %, and none above the greatest value, for any recorded values', () => {
    fc.assert(
      fc.property(values, fc.double({ min: 0, max: 1, noNaN: true }), (recorded, share) => {
        const histogram = histogramOf(recorded)
        const sorted = recorded.toSorted((one, other) => one - other)
        const exact = exactQuantile(sorted, share)
        const estimated = histogram.quantile(share) as number
        expect(histogram.count).toBe(recorded.length)
        expect(histogram.max).toBe(sorted.at(-1) as number)
        expect(estimated).toBeLessThanOrEqual(histogram.max)
        expect(Math.abs(estimated - exact) / exact).toBeLessThan(0.005_5)
      }),
    )
  })

  test('counts zero and negative values as the lowest, and values beyond its last bucket as the greatest', () => {
    const histogram = histogramOf([0, -5, Number.NaN, 1e300])
    expect(histogram.count).toBe(4)
    expect(histogram.quantile(0.5)).toBeLessThan(0.000_1)
    expect(histogram.quantile(1)).toBe(1e300)
    expect(histogram.sum).toBe(1e300)
  })

  test('equals one that recorded all values, once others were added to it', () => {
    fc.assert(
      fc.property(fc.array(anyValues, { maxLength: 4 }), (parts) => {
        const merged = new LogHistogram()
        for (const part of parts) merged.add(histogramOf(part).freeze())
        const { sum, ...rest } = merged.freeze()
        const { sum: sumOfAll, ...whole } = histogramOf(parts.flat()).freeze()
        expect(rest).toEqual(whole)
        expect(Math.abs(sum - sumOfAll)).toBeLessThanOrEqual(sumOfAll * 1e-12)
      }),
    )
  })

  test('has the counts that remain once a part was removed', () => {
    fc.assert(
      fc.property(anyValues, anyValues, (kept, removed) => {
        const histogram = histogramOf(kept)
        const part = histogramOf(removed).freeze()
        histogram.add(part)
        histogram.remove(part)
        const { buckets, counts, count } = histogram.freeze()
        const expected = histogramOf(kept).freeze()
        expect([buckets, counts, count]).toEqual([expected.buckets, expected.counts, expected.count])
      }),
    )
  })

  test('is the same after it was encoded and decoded', () => {
    fc.assert(
      fc.property(anyValues, (recorded) => {
        const slice = histogramOf(recorded).freeze()
        expect(decodeSlice(encodeSlice(slice))).toEqual(slice)
      }),
    )
    const many = new LogHistogram()
    const slice = {
      buckets: Uint16Array.of(0, 2_176),
      counts: Uint32Array.of(4_294_967_295, 300),
      count: 0,
      sum: 1,
      max: 1,
    }
    many.add({ ...slice, count: 4_294_967_595 })
    expect(decodeSlice(encodeSlice(many.freeze()))).toEqual(many.freeze())
  })

  test('is not decoded from bytes of anything else', () => {
    const head = new Uint8Array(16)
    const bytesOf = (...body: number[]) => Uint8Array.of(...head, ...body)
    const noNumber = new Uint8Array(16)
    new DataView(noNumber.buffer).setFloat64(0, Number.NaN)
    expect(decodeSlice(bytesOf(1, 1))?.count).toBe(1)
    for (const bytes of [
      new Uint8Array(0),
      new Uint8Array(15),
      noNumber,
      bytesOf(1),
      bytesOf(1, 0),
      bytesOf(1, 1, 0, 1),
      bytesOf(0x81, 0x11, 1),
      bytesOf(1, 0x80),
      bytesOf(1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
      bytesOf(1, 0x80, 0x80, 0x80, 0x80, 0x10),
    ])
      expect(decodeSlice(bytes)).toBeUndefined()
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        const slice = decodeSlice(bytes)
        if (slice !== undefined) new LogHistogram().add(slice)
      }),
    )
  })
})
