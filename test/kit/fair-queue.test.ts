import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { createFairQueue, type FairQueue } from '../../src/kit/fair-queue.ts'

/** Takes and ends one item after the other. */
const takeAll = (queue: FairQueue<string>): string[] => {
  const taken: string[] = []
  for (let next = queue.take(); next !== undefined; next = queue.take()) {
    taken.push(next)
    queue.remove(next)
  }
  return taken
}

/** Items whose key is their first letter. */
const addAll = (queue: FairQueue<string>, items: readonly string[]) => {
  for (const item of items) queue.add(item, [item.charAt(0)])
  return queue
}

describe('a fair queue', () => {
  test('takes items of a key in turns with those of others, in the order in which they were added', () => {
    const queue = addAll(createFairQueue<string>(), ['a1', 'a2', 'a3', 'b1', 'c1', 'b2'])
    expect(takeAll(queue)).toEqual(['a1', 'b1', 'c1', 'a2', 'b2', 'a3'])
  })

  test('takes the first item of a key as the next but one, also behind 1,000 of another', () => {
    const flood = Array.from({ length: 1_000 }, (_, at) => `a${at}`)
    const queue = addAll(createFairQueue<string>(), flood)
    expect([queue.take(), queue.take()]).toEqual(['a0', 'a1'])
    addAll(queue, ['b1', 'b2'])
    expect(takeAll(queue).slice(0, 4)).toEqual(['b1', 'a2', 'b2', 'a3'])
  })

  test('lets an item wait behind the items of each of its keys', () => {
    const queue = createFairQueue<string>()
    queue.add('address 1, account x', ['address 1', 'account x'])
    queue.add('address 2, account x', ['address 2', 'account x'])
    queue.add('address 3, account x', ['address 3', 'account x'])
    queue.add('address 1, account y', ['address 1', 'account y'])
    queue.add('address 4, account z', ['address 4', 'account z'])
    expect(takeAll(queue)).toEqual([
      'address 1, account x',
      'address 4, account z',
      'address 2, account x',
      'address 1, account y',
      'address 3, account x',
    ])
  })

  test('counts an item that was taken until it ends', () => {
    const queue = addAll(createFairQueue<string>(), ['a1'])
    expect(queue.take()).toBe('a1')
    addAll(queue, ['a2', 'b1'])
    expect([queue.take(), queue.take()]).toEqual(['b1', 'a2'])
    for (const item of ['a1', 'a2', 'b1']) queue.remove(item)
    addAll(queue, ['a3', 'b2'])
    expect(takeAll(queue)).toEqual(['a3', 'b2'])
  })

  test('gives the turn of a removed item to the next one of its key', () => {
    const queue = addAll(createFairQueue<string>(), ['a1', 'a2', 'b1', 'b2', 'b3'])
    for (const item of ['a2', 'a2', 'unknown']) queue.remove(item)
    addAll(queue, ['a3'])
    expect(takeAll(queue)).toEqual(['a1', 'b1', 'b2', 'a3', 'b3'])
  })

  test('passes over rounds whose items were all removed', () => {
    const queue = addAll(createFairQueue<string>(), ['a1', 'a2', 'a3', 'a4'])
    for (const item of ['a2', 'a3']) queue.remove(item)
    expect(takeAll(queue)).toEqual(['a1', 'a4'])
  })

  test('takes an item of a busy key even while items of new keys never stop', () => {
    const queue = addAll(createFairQueue<string>(), ['a1', 'a2'])
    const taken: (string | undefined)[] = []
    for (let round = 0; round < 1_100; round += 1) {
      queue.add(`new ${round}`, [`new ${round}`])
      taken.push(queue.take())
    }
    expect(taken).toContain('a2')
  })

  test('takes no more of a key at once than may be, and keeps no other item waiting for it', () => {
    const queue = addAll(createFairQueue<string>({ takenPerKey: 2 }), ['a1', 'a2', 'a3', 'a4', 'b1'])
    expect([queue.isFull(['a']), queue.isFull(['b']), queue.isFull(['a', 'b'])]).toEqual([true, false, true])
    expect([queue.take(), queue.take(), queue.take(), queue.take()]).toEqual(['a1', 'b1', 'a2', undefined])
    expect(queue.size).toBe(2)
    addAll(queue, ['c1'])
    queue.remove('a1')
    expect([queue.take(), queue.take(), queue.take()]).toEqual(['c1', 'a3', undefined])
    queue.remove('a4')
    queue.remove('a2')
    expect([queue.take(), queue.size]).toEqual([undefined, 0])
  })

  test('lets keys with work outside the rounds not pass others again and again', () => {
    const queue = addAll(createFairQueue<string>({ takenPerKey: 1 }), ['a1', 'a2', 'a3', 'a4', 'b1', 'b2', 'b3', 'c1'])
    expect([queue.take(), queue.take()]).toEqual(['a1', 'b1'])
    queue.remove('a1')
    expect(queue.take()).toBe('c1')
  })

  test('finds the newest item of the key with the most, if that has two more than each of the given keys', () => {
    const queue = addAll(createFairQueue<string>({ takenPerKey: 1 }), ['a1', 'b1', 'a2', 'a3'])
    const find = (...keys: string[]) => queue.findDisplaceable(keys)
    expect([find('c'), find('a'), find('b'), find('c', 'a')]).toEqual(['a3', undefined, 'a3', undefined])
    queue.remove('a3')
    expect([find('c'), find('b')]).toEqual(['a2', undefined])
    // Those that were taken do not wait any more.
    queue.take()
    expect(find('c')).toBeUndefined()
  })

  test('ends all items that wait, and none that were taken', () => {
    const queue = addAll(createFairQueue<string>({ takenPerKey: 1 }), ['a1', 'a2', 'a3', 'b1'])
    queue.take()
    expect([queue.removeWaiting(), queue.size, queue.take()]).toEqual([['a2', 'a3', 'b1'], 0, undefined])
    expect(queue.isFull(['a'])).toBe(true)
    queue.remove('a1')
    expect(queue.isFull(['a'])).toBe(false)
  })

  test('spends no more on a turn, however many items wait or were removed', () => {
    const perTurn = (items: number): number => {
      const queue = createFairQueue<number>({ takenPerKey: 2 })
      for (let item = 0; item < items; item += 1) queue.add(item, ['busy'])
      // Of the key with many items, only the last and the first are left.
      for (let item = 10; item < items - 1; item += 1) queue.remove(item)
      for (let item = 0; item < items; item += 1) queue.add(items + item, [`key ${item}`])
      const startedMs = performance.now()
      for (let next = queue.take(); next !== undefined; next = queue.take()) queue.remove(next)
      return (performance.now() - startedMs) / items
    }
    perTurn(2_000)
    // With a cost that grows with the queue the ratio would be 50.
    const ratios = Array.from({ length: 5 }, () => perTurn(50_000) / perTurn(1_000))
    expect(Math.min(...ratios)).toBeLessThan(12)
  })

  test('takes each item once, in turn, and no more of a key at once than may be, in any order of operations', () => {
    const operation = fc.oneof(
      fc.record({ kind: fc.constant('add' as const), address: fc.nat(3), account: fc.nat(3) }),
      fc.record({ kind: fc.constant('take' as const) }),
      fc.record({ kind: fc.constant('remove' as const), index: fc.nat(30) }),
    )
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 80 }), fc.integer({ min: 1, max: 4 }), (operations, takenPerKey) => {
        const queue = createFairQueue<number>({ takenPerKey })
        const waiting = new Map<number, readonly string[]>()
        const taken = new Map<number, readonly string[]>()
        const takenOf = (key: string) => [...taken.values()].filter((keys) => keys.includes(key)).length
        for (const [item, step] of operations.entries()) {
          if (step.kind === 'add') {
            const keys = [`address ${step.address}`, `account ${step.account}`]
            queue.add(item, keys)
            waiting.set(item, keys)
          } else if (step.kind === 'take') {
            const next = queue.take()
            if (next === undefined) continue
            const keys = waiting.get(next) ?? []
            // Of items with the same keys, the one that was added first.
            expect([...waiting].find(([, each]) => each.join() === keys.join())?.[0]).toBe(next)
            waiting.delete(next)
            taken.set(next, keys)
            for (const key of keys) expect(takenOf(key)).toBeLessThanOrEqual(takenPerKey)
          } else {
            queue.remove(step.index)
            waiting.delete(step.index)
            taken.delete(step.index)
          }
          expect(queue.size).toBe(waiting.size)
        }
        // Once the taken items have ended, all that wait are taken.
        for (const item of taken.keys()) queue.remove(item)
        for (let next = queue.take(); next !== undefined; next = queue.take()) {
          expect(waiting.delete(next)).toBe(true)
          queue.remove(next)
        }
        expect([...waiting.keys(), queue.size]).toEqual([0])
      }),
    )
  })
})
