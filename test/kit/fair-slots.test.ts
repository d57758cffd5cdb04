import { describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { createDeadlines, DeadlinePassed } from '../../src/kit/deadline.ts'
import { createFairSlots, SlotsFull } from '../../src/kit/fair-slots.ts'

const createWorld = (limits: { slots: number; slotsPerOwner: number; maxWaiting: number }) => {
  const clock = manualClock()
  const startDeadline = createDeadlines(clock)
  const turns = createFairSlots(limits)
  /** `ada 1` and so on, in the order of their turns. */
  const served: string[] = []
  const refused: unknown[] = []
  const releases = new Map<string, () => void>()
  const take = (name: string, ms = 1_000) =>
    turns.take(name.split(' ')[0] ?? '', startDeadline(ms)).then(
      (release) => {
        served.push(name)
        releases.set(name, release)
      },
      (error: unknown) => {
        refused.push([name, (error as Error).constructor])
      },
    )
  const release = async (name: string) => {
    releases.get(name)?.()
    await Promise.resolve()
    await new Promise((resolve) => setTimeout(resolve, 0))
  }
  return { clock, turns, served, refused, take, release }
}

describe('turns', () => {
  test('give an owner no more slots than its share, also where others are free', async () => {
    const { turns, served, take, release } = createWorld({ slots: 3, slotsPerOwner: 2, maxWaiting: 10 })
    for (const name of ['ada 1', 'ada 2', 'ada 3', 'bea 1']) void take(name)
    await release('')
    expect([served, turns.inUse, turns.waiting]).toEqual([['ada 1', 'ada 2', 'bea 1'], 3, 1])
    await release('bea 1')
    expect(served).not.toContain('ada 3')
    await release('ada 1')
    expect([served.at(-1), turns.inUse, turns.waiting]).toEqual(['ada 3', 2, 0])
  })

  test('go to the owner with the fewest slots, then to the one that has waited longest since its last turn', async () => {
    const { served, take, release } = createWorld({ slots: 2, slotsPerOwner: 2, maxWaiting: 10 })
    for (const name of ['ada 1', 'ada 2', 'ada 3', 'ada 4', 'bea 1', 'bea 2', 'cem 1']) void take(name)
    await release('')
    expect(served).toEqual(['ada 1', 'ada 2'])
    await release('ada 1')
    await release('ada 2')
    expect(served.slice(2)).toEqual(['bea 1', 'ada 3'])
    await release('bea 1')
    await release('ada 3')
    await release('cem 1')
    expect(served.slice(4)).toEqual(['cem 1', 'bea 2', 'ada 4'])
  })

  test('that a full queue of one owner keeps from others are freed by its newest work', async () => {
    const { turns, served, refused, take, release } = createWorld({ slots: 1, slotsPerOwner: 1, maxWaiting: 3 })
    for (const name of ['ada 1', 'ada 2', 'ada 3', 'ada 4', 'ada 5', 'bea 1', 'bea 2']) void take(name)
    await release('')
    expect(refused.sort()).toEqual([
      ['ada 4', SlotsFull],
      ['ada 5', SlotsFull],
      ['bea 2', SlotsFull],
    ])
    expect([turns.waiting, turns.shed]).toEqual([3, 3])
    await release('ada 1')
    await release('ada 2')
    expect(served).toEqual(['ada 1', 'ada 2', 'bea 1'])
  })

  test('that do not come before the deadline are given to others', async () => {
    const { clock, turns, served, refused, take, release } = createWorld({ slots: 1, slotsPerOwner: 1, maxWaiting: 3 })
    void take('ada 1')
    const late = take('bea 1', 100)
    void take('cem 1')
    clock.advance(101)
    await late
    expect(refused).toEqual([['bea 1', DeadlinePassed]])
    await release('ada 1')
    expect([served, turns.inUse, turns.waiting, turns.shed]).toEqual([['ada 1', 'cem 1'], 1, 0, 1])
  })

  test('are released once, however often the release is called', async () => {
    const { turns, take, release } = createWorld({ slots: 2, slotsPerOwner: 2, maxWaiting: 3 })
    await take('ada 1')
    await take('ada 2')
    await release('ada 1')
    await release('ada 1')
    expect(turns.inUse).toBe(1)
  })
})
