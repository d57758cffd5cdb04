import { highestId } from '../../kit/cursor.ts'
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

/** Filters of a list of generations that decide from which index it is read. An undefined one matches everything. */
export type GenerationFilters = {
  readonly projectId: string | undefined
  readonly ownerId: string | undefined
  readonly favorite: boolean
}

/** An array of ids as text: parsed in a tenth of the time that an array takes. */
const toIds = (text: string): { id: string }[] => (text === '' ? [] : text.split(' ').map((id) => ({ id })))

/**
 * The rules of `decide` as SQL, for whole lists: here for filtered lists, in sql/functions/lists.sql for all others. The action
 * bits come from the same matrix, and tests compare every list with the decisions about each of its resources.
 *
 * Cost: a page is read from indexes in its own order, so it costs the same in a table of any size, and one index probe for each
 * project that is shared with the user. A filter that few generations match reads those in between as well.
 */
export const createListingStore = (sql: Sql) => {
  const accessibleProjects = (userId: string, action: Action, { after, limit }: Place) => sql`
    accessible_projects(
      ${userId}, ${actionBit[action]}, ${has(publicActions, action)}, ${after ?? highestId}, ${limit + 1})`

  const accessibleGenerations = (userId: string, action: Action, { after, limit }: Place) => sql`
    accessible_generations(
      ${userId}, ${actionBit[action]}, ${has(generationOwnerActions, action)}, ${has(publicActions, action)},
      ${after ?? highestId}, ${limit + 1})`

  const idsOf = { project: accessibleProjects, generation: accessibleGenerations } as const

  const usersWithAccess = (
    ref: ResourceRef,
    action: Action,
    { listingEveryone, after, limit }: Place & { listingEveryone: boolean },
  ) => sql<{ everyone: boolean; ids: string }[]>`
    select everyone, array_to_string(page, ' ') as ids
      from users_with_access(
             ${ref.type}, ${ref.id}, ${actionBit[action]}, ${has(generationOwnerActions, action)},
             ${has(publicActions, action)}, ${listingEveryone}, ${after ?? highestId}, ${limit + 1})`

  /**
   * Whether a user may read what is in a project. Subqueries with one value: the planner cannot turn them into a join, which
   * would read a table whole.
   */
  const mayReadIn = (userId: string, projectId: Fragment) => sql`(
    coalesce((select own.actions & ${actionBit.read} <> 0 from project_access own
               where own.user_id = ${userId} and own.project_id = ${projectId}), false)
    or coalesce((select its.visibility = 'public' from projects its where its.id = ${projectId}), false))`

  /** Ids of the projects of one owner that a user may read. */
  const projectsOfOwner = (userId: string, { after, limit }: Place, ownerId: string) => sql`
    (select p.id from projects p
      where p.owner_id = ${ownerId} and p.id < ${after ?? highestId}
        and (p.owner_id = ${userId} or ${mayReadIn(userId, sql`p.id`)})
      order by p.id desc limit ${limit + 1})`

  const favorites = (userId: string, { after, limit }: Place, and: Fragment) => sql`
    (select f.generation_id as id from generation_favorites f
      cross join lateral (
        select from generations g
         where g.id = f.generation_id ${and}
           and (g.owner_id = ${userId} or ${mayReadIn(userId, sql`g.project_id`)}) limit 1) g
      where f.user_id = ${userId} and f.generation_id < ${after ?? highestId}
      order by f.generation_id desc limit ${limit + 1})`

  /** All of the project if the user may read in it, else those of the user. */
  const ofProject = (userId: string, { after, limit }: Place, projectId: string, and: Fragment) => {
    const mayRead = sql`(select ${mayReadIn(userId, sql`${projectId}::uuid`)})`
    return sql`(
      (select g.id from generations g
        where g.project_id = ${projectId} and g.id < ${after ?? highestId} and ${mayRead} ${and}
        order by g.id desc limit ${limit + 1})
      union all
      (select g.id from generations g
        where g.owner_id = ${userId} and g.id < ${after ?? highestId} and not ${mayRead} ${and}
        order by g.id desc limit ${limit + 1}))`
  }

  const ofOwner = (userId: string, { after, limit }: Place, ownerId: string, and: Fragment) => sql`
    (select g.id from generations g
      where g.owner_id = ${ownerId} and g.id < ${after ?? highestId} ${and}
        and (g.owner_id = ${userId} or ${mayReadIn(userId, sql`g.project_id`)})
      order by g.id desc limit ${limit + 1})`

  /**
   * A union of one branch for each way to have access (ownership, shared project, public project), each limited to the page.
   * Ownership decides alone: an owned generation is left out of the others. The shared branch first finds the newest matching
   * generation of each project: only the projects of the first page of those can contribute to this page.
   */
  const ofAnybody = (userId: string, { after, limit }: Place, and: Fragment) => sql`(
    (select g.id from generations g where g.owner_id = ${userId} and g.id < ${after ?? highestId} ${and}
      order by g.id desc limit ${limit + 1})
    union
    (select shared.id
       from (
         select a.project_id, newest.id from project_access a
          cross join lateral (
            select g.id from generations g
             where g.project_id = a.project_id and g.owner_id <> ${userId} and g.id < ${after ?? highestId} ${and}
             order by g.id desc limit 1) newest
          where a.user_id = ${userId} and a.actions & ${actionBit.read} <> 0
          order by newest.id desc limit ${limit + 1}) heads
      cross join lateral (
        select g.id from generations g
         where g.project_id = heads.project_id and g.owner_id <> ${userId} and g.id < ${after ?? highestId} ${and}
         order by g.id desc limit ${limit + 1}) shared)
    union
    (select l.id from public_generations l
      cross join lateral (
        select from generations g
         where g.id = l.id and g.owner_id <> ${userId} ${and}
           and (select p.visibility from projects p where p.id = g.project_id) = 'public' limit 1) g
      where l.id < ${after ?? highestId} order by l.id desc limit ${limit + 1}))`

  return {
    /** Ids of the resources of a type that a user may do the action on, newest first. None for an account that is not active. */
    accessible: async (deadline: Deadline, userId: string, type: ListedType, action: Action, place: Place) => {
      const [row] = await deadline.run(sql<{ ids: string }[]>`
        select array_to_string(${idsOf[type](userId, action, place)}, ' ') as ids`)
      return toIds(row?.ids ?? '')
    },

    /**
     * The users with an active account who may do the action on a resource as owner or through a team, by id, newest first;
     * and whether every signed-in user may, because the project is public.
     */
    who: async (deadline: Deadline, ref: ListedRef, action: Action, place: Place) => {
      const [row] = await deadline.run(usersWithAccess(ref, action, { ...place, listingEveryone: false }))
      return { everyone: row?.everyone ?? false, people: toIds(row?.ids ?? '') }
    },

    /**
     * All users with an active account who may do the action on a resource, by id, newest first: for a public project these
     * are all active users.
     */
    subjects: async (deadline: Deadline, ref: ResourceRef, action: Action, place: Place) => {
      const [row] = await deadline.run(usersWithAccess(ref, action, { ...place, listingEveryone: true }))
      return toIds(row?.ids ?? '')
    },

    /** For lists of the resources themselves: the ids of a page of those a user may read, as a table with one column `id`. */
    readableProjects: (userId: string, place: Place, ownerId?: string) =>
      ownerId === undefined
        ? sql`unnest(${accessibleProjects(userId, 'read', place)})`
        : projectsOfOwner(userId, place, ownerId),

    /**
     * As `readableProjects`. `and` is the condition that all filters make of columns of `g`; undefined where there are none. A
     * list of anybody's generations may have up to two pages more than the page.
     */
    readableGenerations: (userId: string, place: Place, filters: GenerationFilters, and: Fragment | undefined) => {
      if (and === undefined) return sql`unnest(${accessibleGenerations(userId, 'read', place)})`
      const { projectId, ownerId, favorite } = filters
      if (favorite) return favorites(userId, place, and)
      if (projectId !== undefined) return ofProject(userId, place, projectId, and)
      return ownerId === undefined ? ofAnybody(userId, place, and) : ofOwner(userId, place, ownerId, and)
    },
  }
}

export type ListingStore = ReturnType<typeof createListingStore>
