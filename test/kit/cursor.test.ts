import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { encodeBase64url } from '../../src/kit/base64url.ts'
import { decodeCursor, encodeCursor, toPage } from '../../src/kit/cursor.ts'
import { newId } from '../../src/kit/id.ts'

describe('a cursor', () => {
  test('names the id it was made of', () => {
    fc.assert(fc.property(fc.uuid(), (id) => expect(decodeCursor(encodeCursor(id))).toBe(id)))
  })

  test('can stand in a query as it is', () => {
    expect(encodeCursor(newId())).toMatch(/^[\w-]{1,64}$/)
  })

  test('that is not ours is undefined and never an error', () => {
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
  /** What a store does: rows below the place, newest first, one more than the limit. */
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

  test('read one after the other they hold every row once, in order, and none is empty but the only one', () => {
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

  test('nothing at all is one empty page without a cursor', () => {
    expect(toPage([], 20)).toEqual({ items: [], next_cursor: null })
  })
})
