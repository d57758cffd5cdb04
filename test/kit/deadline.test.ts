import { afterEach, beforeEach, describe, expect, jest, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { createDeadline, DeadlinePassed } from '../../src/kit/deadline.ts'

beforeEach(() => void jest.useFakeTimers())
afterEach(() => void jest.useRealTimers())

/** Clock and timers move together. */
const create = (budgetMs: number) => {
  const clock = manualClock()
  const advance = (ms: number) => {
    clock.advance(ms)
    jest.advanceTimersByTime(ms)
  }
  return { deadline: createDeadline(clock, budgetMs), clock, advance }
}

/** Work that ends when it is told to, and says whether it was asked to cancel. */
const createWork = () => {
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  const cancel = jest.fn()
  return { work: Object.assign(promise, { cancel }), cancel, resolve, reject }
}

/** What a promise has come to by now. */
const stateOf = async (promise: Promise<unknown>): Promise<unknown> => {
  const settled = promise.then(
    (value) => value,
    (error) => error,
  )
  // One turn more than `run` needs to hand on a result.
  for (let turn = 0; turn < 5; turn += 1) await Promise.resolve()
  return Promise.race([settled, Promise.resolve('pending')])
}

describe('the time that remains', () => {
  test('runs out once, at the budget', () => {
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
  test('hands on what the work comes to, and asks nothing of it', async () => {
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

  test('ends at the deadline, not before and not after, and asks the work to cancel once', async () => {
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

  test('a wait that begins late, or inside another wait, ends at the same moment', async () => {
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

  test('with no time left it does not wait', async () => {
    const { deadline, advance } = create(5_000)
    advance(6_000)
    const { work, cancel } = createWork()
    const result = deadline.run(work)
    advance(0)
    expect(await stateOf(result)).toBeInstanceOf(DeadlinePassed)
    expect(cancel).toHaveBeenCalledTimes(1)
  })

  test('work that has not begun is not asked to cancel', async () => {
    const { deadline, advance } = create(5_000)
    const { work, cancel } = createWork()
    const result = deadline.run(Object.assign(work, { active: false }))
    advance(5_000)
    expect(await stateOf(result)).toBeInstanceOf(DeadlinePassed)
    expect(cancel).not.toHaveBeenCalled()
  })

  test('what work without a cancel does after the deadline is nobody’s business', async () => {
    const { deadline, advance } = create(5_000)
    const { promise, reject } = Promise.withResolvers<never>()
    const result = deadline.run(promise)
    advance(5_000)
    expect(await stateOf(result)).toBeInstanceOf(DeadlinePassed)
    reject(new Error('too late to matter'))
    expect(await stateOf(result)).toBeInstanceOf(DeadlinePassed)
  })
})
