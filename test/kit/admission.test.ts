import { describe, expect, test } from 'bun:test'
import { type Admission, createAdmission, Overloaded, type Priority } from '../../src/kit/admission.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createRandom } from '../access/random.ts'
import { percentile } from '../bench/latencies.ts'

const tickMs = 0.25

type Job = { remainingMs: number; readonly done: () => void }
type Load = {
  readonly priority: Priority
  readonly perSecond: number
  readonly workMs: number
  readonly kind?: string
  readonly maxWaitMs?: number
}
type Outcome = { readonly priority: Priority; readonly admitted: boolean; readonly ms: number; readonly atMs: number }

/** A resource with a number of cores that its work shares: more work at once takes longer. Only the clock is not real. */
const createSimulation = ({ cores, max, seed = 1 }: { cores: number; max: number; seed?: number }) => {
  const clock = manualClock()
  const { below } = createRandom(seed)
  const random = () => below(1_000_000) / 1_000_000
  const jobs = new Set<Job>()
  const timers = new Set<{ readonly ms: number; readonly callback: () => void; dueMs: number }>()
  const world = { slowness: 1 }
  const admission: Admission = createAdmission({
    clock,
    max,
    every: (ms, callback) => {
      const timer = { ms, callback, dueMs: clock.monotonic() + ms }
      timers.add(timer)
      return () => void timers.delete(timer)
    },
  })
  const outcomes: Outcome[] = []
  const ask = ({ priority, workMs, kind = priority, maxWaitMs = 2_500 }: Omit<Load, 'perSecond'>) => {
    const atMs = clock.monotonic()
    const work = () =>
      new Promise<void>((done) => jobs.add({ remainingMs: workMs * world.slowness * (0.5 + random()), done }))
    const settle = (admitted: boolean) => outcomes.push({ priority, admitted, ms: clock.monotonic() - atMs, atMs })
    admission.run(priority, kind, maxWaitMs, work).then(
      () => settle(true),
      (error) => {
        if (!(error instanceof Overloaded)) throw error
        settle(false)
      },
    )
  }
  const tick = async (loads: readonly Load[]) => {
    clock.advance(tickMs)
    for (const timer of [...timers]) {
      if (clock.monotonic() < timer.dueMs) continue
      timer.dueMs += timer.ms
      timer.callback()
    }
    const progressMs = tickMs * Math.min(1, cores / jobs.size)
    for (const job of jobs) {
      job.remainingMs -= progressMs
      if (job.remainingMs > 0) continue
      jobs.delete(job)
      job.done()
    }
    for (const load of loads) if (random() < (load.perSecond * tickMs) / 1_000) ask(load)
    // Lets everything settle that this moment has caused.
    for (let turn = 0; turn < 12; turn += 1) await Promise.resolve()
  }
  return {
    admission,
    ask,
    world,
    under: () => jobs.size,
    /** The outcomes during this time. */
    run: async (seconds: number, ...loads: readonly Load[]): Promise<Outcome[]> => {
      const first = outcomes.length
      for (let ticks = (seconds * 1_000) / tickMs; ticks > 0; ticks -= 1) await tick(loads)
      return outcomes.slice(first)
    },
  }
}

const p99Of = (outcomes: readonly Outcome[], admitted: boolean) =>
  percentile(
    outcomes.flatMap((each) => (each.admitted === admitted ? [each.ms] : [])),
    0.99,
  )
const countOf = (outcomes: readonly Outcome[], priority: Priority, admitted: boolean) =>
  outcomes.filter((each) => each.priority === priority && each.admitted === admitted).length

