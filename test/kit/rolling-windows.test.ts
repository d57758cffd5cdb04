import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { LogHistogram } from '../../src/kit/log-histogram.ts'
import { RollingWindows } from '../../src/kit/rolling-windows.ts'

const lengths = { short: { ms: 10_000, stepMs: 1_000 }, long: { ms: 60_000, stepMs: 5_000 } } as const

type Step = { readonly afterMs: number; readonly value: number; readonly failed: boolean }
const steps = fc.array(
  fc.record({
    afterMs: fc.oneof(fc.integer({ min: 0, max: 3_000 }), fc.integer({ min: 0, max: 90_000 })),
    value: fc.double({ min: 0.001, max: 10_000, noNaN: true }),
    failed: fc.boolean(),
  }),
  { maxLength: 60 },
)

/** The values that a window holds: those of the step of `nowMs` and of as many before it as fit. */
const expectedIn = (all: readonly (Step & { atMs: number })[], nowMs: number, name: keyof typeof lengths) => {
  const { ms, stepMs } = lengths[name]
  const fromMs = (Math.floor(nowMs / stepMs) + 1) * stepMs - ms
  const held = all.filter(({ atMs }) => atMs >= fromMs)
  const histogram = new LogHistogram()
  for (const { value } of held) histogram.record(value)
  const { sum, ...rest } = histogram.freeze()
  return { ...rest, sum: sum.toFixed(6), failed: held.filter(({ failed }) => failed).length }
}

describe('rolling windows', () => {
  test('hold the values of their time alone, whenever values come and whenever they are read', () => {
    fc.assert(
      fc.property(steps, fc.nat(90_000), (given, restMs) => {
        const windows = new RollingWindows(lengths)
        const all: (Step & { atMs: number })[] = []
        let nowMs = 0
        const check = () => {
          for (const name of ['short', 'long'] as const) {
            const { slice, failed } = windows.read(name, nowMs)
            const { sum, ...rest } = slice
            expect({ ...rest, sum: sum.toFixed(6), failed }).toEqual(expectedIn(all, nowMs, name))
          }
        }
        for (const step of given) {
          nowMs += step.afterMs
          windows.record(step.value, step.failed, nowMs)
          all.push({ ...step, atMs: nowMs })
          if (step.failed) check()
        }
        nowMs += restMs
        check()
        expect(windows.total().slice.count).toBe(given.length)
        expect(windows.total().failed).toBe(given.filter(({ failed }) => failed).length)
      }),
    )
  })

  test('of a minute hold a value for 59 to 60 seconds', () => {
    const windows = new RollingWindows({ minute: { ms: 60_000, stepMs: 1_000 } })
    windows.record(1, false, 5_000)
    windows.record(1, false, 5_999)
    const counts = [5_999, 64_999, 65_000].map((nowMs) => windows.read('minute', nowMs).slice.count)
    expect(counts).toEqual([2, 2, 0])
  })

  test('are empty long after their last value, and count new ones', () => {
    const windows = new RollingWindows(lengths)
    windows.record(1, true, 1_000)
    const later = 10_000_000
    expect(windows.read('long', later)).toMatchObject({ slice: { count: 0, sum: 0, max: 0 }, failed: 0 })
    windows.record(2, false, later)
    expect(windows.read('short', later)).toMatchObject({ slice: { count: 1, sum: 2, max: 2 }, failed: 0 })
  })
})
