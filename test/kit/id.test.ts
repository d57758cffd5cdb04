import { expect, test } from 'bun:test'
import { isId, newId } from '../../src/kit/id.ts'

test('new ids are UUIDs of version 7, unique, and sort in order of creation', () => {
  const ids = Array.from({ length: 10_000 }, newId)
  expect(ids.every(isId)).toBe(true)
  expect(ids.every((id) => id[14] === '7' && '89ab'.includes(id[19] ?? ''))).toBe(true)
  expect(new Set(ids).size).toBe(ids.length)
  expect(ids).toEqual(ids.toSorted())
})

test('only the lower-case spelling of a UUID is an id', () => {
  const id = '0190b6c2-5a7e-7cc1-8f4e-0123456789ab'
  expect(isId(id)).toBe(true)
  for (const other of [
    id.toUpperCase(),
    `{${id}}`,
    `urn:uuid:${id}`,
    id.replaceAll('-', ''),
    `${id} `,
    ` ${id}`,
    `${id}\n`,
    `${id}0`,
    id.slice(1),
    id.replace('a', 'g'),
    '',
  ]) {
    expect(isId(other)).toBe(false)
  }
  for (const other of [undefined, null, 7, {}, [id], { toString: () => id }]) expect(isId(other)).toBe(false)
})
