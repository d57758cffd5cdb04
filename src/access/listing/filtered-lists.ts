import { highestId } from '../../kit/cursor.ts'
import type { Fragment, Sql } from '../../platform/postgres.ts'
import { actionBit } from '../policy/matrix.ts'

/** A page of a list of ids, newest first: those after `after`. One more than `limit` is read, to know whether it is the last. */
export type Place = { readonly after: string | null; readonly limit: number }

/** Filters of a list of generations that decide from which index it is read. An undefined one matches everything. */
export type GenerationFilters = {
  readonly projectId: string | undefined
  readonly ownerId: string | undefined
  readonly favorite: boolean
}

/**
 * Pages of the ids that a user may read and a filter matches, as SQL. `and` is the condition that all filters make of columns
 * of `g`.
 */
export const createFilteredLists = (sql: Sql) => {
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
    projectsOfOwner,

    /** Without a filter by owner, up to two pages more rows than asked for. */
    generations: (userId: string, place: Place, { projectId, ownerId, favorite }: GenerationFilters, and: Fragment) => {
      if (favorite) return favorites(userId, place, and)
      if (projectId !== undefined) return ofProject(userId, place, projectId, and)
      return ownerId === undefined ? ofAnybody(userId, place, and) : ofOwner(userId, place, ownerId, and)
    },
  }
}
