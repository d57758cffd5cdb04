import { type FlagName, type FlagValues, flagNames } from '../../access/cache/tier-switches.ts'
import type { Queryable, TransactionSql } from '../../platform/postgres.ts'

export const createTierFlagStore = (sql: Queryable) => ({
  /** All flags. A flag that was never set is on. */
  list: async (): Promise<FlagValues> => {
    const rows = await sql<{ name: FlagName; enabled: boolean }[]>`select name, enabled from flags`
    const known = new Map(rows.map(({ name, enabled }) => [name, enabled]))
    return Object.fromEntries(flagNames.map((name) => [name, known.get(name) ?? true])) as FlagValues
  },

  /** Sets the given flags, always in the same order: concurrent calls do not deadlock. */
  set: async (tx: TransactionSql, values: Partial<FlagValues>, by: string): Promise<void> => {
    const rows = flagNames.flatMap((name) => {
      const enabled = values[name]
      return enabled === undefined ? [] : [{ name, enabled, updated_by: by }]
    })
    await tx`
      insert into flags ${tx(rows)}
          on conflict (name) do update
         set enabled = excluded.enabled, updated_by = excluded.updated_by, updated_at = now()`
  },
})

export type TierFlagStore = ReturnType<typeof createTierFlagStore>
