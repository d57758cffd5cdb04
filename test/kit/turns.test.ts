import { expect, test } from 'bun:test'
import { createTurns } from '../../src/kit/turns.ts'

test('one computation at a time gets a turn of the event loop, in the order of arrival', async () => {
  const scheduled: (() => void)[] = []
  const turns = createTurns((run) => void scheduled.push(run))
  const log: string[] = []
  const compute = async (name: string, slices: number) => {
    for (let slice = 1; slice <= slices; slice += 1) {
      await turns.next()
      log.push(`${name}${slice}`)
    }
  }
  const computed = Promise.all([compute('a', 3), compute('b', 2), compute('c', 1)])
  const perTurn: string[] = []
  while (scheduled.length > 0) {
    expect(scheduled).toHaveLength(1)
    scheduled.shift()?.()
    // Lets the computation run its slice and ask for the next one.
    await Promise.resolve()
    await Promise.resolve()
    perTurn.push(log.splice(0).join())
  }
  await computed
  expect(perTurn).toEqual(['a1', 'b1', 'c1', 'a2', 'b2', 'a3'])
})
