import { type Slice, sliceMs } from '../load/plan.ts'
import { type Measured, measure } from '../load/send.ts'
import { checkPlan, prepareMix, startMix } from '../mix.ts'
import type { Scenario } from './scenario.ts'

const rounds = 2

/** Seconds from slice `from` on until each of the slices that follow is as fast as before, by its slowest answer. */
const secondsUntilCalm = (slices: readonly Slice[], from: number, calmMs: number): number => {
  const last = slices.findLastIndex(
    ({ slowestMs, errors }, index) => index >= from && (slowestMs > calmMs || errors > 0),
  )
  return last < 0 ? 0 : ((last + 1 - from) * sliceMs) / 1_000
}

const countErrors = ({ errors }: Measured) => Object.values(errors).reduce((total, count) => total + count, 0)

const few = 100
const many = 10_000
const seconds = { before: 3, burst: 8, after: 8 } as const
/** Slower than this no answer is at a few connections on a server that has recovered, on a machine that does other work too. */
const calmMs = 100

/** From a few connections to ten thousand and back: how soon it is as before. */
export const burst: Scenario = async () => {
  const mix = await prepareMix()
  const velro = await startMix(mix)
  await measure(velro.url, checkPlan(mix, { asker: 'token', connections: few, seconds: 3 }))
  const plan = {
    ...checkPlan(mix, { asker: 'token', connections: few, seconds: 1 }),
    phases: [
      { connections: few, seconds: seconds.before },
      { connections: many, seconds: seconds.burst },
      { connections: few, seconds: seconds.after },
    ],
  }
  const runs: Measured[] = []
  for (let round = 0; round < rounds; round += 1) runs.push(await measure(velro.url, plan, mix.watch(velro)))
  const end = ((seconds.before + seconds.burst) * 1_000) / sliceMs
  const rateOf = (slices: readonly Slice[] = []) =>
    slices.reduce((total, { answered }) => total + answered, 0) / ((slices.length * sliceMs) / 1_000)
  return {
    about: `${few} connections, then ${many} for ${seconds.burst} s, then ${few}`,
    sides: [{ name: 'Velro', runs }],
    findings: [
      {
        what: `after the burst: seconds until no answer takes ${calmMs} ms`,
        unit: 'count',
        values: runs.map(({ slices = [] }) => secondsUntilCalm(slices, end, calmMs)),
        target: { below: 2.01 },
      },
      {
        what: 'throughput from 2 s after the burst / before it',
        unit: 'ratio',
        values: runs.map(
          ({ slices = [] }) =>
            rateOf(slices.slice(end + 2_000 / sliceMs)) / rateOf(slices.slice(0, (seconds.before * 1_000) / sliceMs)),
        ),
      },
      { what: 'errors', unit: 'count', values: runs.map(countErrors), target: { below: 1 } },
      {
        what: 'statements of a request',
        unit: 'share',
        values: runs.map(({ costs }) => costs?.statements ?? Number.NaN),
      },
    ],
  }
}

const startConnections = 1_000
const startSeconds = 8

/** A thousand connections at once on a server that has just said that it is ready, and whose memory is empty. */
export const burstAtStart: Scenario = async () => {
  const mix = await prepareMix()
  const runs: Measured[] = []
  for (let round = 0; round < rounds; round += 1) {
    const velro = await startMix(mix)
    const plan = checkPlan(mix, { asker: 'token', connections: startConnections, seconds: startSeconds })
    // No warm-up: the connections are opened while it is measured.
    runs.push(await measure(velro.url, { ...plan, warmUpSeconds: 0 }, mix.watch(velro)))
    await velro.stop()
  }
  return {
    about: `${startConnections} connections on an instance that has just started`,
    sides: [{ name: 'Velro', runs }],
    findings: [
      {
        what: 'seconds until no answer takes a second',
        unit: 'count',
        values: runs.map(({ slices = [] }) => secondsUntilCalm(slices, 0, 1_000)),
        target: { below: 2.01 },
      },
      {
        what: 'slowest answer',
        unit: 'ms',
        values: runs.map(({ slices = [] }) => Math.max(...slices.map(({ slowestMs }) => slowestMs))),
      },
      { what: 'errors', unit: 'count', values: runs.map(countErrors), target: { below: 1 } },
      {
        what: 'statements of a request',
        unit: 'share',
        values: runs.map(({ costs }) => costs?.statements ?? Number.NaN),
      },
    ],
  }
}
