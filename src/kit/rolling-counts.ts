import type { WindowLength } from './rolling-windows.ts'

type Sample<C extends string> = { readonly step: number; readonly values: Readonly<Record<C, number>> }

/**
 * How much counters grew in the last minute, in the last hour, or in any other window. `read` gives the counters, which never fall.
 *
 * Guarantee, where `tick` is called in every step: a window holds what was counted in its last `ms` less one step, and nothing
 * from before its `ms`; of an instance that is younger, all. Costs a reading of the counters for each step.
 */
export class RollingCounts<C extends string, N extends string> {
  readonly #read: () => Readonly<Record<C, number>>
  readonly #windows: ReadonlyMap<N, { readonly length: WindowLength; samples: Sample<C>[] }>

  constructor(lengths: Readonly<Record<N, WindowLength>>, read: () => Readonly<Record<C, number>>, nowMs: number) {
    this.#read = read
    const entries = Object.entries(lengths) as [N, WindowLength][]
    const values = { ...read() }
    this.#windows = new Map(
      entries.map(([name, length]) => [
        name,
        { length, samples: [{ step: Math.floor(nowMs / length.stepMs), values }] },
      ]),
    )
  }

  tick(nowMs: number): void {
    let values: Readonly<Record<C, number>> | undefined
    for (const window of this.#windows.values()) {
      const { ms, stepMs } = window.length
      const step = Math.floor(nowMs / stepMs)
      if (window.samples.at(-1)?.step === step) continue
      values ??= { ...this.#read() }
      const oldest = step - ms / stepMs
      window.samples = [...window.samples.filter((sample) => sample.step > oldest), { step, values }]
    }
  }

  read(name: N, nowMs: number): Record<C, number> {
    this.tick(nowMs)
    const now = this.#read()
    const before = this.#windows.get(name)?.samples[0]?.values
    const names = Object.keys(now) as C[]
    return Object.fromEntries(names.map((each) => [each, now[each] - (before?.[each] ?? 0)])) as Record<C, number>
  }
}
