import type { Measured } from './load/send.ts'

export type Side = { readonly name: string; readonly run: () => Promise<Measured> }
export type Runs = { readonly name: string; readonly runs: readonly Measured[] }

const rounds = 3

/**
 * Measures the control before, between and after the rounds of the others (A B C A B C A), so that other load of the machine
 * affects all alike. Compare only results of one such run.
 */
export const interleave = async <K extends string>(
  control: Side,
  others: Readonly<Record<K, Side>>,
): Promise<Readonly<Record<K | 'control', Runs>>> => {
  const runs = new Map<Side, Measured[]>([control, ...Object.values<Side>(others)].map((side) => [side, []]))
  const measure = async (side: Side) => runs.get(side)?.push(await side.run())
  await measure(control)
  for (let round = 0; round < rounds; round += 1) {
    for (const side of Object.values<Side>(others)) await measure(side)
    await measure(control)
  }
  const named = Object.entries<Side>({ ...others, control }).map(([key, side]) => [
    key,
    { name: side.name, runs: runs.get(side) ?? [] },
  ])
  return Object.fromEntries(named)
}

const atRound = (control: Runs, round: number, of: (run: Measured) => number): number =>
  [control.runs[round], control.runs[round + 1]].reduce((sum, run) => sum + (run ? of(run) : Number.NaN), 0) / 2

/** The rate of each round as a share of the mean of the controls just before and just after it. */
export const ratiosTo = (control: Runs, { runs }: Runs): number[] =>
  runs.map(({ perSecond }, round) => perSecond / atRound(control, round, (run) => run.perSecond))

const cpuOf = ({ costs }: Measured) => costs?.cpuUs ?? Number.NaN

/**
 * The processor time of a request of the control, in each round, as a share of that of the other side. Other load of the
 * machine hardly changes it.
 */
export const cpuRatiosTo = (control: Runs, { runs }: Runs): number[] =>
  runs.map((run, round) => atRound(control, round, cpuOf) / cpuOf(run))
