import { describe, expect, test } from 'bun:test'
import { RollingCounts } from '../../src/kit/rolling-counts.ts'

const lengths = { short: { ms: 10_000, stepMs: 1_000 }, long: { ms: 60_000, stepMs: 5_000 } } as const

describe('rolling counts', () => {
  const start = () => {
    const counters = { hits: 7, misses: 0 }
    return { counters, rolling: new RollingCounts(lengths, () => counters, 0) }
  }

  test('hold what was counted since the start, while that is within the window', () => {
    const { counters, rolling } = start()
    counters.hits += 3
    counters.misses += 1
    expect(rolling.read('short', 9_999)).toEqual({ hits: 3, misses: 1 })
  })

  test('forget what was counted before the window, and no sooner', () => {
    const { counters, rolling } = start()
    const seen: number[] = []
    for (let second = 0; second <= 70; second += 1) {
      rolling.tick(second * 1_000)
      if (second === 4) counters.hits += 1
      if ([4, 12, 13, 14, 15].includes(second)) seen.push(rolling.read('short', second * 1_000 + 999).hits)
      if ([55, 59, 60, 64, 65].includes(second)) seen.push(rolling.read('long', second * 1_000).hits)
    }
    expect(seen).toEqual([1, 1, 1, 0, 0, 1, 1, 0, 0, 0])
  })

  test('hold nothing after a pause that is longer than the window', () => {
    const { counters, rolling } = start()
    counters.hits += 5
    expect(rolling.read('short', 1_000_000)).toEqual({ hits: 0, misses: 0 })
    counters.hits += 2
    expect(rolling.read('short', 1_000_500)).toEqual({ hits: 2, misses: 0 })
  })
})
