import { seedPassword } from '../../../src/boot/seed/large-world.ts'
import { createRandom } from '../../../src/kit/random.ts'
import { type Measured, measure, type Requests } from '../load/send.ts'
import { checkPlan, createDraft, type Mix, prepareMix, startMix } from '../mix.ts'
import { loginPath } from '../people.ts'
import type { Finding } from '../report.ts'
import { type Server, startReconstruction } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const rounds = 2
const connections = 50
const loginsInFlight = 32
const besides = { connections: 10, perSecond: 50 }
/** How long the logins run before the checks beside them. */
const leadS = 0.5

const loginPlan = ({ people }: Mix, seconds: number): Requests => {
  const random = createRandom(23)
  const draft = createDraft([])
  const emails = [...people.values()].map(({ email }) => email)
  const lane = Array.from({ length: 1_000 }, () => {
    const body = JSON.stringify({ email: random.pick(emails), password: seedPassword })
    return draft.add('login', { method: 'POST', path: loginPath, body })
  })
  return draft.plan([lane], [{ connections: loginsInFlight, seconds }])
}

/**
 * Velro beside a reconstruction of the backend that it replaces, on the same database: checks by a service, and checks at a
 * fixed rate while people log in.
 */
export const replaced: Scenario = async ({ seconds }) => {
  const mix = await prepareMix()
  const servers = { velro: await startMix(mix, { DB_CONNECTIONS: '40' }), old: await startReconstruction(mix.env) }
  const names = { velro: 'Velro', old: 'reconstruction' } as const
  const checks = checkPlan(mix, { asker: 'key', connections, seconds })
  const slow = { ...checks, phases: [{ connections: besides.connections, seconds }], perSecond: besides.perSecond }
  const logins = loginPlan(mix, seconds + 2 * leadS)
  const measureSide = async (server: Server) => {
    const checked = await measure(server.url, checks, { pid: server.pid, sql: mix.sql })
    const [loggedIn, beside] = await Promise.all([
      measure(server.url, logins),
      Bun.sleep(leadS * 1_000).then(() => measure(server.url, slow)),
    ])
    return { checked, loggedIn, beside }
  }
  const runs: Record<keyof typeof servers, Awaited<ReturnType<typeof measureSide>>[]> = { velro: [], old: [] }
  await measure(servers.velro.url, checks)
  for (let round = 0; round < rounds; round += 1) {
    for (const side of ['old', 'velro'] as const) runs[side].push(await measureSide(servers[side]))
  }
  const findings: Finding[] = []
  const both = (what: string, unit: 'count' | 'ms' | 'us', of: (run: (typeof runs.velro)[number]) => number) => {
    findings.push(
      { what, unit, values: runs.velro.map(of) },
      { what: '  reconstruction', unit, values: runs.old.map(of) },
    )
  }
  both('checks a second', 'count', ({ checked }) => checked.perSecond)
  both('P99 of a check', 'ms', ({ checked }) => checked.p99Ms)
  both('server CPU of a check', 'us', ({ checked }) => checked.costs?.cpuUs ?? Number.NaN)
  both('logins a second', 'count', ({ loggedIn }) => loggedIn.perSecond)
  both('P99 of a login', 'ms', ({ loggedIn }) => loggedIn.p99Ms)
  both('P99 of a check beside the logins', 'ms', ({ beside }) => beside.p99Ms)
  const side = (of: keyof typeof servers, what: 'checked' | 'loggedIn' | 'beside', name: string) => ({
    name: `${names[of]}, ${name}`,
    runs: runs[of].map((run): Measured => run[what]),
  })
  return {
    about: `checks by a service at ${connections} connections, ${loginsInFlight} logins in flight, ${besides.perSecond} checks a second beside them`,
    sides: (['velro', 'old'] as const).flatMap((of) => [
      side(of, 'checked', 'checks'),
      side(of, 'loggedIn', 'logins'),
      side(of, 'beside', 'checks beside logins'),
    ]),
    findings,
  }
}
