import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { manualClock, systemClock } from '../../src/kit/clock.ts'
import { createDeadlines, DeadlinePassed } from '../../src/kit/deadline.ts'
import { createFairSlots, SlotsFull } from '../../src/kit/fair-slots.ts'

const settle = () => new Promise((resolve) => setTimeout(resolve, 0))

const createWorld = (limits: { slots: number; slotsPerKey?: number; maxWaiting: number }) => {
  const clock = manualClock()
  const startDeadline = createDeadlines(clock)
  const slots = createFairSlots(limits)
  /** `ada 1` and so on, in the order of their turns. */
  const served: string[] = []
  const refused: unknown[] = []
  const releases = new Map<string, () => void>()
  const take = (name: string, ms = 1_000) =>
    slots.take([name.split(' ')[0] ?? ''], startDeadline(ms)).then(
      (release) => {
        served.push(name)
        releases.set(name, release)
      },
      (error: unknown) => {
        refused.push([name, (error as Error).constructor])
      },
    )
  const takeAll = async (...names: readonly string[]) => {
    for (const name of names) void take(name)
    await settle()
  }
  const release = async (name: string) => {
    releases.get(name)?.()
    await settle()
  }
  return { clock, slots, served, refused, take, takeAll, release }
}

describe('slots', () => {
  test('of one owner are no more than its share, also where others are free', async () => {
    const { slots, served, takeAll, release } = createWorld({ slots: 3, slotsPerKey: 2, maxWaiting: 10 })
    await takeAll('ada 1', 'ada 2', 'ada 3', 'bea 1')
    expect([served, slots.inFlight, slots.waiting]).toEqual([['ada 1', 'ada 2', 'bea 1'], 3, 1])
    await release('bea 1')
    expect(served).not.toContain('ada 3')
    await release('ada 1')
    expect([served.at(-1), slots.inFlight, slots.waiting]).toEqual(['ada 3', 2, 0])
  })

  test('go to owners in turns, those without one first', async () => {
    const { served, takeAll, release } = createWorld({ slots: 2, slotsPerKey: 2, maxWaiting: 10 })
    await takeAll('ada 1', 'ada 2', 'ada 3', 'ada 4', 'bea 1', 'bea 2', 'cem 1')
    for (const name of ['ada 1', 'ada 2', 'bea 1', 'cem 1', 'bea 2', 'ada 3', 'ada 4']) await release(name)
    expect(served).toEqual(['ada 1', 'ada 2', 'bea 1', 'cem 1', 'bea 2', 'ada 3', 'ada 4'])
  })

  test('go to the first work of an owner next, while 1,000 of another wait', async () => {
    const { served, takeAll, release } = createWorld({ slots: 2, maxWaiting: 1_100 })
    await takeAll(...Array.from({ length: 1_002 }, (_, at) => `ada ${at}`), 'bea 1')
    expect(served).toEqual(['ada 0', 'ada 1'])
    await release('ada 0')
    expect(served.at(-1)).toBe('bea 1')
  })

  test('that a full queue of one owner keeps from others are freed by its newest work', async () => {
    const { slots, served, refused, takeAll, release } = createWorld({ slots: 1, slotsPerKey: 1, maxWaiting: 3 })
    await takeAll('ada 1', 'ada 2', 'ada 3', 'ada 4', 'ada 5', 'bea 1', 'bea 2')
    expect(refused.sort()).toEqual([
      ['ada 4', SlotsFull],
      ['ada 5', SlotsFull],
      ['bea 2', SlotsFull],
    ])
    expect([slots.waiting, slots.shed]).toEqual([3, 3])
    for (const name of ['ada 1', 'bea 1', 'ada 2']) await release(name)
    expect(served).toEqual(['ada 1', 'bea 1', 'ada 2', 'ada 3'])
  })

  test('are free for others, while as many as may wait for the share of one owner', async () => {
    const { slots, served, takeAll } = createWorld({ slots: 3, slotsPerKey: 1, maxWaiting: 2 })
    await takeAll('ada 1', 'ada 2', 'ada 3', 'bea 1')
    slots.refuseIfFull(['cem'])
    expect(() => slots.refuseIfFull(['ada'])).toThrow(SlotsFull)
    expect([served, slots.waiting]).toEqual([['ada 1', 'bea 1'], 2])
  })

  test('that do not come before the deadline are given to others', async () => {
    const { clock, slots, served, refused, take, takeAll, release } = createWorld({ slots: 1, maxWaiting: 3 })
    await takeAll('ada 1')
    const late = take('bea 1', 100)
    await takeAll('cem 1')
    clock.advance(101)
    await late
    expect(refused).toEqual([['bea 1', DeadlinePassed]])
    expect(slots.waiting).toBe(1)
    await release('ada 1')
    expect([served, slots.inFlight, slots.waiting, slots.shed]).toEqual([['ada 1', 'cem 1'], 1, 0, 1])
  })

  test('are not given to work whose deadline has passed, noticed or not', async () => {
    const { clock, slots, served, refused, take, takeAll, release } = createWorld({ slots: 2, maxWaiting: 3 })
    await take('ada 0', 0)
    expect([refused, slots.inFlight]).toEqual([[['ada 0', DeadlinePassed]], 0])
    await takeAll('ada 1', 'ada 2')
    const late = take('bea 1', 100)
    await takeAll('cem 1')
    clock.advance(101)
    await release('ada 1')
    await late
    expect([served, slots.inFlight, slots.waiting]).toEqual([['ada 1', 'ada 2', 'cem 1'], 2, 0])
  })

  test('keep work in its place that work with a passed deadline would take', async () => {
    const { slots, refused, takeAll, take } = createWorld({ slots: 1, maxWaiting: 2 })
    await takeAll('ada 1', 'ada 2', 'ada 3')
    await take('bea 1', 0)
    expect([refused, slots.waiting]).toEqual([[['bea 1', DeadlinePassed]], 2])
  })

  test('are released once, however often the release is called', async () => {
    const { slots, takeAll, release } = createWorld({ slots: 2, maxWaiting: 3 })
    await takeAll('ada 1', 'ada 2')
    await release('ada 1')
    await release('ada 1')
    expect(slots.inFlight).toBe(1)
  })

  test('are passed on by work that ends or throws', async () => {
    const slots = createFairSlots({ slots: 1, maxWaiting: 2 })
    const deadline = createDeadlines(systemClock)(60_000)
    const failing = slots.run(['ada'], deadline, () => Promise.reject(new Error('failed'))).catch(String)
    const next = slots.run(['ada'], deadline, async () => slots.inFlight)
    expect([await failing, await next, slots.inFlight]).toEqual(['Error: failed', 1, 0])
  })

  test('are refused to waiting and to further work, once they are closed', async () => {
    const { slots, refused, takeAll, release } = createWorld({ slots: 1, slotsPerKey: 1, maxWaiting: 5 })
    await takeAll('ada 1', 'ada 2', 'ada 3', 'bea 1')
    slots.close()
    await takeAll('cem 1')
    expect(refused.sort()).toEqual(['ada 2', 'ada 3', 'bea 1', 'cem 1'].map((name) => [name, SlotsFull]))
    expect(() => slots.refuseIfFull(['dan'])).toThrow(SlotsFull)
    await release('ada 1')
    expect([slots.inFlight, slots.waiting]).toEqual([0, 0])
  })

  test('are all free at the end, in any order of work, deadlines and releases', async () => {
    const operation = fc.oneof(
      fc.record({ kind: fc.constant('take' as const), owner: fc.nat(4), ms: fc.integer({ min: 0, max: 60 }) }),
      fc.record({ kind: fc.constant('release' as const), index: fc.nat(6) }),
      fc.record({ kind: fc.constant('wait' as const), ms: fc.integer({ min: 1, max: 30 }) }),
    )
    const limits = { slots: 3, slotsPerKey: 2, maxWaiting: 6 }
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { maxLength: 60 }), async (operations) => {
        const clock = manualClock()
        const startDeadline = createDeadlines(clock)
        const slots = createFairSlots(limits)
        const held: { owner: string; release: () => void }[] = []
        const works: Promise<unknown>[] = []
        for (const step of operations) {
          if (step.kind === 'wait') clock.advance(step.ms)
          else if (step.kind === 'release') held.splice(step.index, 1)[0]?.release()
          else {
            const owner = `owner ${step.owner}`
            const taken = slots.take([owner], startDeadline(step.ms)).then((release) => held.push({ owner, release }))
            works.push(taken.catch(() => {}))
          }
          for (let count = 0; count < 5; count += 1) await Promise.resolve()
          expect(slots.inFlight).toBeLessThanOrEqual(limits.slots)
          expect(slots.waiting).toBeLessThanOrEqual(limits.maxWaiting)
          for (const { owner } of held) {
            expect(held.filter((each) => each.owner === owner).length).toBeLessThanOrEqual(limits.slotsPerKey)
          }
        }
        slots.close()
        await Promise.all(works)
        for (const { release } of held) release()
        expect([slots.inFlight, slots.waiting]).toEqual([0, 0])
      }),
      { numRuns: 200 },
    )
  })
})
