import type { Sql } from '../../platform/postgres.ts'
import type { ListedType, ResourceRef } from '../policy/matrix.ts'

/** Somebody who is likely to ask about something, and the session it is likely to come with. */
export type HotPair = { readonly userId: string; readonly sessionId: string | null; readonly ref: ResourceRef }

type PairRow = { user_id: string; session_id: string | null; resource_type: ListedType; resource_id: string }
type ThingRow = { type: ListedType; id: string }

/** How many of each kind a person's own things are at most. */
const ofEachKind = 50
/** A person may be let into any number of projects; only the newest so many are looked at for those in use. */
const projectsLookedAt = 500
/** How many of the projects touched last are looked into, and how deep. */
const projectsLookedInto = 5
const fromEach = 10

export const createWarmUpStore = (sql: Sql) => ({
  /** The hottest pairs as of the last refresh, the hottest first, each with the newest live session of its person. */
  hottest: async (): Promise<HotPair[]> => {
    const rows = await sql<PairRow[]>`
      select p.user_id, p.resource_type, p.resource_id, s.id as session_id
        from hottest_pairs p
        left join lateral (
          select id from sessions
           where user_id = p.user_id and ended_at is null and least(idle_expires_at, expires_at) > now()
           order by id desc limit 1
        ) s on true
       order by p.heat desc`
    return rows.map(({ user_id, session_id, resource_type, resource_id }) => ({
      userId: user_id,
      sessionId: session_id,
      ref: { type: resource_type, id: resource_id },
    }))
  },

  /**
   * What a person is likely to ask about next, the likeliest first: what it asked about most of late, the projects it owns
   * or is let into, those touched last first, the newest in them, and its own newest generations. Every part is found by
   * an index and cut before it is joined.
   */
  findOwn: async (userId: string): Promise<ResourceRef[]> => {
    const rows = await sql<ThingRow[]>`
      with hot as materialized (
        select resource_type, resource_id from access_heat
         where user_id = ${userId} order by heat_left(hits, last_at) desc limit ${ofEachKind}
      ), touched as materialized (
        select p.id, greatest(p.updated_at, newest.created_at) as touched_at
          from (select project_id from project_access
                 where user_id = ${userId} order by project_id desc limit ${projectsLookedAt}) a
          join projects p on p.id = a.project_id
          left join lateral (
            select created_at from generations where project_id = p.id order by id desc limit 1
          ) newest on true
         order by touched_at desc limit ${ofEachKind}
      ), inside as materialized (
        select g.id
          from (select id from touched order by touched_at desc limit ${projectsLookedInto}) t
          cross join lateral (
            select id from generations where project_id = t.id order by id desc limit ${fromEach}
          ) g
      ), own as materialized (
        select id from generations where owner_id = ${userId} order by id desc limit ${ofEachKind}
      )
      select resource_type as type, resource_id as id from hot
      union all select 'project', id from touched
      union all select 'generation', id from inside
      union all select 'generation', id from own`
    const things = new Map<string, ResourceRef>()
    for (const { type, id } of rows) things.set(id, things.get(id) ?? { type, id })
    return [...things.values()]
  },
})

export type WarmUpStore = ReturnType<typeof createWarmUpStore>
