import { newRedis } from '../crowd.ts'
import { interleave, type Runs, ratiosTo } from '../interleave.ts'
import { type Measured, measure } from '../load/send.ts'
import { prepareMix, startMix } from '../mix.ts'
import { prdPlan } from '../prd-mix.ts'
import type { Finding } from '../report.ts'
import { startBareElysia } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const connections = 50
const preheatSeconds = 5

const p99Of = ({ runs }: Runs, kind: string): number[] => runs.map(({ kinds }) => kinds?.[kind]?.p99Ms ?? Number.NaN)

const kindFindings = (side: Runs, kinds: readonly string[]): Finding[] =>
  kinds.map((kind) => ({ what: `P99 of ${kind}`, unit: 'ms', values: p99Of(side, kind) }))

const share = ({ runs }: Runs, field: 'l1Share' | 'cachedShare'): number[] =>
  runs.flatMap(({ costs }) => costs?.[field] ?? [])

const kinds = ['check', 'me', 'list', 'change', 'access change', 'login']

/** The load of a working day as fast as it goes. */
export const mixed: Scenario = async ({ seconds }) => {
  const mix = await prepareMix()
  const velro = await startMix(mix, await newRedis())
  const bare = await startBareElysia()
  const plan = prdPlan(mix, { connections, seconds })
  const checks = prdPlan(mix, { connections, seconds, checksOnly: true })
  await measure(velro.url, { ...plan, phases: [{ connections, seconds: preheatSeconds }] })
  const runs = await interleave(
    { name: 'bare Elysia, the checks', run: () => measure(bare.url, checks, { pid: bare.pid }) },
    { velro: { name: 'Velro, mixed load', run: () => measure(velro.url, plan, mix.watch(velro)) } },
  )
  return {
    about: `90 % checks, 5 % me, 3 % lists, 1.9 % changes, 0.1 % logins at ${connections} connections`,
    sides: [runs.velro, runs.control],
    findings: [
      { what: 'throughput / bare Elysia with the checks', unit: 'ratio', values: ratiosTo(runs.control, runs.velro) },
      ...kindFindings(runs.velro, kinds),
      {
        what: 'decisions without Postgres',
        unit: 'share',
        values: share(runs.velro, 'cachedShare'),
        target: { atLeast: 0.95 },
      },
    ],
  }
}

const users = 10_000
const crowdSize = { users, teams: 1_000, projects: 4_000, generations: 100_000 }
const crowdRounds = 2

/** Everybody has a connection and sends one request a second, of the load of a working day. */
export const users10000: Scenario = async ({ seconds }) => {
  const mix = await prepareMix(crowdSize)
  // The world has more facts than the 10,000 entries of the default.
  const velro = await startMix(mix, { ...(await newRedis()), L1_MAX_ENTRIES: '300000', L1_MAX_MEGABYTES: '512' })
  const bare = await startBareElysia()
  const shape = { connections: users, perSecond: users, personal: true, seconds: Math.max(10, seconds) }
  const plan = prdPlan(mix, { ...shape, warmUpSeconds: 60 })
  const checks = prdPlan(mix, { ...shape, warmUpSeconds: 2, checksOnly: true })
  const velroRuns: Measured[] = []
  const bareRuns: Measured[] = []
  for (let round = 0; round < crowdRounds; round += 1) {
    bareRuns.push(await measure(bare.url, checks, { pid: bare.pid }))
    velroRuns.push(await measure(velro.url, plan, mix.watch(velro)))
  }
  const velroSide = { name: 'Velro, mixed load', runs: velroRuns }
  const bareSide = { name: 'bare Elysia, the checks', runs: bareRuns }
  const timesBare = velroRuns.map(
    ({ kinds: seen }, round) => (seen?.['check']?.p99Ms ?? Number.NaN) / (bareRuns[round]?.p99Ms ?? Number.NaN),
  )
  return {
    about: `${users} people with a connection each, one request a second each, latency from when a request was due`,
    sides: [velroSide, bareSide],
    findings: [
      { what: 'P99 of check', unit: 'ms', values: p99Of(velroSide, 'check'), target: { below: 75 } },
      { what: '  / P99 of bare Elysia at the same rate', unit: 'ratio', values: timesBare },
      { what: 'P99 of me', unit: 'ms', values: p99Of(velroSide, 'me'), target: { below: 50 } },
      ...kindFindings(velroSide, ['list', 'change', 'access change', 'login']),
      {
        what: 'decisions without Postgres',
        unit: 'share',
        values: share(velroSide, 'cachedShare'),
        target: { atLeast: 0.95 },
      },
    ],
  }
}
