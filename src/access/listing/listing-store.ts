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
  type ResourceRef,
} from '../policy/matrix.ts'

/** A page of a list of ids, newest first: those after `after`. One more than `limit` is read, to know whether it is the last. */
export type Place = { readonly after: string | null; readonly limit: number }

const first = 'ffffffff-ffff-ffff-ffff-ffffffffffff'

/**
 * The rules of `decide` as SQL, for whole lists. The action bits come from the same matrix, and tests compare every list
 * with the decisions about each of its resources.
 */
export const createListingStore = (sql: Sql) => {
  const noFilter = sql``

  /** Ids of the projects a user may do the action on. `and` is a further condition on columns of `p`. */
  const projectIds = (userId: string, action: Action, { after, limit }: Place, and: Fragment = noFilter) => {
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
   * Ids of the generations a user may do the action on. `and` is a further condition on columns of `g`. A union of one
   * branch for each way to have access (shared project, ownership, public project), each limited to the page, so that the
   * cost grows with the page and not with the table. Ownership decides alone: an owned generation is left out of the others.
   *
   * The shared branch first finds the newest matching generation of each project: only the projects of the first page of
   * those can contribute to this page. Cost: one index probe for each shared project, and a page for each of a page of
   * projects.
   */
  const generationIds = (userId: string, action: Action, { after, limit }: Place, and: Fragment = noFilter) => {
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

  /** Media follow their generation once it is completed, so until then this is null. Uploads have none. */
  const generationOf = ({ type, id }: ResourceRef) =>
    type === 'media'
      ? sql`(select g.id from media m join generations g on g.id = m.generation_id and g.status = 'completed'
              where m.id = ${id})`
      : sql`${id}::uuid`

  const projectOf = (ref: ResourceRef) =>
    ref.type === 'project'
      ? sql`${ref.id}::uuid`
      : sql`(select project_id from generations where id = ${generationOf(ref)})`

  /** Ids of the users who may do the action as owner or through a team, including accounts that are not active. */
  const userIds = (ref: ResourceRef, action: Action) => {
    const onProject = sql`
      select user_id as id from project_access
       where project_id = ${projectOf(ref)} and actions & ${actionBit[action]} <> 0`
    if (ref.type === 'project') return onProject
    const maker = has(generationOwnerActions, action)
    const ofGeneration = sql`
      ${onProject} and user_id <> (select owner_id from generations where id = ${generationOf(ref)})
      union all
      select owner_id from generations where id = ${generationOf(ref)} and ${maker}`
    if (ref.type === 'generation') return ofGeneration
    return sql`
      ${ofGeneration}
      union all
      select owner_id from media where id = ${ref.id} and generation_id is null and ${maker}`
  }

  /** Whether every signed-in user may do the action, because the project is public. */
  const isForEveryone = (ref: ResourceRef, action: Action) => sql`
    ${has(publicActions, action)} and exists (
      select from projects where id = ${projectOf(ref)} and visibility = 'public')`

  return {
    /** Ids of the resources of a type that a user may do the action on, newest first. None for an account that is not active. */
    accessible: (deadline: Deadline, userId: string, type: ListedType, action: Action, place: Place) =>
      deadline.run(sql<{ id: string }[]>`
        select ids.id from ${idsOf[type](userId, action, place)} ids
         where exists (select from users where id = ${userId} and status = 'active')
         order by ids.id desc limit ${place.limit + 1}`),

    /**
     * The users with an active account who may do the action on a resource as owner or through a team, by id, newest first;
     * and whether every signed-in user may, because the project is public.
     */
    who: async (deadline: Deadline, ref: ListedRef, action: Action, { after, limit }: Place) => {
      const rows = await deadline.run(sql<{ everyone: boolean; id: string | null }[]>`
        select shown.everyone, page.id
          from (select ${isForEveryone(ref, action)} as everyone) shown
          left join (
            select people.id from (${userIds(ref, action)}) people
              join users u on u.id = people.id and u.status = 'active'
             where people.id < ${after ?? first} order by people.id desc limit ${limit + 1}) page on true
         order by page.id desc`)
      return { everyone: rows[0]?.everyone ?? false, people: rows.filter((row) => row.id !== null) as { id: string }[] }
    },

    /**
     * All users with an active account who may do the action on a resource, by id, newest first: for a public project these
     * are all active users. Costs a page of users, or the users with access to the project.
     */
    subjects: (deadline: Deadline, ref: ResourceRef, action: Action, { after, limit }: Place) =>
      deadline.run(sql<{ id: string }[]>`
        with shown as materialized (select ${isForEveryone(ref, action)} as everyone)
        (select u.id from users u
          where u.status = 'active' and u.id < ${after ?? first} and (select everyone from shown)
          order by u.id desc limit ${limit + 1})
        union all
        (select people.id from (${userIds(ref, action)}) people
           join users u on u.id = people.id and u.status = 'active'
          where people.id < ${after ?? first} and not (select everyone from shown)
          order by people.id desc limit ${limit + 1})
        order by id desc`),

    /** For lists of the resources themselves: the ids a user may read, as a subquery with one column `id`. */
    readableProjects: (userId: string, place: Place, and?: Fragment) => projectIds(userId, 'read', place, and),
    readableGenerations: (userId: string, place: Place, and?: Fragment) => generationIds(userId, 'read', place, and),
  }
}

export type ListingStore = ReturnType<typeof createListingStore>
