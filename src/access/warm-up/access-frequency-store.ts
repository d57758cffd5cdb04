import type { Queryable } from '../../platform/postgres.ts'
import type { ListedType } from '../policy/matrix.ts'

/** Somebody asked about something, about so many times. */
export type HotPair = {
  readonly userId: string
  readonly type: ListedType
  readonly id: string
  readonly hits: number
}

/** More than any instance fetches; what is past it is the coldest of all. */
const maxRows = 50_000

export const createAccessFrequencyStore = (sql: Queryable) => ({
  /**
   * Adds to what is left of earlier heat, all in one statement. In the order of the key, so that instances that write the
   * same rows wait for each other and never in a circle.
   */
  add: async (heats: readonly HotPair[]): Promise<void> => {
    await sql`
      insert into access_heat as h (user_id, resource_type, resource_id, hits, last_at)
      select user_id, resource_type, resource_id, hits, now()
        from unnest(${heats.map(({ userId }) => userId)}::uuid[], ${heats.map(({ type }) => type)}::text[],
                    ${heats.map(({ id }) => id)}::uuid[], ${heats.map(({ hits }) => hits)}::float8[])
             as asked (user_id, resource_type, resource_id, hits)
       order by user_id, resource_type, resource_id
          on conflict (user_id, resource_type, resource_id) do update
         set hits = heat_left(h.hits, h.last_at) + excluded.hits, last_at = excluded.last_at`
  },

  /**
   * Removes what has cooled down, whose people or things are gone, and what is beyond the bound. A row that is being
   * written is left for the next time, so this waits for nobody. Returns how many.
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
