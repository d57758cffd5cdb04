import type { Sql } from '../../platform/postgres.ts'
import type { ListedType, ResourceRef } from '../policy/matrix.ts'

/** A user likely to ask about a resource, and the session it will likely use. */
export type HotPair = { readonly userId: string; readonly sessionId: string | null; readonly ref: ResourceRef }

type PairRow = { user_id: string; session_id: string | null; resource_type: ListedType; resource_id: string }
type ResourceRow = { type: ListedType; id: string }

/** The most resources of each source: hot pairs, projects, own generations. */
const maxPerSource = 50
/** A user may have access to any number of projects. Of these only the newest 500 are searched for recent activity. */
const maxProjects = 500
/** Of the 5 projects active most recently, the 10 newest generations each. */
const maxActiveProjects = 5
const maxPerProject = 10

export const createWarmUpStore = (sql: Sql) => ({
  /** The hottest pairs as of the last refresh, hottest first, each with the newest live session of its user. */
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
   * The resources a user is likely to ask about next, likeliest first: its hot pairs, the projects it has access to by most
   * recent activity, the newest generations in those, and its own newest generations. Each part reads an index and is
   * limited before it is joined.
   */
  findOwn: async (userId: string): Promise<ResourceRef[]> => {
    const rows = await sql<ResourceRow[]>`
      with hot as materialized (
        select resource_type, resource_id from access_heat
         where user_id = ${userId} order by heat_left(hits, last_at) desc limit ${maxPerSource}
      ), touched as materialized (
        select p.id, greatest(p.updated_at, newest.created_at) as touched_at
          from (select project_id from project_access
                 where user_id = ${userId} order by project_id desc limit ${maxProjects}) a
          join projects p on p.id = a.project_id
          left join lateral (
            select created_at from generations where project_id = p.id order by id desc limit 1
          ) newest on true
         order by touched_at desc limit ${maxPerSource}
      ), inside as materialized (
        select g.id
          from (select id from touched order by touched_at desc limit ${maxActiveProjects}) t
          cross join lateral (
            select id from generations where project_id = t.id order by id desc limit ${maxPerProject}
          ) g
      ), own as materialized (
        select id from generations where owner_id = ${userId} order by id desc limit ${maxPerSource}
      )
      select resource_type as type, resource_id as id from hot
      union all select 'project', id from touched
      union all select 'generation', id from inside
      union all select 'generation', id from own`
    const resources = new Map<string, ResourceRef>()
    for (const { type, id } of rows) if (!resources.has(id)) resources.set(id, { type, id })
    return [...resources.values()]
  },
})

export type WarmUpStore = ReturnType<typeof createWarmUpStore>
