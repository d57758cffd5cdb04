import { newRedis } from '../crowd.ts'
import { type Measured, measure } from '../load/send.ts'
import { checkPlan, type Mix, prepareMix, startMix } from '../mix.ts'
import type { Finding } from '../report.ts'
import type { Scenario } from './scenario.ts'

const connections = 16
const perSecond = 500
const rounds = 3

type Tier = { readonly name: string; readonly off: readonly string[]; readonly redis: boolean; readonly below?: number }

const tiers: readonly Tier[] = [
  { name: 'L2 (Redis)', off: ['l1'], redis: true, below: 5 },
  { name: 'L3 (effective access in Postgres)', off: ['l1', 'l2'], redis: false },
  { name: 'database (base tables)', off: ['l1', 'l2', 'l3'], redis: false },
]

const setFlags = async ({ sql }: Mix, off: readonly string[]): Promise<void> => {
  for (const name of ['l1', 'l2', 'l3']) {
    await sql`
      insert into flags (name, enabled) values (${name}, ${!off.includes(name)})
          on conflict (name) do update set enabled = excluded.enabled`
  }
}

/** Checks that memory does not answer: with its tiers switched off from the fastest on, at a fixed rate and as fast as it goes. */
export const cold: Scenario = async ({ seconds }) => {
  const mix = await prepareMix()
  const sides = []
  const findings: Finding[] = []
  for (const { name, off, redis, below } of tiers) {
    await setFlags(mix, off)
    const velro = await startMix(mix, redis ? await newRedis() : {})
    const plan = checkPlan(mix, { asker: 'token', connections, seconds })
    await measure(velro.url, plan)
    const steady: Measured[] = []
    const fast: Measured[] = []
    for (let round = 0; round < rounds; round += 1) {
      steady.push(await measure(velro.url, { ...plan, perSecond }, mix.watch(velro)))
      fast.push(await measure(velro.url, plan, mix.watch(velro)))
    }
    await velro.stop()
    sides.push({ name: `${name}, ${perSecond} a second`, runs: steady }, { name: `${name}, closed loop`, runs: fast })
    const target = below === undefined ? {} : { target: { below } }
    findings.push(
      {
        what: `${name}: P95 at ${perSecond} a second`,
        unit: 'ms',
        values: steady.map(({ p95Ms }) => p95Ms),
        ...target,
      },
      { what: '  checks a second', unit: 'count', values: fast.map((run) => run.perSecond) },
    )
  }
  return { about: 'checks of people at work that memory does not answer', sides, findings }
}
