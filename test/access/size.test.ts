import { expect, test } from 'bun:test'
import { sizeOf } from '../../src/access/caches.ts'
import { maxGrants } from '../../src/access/policy/facts/grants.ts'
import { factKey } from '../../src/access/policy/facts/registry.ts'
import { idOf } from './random.ts'

const key = factKey('grants', idOf('user', 1))
const granted = (count: number) => ({
  granted: Object.fromEntries(Array.from({ length: count }, (_, at) => [idOf('project', at), 3])),
})

test('the size of a user’s grants grows with the number of projects', () => {
  const bare = sizeOf(key, { granted: {} })
  expect(sizeOf(key, 'many')).toBe(bare)
  expect(sizeOf(key, granted(10)) - bare).toBe(1_600)
  expect(sizeOf(key, granted(maxGrants))).toBeLessThan(33_000)
  expect(
    sizeOf(factKey('account', idOf('user', 1)), { status: 'active', role: 'user', plan: 'free', limits: null }),
  ).toBeLessThan(400)
})

test('the estimate is not below the measured size when no two users share a project', () => {
  const people = 2_000
  const texts = Array.from({ length: people }, (_, person) =>
    JSON.stringify(Object.fromEntries(Array.from({ length: 50 }, (_, at) => [idOf('project', person * 50 + at), 3]))),
  )
  Bun.gc(true)
  const before = process.memoryUsage.rss()
  const held = texts.map((text) => JSON.parse(text) as Record<string, number>)
  Bun.gc(true)
  const taken = (process.memoryUsage.rss() - before) / people
  expect(taken).toBeLessThan(1.5 * sizeOf(key, { granted: held[0] ?? {} }))
})
