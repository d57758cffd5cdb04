import { afterEach, describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { createWorkerPool, PoolBusy, type WorkerPool, WorkTimedOut } from '../../src/platform/worker-pool.ts'
import type { Told } from './fixtures/worker.ts'

const url = new URL('./fixtures/worker.ts', import.meta.url)
const open: WorkerPool<Told, string[]>[] = []
const gates: Int32Array[] = []

const create = (options: { size?: number; maxQueued?: number; workLimitMs?: number; whenNeeded?: boolean } = {}) => {
  const pool = createWorkerPool<Told, string[]>({ url, size: 1, maxQueued: 10, ...options })
  open.push(pool)
  return pool
}

/** A place where a worker stands still: [0] is set when it has come there, [1] lets it go on. */
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

test('each piece of work gets its own answer, whichever worker did it', async () => {
  const pool = create({ size: 3, maxQueued: 100 })
  const names = Array.from({ length: 100 }, (_, index) => `w${index}`)
  const answers = await Promise.all(names.map((name) => pool.run({ name }, patient())))
  expect(answers.map((done) => done.at(-1))).toEqual(names)
})

test('an error that a worker answers with reaches the caller, and the worker goes on', async () => {
  const pool = create()
  expect(await reasonOf(pool.run({ name: 'a', fails: 'answers' }, patient()))).toEqual(new Error('a failed'))
  expect(await pool.run({ name: 'b' }, patient())).toEqual(['a', 'b'])
})

describe('the queue', () => {
  test('takes what it may hold, refuses one more at once, and takes again when there is room', async () => {
    const pool = create({ maxQueued: 2 })
    const { gate, reached, open: release } = createGate()
    const running = pool.run({ name: 'running', gate }, patient())
    await reached()
    const waiting = [pool.run({ name: 'a' }, patient()), pool.run({ name: 'b' }, patient())]
    expect(pool.queued).toBe(2)
    // The one worker stands still, so only the pool itself can have answered this.
    expect(await reasonOf(pool.run({ name: 'too many' }, patient()))).toBeInstanceOf(PoolBusy)
    expect(pool.queued).toBe(2)
    release()
    await Promise.all([running, ...waiting])
    expect(await pool.run({ name: 'c' }, patient())).toEqual(['running', 'a', 'b', 'c'])
  })

  test('counts only what waits: an idle worker takes work even when nothing may wait', async () => {
    const pool = create({ maxQueued: 0 })
    const { gate, reached, open: release } = createGate()
    const running = pool.run({ name: 'running', gate }, patient())
    await reached()
    expect(await reasonOf(pool.run({ name: 'too many' }, patient()))).toBeInstanceOf(PoolBusy)
    release()
    expect(await running).toEqual(['running'])
  })

  test('work whose deadline has passed while it waited is never begun', async () => {
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

  test('a caller does not wait for a worker past its deadline', async () => {
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
  test('fails its own piece, and is replaced; what waited is done by the new one', async () => {
    const pool = create()
    const dying = reasonOf(pool.run({ name: 'a', fails: 'dies' }, patient()))
    const waiting = [pool.run({ name: 'b' }, patient()), pool.run({ name: 'c' }, patient())]
    expect(String(await dying)).toContain('a was too much')
    // A new worker has done nothing before.
    expect(await Promise.all(waiting)).toEqual([['b'], ['b', 'c']])
  })

  test('is replaced also when it leaves without a word', async () => {
    const pool = create()
    const leaving = reasonOf(pool.run({ name: 'a', fails: 'leaves' }, patient()))
    const waiting = pool.run({ name: 'b' }, patient())
    expect(String(await leaving)).toContain('A worker ended')
    expect(await waiting).toEqual(['b'])
  })

  test('does not take the others with it', async () => {
    const pool = create({ size: 2 })
    const { gate, reached, open: release } = createGate()
    const running = pool.run({ name: 'running', gate }, patient())
    await reached()
    expect(await reasonOf(pool.run({ name: 'a', fails: 'dies' }, patient()))).toBeInstanceOf(Error)
    release()
    expect(await running).toEqual(['running'])
  })
})

describe('work that can be called off', () => {
  test('is dropped while it waits, and its caller is answered at once', async () => {
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

  test('tells the worker while it runs, and the worker goes on to the next', async () => {
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

test('a worker that takes too long is ended and replaced, and only its own piece fails', async () => {
  const pool = create({ workLimitMs: 300 })
  const { gate, reached } = createGate()
  const stuck = reasonOf(pool.run({ name: 'stuck', gate }, patient()))
  await reached()
  const waiting = pool.run({ name: 'next' }, patient())
  expect(await stuck).toBeInstanceOf(WorkTimedOut)
  expect(await waiting).toEqual(['next'])
})

test('workers hired when needed do the same', async () => {
  const pool = create({ whenNeeded: true })
  const dying = reasonOf(pool.run({ name: 'a', fails: 'dies' }, patient()))
  expect(String(await dying)).toContain('a was too much')
  expect(await pool.run({ name: 'b' }, patient())).toEqual(['b'])
})

test('a pool that is closed fails what runs and what waits, and takes nothing more', async () => {
  const pool = create()
  const { gate, reached } = createGate()
  const all = [pool.run({ name: 'running', gate }, patient()), pool.run({ name: 'waiting' }, patient())].map(reasonOf)
  await reached()
  await pool.close()
  for (const reason of await Promise.all(all)) expect(reason).toBeInstanceOf(PoolBusy)
  expect(await reasonOf(pool.run({ name: 'after' }, patient()))).toBeInstanceOf(PoolBusy)
})
