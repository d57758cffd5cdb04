import { type Measured, measure } from '../load/send.ts'
import { checkPlan, prepareMix, startMix } from '../mix.ts'
import type { Finding } from '../report.ts'
import { type Server, startBareElysia } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const counts = [100, 1_000, 5_000, 10_000]
const rounds = 2

/** Each number of connections in a closed loop, on Velro and on Elysia alone in turns, with that number of processes. */
const connectionsOn =
  (processes: number): Scenario =>
  async ({ seconds }) => {
    const mix = await prepareMix()
    const velro = await startMix(mix, processes > 1 ? { WEB_CONCURRENCY: String(processes), DB_CONNECTIONS: '24' } : {})
    const bare = await startBareElysia(processes)
    const forSeconds = Math.max(5, seconds)
    const run = (server: Server, connections: number): Promise<Measured> =>
      measure(
        server.url,
        { ...checkPlan(mix, { asker: 'token', connections, seconds: forSeconds }), warmUpSeconds: 2 },
        server === velro ? (processes > 1 ? { pid: velro.pid, sql: mix.sql } : mix.watch(velro)) : { pid: bare.pid },
      )
    await run(velro, 100)
    const sides = []
    const findings: Finding[] = []
    for (const connections of counts) {
      const velroRuns: Measured[] = []
      const bareRuns: Measured[] = []
      for (let round = 0; round < rounds; round += 1) {
        bareRuns.push(await run(bare, connections))
        velroRuns.push(await run(velro, connections))
      }
      const ratios = (of: (run: Measured) => number) =>
        velroRuns.map((each, round) => of(each) / of(bareRuns[round] ?? each))
      const name = `${connections.toLocaleString('en')} connections`
      sides.push({ name: `Velro, ${name}`, runs: velroRuns }, { name: `bare Elysia, ${name}`, runs: bareRuns })
      findings.push(
        {
          what: `${name}: throughput / bare Elysia`,
          unit: 'ratio',
          values: ratios(({ perSecond }) => perSecond),
          target: { atLeast: 0.5 },
        },
        { what: '  P95 / bare Elysia', unit: 'ratio', values: ratios(({ p95Ms }) => p95Ms), target: { below: 2 } },
        {
          what: '  statements of a request',
          unit: 'share',
          values: velroRuns.map(({ costs }) => costs?.statements ?? Number.NaN),
          target: { below: 0.005 },
        },
        {
          what: '  peak of resident memory',
          unit: 'MB',
          values: velroRuns.map(({ costs }) => costs?.peakMb ?? Number.NaN),
          target: { below: 250 },
        },
      )
    }
    return {
      about: `checks as people at work send them, closed loop, ${processes === 1 ? 'one process' : `${processes} processes`}`,
      sides,
      findings,
    }
  }

export const connections = connectionsOn(1)
export const processes = connectionsOn(2)
