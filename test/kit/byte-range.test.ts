import { expect, test } from 'bun:test'
import { parseRange, RangeNotSatisfiable, resolveRange } from '../../src/kit/byte-range.ts'

test('a single byte range is parsed; any other header means the whole representation', () => {
  expect(parseRange('bytes=0-499')).toEqual({ first: 0, last: 499 })
  expect(parseRange('bytes=500-')).toEqual({ first: 500 })
  expect(parseRange('Bytes= -5')).toEqual({ suffix: 5 })
  for (const header of [null, '', 'bytes=', 'bytes=-', 'bytes=5-4', 'items=0-1', 'bytes=0-1,3-4', 'bytes=a-b']) {
    expect(parseRange(header)).toBeUndefined()
  }
  expect(parseRange(`bytes=0-${'9'.repeat(30)}`)).toBeUndefined()
})

test('a range is clamped to the length; one that starts beyond the end is not satisfiable', () => {
  expect(resolveRange(undefined, 0)).toEqual({ first: 0, length: 0 })
  expect(resolveRange({ first: 2, last: 3 }, 10)).toEqual({ first: 2, length: 2 })
  expect(resolveRange({ first: 2, last: 99 }, 10)).toEqual({ first: 2, length: 8 })
  expect(resolveRange({ suffix: 99 }, 10)).toEqual({ first: 0, length: 10 })
  for (const [range, total] of [
    [{ first: 10 }, 10],
    [{ suffix: 0 }, 10],
    [{ suffix: 1 }, 0],
  ] as const) {
    expect(() => resolveRange(range, total)).toThrow(RangeNotSatisfiable)
  }
})
