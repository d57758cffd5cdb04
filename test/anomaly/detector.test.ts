import { expect, test } from 'bun:test'
import { judge, judgePlace } from '../../src/anomaly/rules.ts'
import { attackKinds } from './events.ts'
import { judgeFlags, replayTrace } from './replay.ts'
import { createTrace, heldOutSeeds, tuningSeeds, userRequests } from './trace.ts'

const newJudges = () => ({ judge, judgePlace })
const trace = createTrace(heldOutSeeds[0] ?? 0)

test('a trace has 50,000 requests of 1,000 users and 40 attackers of each kind, half of them on one instance', () => {
  expect(trace.userRequests).toBe(userRequests)
  expect(trace.actors.filter(({ benign }) => benign === 'user')).toHaveLength(1_000)
  for (const attack of attackKinds) {
    const attackers = trace.actors.filter((actor) => actor.attack === attack)
    expect(attackers.filter(({ isSpread }) => isSpread)).toHaveLength(20)
    expect(attackers.filter(({ isSpread }) => !isSpread)).toHaveLength(20)
  }
  expect(tuningSeeds.filter((each) => heldOutSeeds.includes(each))).toEqual([])
})

test('on a held-out seed 95 % of the attackers are caught within 60 s, and 1 % of the benign principals are flagged at most', () => {
  const { caught, benign } = judgeFlags(trace, replayTrace(trace, newJudges))
  const all = attackKinds.flatMap((attack) => [caught[attack].one, caught[attack].spread])
  const total = (member: 'attackers' | 'caught') => all.reduce((sum, each) => sum + each[member], 0)
  expect(total('caught') / total('attackers')).toBeGreaterThanOrEqual(0.95)
  expect(benign.flagged.length / benign.principals).toBeLessThanOrEqual(0.01)
}, 60_000)
