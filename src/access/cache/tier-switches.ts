import type { InvalidationKeys } from '../invalidation/model.ts'

export const flagNames = ['l1', 'l2', 'l3', 'warm_up'] as const
export type FlagName = (typeof flagNames)[number]
export type FlagValues = Readonly<Record<FlagName, boolean>>

/**
 * Switches an operator turns while everything runs: the tiers `l1` (memory), `l2` (Redis) and `l3` (effective rows; without
 * it access is worked out from the base tables), and `warm_up`.
 *
 * Promise: a change is felt on every instance when the call that made it returns, because it travels as every other; an
 * instance that was cut off reads them before it believes its memory again, one that starts before it answers anything.
 * Until then one that is cut off goes by the `l3` it last heard of; tiers above it are not used without a lease.
 */
export type Flags = {
  /** The live values; whoever holds this sees them change. */
  readonly current: FlagValues
  /** Takes note of a change, if it is one of these. */
  onInvalidated(touched: InvalidationKeys): void
  /** Reads them anew, after anything may have been missed; by another connection than usual where one is given. */
  reload(from?: FlagSource): Promise<void>
}

export type FlagSource = () => Promise<FlagValues>

const prefix = 'flag:'

/** `start`: what they are to begin with. */
export const createFlags = (read: FlagSource, start: FlagValues): Flags => {
  const current: Record<FlagName, boolean> = { ...start }
  let changes = 0
  let reads = 0
  /** The one that `current` is from. */
  let lastRead = 0
  const reload = async (from: FlagSource = read) => {
    // What is heard meanwhile is newer than what is being read, and so is what a read found that began later.
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
    onInvalidated: (touched) => {
      if (touched === 'everything') {
        void reload().catch(() => {})
        return
      }
      for (const key of touched as readonly string[]) {
        if (!key.startsWith(prefix)) continue
        const [name, value] = key.slice(prefix.length).split('=')
        changes += 1
        current[name as FlagName] = value === 't' || value === 'true'
      }
    },
    reload,
  }
}
