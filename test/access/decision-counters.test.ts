import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { createDecisionCounters } from '../../src/access/cache/decision-counters.ts'
import { tiers } from '../../src/access/cache/tiered-loader.ts'

test('a decision counts for the tier its facts were fetched from when its caller was let in', () => {
  const decisionCounters = createDecisionCounters()
  decisionCounters.attributePrefetch('l3', 1)
  decisionCounters.count('l1')
  decisionCounters.count('l1')
  expect(decisionCounters.decisions).toEqual({ l1: 1, l2: 0, l3: 1, database: 0 })
})

test('one that fetched them anew all the same, as without memory, counts once', () => {
  const decisionCounters = createDecisionCounters()
  for (let times = 0; times < 10; times += 1) {
    decisionCounters.attributePrefetch('l2', 1)
    decisionCounters.count('l3')
  }
  decisionCounters.count('l1')
  expect(decisionCounters.decisions).toEqual({ l1: 1, l2: 0, l3: 10, database: 0 })
})

test('whatever comes in whatever order, the tiers together are the decisions made and none is below zero', () => {
  const step = fc.tuple(fc.boolean(), fc.constantFrom(...tiers), fc.integer({ min: 1, max: 200 }))
  fc.assert(
    fc.property(fc.array(step), (steps) => {
      const decisionCounters = createDecisionCounters()
      let made = 0
      for (const [ahead, tier, number] of steps) {
        if (ahead) decisionCounters.attributePrefetch(tier, number)
        else {
          decisionCounters.count(tier, number)
          made += number
        }
        const counted = Object.values(decisionCounters.decisions)
        expect(counted.every((some) => some >= 0)).toBe(true)
        expect(counted.reduce((sum, some) => sum + some, 0)).toBe(made)
      }
    }),
  )
})
