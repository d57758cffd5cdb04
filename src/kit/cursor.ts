import { Buffer } from 'node:buffer'
import { decodeBase64url, encodeBase64url } from './base64url.ts'
import { isId } from './id.ts'

/**
 * A place in a list that is ordered by id, newest first. Opaque to clients; stable while rows come and go, because it
 * names the last id seen and not an offset.
 */
export const encodeCursor = (lastId: string): string => encodeBase64url(Buffer.from(lastId))

/** The id a cursor stands for, or undefined when it is not one of ours. */
export const decodeCursor = (cursor: string): string | undefined => {
  const bytes = decodeBase64url(cursor)
  const id = bytes && Buffer.from(bytes).toString()
  return isId(id) ? id : undefined
}

/** Cuts `limit + 1` rows into a page: the extra row only tells whether there is more. */
export const toPage = <T extends { id: string }>(rows: readonly T[], limit: number) => {
  const items = rows.slice(0, limit)
  const last = items.at(-1)
  return { items, next_cursor: rows.length > limit && last ? encodeCursor(last.id) : null }
}
