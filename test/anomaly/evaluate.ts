/**
 * Judges the detector of anomalies by the seeded trace: which attackers are caught within 60 s of their first request, and which
 * benign principals are flagged. Plain thresholds, thresholds with the score of places, and half-space trees are run beside.
 *
 * Usage: bun test/anomaly/evaluate.ts [--seeds tuning|held-out] [--only NAME] [--alone] [--details]
 * `--alone`: the instances exchange nothing, as without Redis.
 */
import { parseArgs } from 'node:util'
import type { Judges } from '../../src/anomaly/detector.ts'
import { judge, judgePlace } from '../../src/anomaly/rules.ts'
import { attackKinds } from './events.ts'
import { createHalfSpaceJudge } from './half-space-judge.ts'
import { judgeFlags, type Result, replayTrace } from './replay.ts'
import { createTrace, heldOutSeeds, tuningSeeds } from './trace.ts'

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: 'tuning' },
    only: { type: 'string', default: '' },
    alone: { type: 'boolean', default: false },
    details: { type: 'boolean', default: false },
    requests: { type: 'string', default: '0.5' },
    signIns: { type: 'string', default: '0.5' },
  },
})

/** Another country within the life of a token. */
const plainPlace: Judges['judgePlace'] = () => [{ reason: 'session.two_places', strength: 1 }]
const limits = { requests: Number(values.requests), signIns: Number(values.signIns) }
const variants: readonly (readonly [string, () => Judges])[] = [
  ['thresholds', () => ({ judge, judgePlace: plainPlace })],
  ['thresholds, score of places', () => ({ judge, judgePlace })],
  ['half-space trees, score of places', () => ({ judge: createHalfSpaceJudge(7, limits), judgePlace })],
]

const seeds = values.seeds === 'held-out' ? heldOutSeeds : tuningSeeds
const percent = (part: number, whole: number) => `${((100 * part) / Math.max(1, whole)).toFixed(2)} %`
const sum = (figures: readonly number[]) => figures.reduce((total, each) => total + each, 0)

const report = (name: string, results: readonly Result[]) => {
  console.log(`\n${name}, ${values.seeds} seeds${values.alone ? ', without an exchange' : ''}`)
  let attackers = 0
  let caught = 0
  for (const attack of attackKinds) {
    const line = (['one', 'spread'] as const).map((how) => {
      const each = results.map((result) => result.caught[attack][how])
      const [all, found, late] = [each.map((c) => c.attackers), each.map((c) => c.caught), each.map((c) => c.late)].map(
        sum,
      )
      attackers += all ?? 0
      caught += found ?? 0
      const medians = each.map(({ medianMs }) => medianMs).toSorted((one, other) => one - other)
      return `${how} ${percent(found ?? 0, all ?? 0)} of ${all} (late ${late}, median ${((medians[medians.length >> 1] ?? 0) / 1_000).toFixed(0)} s)`
    })
    console.log(`  ${attack.padEnd(16)} ${line.join('   ')}`)
  }
  const flagged = results.flatMap(({ benign }) => benign.flagged)
  const principals = sum(results.map(({ benign }) => benign.principals))
  const users = sum(results.map((result) => result.users.principals))
  const flaggedUsers = sum(results.map((result) => result.users.flagged))
  console.log(`  recall ${percent(caught, attackers)}; lowest of a seed ${percent(lowestRecall(results), 1)}`)
  console.log(
    `  false positives ${percent(flagged.length, principals)} of ${principals} principals; of users ${percent(flaggedUsers, users)}`,
  )
  const habits = Map.groupBy(flagged, ({ habit }) => habit)
  console.log(`  by habit: ${[...habits].map(([habit, each]) => `${habit} ${each.length}`).join('; ')}`)
}

const lowestRecall = (results: readonly Result[]) =>
  Math.min(
    ...results.map(({ caught }) => {
      const all = attackKinds.flatMap((attack) => [caught[attack].one, caught[attack].spread])
      return sum(all.map((each) => each.caught)) / sum(all.map((each) => each.attackers))
    }),
  )

for (const [name, newJudges] of variants) {
  if (!name.includes(values.only)) continue
  const results = seeds.map((seed) => {
    const trace = createTrace(seed)
    const result = judgeFlags(trace, replayTrace(trace, newJudges, !values.alone))
    if (values.details)
      console.log(
        seed,
        trace.events.length,
        trace.userRequests,
        result.benign.flagged.map(({ habit }) => habit).join('; '),
      )
    return result
  })
  report(name, results)
}
