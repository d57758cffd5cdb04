import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { createFairQueue, type FairQueue } from '../../src/kit/fair-queue.ts'

const takeAll = (queue: FairQueue<string>): string[] => {
  const taken: string[] = []
  for (let next = queue.take(); next !== undefined; next = queue.take()) taken.push(next)
  return taken
}

test('items of a key take turns with those of others, in the order in which they were added', () => {
  const queue = createFairQueue<string>(10)
  for (const item of ['a1', 'a2', 'a3', 'b1', 'c1', 'b2']) queue.add(item, [item.charAt(0)])
  expect(takeAll(queue)).toEqual(['a1', 'b1', 'c1', 'a2', 'b2', 'a3'])
})

test('an item waits behind the items of each of its keys', () => {
  const queue = createFairQueue<string>(10)
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

test('an item added while others of its key are taken one by one is due after one of them', () => {
  const queue = createFairQueue<string>(10)
  for (const item of ['a1', 'a2', 'a3', 'a4']) queue.add(item, ['a'])
  expect([queue.take(), queue.take()]).toEqual(['a1', 'a2'])
  queue.add('b1', ['b'])
  queue.add('b2', ['b'])
  expect(takeAll(queue)).toEqual(['b1', 'a3', 'b2', 'a4'])
})

test('a full queue takes an item of a quiet key in place of the newest of the busiest', () => {
  const queue = createFairQueue<string>(4)
  for (const item of ['a1', 'b1', 'a2', 'a3']) queue.add(item, [item.charAt(0)])
  expect([queue.accepts(['c']), queue.accepts(['a']), queue.accepts(['b'])]).toEqual([true, false, true])
  expect(queue.add('c1', ['c'])).toEqual({ displaced: 'a3' })
  expect(queue.add('d1', ['d'])).toEqual({ displaced: 'a2' })
  expect(queue.size).toBe(4)
  expect(takeAll(queue)).toEqual(['a1', 'b1', 'c1', 'd1'])
})

test('a full queue refuses an item whose key has as many as the busiest', () => {
  const queue = createFairQueue<string>(2)
  for (const item of ['a1', 'b1']) queue.add(item, [item.charAt(0)])
  for (const key of ['a', 'b', 'c']) expect([queue.accepts([key]), queue.add(`${key}2`, [key])]).toEqual([false, false])
  expect(takeAll(queue)).toEqual(['a1', 'b1'])
})

test('a removed item gives its turn to the next one of its key', () => {
  const queue = createFairQueue<string>(10)
  for (const item of ['a1', 'a2', 'b1', 'b2']) queue.add(item, [item.charAt(0)])
  queue.remove('a2')
  queue.remove('a2')
  queue.remove('unknown')
  queue.add('a3', ['a'])
  expect(takeAll(queue)).toEqual(['a1', 'b1', 'b2', 'a3'])
})

test('an item of a busy key is taken even while items of new keys never stop', () => {
  const queue = createFairQueue<string>(8)
  queue.add('a1', ['a'])
  queue.add('a2', ['a'])
  const taken: (string | undefined)[] = []
  for (let round = 0; round < 40; round += 1) {
    queue.add(`new ${round}`, [`new ${round}`])
    taken.push(queue.take())
  }
  expect(taken).toContain('a2')
})

test('whatever is added, taken and removed, each item leaves once and no more wait than may', () => {
  const operation = fc.oneof(
    fc.record({ kind: fc.constant('add' as const), address: fc.nat(3), account: fc.nat(3) }),
    fc.record({ kind: fc.constant('take' as const) }),
    fc.record({ kind: fc.constant('remove' as const), index: fc.nat(30) }),
  )
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 80 }), (operations) => {
      const queue = createFairQueue<number>(6)
      const waiting = new Map<number, string>()
      for (const [item, step] of operations.entries()) {
        if (step.kind === 'add') {
          const keys = [`address ${step.address}`, `account ${step.account}`]
          const accepted = queue.accepts(keys)
          const added = queue.add(item, keys)
          expect(added !== false).toBe(accepted)
          if (added === false) expect(waiting.size).toBe(6)
          else {
            if (added.displaced !== undefined) expect(waiting.delete(added.displaced)).toBe(true)
            waiting.set(item, keys.join())
          }
        } else if (step.kind === 'take') {
          const taken = queue.take()
          expect(taken === undefined).toBe(waiting.size === 0)
          if (taken !== undefined) {
            // Of items with the same keys, the one that was added first.
            const first = [...waiting].find(([, keys]) => keys === waiting.get(taken))?.[0]
            expect(taken).toBe(first as number)
            waiting.delete(taken)
          }
        } else {
          queue.remove(step.index)
          waiting.delete(step.index)
        }
        expect(queue.size).toBe(waiting.size)
        expect(queue.size).toBeLessThanOrEqual(6)
      }
    }),
  )
})
