/** What an instance reports of one key, and asks about it. */
export type Report = {
  readonly budget: string
  readonly id: string
  readonly windowMs: number
  readonly limit: number
  /** Units to take. 0: only report and read. */
  readonly cost: number
  /** Takes as much of the cost as there is. Else, and in an exchange of several reports, all of it or nothing. */
  readonly isPartial: boolean
  /** Units admitted here and not reported yet: pairs of age in slots, and units. */
  readonly admitted: readonly (readonly [age: number, units: number])[]
  /** Requests refused here and not reported yet. */
  readonly refused: number
}

export type Answer = {
  /** Units of all instances in the window, with those of the report and, where they were taken, its cost. */
  readonly total: number
  readonly taken: number
  /** 0: the whole cost fits, or for a cost of 0 one unit. Else in how long the next unit or the whole cost will. */
  readonly retryAfterMs: number
}

/** A key that has no units left. */
export type LimitedKey = {
  readonly budget: string
  readonly id: string
  readonly limit: number
  readonly used: number
  readonly refused: number
  readonly untilMs: number
}

/**
 * How instances share the units that they have admitted. `exchange` adds those that are reported. Then it takes the costs of all
 * reports, or of none if one of them exceeds its limit. It does not reject. Undefined: there was no answer in time, so the
 * outcome is unknown.
 */
export type Exchange = {
  exchange(reports: readonly Report[], withinMs: number): Promise<readonly Answer[] | undefined>
  /** False: `exchange` would fail at once. Cheap. */
  isAvailable(): boolean
  /** Changes when reported units may have been lost: another server, or another start of it. Undefined while not available. */
  readonly epoch: string | undefined
  /** Deletes the units of a key, on this side of all instances. */
  forget(budget: string, id: string): Promise<boolean>
  /** The keys without units left; undefined where they are not known. */
  list(limit: number): Promise<readonly LimitedKey[] | undefined>
}
