import { describe, expect, test } from 'bun:test'
import { manualClock, systemClock } from '../../src/kit/clock.ts'

describe('the manual clock', () => {
  test('stands still until it is told to move, and then both of its times move alike', () => {
    const clock = manualClock(1_000)
    expect([clock.now(), clock.monotonic()]).toEqual([1_000, 0])
    clock.advance(30_001)
    expect([clock.now(), clock.monotonic()]).toEqual([31_001, 30_001])
  })
})

describe('the system clock', () => {
  test('its monotonic time never steps back', () => {
    const readings = Array.from({ length: 10_000 }, () => systemClock.monotonic())
    expect(readings).toEqual(readings.toSorted((a, b) => a - b))
  })

  test('its wall time counts milliseconds since the epoch', () => {
    const before = Date.now()
    const now = systemClock.now()
    expect(now).toBeGreaterThanOrEqual(before)
    expect(now).toBeLessThanOrEqual(Date.now())
  })
})
