import { describe, expect, test } from 'bun:test'
import { DistinctSketch } from '../../src/kit/distinct-sketch.ts'
import { LogHistogram } from '../../src/kit/log-histogram.ts'
import type { Aggregate } from '../../src/monitoring/exchange.ts'
import { type CountName, countNames, recordOf, type WindowFigures } from '../../src/monitoring/figures.ts'
import { judgeShare, judgeTimes, reportWindows } from '../../src/monitoring/judgement.ts'
import { timedMetrics, windowNames } from '../../src/monitoring/recorder.ts'
import { toCompliance, toReport } from '../../src/monitoring/reports.ts'
import { gradeOf, trendOf } from '../../src/monitoring/targets.ts'
import { poolNames } from '../../src/platform/postgres.ts'

type Given = {
  /** Each of this time, in milliseconds. */
  readonly ms?: number
  readonly samples?: number
  readonly failed?: number
  readonly counts?: Partial<Record<CountName, number>>
}

/** Requests of every metric in a window. */
const windowOf = ({ ms = 1, samples = 0, failed = 0, counts = {} }: Given = {}): WindowFigures => {
  const histogram = new LogHistogram()
  for (let at = 0; at < samples; at += 1) histogram.record(ms)
  const slice = histogram.freeze()
  return {
    times: recordOf(timedMetrics, () => ({ slice, failed })),
    counts: recordOf(countNames, (name) => counts[name] ?? 0),
  }
}

const aggregateOf = (
  given: Partial<Record<(typeof windowNames)[number], Given>>,
  more: Partial<Aggregate> = {},
): Aggregate => ({
  windows: recordOf(windowNames, (name) => windowOf(given[name])),
  users: new DistinctSketch(),
  pools: recordOf(poolNames, () => ({ max: 1, idle: 1, busy: 0, connecting: 0, waiting: 0 })),
  poolWaits: recordOf(poolNames, () => windowOf().times.api),
  workers: { hashing: { size: 1, busy: 0, waiting: 0 }, rendering: { size: 1, busy: 0, waiting: 0 } },
  jobs: 0,
  takenAtMs: 0,
  parts: [],
  answeredBy: 'one',
  included: ['one'],
  missing: [],
  membersKnown: true,
  ...more,
})

test('a grade follows from the multiple of the target, which it reaches exactly', () => {
  const multiples = [0, 0.5, 0.500_1, 0.8, 0.800_1, 1, 1.000_1, 1.5, 1.500_1, 100]
  expect(multiples.map(gradeOf).join('')).toBe('AABBCCDDFF')
})

test('a trend compares a value with that of the longer window, within a fifth', () => {
  expect([1.21, 1.2, 1, 0.8, 0.79].map((value) => trendOf(value, 1))).toEqual([
    'worsening',
    'steady',
    'steady',
    'steady',
    'improving',
  ])
})

describe('the times of a metric', () => {
  const judge = (given: Given) =>
    judgeTimes(aggregateOf({ '1m': given, '5m': given, '1h': given }), 'authentication', '1m')

  test('are graded by their P95 from 20 samples on', () => {
    expect(judge({ ms: 20, samples: 19 }).grade).toBeUndefined()
    expect(judge({ ms: 20, samples: 20 }).grade).toBe('A')
    expect([45, 60, 130].map((ms) => judge({ ms, samples: 20 }).grade)).toEqual(['C', 'D', 'F'])
  })

  test('of which one in thirty is slow are graded by the others', () => {
    const windows = windowOf({ ms: 10, samples: 29 })
    const histogram = new LogHistogram()
    histogram.add(windows.times.authentication.slice)
    histogram.record(10_000)
    const reading = { slice: histogram.freeze(), failed: 0 }
    const aggregate = aggregateOf({})
    const minute = { ...windows, times: { ...windows.times, authentication: reading } }
    const judged = judgeTimes({ windows: { ...aggregate.windows, '1m': minute } }, 'authentication', '1m')
    expect([judged.grade, judged.maxMs]).toEqual(['A', 10_000])
  })

  test('have a trend against the longer window, but for the hour', () => {
    const aggregate = aggregateOf({
      '1m': { ms: 30, samples: 50 },
      '5m': { ms: 20, samples: 50 },
      '1h': { ms: 40, samples: 50 },
    })
    const trends = reportWindows.map((window) => judgeTimes(aggregate, 'api', window).trend)
    expect(trends).toEqual(['worsening', 'improving', undefined])
  })
})

