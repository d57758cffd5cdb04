import type { Queryable } from '../../platform/postgres.ts'
import type { ListedType } from '../policy/matrix.ts'

/** A user, a resource, and an estimate of how often the user asked about it. */
export type SampledPair = {
  readonly userId: string
  readonly type: ListedType
  readonly id: string
  readonly hits: number
}

/** Rows that survive a purge, by decayed frequency: more than any instance prefetches. */
const maxRows = 50_000

export const createAccessFrequencyStore = (sql: Queryable) => ({
  /**
   * Adds hits to the decayed frequency of each pair, in one statement. Rows are locked in key order, so that instances that
   * write the same rows cannot deadlock.
   */
  add: async (pairs: readonly SampledPair[]): Promise<void> => {
    await sql`
      insert into access_heat as h (user_id, resource_type, resource_id, hits, last_at)
      select user_id, resource_type, resource_id, hits, now()
        from unnest(${pairs.map(({ userId }) => userId)}::uuid[], ${pairs.map(({ type }) => type)}::text[],
                    ${pairs.map(({ id }) => id)}::uuid[], ${pairs.map(({ hits }) => hits)}::float8[])
             as asked (user_id, resource_type, resource_id, hits)
       order by user_id, resource_type, resource_id
          on conflict (user_id, resource_type, resource_id) do update
         set hits = heat_left(h.hits, h.last_at) + excluded.hits, last_at = excluded.last_at`
  },

  /**
   * Deletes pairs whose frequency has decayed, whose user or resource is gone, and those past the bound, lowest frequency
   * first. Returns how many. Rows locked by a writer are skipped until the next purge, so it never waits.
   */
  purge: async (bound = maxRows): Promise<number> => {
    const { count } = await sql`
      with kept as materialized (
        select user_id, resource_type, resource_id from access_heat_alive order by heat desc limit ${bound}
      ), cold as materialized (
        select h.user_id, h.resource_type, h.resource_id
          from access_heat h
         where not exists (select from kept k where k.user_id = h.user_id and k.resource_type = h.resource_type
                                                and k.resource_id = h.resource_id)
           for update of h skip locked
      )
      delete from access_heat h using cold c
       where h.user_id = c.user_id and h.resource_type = c.resource_type and h.resource_id = c.resource_id`
    return count
  },
})

export type AccessFrequencyStore = ReturnType<typeof createAccessFrequencyStore>
