import type { Measured } from './oha.ts'

export type Side = { readonly name: string; readonly run: () => Promise<Measured> }
export type Runs = { readonly name: string; readonly runs: readonly Measured[] }

const rounds = 4

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

/** The rate of each round as a share of the mean of the controls just before and just after it. */
export const ratiosTo = (control: Runs, { runs }: Runs): number[] =>
  runs.map(({ perSecond }, round) => {
    const before = control.runs[round]?.perSecond ?? Number.NaN
    const after = control.runs[round + 1]?.perSecond ?? Number.NaN
    return (2 * perSecond) / (before + after)
  })