describe('a share', () => {
  const judge = (metric: 'hit_rate' | 'error_rate', given: Given) =>
    judgeShare(aggregateOf({ '1m': given }), metric, '1m')

  test('of hits counts memory and Redis, and is judged by the misses', () => {
    const of = (l1: number, l2: number, l3: number, database = 0) =>
      judge('hit_rate', {
        counts: { decisions_l1: l1, decisions_l2: l2, decisions_l3: l3, decisions_database: database },
      })
    expect(of(80, 15, 5)).toMatchObject({ samples: 100, value: 0.95, grade: 'C' })
    expect(of(80, 15, 3, 2).value).toBe(0.95)
    expect(of(98, 0, 2).grade).toBe('A')
    expect(of(925, 0, 75).grade).toBe('D')
    expect(of(92, 0, 8).grade).toBe('F')
    expect(of(10, 0, 1)).toMatchObject({ grade: undefined })
    expect(of(0, 0, 0)).toEqual({ samples: 0, value: undefined, grade: undefined, trend: undefined })
  })

  test('of errors is above its target from three errors on', () => {
    const of = (samples: number, failed: number) => judge('error_rate', { samples, failed })
    expect(of(100, 2)).toMatchObject({ value: 0.02, grade: 'C' })
    expect(of(100, 3)).toMatchObject({ value: 0.03, grade: 'F' })
    expect(of(10_000, 3).grade).toBe('A')
    expect(of(100, 0)).toMatchObject({ value: 0, grade: 'A' })
  })
})

describe('compliance', () => {
  const enough = { decisions_l1: 100 }

  test('is not judged below 100 samples, and then by the P95 that may equal the target', () => {
    const statusOf = (given: Given) =>
      toCompliance(aggregateOf({ '1h': given }), '1h').times.find(({ metric }) => metric === 'api')?.status
    expect(statusOf({ ms: 1, samples: 99 })).toBe('insufficient_data')
    expect(statusOf({ ms: 100, samples: 100 })).toBe('met')
    expect(statusOf({ ms: 102, samples: 100 })).toBe('missed')
    expect(statusOf({})).toBe('insufficient_data')
  })

  test('is missed where the P95 is above the target, though the median is not', () => {
    const histogram = new LogHistogram()
    for (let at = 0; at < 200; at += 1) histogram.record(at % 10 === 0 ? 150 : 1)
    const aggregate = aggregateOf({})
    const times = recordOf(timedMetrics, () => ({ slice: histogram.freeze(), failed: 0 }))
    const windows = { ...aggregate.windows, '1h': { ...aggregate.windows['1h'], times } }
    const statusOf = (name: string) =>
      toCompliance({ ...aggregate, windows }, '1h').times.find(({ metric }) => metric === name)?.status
    expect([statusOf('api'), statusOf('registration')]).toEqual(['missed', 'met'])
  })

  test('as a whole is missed where one requirement is, and met where all are', () => {
    const statusOf = (given: Given) => toCompliance(aggregateOf({ '5m': given }), '5m').status
    expect(statusOf({ ms: 1, samples: 200, counts: enough })).toBe('met')
    expect(statusOf({ ms: 1, samples: 200 })).toBe('insufficient_data')
    expect(statusOf({ ms: 30, samples: 200, counts: enough })).toBe('missed')
    expect(statusOf({ ms: 1, samples: 200, failed: 5, counts: enough })).toBe('missed')
    expect(statusOf({})).toBe('insufficient_data')
  })
})

describe('a report', () => {
  test('is complete only where every instance is included and all are known', () => {
    const completeness = (more: Partial<Aggregate>) => toReport(aggregateOf({}, more), []).instances.complete
    expect([completeness({}), completeness({ missing: ['two'] }), completeness({ membersKnown: false })]).toEqual([
      true,
      false,
      false,
    ])
  })

  test('has nulls and no grades without samples', () => {
    const { metrics, shares, tiers } = toReport(aggregateOf({}), [])
    for (const { windows } of metrics)
      for (const window of windows)
        expect(window).toMatchObject({
          samples: 0,
          mean_ms: null,
          p95_ms: null,
          max_ms: null,
          grade: null,
          trend: null,
        })
    for (const { windows } of shares)
      for (const window of windows) expect(window).toMatchObject({ value: null, grade: null })
    expect(tiers[0]).toMatchObject({ l1_hit_rate: null, l2_hit_rate: null, stale_facts: 0 })
  })

  test('has hit rates beside the stale facts, and the recommendations that are given', () => {
    const counts = { decisions_l1: 9, decisions_l3: 1, l2_hits: 1, l2_misses: 3, stale_facts: 2 }
    const recommendation = { code: 'a', metric: 'l1', message: 'm', setting: null }
    const { tiers, recommendations } = toReport(aggregateOf({ '1m': { counts } }), [recommendation])
    expect(tiers[0]).toMatchObject({ l1_hit_rate: 0.9, l2_hit_rate: 0.25, stale_facts: 2 })
    expect(recommendations).toEqual([recommendation])
  })
})
