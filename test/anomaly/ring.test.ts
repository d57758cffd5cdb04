import { expect, test } from 'bun:test'
import { createRing, createRingReader, createRingWriter, noPlace, toNumber } from '../../src/anomaly/ring.ts'

const principals = (read: ReturnType<typeof createRingReader>) => {
  const found: number[] = []
  const lost = read.read(0, ({ principal }) => found.push(principal))
  return { found, lost }
}

test('a reader of the ring gets every field of a record as it was written', () => {
  const ring = createRing(8)
  const reader = createRingReader(ring)
  const place = { network: 0xffff_fffe, country: 7, device: 0x8000_0000 }
  const number = createRingWriter(ring)('address', 'failed', -1, 0x8000_0001 | 0, 0xdead_beef, 5, place, true, false)
  const found: unknown[] = []
  const lost = reader.read(1_234, (seen) => found.push({ ...seen }))
  expect(lost).toBe(0)
  expect(found).toEqual([
    {
      atMs: 1_234,
      kind: 'address',
      outcome: 'failed',
      principal: toNumber(-1, 0x8000_0001 | 0),
      subject: 0xdead_beef,
      session: 5,
      ...place,
      accountExists: true,
      isKnown: false,
      number,
    },
  ])
  expect(Number.isSafeInteger(toNumber(-1, -1))).toBe(true)
})

test('a writer that comes round overwrites the oldest records, and the reader counts how many', () => {
  const ring = createRing(8)
  const reader = createRingReader(ring)
  const write = createRingWriter(ring)
  for (let at = 1; at <= 20; at += 1) write('user', 'ok', 0, at, 0, 0, noPlace)
  expect(principals(reader)).toEqual({ found: [13, 14, 15, 16, 17, 18, 19, 20], lost: 12 })
  expect(principals(reader)).toEqual({ found: [], lost: 0 })
  write('user', 'ok', 0, 21, 0, 0, noPlace)
  expect(principals(reader)).toEqual({ found: [21], lost: 0 })
})

test('the ring goes on where its count of records starts over', () => {
  const ring = createRing(8)
  Atomics.store(ring.head, 0, -3)
  const reader = createRingReader(ring)
  const write = createRingWriter(ring)
  for (let at = 1; at <= 6; at += 1) write('user', 'ok', 0, at, 0, 0, noPlace)
  expect(principals(reader)).toEqual({ found: [1, 2, 3, 4, 5, 6], lost: 0 })
})
