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
import { createFilteredLists, type GenerationFilters, type Place } from './filtered-lists.ts'

export type { GenerationFilters, Place }

/** An array of ids as text: parsed in a tenth of the time that an array takes. */
const toIds = (text = ''): string[] => (text === '' ? [] : text.split(' '))

/** Constant texts: a text that is joined from parts takes as long as to read the result. */
const accessibleStatements: Readonly<Record<ListedType, string>> = {
  project: `select array_to_string(accessible_projects($1, $2, $3, $4, $5), ' ') as ids`,
  generation: `select array_to_string(accessible_generations($1, $2, $3, $4, $5, $6), ' ') as ids`,
}

/**
 * The rules of `decide` as SQL, for whole lists: filtered ones in filtered-lists.ts, all others in sql/functions/lists.sql. The
 * action bits come from the same matrix, and tests compare every list with the decisions about each of its resources.
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

  const usersWithAccess = (
    ref: ResourceRef,
    action: Action,
    { listingEveryone, after, limit }: Place & { listingEveryone: boolean },
  ) => sql<{ everyone: boolean; ids: string }[]>`
    select everyone, array_to_string(page, ' ') as ids
      from users_with_access(
             ${ref.type}, ${ref.id}, ${actionBit[action]}, ${has(generationOwnerActions, action)},
             ${has(publicActions, action)}, ${listingEveryone}, ${after ?? highestId}, ${limit + 1})`

  const filtered = createFilteredLists(sql)

  return {
    /** Ids of the resources of a type that a user may do the action on, newest first. None for an account that is not active. */
    accessible: async (
      deadline: Deadline,
      userId: string,
      type: ListedType,
      action: Action,
      place: Place,
    ): Promise<string[]> => {
      const toOwner = type === 'generation' ? [has(generationOwnerActions, action)] : []
      const parameters = [
        ...[userId, actionBit[action], ...toOwner, has(publicActions, action)],
        ...[place.after ?? highestId, place.limit + 1],
      ]
      const [row] = await deadline.run(
        sql.unsafe<{ ids: string }[]>(accessibleStatements[type], parameters, { prepare: true }),
      )
      return toIds(row?.ids)
    },

    /**
     * The users with an active account who may do the action on a resource as owner or through a team, by id, newest first;
     * and whether every signed-in user may, because the project is public.
     */
    who: async (deadline: Deadline, ref: ListedRef, action: Action, place: Place) => {
      const [row] = await deadline.run(usersWithAccess(ref, action, { ...place, listingEveryone: false }))
      return { everyone: row?.everyone ?? false, people: toIds(row?.ids) }
    },

    /**
     * All users with an active account who may do the action on a resource, by id, newest first: for a public project these
     * are all active users.
     */
    subjects: async (deadline: Deadline, ref: ResourceRef, action: Action, place: Place): Promise<string[]> => {
      const [row] = await deadline.run(usersWithAccess(ref, action, { ...place, listingEveryone: true }))
      return toIds(row?.ids)
    },

    /** For lists of the resources themselves: the ids of a page of those a user may read, as a table with one column `id`. */
    readableProjects: (userId: string, place: Place, ownerId?: string) =>
      ownerId === undefined
        ? sql`unnest(${accessibleProjects(userId, 'read', place)})`
        : filtered.projectsOfOwner(userId, place, ownerId),

    /**
     * As `readableProjects`. `and` is the condition of all filters, on columns of `g`; undefined without a filter.
     * Without a filter by owner, up to two pages more rows than asked for.
     */
    readableGenerations: (userId: string, place: Place, filters: GenerationFilters, and: Fragment | undefined) => {
      if (and === undefined) return sql`unnest(${accessibleGenerations(userId, 'read', place)})`
      return filtered.generations(userId, place, filters, and)
    },
  }
}

export type ListingStore = ReturnType<typeof createListingStore>
