import { cpuRatiosTo, interleave, ratiosTo } from '../interleave.ts'
import { measure, type Requests } from '../load/send.ts'
import { type Asker, checkPlan, type Mix, prepareMix, startMix } from '../mix.ts'
import { PeerMissing } from '../peers.ts'
import { explainPath } from '../people.ts'
import type { Finding } from '../report.ts'
import { startVelroIn } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const connections = 50
const preheatSeconds = 5

const plans = (mix: Mix, seconds: number): readonly (readonly [string, Requests])[] => {
  const plan = (asker: Asker, path?: string) =>
    checkPlan(mix, { asker, connections, seconds, ...(path !== undefined && { path, count: 20_000 }) })
  return [
    ['own tokens', plan('token')],
    ['service key', plan('key')],
    ['explain', plan('token', explainPath)],
  ]
}

/**
 * This checkout beside another one, in turns, with the same requests. Both serve from the schema of this checkout, so the
 * other one must run on it. `settings` are environment variables of this side only.
 */
export const beside: Scenario = async ({ seconds, other }) => {
  if (other === undefined) throw new PeerMissing('--beside FOLDER names the checkout to compare with')
  const mix = await prepareMix()
  const servers = { this: await startMix(mix, other.settings), other: await startVelroIn(other.folder, mix.env) }
  const preheat = plans(mix, preheatSeconds)
  for (const { url } of Object.values(servers)) {
    for (const [, plan] of preheat) await measure(url, plan)
  }
  const sides = []
  const findings: Finding[] = []
  for (const [name, plan] of plans(mix, seconds)) {
    const runs = await interleave(
      { name: `other, ${name}`, run: () => measure(servers.other.url, plan, { pid: servers.other.pid }) },
      { this: { name: `this, ${name}`, run: () => measure(servers.this.url, plan, { pid: servers.this.pid }) } },
    )
    sides.push(runs.this, runs.control)
    findings.push(
      { what: `${name}: throughput / other`, unit: 'ratio', values: ratiosTo(runs.control, runs.this) },
      { what: '  CPU of other / of this', unit: 'ratio', values: cpuRatiosTo(runs.control, runs.this) },
    )
  }
  return { about: `checks at ${connections} connections, and the same to the checkout beside it`, sides, findings }
}
