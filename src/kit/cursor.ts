import { Buffer } from 'node:buffer'
import { decodeBase64url, encodeBase64url } from './base64url.ts'
import { isId } from './id.ts'

/**
 * Encodes a position in a list ordered by id, newest first (keyset pagination). Opaque to clients. Stable while rows are
 * inserted and deleted, because it names the last id seen instead of an offset.
 */
export const encodeCursor = (lastId: string): string => encodeBase64url(Buffer.from(lastId))

/**
 * Where the first page of a list begins: a statement that compares with these in place of a cursor has one text and one plan
 * for every page, and reads an index from there on. No id is one of them.
 */
export const highestId = 'ffffffff-ffff-ffff-ffff-ffffffffffff'
export const lowestId = '00000000-0000-0000-0000-000000000000'

/** The id in a cursor, or undefined when it is malformed. */
export const decodeCursor = (cursor: string): string | undefined => {
  const bytes = decodeBase64url(cursor)
  const id = bytes && Buffer.from(bytes).toString()
  return isId(id) ? id : undefined
}

/** Makes a page of up to `limit + 1` rows. The extra row is dropped; it only shows that there is a next page. */
export const toPage = <T extends { id: string }>(rows: readonly T[], limit: number) => {
  const items = rows.slice(0, limit)
  const last = items.at(-1)
  return { items, next_cursor: rows.length > limit && last ? encodeCursor(last.id) : null }
}
