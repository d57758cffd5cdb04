import { describe, expect, test } from 'bun:test'
import { manualClock, systemClock } from '../../src/kit/clock.ts'

describe('the manual clock', () => {
  test('moves only by advance, which moves both of its times by the same amount', () => {
    const clock = manualClock(1_000)
    expect([clock.now(), clock.monotonic()]).toEqual([1_000, 0])
    clock.advance(30_001)
    expect([clock.now(), clock.monotonic()]).toEqual([31_001, 30_001])
  })
})

describe('the system clock', () => {
  test('has a monotonic time that never steps back', () => {
    const readings = Array.from({ length: 10_000 }, () => systemClock.monotonic())
    expect(readings).toEqual(readings.toSorted((a, b) => a - b))
  })

  test('has a wall time in milliseconds since the epoch', () => {
    const before = Date.now()
    const now = systemClock.now()
    expect(now).toBeGreaterThanOrEqual(before)
    expect(now).toBeLessThanOrEqual(Date.now())
  })
})
