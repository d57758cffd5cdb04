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

  test('settles every wait once, in whatever order others end before it', async () => {
    const { startDeadline, advance } = create(5_000)
    for (const order of ['012', '021', '102', '120', '201', '210']) {
      for (const ended of [0, 1, 2]) {
        const works = [createWork(), createWork(), createWork()]
        const results = works.map(({ work }) => startDeadline(50).run(work))
        for (const at of [...order].slice(0, ended).map(Number)) {
          works[at]?.resolve('done')
          await stateOf(results[at] as Promise<unknown>)
        }
        // The first that is late ends another one while it is cancelled.
        for (const { cancel } of works) cancel.mockImplementation(() => works[Number(order[2])]?.resolve('done'))
        advance(50)
        const states = await Promise.all(results.map(stateOf))
        const expected = [...order].map((at, place) => [Number(at), place < ended ? 'done' : new DeadlinePassed()])
        expect(Object.entries(states)).toEqual(expected.sort().map(([at, state]) => [String(at), state]))
        expect(works.map(({ cancel }) => cancel.mock.calls.length).reduce((sum, calls) => sum + calls)).toBe(3 - ended)
        advance(50)
        expect(jest.getTimerCount()).toBe(0)
      }
    }
  })

  test('gives the result to the next step, and the error or its own to the other', async () => {
    const { deadline, advance } = create(5_000)
    const [good, bad, late] = [createWork(), createWork(), createWork()]
    let steps = 0
    const outcome = (work: PromiseLike<unknown>) =>
      deadline.settle(
        work,
        (value) => {
          steps += 1
          return `got ${value}`
        },
        (error) => `failed with ${error instanceof Error ? error.name : error}`,
      )
    const results = [outcome(good.work), outcome(bad.work), outcome(late.work)]
    good.resolve('this')
    bad.reject('that')
    await Promise.all(results.slice(0, 2))
    advance(5_000)
    expect(await Promise.all(results)).toEqual(['got this', 'failed with that', 'failed with DeadlinePassed'])
    late.resolve('too late')
    await late.work
    expect(steps).toBe(1)
    const thrown = deadline.settle(
      Promise.resolve(),
      () => 'never',
      () => {
        throw new Error('refused')
      },
    )
    expect(await stateOf(thrown)).toEqual(new Error('refused'))
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
