import { toPage } from '../../kit/cursor.ts'
import type { Deadline } from '../../kit/deadline.ts'
import type { Action, ListedRef, ListedType } from '../policy/matrix.ts'
import type { ListingStore, Place } from './listing-store.ts'

/** Lists by the rules of `decide`: the resources a user may do an action on, and the users who may do one on a resource. */
export const createListing = (store: ListingStore) => ({
  accessible: async (
    deadline: Deadline,
    userId: string,
    { type, action }: { type: ListedType; action: Action },
    place: Place,
  ) => {
    const { items, next_cursor } = toPage(await store.accessible(deadline, userId, type, action, place), place.limit)
    return { items: items.map(({ id }) => ({ type, id })), next_cursor }
  },

  /** Empty for a resource that does not exist. */
  who: async (deadline: Deadline, ref: ListedRef, action: Action, place: Place) => {
    const { everyone, people } = await store.who(deadline, ref, action, place)
    const { items, next_cursor } = toPage(people, place.limit)
    return { items: items.map(({ id }) => ({ user_id: id })), everyone, next_cursor }
  },

  /** For searches with cursors of their own: ids, newest first, one more than `limit`. Those of a public project are all users. */
  subjects: store.subjects,
  resources: store.accessible,
})

export type Listing = ReturnType<typeof createListing>