describe('admission', () => {
  const read = { priority: 'read', workMs: 8 } as const
  /** Reads a second that two cores can do. */
  const capacity = 250

  test('keeps the P99 of admitted work at three times capacity within twice that without load, and refuses the rest at once', async () => {
    const { admission, run } = createSimulation({ cores: 2, max: 40 })
    const light = await run(20, { ...read, perSecond: 0.3 * capacity })
    expect(countOf(light, 'read', false)).toBe(0)
    // Until it is known to be no burst.
    const first = await run(3, { ...read, perSecond: 3 * capacity })
    expect(p99Of(first, true)).toBeLessThan(10 * p99Of(light, true))
    const triple = await run(20, { ...read, perSecond: 3 * capacity })
    expect(p99Of(triple, true)).toBeLessThan(2 * p99Of(light, true))
    expect(p99Of(triple, false)).toBeLessThan(10)
    // Refusals cost no throughput.
    expect(countOf(triple, 'read', true)).toBeGreaterThan(0.9 * 20 * capacity)
    expect([admission.shed, admission.overloaded]).toEqual([
      countOf(first, 'read', false) + countOf(triple, 'read', false),
      true,
    ])
    await run(3, { ...read, perSecond: 0.3 * capacity })
    const after = await run(10, { ...read, perSecond: 0.3 * capacity })
    expect([countOf(after, 'read', false), admission.overloaded]).toEqual([0, false])
  })

  test('of revocations is never refused, and they wait for no more than the work under way', async () => {
    const { run } = createSimulation({ cores: 2, max: 40 })
    await run(5, { ...read, perSecond: 0.3 * capacity })
    const revocation = { priority: 'revocation', workMs: 8, perSecond: 10 } as const
    await run(3, { ...read, perSecond: 3 * capacity })
    const outcomes = await run(20, { ...read, perSecond: 3 * capacity }, revocation)
    expect(countOf(outcomes, 'revocation', false)).toBe(0)
    expect(countOf(outcomes, 'revocation', true)).toBeGreaterThan(100)
    const revocations = outcomes.filter(({ priority }) => priority === 'revocation')
    expect(p99Of(revocations, true)).toBeLessThan(60)
  })

  test('goes to reads before other work, of which some is still done', async () => {
    const { run } = createSimulation({ cores: 2, max: 40 })
    const other = { priority: 'other', workMs: 8, perSecond: capacity } as const
    const outcomes = await run(20, { ...read, perSecond: 6 * capacity }, other)
    const reads = countOf(outcomes, 'read', true)
    const others = countOf(outcomes, 'other', true)
    expect(reads / (reads + others)).toBeGreaterThan(0.7)
    expect(others / (reads + others)).toBeGreaterThan(0.03)
  })

  test('goes to other work for one turn in eight between reads that wait', async () => {
    const admission = createAdmission({ clock: manualClock(), max: 1, every: () => () => {} })
    const begun: Priority[] = []
    const ends: (() => void)[] = []
    const ask = (priority: Priority) =>
      admission.run(priority, 'k', 1_000, () => {
        begun.push(priority)
        return new Promise<void>((end) => ends.push(end))
      })
    const all = [ask('other'), ask('other'), ask('other'), ...Array.from({ length: 20 }, () => ask('read'))]
    for (let each = 0; each < all.length; each += 1) {
      ends[each]?.()
      await all.at(0)
      for (let turn = 0; turn < 12; turn += 1) await Promise.resolve()
    }
    await Promise.all(all)
    expect(begun.flatMap((priority, at) => (priority === 'other' ? [at] : []))).toEqual([0, 8, 16])
  })

  test('serves a burst that takes up to half of the time that is left, and refuses none of it', async () => {
    const { ask, run } = createSimulation({ cores: 2, max: 40 })
    await run(5, { ...read, perSecond: 0.3 * capacity })
    for (let each = 0; each < 200; each += 1) ask(read)
    const during = await run(0.5, { ...read, perSecond: 3 * capacity })
    const outcomes = [...during, ...(await run(3))]
    expect(countOf(outcomes, 'read', true)).toBeGreaterThanOrEqual(500)
    expect(countOf(outcomes, 'read', false)).toBe(0)
  })

  test('refuses at once what would wait longer than it may', async () => {
    const { admission, ask, run } = createSimulation({ cores: 2, max: 40 })
    await run(5, { ...read, perSecond: 0.3 * capacity })
    for (let each = 0; each < 900; each += 1) ask(read)
    expect(countOf(await run(1.1), 'read', false)).toBe(0)
    for (let each = 0; each < 10; each += 1) ask({ ...read, maxWaitMs: 1_000 })
    const outcomes = await run(tickMs / 1_000)
    expect([countOf(outcomes, 'read', false) >= 10, admission.overloaded]).toEqual([true, true])
  })

  test('follows a resource that becomes three times as slow, and back', async () => {
    const { run, world } = createSimulation({ cores: 2, max: 40 })
    await run(5, { ...read, perSecond: 3 * capacity })
    world.slowness = 3
    await run(10, { ...read, perSecond: capacity })
    const slow = await run(10, { ...read, perSecond: capacity })
    expect(countOf(slow, 'read', true)).toBeGreaterThan((0.8 * 10 * capacity) / 3)
    world.slowness = 1
    await run(40, { ...read, perSecond: 3 * capacity })
    const fast = await run(10, { ...read, perSecond: 3 * capacity })
    expect(countOf(fast, 'read', true)).toBeGreaterThan(0.9 * 10 * capacity)
    expect(p99Of(fast, true)).toBeLessThan(2 * 1.5 * 8 * 1.5)
  })

  test('compares work with its own kind: slow work among quick work is no sign of load', async () => {
    const { admission, run } = createSimulation({ cores: 8, max: 40 })
    const quick = { priority: 'read', workMs: 2, kind: 'quick', perSecond: 500 } as const
    const slow = { priority: 'read', workMs: 60, kind: 'slow', perSecond: 40 } as const
    const outcomes = await run(20, quick, slow)
    expect(countOf(outcomes, 'read', false)).toBe(0)
    expect(admission.limit).toBeGreaterThan(3)
  })

  test('lets no more work be under way than its limit, and the limit does not exceed the connections', async () => {
    const { admission, ask, run, under } = createSimulation({ cores: 100, max: 5 })
    await run(5, { ...read, perSecond: 2_000 })
    for (let each = 0; each < 50; each += 1) ask(read)
    expect([admission.limit, admission.inFlight, under()]).toEqual([5, 5, 5])
  })

  test('begins with a quarter of the connections, and falls to two for work whose time alone is not known', async () => {
    const { admission, ask, run } = createSimulation({ cores: 2, max: 40 })
    expect(admission.limit).toBe(10)
    for (let each = 0; each < 60; each += 1) ask({ ...read, kind: `kind ${each % 20}` })
    await run(0.3)
    expect(admission.limit).toBe(2)
    // Work of another kind meets a limit that has risen by work that needs no core.
    const wide = createSimulation({ cores: 40, max: 40 })
    await wide.run(3, { ...read, perSecond: 6_000 })
    expect(wide.admission.limit).toBeGreaterThan(20)
    await wide.run(3, { ...read, kind: 'new', perSecond: 6_000 })
    expect(wide.admission.limit).toBeGreaterThan(10)
  })

  test('begins what waits, refusing none of it, where work failed because the resource is gone', async () => {
    const clock = manualClock()
    const admission = createAdmission({
      clock,
      max: 2,
      isGone: (error) => (error as Error).message === 'gone',
      every: () => () => {},
    })
    const failures: ((error: Error) => void)[] = []
    const work = () => new Promise<void>((_, reject) => failures.push(reject))
    const outcomes = Array.from({ length: 8 }, () =>
      admission.run('read', 'k', 1_000, work).catch((error: Error) => error.message),
    )
    expect([failures.length, admission.waiting]).toEqual([2, 6])
    failures[0]?.(new Error('other'))
    await outcomes[0]
    expect([failures.length, admission.waiting]).toEqual([3, 5])
    clock.advance(2_000)
    failures[1]?.(new Error('gone'))
    await outcomes[1]
    expect([failures.length, admission.waiting, admission.shed]).toEqual([8, 0, 0])
    for (const fail of failures) fail(new Error('gone'))
    expect(await Promise.all(outcomes)).toEqual(['other', ...Array(7).fill('gone')])
  })

  test('refuses work at the end of the time that it may wait, also where no work ends', async () => {
    const { admission, ask, run } = createSimulation({ cores: 2, max: 2 })
    for (let each = 0; each < 5; each += 1) ask({ ...read, workMs: 1_000_000, maxWaitMs: 500 })
    expect(countOf(await run(0.4), 'read', false)).toBe(0)
    expect(countOf(await run(0.2), 'read', false)).toBe(3)
    expect(admission.overloaded).toBe(true)
  })

  test('ends with work that fails', async () => {
    const { admission } = createSimulation({ cores: 1, max: 1 })
    await expect(admission.run('read', 'k', 1_000, () => Promise.reject(new Error('failed')))).rejects.toThrow('failed')
    expect([admission.inFlight, await admission.run('read', 'k', 1_000, async () => 1)]).toEqual([0, 1])
  })
})
