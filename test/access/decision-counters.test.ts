import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { createTally } from '../../src/access/cache/decision-counters.ts'
import { tiers } from '../../src/access/cache/tiered-loader.ts'

test('a decision counts for the tier its facts were fetched from when its caller was let in', () => {
  const tally = createTally()
  tally.countAhead('l3', 1)
  tally.count('l1')
  tally.count('l1')
  expect(tally.decisions).toEqual({ l1: 1, l2: 0, l3: 1, database: 0 })
})

test('one that fetched them anew all the same, as without memory, counts once', () => {
  const tally = createTally()
  for (let times = 0; times < 10; times += 1) {
    tally.countAhead('l2', 1)
    tally.count('l3')
  }
  tally.count('l1')
  expect(tally.decisions).toEqual({ l1: 1, l2: 0, l3: 10, database: 0 })
})

test('whatever comes in whatever order, the tiers together are the decisions made and none is below zero', () => {
  const step = fc.tuple(fc.boolean(), fc.constantFrom(...tiers), fc.integer({ min: 1, max: 200 }))
  fc.assert(
    fc.property(fc.array(step), (steps) => {
      const tally = createTally()
      let made = 0
      for (const [ahead, tier, number] of steps) {
        if (ahead) tally.countAhead(tier, number)
        else {
          tally.count(tier, number)
          made += number
        }
        const counted = Object.values(tally.decisions)
        expect(counted.every((some) => some >= 0)).toBe(true)
        expect(counted.reduce((sum, some) => sum + some, 0)).toBe(made)
      }
    }),
  )
})
