import { describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { type AlertFigure, type AlertState, evaluate, figureOf } from '../../src/monitoring/alerts/evaluator.ts'
import { type CountName, countNames, recordOf } from '../../src/monitoring/figures.ts'
import { createRecorder, type TimedMetric } from '../../src/monitoring/recorder.ts'

const windowOf = (
  record: (add: (metric: TimedMetric, ms: number, failed?: boolean) => void) => void,
  counts: Partial<Record<CountName, number>> = {},
) => {
  const recorder = createRecorder({ clock: manualClock() })
  record((metric, ms, failed = false) => recorder.record(metric, ms, failed))
  return { times: recorder.window('10s'), counts: { ...recordOf(countNames, () => 0), ...counts } }
}
const times = (count: number, run: () => void) => {
  for (let at = 0; at < count; at += 1) run()
}

describe('the figure of a metric', () => {
  test('is its P95, which one slow request of twenty does not move', () => {
    const window = windowOf((add) => {
      times(19, () => add('authentication', 20))
      add('authentication', 4_000)
    })
    expect(figureOf(window, 'authentication')?.value).toBeCloseTo(20, 0)
  })

  test('is missing with nineteen samples', () => {
    const window = windowOf((add) => times(19, () => add('authentication', 500)))
    expect(figureOf(window, 'authentication')).toBeUndefined()
  })

  test('of errors is 0 with two errors, and their share with three', () => {
    const withErrors = (errors: number) =>
      windowOf((add) => {
        times(97, () => add('api', 1))
        times(errors, () => add('api', 1, true))
      })
    expect(figureOf(withErrors(2), 'error_rate')?.value).toBe(0)
    expect(figureOf(withErrors(3), 'error_rate')).toEqual({ value: 0.03, target: 0.001, samples: 100 })
  })

  test('of the rate of hits is the share of decisions that queried Postgres', () => {
    const counts = { decisions_l1: 80, decisions_l2: 10, decisions_l3: 6, decisions_database: 4 }
    const figure = figureOf(
      windowOf(() => {}, counts),
      'hit_rate',
    )
    expect(figure).toMatchObject({ value: 0.1, samples: 100 })
    expect(figure?.target).toBeCloseTo(0.05)
  })
})

/** Evaluates values in turn, one each second. Lists the changes with the second in which they came. */
const changesOf = (values: readonly (number | undefined)[], target = 50) => {
  let state: AlertState = { alert: undefined, calmSinceMs: undefined }
  return values.flatMap((value, second) => {
    const figure: AlertFigure | undefined = value === undefined ? undefined : { value, target, samples: 20 }
    const next = evaluate(state, figure, second * 1_000)
    state = next.state
    return next.change === undefined ? [] : [`${second} ${next.change}`]
  })
}
const seconds = (count: number, value: number | undefined) => Array.from({ length: count }, () => value)

describe('an alert', () => {
  test.each([
    [75, undefined],
    [75.1, 'warning'],
    [100, 'warning'],
    [100.1, 'critical'],
  ] as const)('of a P95 of %p ms with a target of 50 ms is %p', (value, severity) => {
    const { state } = evaluate({ alert: undefined, calmSinceMs: undefined }, { value, target: 50, samples: 20 }, 0)
    expect(state.alert?.severity).toBe(severity as never)
  })

  test.each([
    [0.075, undefined],
    [0.1, 'warning'],
    [0.101, 'critical'],
  ] as const)('of a share of misses of %p is %p', (value, severity) => {
    const figure = { value, target: 1 - 0.95, samples: 20 }
    expect(evaluate({ alert: undefined, calmSinceMs: undefined }, figure, 0).state.alert?.severity).toBe(
      severity as never,
    )
  })

  test('clears after ten seconds in a row that are near the target, and not before', () => {
    expect(changesOf([80, ...seconds(10, 40), 40])).toEqual(['0 opened', '11 cleared'])
    expect(changesOf([80, ...seconds(9, 40), 70, ...seconds(10, 40)])).toEqual(['0 opened'])
  })

  test('neither clears nor opens again while the value moves around the threshold', () => {
    expect(changesOf(Array.from({ length: 60 }, (_, second) => (second % 2 === 0 ? 76 : 70)))).toEqual(['0 opened'])
  })

  test('becomes critical once, and stays so until it clears', () => {
    expect(changesOf([80, 120, 80, 130, ...seconds(11, 40)])).toEqual(['0 opened', '1 raised', '14 cleared'])
  })

  test('clears when there are too few samples for ten seconds', () => {
    expect(changesOf([80, ...seconds(11, undefined)])).toEqual(['0 opened', '11 cleared'])
  })

  test('keeps the highest value', () => {
    const opened = evaluate({ alert: undefined, calmSinceMs: undefined }, { value: 120, target: 50, samples: 20 }, 0)
    const later = evaluate(opened.state, { value: 300, target: 50, samples: 20 }, 1_000)
    expect(evaluate(later.state, { value: 90, target: 50, samples: 20 }, 2_000).state.alert?.worst).toBe(300)
  })
})
