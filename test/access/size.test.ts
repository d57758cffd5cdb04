import { expect, test } from 'bun:test'
import { sizeOf } from '../../src/access/caches.ts'
import { maxGrants } from '../../src/access/policy/facts/grants.ts'
import { type Fact, factKey } from '../../src/access/policy/facts/registry.ts'
import { jsonTextOf } from '../../src/http/json-text.ts'
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

test('the estimate of a profile is not below its measured size, its JSON text included', () => {
  const people = 20_000
  const id = idOf('user', 1)
  // As the driver makes them: every text is a string of its own.
  const own = (text: string) => JSON.parse(JSON.stringify(text)) as string
  const make = (at: number): Fact['profile'] =>
    Object.freeze({
      id: own(idOf('user', at)),
      email: own(`${'a'.repeat(200)}${at}@example.com`),
      display_name: own(`${'\u{1f600}'.repeat(40)}${at}`),
      role: 'user',
      plan: 'free',
      status: 'active',
      created_at: own(new Date(1.5e12 + at).toISOString()),
      email_verified: true,
      second_factor: false,
      updated_at: own(new Date(1.6e12 + at).toISOString()),
    })
  Bun.gc(true)
  const before = process.memoryUsage.rss()
  const held = Array.from({ length: people }, (_, at) => make(at))
  for (const one of held) jsonTextOf(one)
  Bun.gc(true)
  const taken = (process.memoryUsage.rss() - before) / people
  expect(taken).toBeLessThan(1.5 * sizeOf(factKey('profile', id), held[0]))
})

test('the estimate of a session is not below its measured size', () => {
  const count = 20_000
  const own = <V>(value: V) => JSON.parse(JSON.stringify(value)) as V
  const make = (at: number): Fact['session'] =>
    own({
      userId: idOf('user', at),
      ended: false,
      expiresAtMs: 1.5e12 + at + 0.5,
      authenticatedAtMs: 1.4e12 + at + 0.5,
      origin: {
        countries: ['DE', 'FR'],
        network: `network-${at}`.padStart(16, '0'),
        browser: `Firefox ${at}`,
        platform: `Windows ${at}`,
        seenCountry: 'DE',
        seenAtMs: 1.5e12 + at + 0.5,
      },
    })
  Bun.gc(true)
  const before = process.memoryUsage.rss()
  const held = Array.from({ length: count }, (_, at) => make(at))
  Bun.gc(true)
  const taken = (process.memoryUsage.rss() - before) / count
  expect(taken).toBeLessThan(1.5 * sizeOf(factKey('session', idOf('session', 1)), held[0]))
})
