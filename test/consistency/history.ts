/** One change of a fixture. Between `sentMs` and `answeredMs` a request may see either state. */
export type Change<S> = {
  readonly name: string
  readonly sentMs: number
  answeredMs: number
  /** The instance and the try that made it, for the report. */
  where?: string
  /** Undefined until the answer gives the id of the new resource. */
  to: S | undefined
}

/**
 * The states of a fixture over time, recorded by its only writer.
 *
 * Guarantee: `possible` contains every state that a request sent and answered at these moments may have seen. Undefined
 * among them stands for a state that is not known (yet, or any more).
 */
export type History<S> = {
  /** The state after the last change. */
  readonly state: S
  begin(name: string, sentMs: number, to?: S): Change<S>
  possible(fromMs: number, toMs: number): readonly (S | undefined)[]
  /** The last change answered before this moment. */
  lastBefore(ms: number): Change<S> | undefined
}

/** More changes than a fixture sees during any request. */
const maxChanges = 400

export const createHistory = <S>(first: S): History<S> => {
  const changes: Change<S>[] = [
    { name: 'made', sentMs: Number.NEGATIVE_INFINITY, answeredMs: Number.NEGATIVE_INFINITY, to: first },
  ]
  return {
    get state() {
      const last = changes.at(-1)?.to
      if (last === undefined) throw new Error('A change is under way')
      return last
    },
    begin: (name, sentMs, to) => {
      const change: Change<S> = { name, sentMs, answeredMs: Number.POSITIVE_INFINITY, to }
      changes.push(change)
      if (changes.length > maxChanges) changes.shift()
      return change
    },
    possible: (fromMs, toMs) => {
      const states: (S | undefined)[] = []
      for (let at = changes.length - 1; at >= 0; at -= 1) {
        const change = changes[at] as Change<S>
        if (change.sentMs <= toMs) states.push(change.to)
        if (change.answeredMs < fromMs) return states
      }
      return [...states, undefined]
    },
    lastBefore: (ms) => changes.findLast(({ answeredMs }) => answeredMs < ms),
  }
}
