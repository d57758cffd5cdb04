/** One call that changes something: from when it was sent to when it was answered nobody knows which state it finds. */
export type Change<S> = {
  readonly name: string
  readonly sentMs: number
  answeredMs: number
  /** Where it was done, for whoever has to find out why. */
  where?: string
  /** Undefined while what the call makes has no name yet. */
  to: S | undefined
}

/**
 * The states something went through, as whoever changes it knows them. One change at a time.
 *
 * Promise: `possible` leaves no state out in which a look that began and ended at these moments may have found it. An
 * undefined among them is a state that cannot be told.
 */
export type History<S> = {
  /** As of the last change. */
  readonly state: S
  begin(name: string, sentMs: number, to?: S): Change<S>
  possible(fromMs: number, toMs: number): readonly (S | undefined)[]
  /** The last change that was answered by then. */
  lastBefore(ms: number): Change<S> | undefined
}

/** Longer than any request takes, at any rate of changes. */
const kept = 400

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
      if (changes.length > kept) changes.shift()
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
