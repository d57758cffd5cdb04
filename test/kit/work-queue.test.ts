import { expect, test } from 'bun:test'
import { manualClock, systemClock } from '../../src/kit/clock.ts'
import { createDeadlines, DeadlinePassed } from '../../src/kit/deadline.ts'
import { createWorkQueue, QueueFull } from '../../src/kit/work-queue.ts'

const patient = () => createDeadlines(systemClock)(60_000)
const outcomeOf = (work: Promise<unknown>) => work.catch((error: unknown) => error)

/** Work that ends when the test calls `end`, and records that it began. */
const createWork = () => {
  const begun: string[] = []
  const ends = new Map<string, () => void>()
  const start = (name: string) => () => {
    begun.push(name)
    return new Promise<string>((resolve) => ends.set(name, () => resolve(name)))
  }
  /** Resolves when the next work has begun. */
  const end = async (name: string) => {
    ends.get(name)?.()
    await Bun.sleep(0)
  }
  return { begun, start, end }
}

test('no more work runs at once than may, and the place of finished work goes to the requester without one', async () => {
  const queue = createWorkQueue({ atOnce: 2, maxWaiting: 10 })
  const { begun, start, end } = createWork()
  const all = ['a1', 'a2', 'a3', 'b1'].map((name) => queue.run([name.charAt(0)], patient(), start(name)))
  expect([begun, queue.waiting]).toEqual([['a1', 'a2'], 2])
  await end('a1')
  expect(await all[0]).toBe('a1')
  expect(begun).toEqual(['a1', 'a2', 'a3'])
  const late = queue.run(['c'], patient(), start('c1'))
  await end('a2')
  await all[1]
  await end('a3')
  await all[2]
  expect(begun).toEqual(['a1', 'a2', 'a3', 'b1', 'c1'])
  await end('b1')
  await end('c1')
  expect(await Promise.all([...all, late])).toEqual(['a1', 'a2', 'a3', 'b1', 'c1'])
})

test('beyond those that may wait work is refused, the newest of the busiest first', async () => {
  const queue = createWorkQueue({ atOnce: 1, maxWaiting: 2 })
  const { begun, start, end } = createWork()
  const running = queue.run(['a'], patient(), start('a1'))
  const waiting = queue.run(['a'], patient(), start('a2'))
  const displaced = outcomeOf(queue.run(['a'], patient(), start('a3')))
  expect(await outcomeOf(queue.run(['a'], patient(), start('a4')))).toBeInstanceOf(QueueFull)
  expect(() => queue.refuseIfFull(['a'])).toThrow(QueueFull)
  queue.refuseIfFull(['b'])
  const quiet = queue.run(['b'], patient(), start('b1'))
  expect(await displaced).toBeInstanceOf(QueueFull)
  for (const name of ['a1', 'a2', 'b1']) await end(name)
  expect(await Promise.all([running, waiting, quiet])).toEqual(['a1', 'a2', 'b1'])
  expect(begun).toEqual(['a1', 'a2', 'b1'])
})

test('work that throws passes its place on', async () => {
  const queue = createWorkQueue({ atOnce: 1, maxWaiting: 2 })
  const failing = outcomeOf(queue.run(['a'], patient(), async () => Promise.reject(new Error('failed'))))
  const next = queue.run(['a'], patient(), async () => 'next')
  expect([String(await failing), await next]).toEqual(['Error: failed', 'next'])
})

test('work whose deadline passes while it waits is never started and frees its place', async () => {
  const clock = manualClock()
  const queue = createWorkQueue({ atOnce: 1, maxWaiting: 1 })
  const { begun, start, end } = createWork()
  const running = queue.run(['a'], patient(), start('a1'))
  const late = outcomeOf(queue.run(['b'], createDeadlines(clock)(100), start('b1')))
  clock.advance(101)
  expect(await late).toBeInstanceOf(DeadlinePassed)
  expect(queue.waiting).toBe(0)
  const next = queue.run(['c'], patient(), start('c1'))
  await end('a1')
  await running
  await end('c1')
  expect([await next, begun]).toEqual(['c1', ['a1', 'c1']])
})

test('closing refuses what waits and what comes after', async () => {
  const queue = createWorkQueue({ atOnce: 1, maxWaiting: 1 })
  const { start, end } = createWork()
  const running = queue.run(['a'], patient(), start('a1'))
  const waiting = outcomeOf(queue.run(['b'], patient(), start('b1')))
  queue.close()
  expect(await waiting).toBeInstanceOf(QueueFull)
  expect(await outcomeOf(queue.run(['c'], patient(), start('c1')))).toBeInstanceOf(QueueFull)
  await end('a1')
  expect(await running).toBe('a1')
})
