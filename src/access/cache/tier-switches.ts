import type { InvalidationKeys } from '../invalidation/model.ts'

export const flagNames = ['l1', 'l2', 'l3', 'warm_up'] as const
export type FlagName = (typeof flagNames)[number]
export type FlagValues = Readonly<Record<FlagName, boolean>>

/**
 * Switches that an operator turns at run time: the tiers `l1` (memory), `l2` (Redis) and `l3` (effective rows; without them
 * access is derived from the base tables), and `warm_up`.
 *
 * Guarantee: a change is in effect on every instance when the call that made it returns, because it travels as an
 * invalidation event. A reconnected instance reads the switches before it gets a lease, and a starting one before it
 * serves. Degrades: a disconnected instance keeps the last `l3` it received; without a lease it uses neither `l1` nor `l2`.
 */
export type Flags = {
  /** The current values. The object is always the same one, and changes in place. */
  readonly current: FlagValues
  /** Applies the keys that are switches. */
  onInvalidated(keys: InvalidationKeys): void
  /** Reads all switches again, after an invalidation may have been missed; through `from` if given. */
  reload(from?: FlagSource): Promise<void>
}

export type FlagSource = () => Promise<FlagValues>

const prefix = 'flag:'

/** `start`: the values until the first read or change. */
export const createFlags = (read: FlagSource, start: FlagValues): Flags => {
  const current: Record<FlagName, boolean> = { ...start }
  let changes = 0
  let reads = 0
  /** Number of the read that `current` came from. */
  let lastRead = 0
  const reload = async (from: FlagSource = read) => {
    // A change received during the read is newer than its result, and so is the result of a read that began later.
    for (let before = -1; before !== changes; ) {
      before = changes
      reads += 1
      const read = reads
      const values = await from()
      if (before !== changes || read < lastRead) continue
      lastRead = read
      Object.assign(current, values)
    }
  }
  return {
    current,
    onInvalidated: (keys) => {
      if (keys === 'everything') {
        void reload().catch(() => {})
        return
      }
      for (const key of keys as readonly string[]) {
        if (!key.startsWith(prefix)) continue
        const [name, value] = key.slice(prefix.length).split('=')
        changes += 1
        current[name as FlagName] = value === 't' || value === 'true'
      }
    },
    reload,
  }
}
