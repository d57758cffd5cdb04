import type { Deadline } from '../../kit/deadline.ts'
import type { Fragment, Sql } from '../../platform/postgres.ts'
import {
  type Action,
  actionBit,
  generationOwnerActions,
  has,
  type ListedRef,
  type ListedType,
  publicActions,
} from '../policy/matrix.ts'

/** A place in a list of ids: those after `after`, newest first, `limit` and one more. */
export type Place = { readonly after: string | null; readonly limit: number }

const first = 'ffffffff-ffff-ffff-ffff-ffffffffffff'

/**
 * The rule of access/decide as SQL, for whole lists: the bits come from the same matrix, and tests compare every answer
 * with the decision about each single thing.
 */
export const createListingStore = (sql: Sql) => {
  const bare = sql``

  /** Ids of the projects a person may do something on; `and` narrows them, by columns of `p`. */
  const projectIds = (userId: string, action: Action, { after, limit }: Place, and: Fragment = bare) => {
    const from = after ?? first
    const shared = sql`
      (select p.id from project_access a join projects p on p.id = a.project_id
        where a.user_id = ${userId} and a.actions & ${actionBit[action]} <> 0 and p.id < ${from} ${and}
        order by p.id desc limit ${limit + 1})`
    if (!has(publicActions, action)) return shared
    return sql`(${shared} union
      (select p.id from projects p where p.visibility = 'public' and p.id < ${from} ${and}
        order by p.id desc limit ${limit + 1}))`
  }

  /**
   * Ids of the generations a person may do something to; `and` narrows them, by columns of `g`. A branch for each way to
   * come by one, each cut to the page, so that the cost follows the page and not the table. What one owns is settled by
   * owning it.
   *
   * Of what is shared, the newest of each project is looked up first: a page of them names all projects that can have
   * anything on this page. Costs an index probe for each project shared, and a page of pages.
   */
  const generationIds = (userId: string, action: Action, { after, limit }: Place, and: Fragment = bare) => {
    const from = after ?? first
    const branches = [
      sql`
        (select shared.id
           from (
             select a.project_id, newest.id from project_access a
              cross join lateral (
                select g.id from generations g
                 where g.project_id = a.project_id and g.owner_id <> ${userId} and g.id < ${from} ${and}
                 order by g.id desc limit 1) newest
              where a.user_id = ${userId} and a.actions & ${actionBit[action]} <> 0
              order by newest.id desc limit ${limit + 1}) heads
          cross join lateral (
            select g.id from generations g
             where g.project_id = heads.project_id and g.owner_id <> ${userId} and g.id < ${from} ${and}
             order by g.id desc limit ${limit + 1}) shared)`,
    ]
    if (has(generationOwnerActions, action)) {
      branches.push(sql`
        (select g.id from generations g where g.owner_id = ${userId} and g.id < ${from} ${and}
          order by g.id desc limit ${limit + 1})`)
    }
    if (has(publicActions, action)) {
      branches.push(sql`
        (select g.id from generations g join projects p on p.id = g.project_id and p.visibility = 'public'
          where g.owner_id <> ${userId} and g.id < ${from} ${and}
          order by g.id desc limit ${limit + 1})`)
    }
    return sql`(${branches.reduce((all, branch) => sql`${all} union ${branch}`)})`
  }

  const idsOf = { project: projectIds, generation: generationIds } as const

  return {
    /** Ids of the things of a type that a person may do something to, newest first. */
    accessible: (deadline: Deadline, userId: string, type: ListedType, action: Action, place: Place) =>
      deadline.run(sql<{ id: string }[]>`
        select ids.id from ${idsOf[type](userId, action, place)} ids
         where exists (select from users where id = ${userId} and status = 'active')
         order by ids.id desc limit ${place.limit + 1}`),

    /**
     * The people of active accounts who may do something to a thing by owning it or through teams, by id, newest first;
     * and whether everybody may who is signed in, because it is public.
     */
    who: async (deadline: Deadline, { type, id }: ListedRef, action: Action, { after, limit }: Place) => {
      const bit = actionBit[action]
      const projectId =
        type === 'project' ? sql`${id}::uuid` : sql`(select project_id from generations where id = ${id})`
      const onProject = sql`
        select user_id as id from project_access where project_id = ${projectId} and actions & ${bit} <> 0`
      const people =
        type === 'project'
          ? onProject
          : sql`
              ${onProject} and user_id <> (select owner_id from generations where id = ${id})
              union all
              select owner_id from generations where id = ${id} and ${has(generationOwnerActions, action)}`
      const rows = await deadline.run(sql<{ everyone: boolean; id: string | null }[]>`
        select shown.everyone, page.id
          from (select ${has(publicActions, action)} and exists (
                  select from projects where id = ${projectId} and visibility = 'public') as everyone) shown
          left join (
            select people.id from (${people}) people join users u on u.id = people.id and u.status = 'active'
             where people.id < ${after ?? first} order by people.id desc limit ${limit + 1}) page on true
         order by page.id desc`)
      return { everyone: rows[0]?.everyone ?? false, people: rows.filter((row) => row.id !== null) as { id: string }[] }
    },

    /** For lists that show the things themselves: what a person may read, as a subquery with one column `id`. */
    readableProjects: (userId: string, place: Place, and?: Fragment) => projectIds(userId, 'read', place, and),
    readableGenerations: (userId: string, place: Place, and?: Fragment) => generationIds(userId, 'read', place, and),
  }
}

export type ListingStore = ReturnType<typeof createListingStore>
