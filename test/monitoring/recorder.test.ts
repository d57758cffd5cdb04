import { describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { LogHistogram } from '../../src/kit/log-histogram.ts'
import { createRecorder, type TimedMetric, type WindowName, windowNames } from '../../src/monitoring/recorder.ts'

/** The same each time (mulberry32). */
const createRandom = (given: number) => {
  let seed = given
  return () => {
    seed = (seed + 0x6d2b79f5) | 0
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

const quantiles = [0.5, 0.95, 0.99]
const exact = (values: readonly number[]) => {
  const sorted = values.toSorted((one, other) => one - other)
  return quantiles.map((q) => sorted[Math.ceil(q * sorted.length) - 1] as number)
}
const estimated = (recorder: ReturnType<typeof createRecorder>, window: WindowName, metric: TimedMetric) => {
  const histogram = new LogHistogram()
  histogram.add(recorder.window(window)[metric].slice)
  return quantiles.map((q) => histogram.quantile(q) as number)
}

describe('a recorder', () => {
  /** Times of a kind that services have: most are short, some a hundred times as long. */
  const shapes: Record<string, (random: () => number) => number> = {
    'log-normal': (random) => Math.exp(Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random()) * 1.5),
    'of two modes': (random) => (random() < 0.9 ? 0.002 + random() * 0.01 : 20 + random() * 5),
    'long-tailed': (random) => 0.05 / random() ** 0.8,
    'all equal': () => 7.3,
  }

  test.each(Object.keys(shapes))(
    'returns P50, P95 and P99 of 100,000 %s times within 1 % of their exact sort',
    (shape) => {
      const clock = manualClock()
      const recorder = createRecorder({ clock })
      const random = createRandom(1)
      const values = Array.from({ length: 100_000 }, () => shapes[shape]?.(random) as number)
      for (const [at, value] of values.entries()) {
        recorder.record('api', value, at % 1_000 === 0)
        if (at % 2_000 === 0) clock.advance(1_000)
      }
      const live = estimated(recorder, '1m', 'api')
      for (const [at, value] of exact(values).entries())
        expect(Math.abs((live[at] as number) - value) / value).toBeLessThan(0.01)
      expect(recorder.window('1m').api.slice.count).toBe(100_000)
      expect(recorder.window('1m').api.failed).toBe(100)
      expect(recorder.window('1m').api.slice.max).toBe(Math.max(...values))
    },
  )

  test('forgets the values of each window when they are older than the window, and no sooner than a step before', () => {
    const clock = manualClock()
    const recorder = createRecorder({ clock })
    const heldIn = () => windowNames.filter((name) => recorder.window(name).l1.slice.count > 0)
    recorder.record('l1', 1, false)
    const held: [number, WindowName[]][] = []
    for (const afterMs of [0, 8_999, 10_000, 58_999, 60_000, 294_999, 300_000, 3_539_999, 3_600_000]) {
      clock.advance(afterMs - clock.monotonic())
      held.push([afterMs, heldIn()])
    }
    expect(held).toEqual([
      [0, ['10s', '1m', '5m', '1h']],
      [8_999, ['10s', '1m', '5m', '1h']],
      [10_000, ['1m', '5m', '1h']],
      [58_999, ['1m', '5m', '1h']],
      [60_000, ['5m', '1h']],
      [294_999, ['5m', '1h']],
      [300_000, ['1h']],
      [3_539_999, ['1h']],
      [3_600_000, []],
    ])
  })

  test('keeps metrics apart, and the users of the last minute', () => {
    const clock = manualClock()
    const recorder = createRecorder({ clock })
    recorder.record('authentication', 5, true)
    recorder.seen('ada')
    recorder.seen('bob')
    recorder.seen('ada')
    const { authentication, api } = recorder.window('1m')
    expect([authentication.slice.count, authentication.failed, api.slice.count]).toEqual([1, 1, 0])
    expect(recorder.users().estimate()).toBe(2)
    clock.advance(60_000)
    expect(recorder.users().estimate()).toBe(0)
    expect(recorder.total('authentication').slice.count).toBe(1)
  })

  test('times statements, and apart from them how long they waited for their pool', () => {
    const recorder = createRecorder({ clock: manualClock() })
    recorder.statement({ pool: 'auth', ms: 3, waitMs: 40, failed: false })
    recorder.statement({ pool: 'auth', ms: undefined, waitMs: 90, failed: true })
    expect(recorder.window('1m').database).toMatchObject({ slice: { count: 1, max: 3 }, failed: 0 })
    expect(recorder.poolWaits().auth).toMatchObject({ slice: { count: 2, max: 90 }, failed: 1 })
    expect(recorder.poolWaits().read.slice.count).toBe(0)
  })
})
