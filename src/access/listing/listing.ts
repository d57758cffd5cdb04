import { toPage } from '../../kit/cursor.ts'
import type { Deadline } from '../../kit/deadline.ts'
import type { Action, ListedRef, ListedType } from '../policy/matrix.ts'
import type { ListingStore, Place } from './listing-store.ts'

/** Lists by the rule of `decide`: what somebody may do something to, and who may do something to a thing. */
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

  /** Nobody, for a thing that does not exist. */
  who: async (deadline: Deadline, ref: ListedRef, action: Action, place: Place) => {
    const { everyone, people } = await store.who(deadline, ref, action, place)
    const { items, next_cursor } = toPage(people, place.limit)
    return { items: items.map(({ id }) => ({ user_id: id })), everyone, next_cursor }
  },
})

export type Listing = ReturnType<typeof createListing>
