import { describe, expect, test } from 'bun:test'
import { createLeaseClock, manualClock, systemClock } from '../../src/kit/clock.ts'

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

describe('the clock of leases', () => {
  const setUp = () => {
    const times = { monotonic: 0, now: 1_000_000 }
    const clock = createLeaseClock({ monotonic: () => times.monotonic, now: () => times.now })
    const pass = (monotonicMs: number, wallMs = monotonicMs) => {
      times.monotonic += monotonicMs
      times.now += wallMs
      return clock.monotonic()
    }
    pass(0)
    return { pass }
  }

  test('advances as the monotonic clock does while the wall clock goes along', () => {
    const { pass } = setUp()
    expect([pass(250), pass(250, 249), pass(250, 251), pass(60_000)]).toEqual([250, 500, 750, 60_750])
  })

  test('advances with the wall clock over a pause in which the monotonic clock stood still', () => {
    const { pass } = setUp()
    expect([pass(100), pass(1, 30_001), pass(100)]).toEqual([100, 30_101, 30_201])
  })

  test('notices a pause also after the wall clock was set back, and never goes back itself', () => {
    const { pass } = setUp()
    expect([pass(100), pass(0, -3_600_000), pass(100), pass(0, 5_000)]).toEqual([100, 100, 200, 5_200])
  })

  test('sums up advances of the wall clock that are below its tolerance', () => {
    const { pass } = setUp()
    let last = 0
    for (let round = 0; round < 100; round += 1) last = pass(10, 15)
    expect(last).toBeGreaterThanOrEqual(1_490)
    expect(last).toBeLessThanOrEqual(1_500)
  })
})
