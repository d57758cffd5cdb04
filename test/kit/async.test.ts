import { describe, expect, test } from 'bun:test'
import { delay, rejectOnAbort } from '../../src/kit/async.ts'

const never = new Promise<never>(() => {})
const reason = new Error('enough')
const outcome = (work: Promise<unknown>) => work.catch((error: unknown) => error)

describe('delay', () => {
  test('resolves after the given time', async () => {
    expect(await delay(1, new AbortController().signal)).toBeUndefined()
  })
  test('rejects with the reason of an abort before or during the delay', async () => {
    expect(await outcome(delay(60_000, AbortSignal.abort(reason)))).toBe(reason)
    const controller = new AbortController()
    const paused = outcome(delay(60_000, controller.signal))
    controller.abort(reason)
    expect(await paused).toBe(reason)
  })
})

describe('rejectOnAbort', () => {
  test('settles as the work does when there is no abort', async () => {
    const { signal } = new AbortController()
    expect(await rejectOnAbort(Promise.resolve(1), signal)).toBe(1)
    expect(await outcome(rejectOnAbort(Promise.reject(reason), signal))).toBe(reason)
  })
  test('rejects on abort while the work is still pending', async () => {
    expect(await outcome(rejectOnAbort(never, AbortSignal.abort(reason)))).toBe(reason)
    const controller = new AbortController()
    const waiting = outcome(rejectOnAbort(never, controller.signal))
    controller.abort(reason)
    expect(await waiting).toBe(reason)
  })
})
