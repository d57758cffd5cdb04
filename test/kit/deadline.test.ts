import { afterEach, beforeEach, describe, expect, jest, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { createDeadlines, DeadlinePassed } from '../../src/kit/deadline.ts'

beforeEach(() => void jest.useFakeTimers())
afterEach(() => void jest.useRealTimers())

/** Moves the clock and the timers together. */
const create = (budgetMs: number) => {
  const clock = manualClock()
  const advance = (ms: number) => {
    clock.advance(ms)
    jest.advanceTimersByTime(ms)
  }
  const startDeadline = createDeadlines(clock)
  return { deadline: startDeadline(budgetMs), startDeadline, clock, advance }
}

/** Work that the test settles by hand and that counts calls of `cancel`. */
const createWork = () => {
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  const cancel = jest.fn()
  return { work: Object.assign(promise, { cancel }), cancel, resolve, reject }
}

/** The current state of a promise. */
const stateOf = async (promise: Promise<unknown>): Promise<unknown> => {
  const settled = promise.then(
    (value) => value,
    (error) => error,
  )
  // One microtask more than `run` needs to pass on a result.
  for (let turn = 0; turn < 5; turn += 1) await Promise.resolve()
  return Promise.race([settled, Promise.resolve('pending')])
}

describe('the remaining time', () => {
  test('reaches zero at the budget', () => {
    const { deadline, clock } = create(5_000)
    expect(deadline.remainingMs()).toBe(5_000)
    clock.advance(4_999)
    deadline.check()
    clock.advance(1)
    expect(deadline.remainingMs()).toBe(0)
    expect(() => deadline.check()).toThrow(DeadlinePassed)
    clock.advance(1)
    expect(deadline.remainingMs()).toBe(-1)
    expect(() => deadline.check()).toThrow(DeadlinePassed)
  })
})

describe('run', () => {
  test('settles as the work does and does not cancel it', async () => {
    const { deadline, advance } = create(5_000)
    const good = createWork()
    const bad = createWork()
    const results = [deadline.run(good.work), deadline.run(bad.work)]
    good.resolve('done')
    bad.reject('failed')
    expect(await Promise.all(results.map(stateOf))).toEqual(['done', 'failed'])
    advance(10_000)
    expect(good.cancel).not.toHaveBeenCalled()
    expect(bad.cancel).not.toHaveBeenCalled()
    expect(jest.getTimerCount()).toBe(0)
  })

  test('rejects at the deadline and cancels the work once', async () => {
    const { deadline, advance } = create(5_000)
    const { work, cancel } = createWork()
    const result = deadline.run(work)
    advance(4_999)
    expect(await stateOf(result)).toBe('pending')
    expect(cancel).not.toHaveBeenCalled()
    advance(1)
    expect(await stateOf(result)).toBeInstanceOf(DeadlinePassed)
    expect(cancel).toHaveBeenCalledTimes(1)
  })

  test('rejects late and nested waits at the same moment', async () => {
    const { deadline, advance } = create(5_000)
    advance(3_000)
    const inner = createWork()
    const outer = deadline.run(deadline.run(inner.work))
    advance(1_999)
    expect(await stateOf(outer)).toBe('pending')
    advance(1)
    expect(await stateOf(outer)).toBeInstanceOf(DeadlinePassed)
    expect(inner.cancel).toHaveBeenCalledTimes(1)
  })

  test('rejects at once when no time is left', async () => {
    const { deadline, advance } = create(5_000)
    advance(6_000)
    const { work, cancel } = createWork()
    const result = deadline.run(work)
    advance(0)
    expect(await stateOf(result)).toBeInstanceOf(DeadlinePassed)
    expect(cancel).toHaveBeenCalledTimes(1)
  })

  test('does not cancel work that has not started', async () => {
    const { deadline, advance } = create(5_000)
    const { work, cancel } = createWork()
    const result = deadline.run(Object.assign(work, { active: false }))
    advance(5_000)
    expect(await stateOf(result)).toBeInstanceOf(DeadlinePassed)
    expect(cancel).not.toHaveBeenCalled()
  })

  test('ignores how work settles after the deadline', async () => {
    const { deadline, advance } = create(5_000)
    const { promise, reject } = Promise.withResolvers<never>()
    const result = deadline.run(promise)
    advance(5_000)
    expect(await stateOf(result)).toBeInstanceOf(DeadlinePassed)
    reject(new Error('too late to matter'))
    expect(await stateOf(result)).toBeInstanceOf(DeadlinePassed)
  })

  test('uses one timer for all deadlines of a clock, only while work is waited for', async () => {
    const { deadline, startDeadline, advance } = create(5_000)
    const [first, second] = [createWork(), createWork()]
    const results = [deadline.run(first.work), startDeadline(50).run(second.work)]
    expect(jest.getTimerCount()).toBe(1)
    advance(50)
    expect(await stateOf(results[1] as Promise<unknown>)).toBeInstanceOf(DeadlinePassed)
    expect(await stateOf(results[0] as Promise<unknown>)).toBe('pending')
    first.resolve('done')
    advance(50)
    expect(jest.getTimerCount()).toBe(0)
  })
})
