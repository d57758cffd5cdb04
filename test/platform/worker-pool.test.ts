import { afterEach, describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { createWorkerPool, PoolBusy, type WorkerPool, WorkTimedOut } from '../../src/platform/worker-pool.ts'
import type { Told } from './fixtures/worker.ts'

const url = new URL('./fixtures/worker.ts', import.meta.url)
const open: WorkerPool<Told, string[]>[] = []
const gates: Int32Array[] = []

const create = (options: { size?: number; maxQueued?: number; workLimitMs?: number; lazy?: boolean } = {}) => {
  const pool = createWorkerPool<Told, string[]>({ url, size: 1, maxQueued: 10, ...options })
  open.push(pool)
  return pool
}

/** A barrier for a worker: [0] is set when the worker has reached it, [1] releases the worker. */
const createGate = () => {
  const gate = new Int32Array(new SharedArrayBuffer(8))
  gates.push(gate)
  return {
    gate,
    reached: async () => void (await Atomics.waitAsync(gate, 0, 0).value),
    open: () => {
      Atomics.store(gate, 1, 1)
      Atomics.notify(gate, 1)
    },
  }
}

const clock = manualClock()
const startDeadline = createDeadlines(clock)
const patient = () => startDeadline(60_000)
const reasonOf = (promise: Promise<unknown>) =>
  promise.then(
    () => undefined,
    (error: unknown) => error,
  )

afterEach(async () => {
  for (const gate of gates.splice(0)) {
    Atomics.store(gate, 1, 1)
    Atomics.notify(gate, 1)
  }
  for (const pool of open.splice(0)) await pool.close()
})

test('every task gets its own result, whichever worker ran it', async () => {
  const pool = create({ size: 3, maxQueued: 100 })
  const names = Array.from({ length: 100 }, (_, index) => `w${index}`)
  const answers = await Promise.all(names.map((name) => pool.run({ name }, patient())))
  expect(answers.map((done) => done.at(-1))).toEqual(names)
})

test('an error of a task reaches its caller, and the worker continues', async () => {
  const pool = create()
  expect(await reasonOf(pool.run({ name: 'a', fails: 'answers' }, patient()))).toEqual(new Error('a failed'))
  expect(await pool.run({ name: 'b' }, patient())).toEqual(['a', 'b'])
})

describe('the queue', () => {
  test('accepts maxQueued tasks, rejects one more at once, and accepts again when there is room', async () => {
    const pool = create({ maxQueued: 2 })
    const { gate, reached, open: release } = createGate()
    const running = pool.run({ name: 'running', gate }, patient())
    await reached()
    const waiting = [pool.run({ name: 'a' }, patient()), pool.run({ name: 'b' }, patient())]
    expect(pool.queued).toBe(2)
    // The only worker is blocked, so the pool itself must have rejected this.
    expect(await reasonOf(pool.run({ name: 'too many' }, patient()))).toBeInstanceOf(PoolBusy)
    expect(pool.queued).toBe(2)
    release()
    await Promise.all([running, ...waiting])
    expect(await pool.run({ name: 'c' }, patient())).toEqual(['running', 'a', 'b', 'c'])
  })

  test('does not count running tasks: an idle worker takes a task even with maxQueued 0', async () => {
    const pool = create({ maxQueued: 0 })
    const { gate, reached, open: release } = createGate()
    const running = pool.run({ name: 'running', gate }, patient())
    await reached()
    expect(await reasonOf(pool.run({ name: 'too many' }, patient()))).toBeInstanceOf(PoolBusy)
    release()
    expect(await running).toEqual(['running'])
  })

  test('never starts a task whose deadline passed while it was queued', async () => {
    const pool = create()
    const { gate, reached, open: release } = createGate()
    const running = pool.run({ name: 'running', gate }, patient())
    await reached()
    const late = reasonOf(pool.run({ name: 'late' }, startDeadline(50)))
    const inTime = pool.run({ name: 'in time' }, patient())
    clock.advance(50)
    release()
    expect(await running).toEqual(['running'])
    expect(await inTime).toEqual(['running', 'in time'])
    expect(await late).toMatchObject({ name: 'DeadlinePassed' })
  })

  test('never makes a caller wait beyond its deadline', async () => {
    const pool = create()
    const { gate, reached, open: release } = createGate()
    const late = reasonOf(pool.run({ name: 'slow', gate }, startDeadline(20)))
    await reached()
    clock.advance(20)
    expect(await late).toMatchObject({ name: 'DeadlinePassed' })
    release()
    expect(await pool.run({ name: 'next' }, patient())).toEqual(['slow', 'next'])
  })
})

describe('a worker that dies', () => {
  test('fails its own task and is replaced; queued tasks run on the new one', async () => {
    const pool = create()
    const dying = reasonOf(pool.run({ name: 'a', fails: 'dies' }, patient()))
    const waiting = [pool.run({ name: 'b' }, patient()), pool.run({ name: 'c' }, patient())]
    expect(String(await dying)).toContain('a was too much')
    // A new worker starts counting anew.
    expect(await Promise.all(waiting)).toEqual([['b'], ['b', 'c']])
  })

  test('is replaced even when it exits without an error', async () => {
    const pool = create()
    const leaving = reasonOf(pool.run({ name: 'a', fails: 'leaves' }, patient()))
    const waiting = pool.run({ name: 'b' }, patient())
    expect(String(await leaving)).toContain('A worker exited')
    expect(await waiting).toEqual(['b'])
  })

  test('does not affect the other workers', async () => {
    const pool = create({ size: 2 })
    const { gate, reached, open: release } = createGate()
    const running = pool.run({ name: 'running', gate }, patient())
    await reached()
    expect(await reasonOf(pool.run({ name: 'a', fails: 'dies' }, patient()))).toBeInstanceOf(Error)
    release()
    expect(await running).toEqual(['running'])
  })
})

describe('a cancelled task', () => {
  test('is removed from the queue, and its caller is rejected at once', async () => {
    const pool = create()
    const { gate, reached, open: release } = createGate()
    const running = pool.run({ name: 'running', gate }, patient())
    await reached()
    const stop = new AbortController()
    const waiting = reasonOf(pool.run({ name: 'a' }, patient(), { signal: stop.signal }))
    stop.abort(new Error('not wanted'))
    expect(await waiting).toEqual(new Error('not wanted'))
    expect(pool.queued).toBe(0)
    release()
    expect(await running).toEqual(['running'])
    expect(await reasonOf(pool.run({ name: 'b' }, patient(), { signal: stop.signal }))).toEqual(new Error('not wanted'))
    expect(await pool.run({ name: 'c' }, patient())).toEqual(['running', 'c'])
  })

  test('signals the running worker, which continues with the next task', async () => {
    const pool = create()
    const stop = new AbortController()
    const told: number[] = []
    const begun = Promise.withResolvers<void>()
    const onProgress = (fraction: number) => {
      told.push(fraction)
      begun.resolve()
    }
    const running = reasonOf(pool.run({ name: 'a', until: 'stopped' }, patient(), { signal: stop.signal, onProgress }))
    await begun.promise
    stop.abort(new Error('not wanted'))
    expect(await running).toEqual(new Error('not wanted'))
    expect(await pool.run({ name: 'b' }, patient())).toEqual(['a', 'b'])
    expect(told).toEqual([0.5])
  })
})

test('a worker that exceeds workLimitMs is terminated and replaced, and only its own task fails', async () => {
  const pool = create({ workLimitMs: 300 })
  const { gate, reached } = createGate()
  const stuck = reasonOf(pool.run({ name: 'stuck', gate }, patient()))
  await reached()
  const waiting = pool.run({ name: 'next' }, patient())
  expect(await stuck).toBeInstanceOf(WorkTimedOut)
  expect(await waiting).toEqual(['next'])
})

test('workers started lazily behave the same', async () => {
  const pool = create({ lazy: true })
  const dying = reasonOf(pool.run({ name: 'a', fails: 'dies' }, patient()))
  expect(String(await dying)).toContain('a was too much')
  expect(await pool.run({ name: 'b' }, patient())).toEqual(['b'])
})

test('a closed pool rejects running, queued and new tasks', async () => {
  const pool = create()
  const { gate, reached } = createGate()
  const all = [pool.run({ name: 'running', gate }, patient()), pool.run({ name: 'waiting' }, patient())].map(reasonOf)
  await reached()
  await pool.close()
  for (const reason of await Promise.all(all)) expect(reason).toBeInstanceOf(PoolBusy)
  expect(await reasonOf(pool.run({ name: 'after' }, patient()))).toBeInstanceOf(PoolBusy)
})
