import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { createDecisionCounters } from '../../src/access/cache/decision-counters.ts'
import { tiers } from '../../src/access/cache/tiered-loader.ts'

test('a decision is attributed to the tier that its facts were prefetched from', () => {
  const decisionCounters = createDecisionCounters()
  decisionCounters.recordPrefetch('l3', 1)
  decisionCounters.count('l1')
  decisionCounters.count('l1')
  expect(decisionCounters.decisions).toEqual({ l1: 1, l2: 0, l3: 1, database: 0 })
})

test('a decision that loads its prefetched facts again, as without memory, is counted once', () => {
  const decisionCounters = createDecisionCounters()
  for (let times = 0; times < 10; times += 1) {
    decisionCounters.recordPrefetch('l2', 1)
    decisionCounters.count('l3')
  }
  decisionCounters.count('l1')
  expect(decisionCounters.decisions).toEqual({ l1: 1, l2: 0, l3: 10, database: 0 })
})

test('in any order of prefetches and decisions, the tiers add up to the decisions and none is negative', () => {
  const step = fc.tuple(fc.boolean(), fc.constantFrom(...tiers), fc.integer({ min: 1, max: 200 }))
  fc.assert(
    fc.property(fc.array(step), (steps) => {
      const decisionCounters = createDecisionCounters()
      let made = 0
      for (const [ahead, tier, number] of steps) {
        if (ahead) decisionCounters.recordPrefetch(tier, number)
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
