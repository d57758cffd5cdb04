import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { encodeBase64url } from '../../src/kit/base64url.ts'
import { decodeCursor, encodeCursor, toPage } from '../../src/kit/cursor.ts'
import { newId } from '../../src/kit/id.ts'

describe('a cursor', () => {
  test('decodes to the id it encodes', () => {
    fc.assert(fc.property(fc.uuid(), (id) => expect(decodeCursor(encodeCursor(id))).toBe(id)))
  })

  test('needs no escaping in a query string', () => {
    expect(encodeCursor(newId())).toMatch(/^[\w-]{1,64}$/)
  })

  test('that is malformed decodes to undefined and never throws', () => {
    const id = newId()
    const ours = encodeCursor(id)
    for (const text of [
      '',
      id,
      `${ours}=`,
      ` ${ours}`,
      ours.slice(1),
      encodeBase64url(Buffer.from(id.toUpperCase())),
      encodeBase64url(Buffer.from(`${id}'`)),
      encodeBase64url(new Uint8Array(36).fill(0xff)),
    ]) {
      expect(decodeCursor(text)).toBeUndefined()
    }
    fc.assert(fc.property(fc.string({ unit: 'binary' }), (text) => expect(decodeCursor(text)).toBeUndefined()))
  })
})

describe('pages', () => {
  /** Pages like a store: rows below the position, newest first, one more than the limit. */
  const readAll = (ids: readonly string[], limit: number) => {
    const newestFirst = ids.map((id) => ({ id })).toSorted((a, b) => (a.id < b.id ? 1 : -1))
    const pages: { id: string }[][] = []
    for (let after: string | undefined; ; ) {
      const rows = newestFirst.filter(({ id }) => after === undefined || id < after).slice(0, limit + 1)
      const page = toPage(rows, limit)
      pages.push(page.items)
      if (page.next_cursor === null) return pages
      after = decodeCursor(page.next_cursor)
    }
  }

  test('read in sequence contain every row once, in order, and no page is empty unless there are no rows', () => {
    fc.assert(
      fc.property(fc.nat(30), fc.integer({ min: 1, max: 8 }), (count, limit) => {
        const ids = Array.from({ length: count }, newId)
        const pages = readAll(ids, limit)
        expect(pages.flat().map(({ id }) => id)).toEqual(ids.toReversed())
        expect(pages.length).toBe(Math.max(1, Math.ceil(count / limit)))
        for (const page of pages) expect(page.length).toBeLessThanOrEqual(limit)
      }),
    )
  })

  test('of no rows are one empty page without a cursor', () => {
    expect(toPage([], 20)).toEqual({ items: [], next_cursor: null })
  })
})
