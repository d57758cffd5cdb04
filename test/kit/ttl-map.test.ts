import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { manualClock } from '../../src/kit/clock.ts'
import { createTtlMap, type Lookup, type TtlMapOptions } from '../../src/kit/ttl-map.ts'

const create = (options: Partial<TtlMapOptions<number>> = {}) => {
  const clock = manualClock()
  return { clock, map: createTtlMap<number>({ clock, ttlMs: 1_000, jitter: 0, ...options }) }
}
const hit = (value: number): Lookup<number> => ({ kind: 'hit', value })

describe('a lookup', () => {
  test('is a hit for a value, absent for a negative entry, and a miss for an unknown key', () => {
    const { map } = create()
    map.set('a', 1)
    map.setAbsent('b')
    expect(map.get('a')).toEqual(hit(1))
    expect(map.get('b')).toEqual({ kind: 'absent' })
    expect(map.get('c')).toEqual({ kind: 'miss' })
  })

  test('returns the entry that was set last, value or negative entry', () => {
    const { map } = create()
    map.set('a', 1)
    map.setAbsent('a')
    expect(map.get('a')).toEqual({ kind: 'absent' })
    map.set('a', 2)
    expect(map.get('a')).toEqual(hit(2))
    expect(map.size).toBe(1)
  })

  test('is a miss after delete and after clear', () => {
    const { map } = create()
    map.set('a', 1)
    map.set('b', 2)
    map.set('c', 3)
    map.delete('b')
    expect(map.get('b')).toEqual({ kind: 'miss' })
    expect(map.size).toBe(2)
    map.clear()
    expect(map.get('a')).toEqual({ kind: 'miss' })
    expect(map.size).toBe(0)
  })
})

describe('negative entries', () => {
  test('make place for each other beyond their bound, oldest first, and evict no value', () => {
    const { map } = create({ maxEntries: 10, maxAbsent: 3 })
    for (let value = 0; value < 7; value += 1) map.set(`value ${value}`, value)
    for (let key = 0; key < 1_000; key += 1) map.setAbsent(`absent ${key}`)
    for (let value = 0; value < 7; value += 1) expect(map.get(`value ${value}`)).toEqual(hit(value))
    for (const key of [997, 998, 999]) expect(map.get(`absent ${key}`)).toEqual({ kind: 'absent' })
    expect([map.get('absent 996'), map.size]).toEqual([{ kind: 'miss' }, 10])
  })

  test('count towards their bound only while they are absent and present in the map', () => {
    const { map } = create({ maxAbsent: 2 })
    map.setAbsent('a')
    map.setAbsent('b')
    map.set('a', 1)
    map.delete('b')
    map.setAbsent('c')
    map.setAbsent('d')
    map.setAbsent('d')
    expect(['a', 'c', 'd'].map((key) => map.get(key).kind)).toEqual(['hit', 'absent', 'absent'])
    map.clear()
    map.setAbsent('e')
    map.setAbsent('f')
    expect(['e', 'f'].map((key) => map.get(key).kind)).toEqual(['absent', 'absent'])
  })
})

describe('expiry', () => {
  test('makes an entry a miss when its time to live has passed; peekStale still reads it', () => {
    const { map, clock } = create()
    map.set('a', 1)
    clock.advance(999)
    expect(map.get('a')).toEqual(hit(1))
    clock.advance(1)
    expect(map.get('a')).toEqual({ kind: 'miss' })
    expect(map.peekStale('a')).toEqual(hit(1))
  })

  test('is postponed by writing an entry and not by reading it', () => {
    const { map, clock } = create()
    map.set('read', 1)
    map.set('written', 1)
    clock.advance(600)
    map.get('read')
    map.set('written', 2)
    clock.advance(600)
    expect(map.get('read')).toEqual({ kind: 'miss' })
    expect(map.get('written')).toEqual(hit(2))
  })

  test('of a negative entry comes after a tenth of the time to live, or after absentTtlMs', () => {
    for (const [options, lifetimeMs] of [
      [{}, 100],
      [{ absentTtlMs: 5_000 }, 5_000],
    ] as const) {
      const { map, clock } = create(options)
      map.setAbsent('a')
      clock.advance(lifetimeMs - 1)
      expect(map.get('a')).toEqual({ kind: 'absent' })
      clock.advance(1)
      expect(map.get('a')).toEqual({ kind: 'miss' })
    }
  })

  test('comes earlier by at most the jitter fraction, and never later', () => {
    fc.assert(
      fc.property(
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        (jitter, random) => {
          const { map, clock } = create({ ttlMs: 10_000, jitter, random: () => random })
          map.set('a', 1)
          const minLifetimeMs = Math.max(0, Math.floor(10_000 * (1 - jitter)) - 1)
          clock.advance(minLifetimeMs)
          if (minLifetimeMs > 0) expect(map.get('a')).toEqual(hit(1))
          clock.advance(10_000 - minLifetimeMs)
          expect(map.get('a')).toEqual({ kind: 'miss' })
        },
      ),
    )
  })

  test('with jitter does not hit all entries of one moment at once', () => {
    const { map, clock } = create({ jitter: 0.5 })
    for (let key = 0; key < 1_000; key += 1) map.set(String(key), key)
    clock.advance(750)
    const left = Array.from({ length: 1_000 }, (_, key) => map.get(String(key))).filter(({ kind }) => kind === 'hit')
    expect(left.length).toBeGreaterThan(350)
    expect(left.length).toBeLessThan(650)
  })
})

describe('the bound on entries', () => {
  test('evicts the least recently used entry, where reads and writes count as use', () => {
    const { map } = create({ maxEntries: 3 })
    map.set('a', 1)
    map.set('b', 2)
    map.set('c', 3)
    map.get('a')
    map.set('b', 4)
    map.set('d', 5)
    expect(map.get('c')).toEqual({ kind: 'miss' })
    map.set('e', 6)
    expect(map.get('a')).toEqual({ kind: 'miss' })
    expect([map.get('b'), map.get('d'), map.get('e')]).toEqual([hit(4), hit(5), hit(6)])
  })

  test('evicts nothing when an existing key is overwritten', () => {
    const { map } = create({ maxEntries: 2 })
    map.set('a', 1)
    map.set('b', 2)
    map.set('b', 3)
    map.setAbsent('b')
    expect(map.get('a')).toEqual(hit(1))
  })

  test('holds at every moment of 100,000 writes, negative entries included, and the newest entries stay', () => {
    const { map } = create({ maxEntries: 1_000 })
    let largest = 0
    for (let key = 0; key < 100_000; key += 1) {
      if (key % 3 === 0) map.setAbsent(String(key))
      else map.set(String(key), key)
      largest = Math.max(largest, map.size)
    }
    expect(largest).toBe(1_000)
    const kinds = Array.from({ length: 1_000 }, (_, index) => map.get(String(99_000 + index)).kind)
    expect(kinds).not.toContain('miss')
  })
})

describe('update', () => {
  test('replaces the value and keeps age, expiry and recency', () => {
    const { map, clock } = create({ ttlMs: 100, jitter: 0 })
    map.set('a', 1)
    map.set('b', 1)
    clock.advance(60)
    const before = map.peek('a')
    map.update('a', (value) => value + 1)
    expect(map.peek('a')).toEqual(hit(2))
    expect(map.peek('a')).not.toBe(before)
    expect(map.ageMs('a')).toBe(60)
    expect([...map.keysByRecency()]).toEqual(['b', 'a'])
    clock.advance(40)
    expect(map.get('a')).toEqual({ kind: 'miss' })
  })

  test('keeps the entry when the value is the same, and deletes it when the result is undefined', () => {
    const { map } = create({})
    map.set('a', 1)
    const before = map.peek('a')
    map.update('a', (value) => value)
    expect(map.peek('a')).toBe(before)
    map.update('a', () => undefined)
    expect([map.get('a').kind, map.size]).toEqual(['miss', 0])
  })

  test('does nothing for a miss and for a negative entry', () => {
    const { map } = create({})
    map.setAbsent('a')
    for (const key of ['a', 'b']) map.update(key, () => 7)
    expect([map.get('a').kind, map.get('b').kind]).toEqual(['absent', 'miss'])
  })
})

describe('the bound in bytes', () => {
  const sizeOf = (key: string, value: number | undefined) => key.length + (value ?? 0)

  test('evicts as many least recently used entries as a new one needs', () => {
    const { map } = create({ maxBytes: 100, sizeOf })
    for (const key of ['a', 'b', 'c', 'd']) map.set(key, 19)
    expect([map.size, map.bytes]).toEqual([4, 80])
    map.get('a')
    map.set('e', 59)
    expect([...map.keysByRecency()]).toEqual(['e', 'a', 'd'])
    expect(map.bytes).toBe(100)
  })

  test('counts negative entries, and releases the bytes of overwritten, deleted and cleared entries', () => {
    const { map } = create({ maxBytes: 100, sizeOf, absentTtlMs: 10 })
    map.setAbsent('absent')
    map.set('a', 10)
    expect(map.bytes).toBe(6 + 11)
    map.set('a', 20)
    expect(map.bytes).toBe(6 + 21)
    map.delete('a')
    map.delete('a')
    expect(map.bytes).toBe(6)
    map.delete('absent')
    expect(map.bytes).toBe(0)
    map.set('b', 5)
    map.clear()
    expect(map.bytes).toBe(0)
  })

  test('rejects an entry larger than the bound and deletes the previous entry of its key', () => {
    const { map } = create({ maxBytes: 100, sizeOf })
    map.set('a', 10)
    map.set('b', 10)
    map.set('a', 100)
    expect(map.get('a')).toEqual({ kind: 'miss' })
    expect(map.get('b')).toEqual(hit(10))
    expect(map.bytes).toBe(11)
  })

  test('holds together with the bound on entries for any sequence of sizes', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f'), fc.nat(60), fc.boolean()), { maxLength: 60 }),
        (writes) => {
          const { map } = create({ maxBytes: 100, maxEntries: 3, sizeOf })
          for (const [key, value, remove] of writes) {
            if (remove) map.delete(key)
            else map.set(key, value)
            const held = [...map.keysByRecency()].map((each) => {
              const found = map.get(each)
              return sizeOf(each, found.kind === 'hit' ? found.value : undefined)
            })
            expect(map.bytes).toBe(held.reduce((sum, bytes) => sum + bytes, 0))
            expect(map.bytes).toBeLessThanOrEqual(100)
            expect(map.size).toBeLessThanOrEqual(3)
            expect(held).toHaveLength(map.size)
          }
        },
      ),
      { numRuns: 500 },
    )
  })
})

describe('the age of an entry', () => {
  test('counts from when the value was read, including its age in another cache', () => {
    const { map, clock } = create()
    map.set('own', 1)
    map.set('other', 1, 400)
    map.setAbsent('absent')
    clock.advance(50)
    expect([map.ageMs('own'), map.ageMs('other'), map.ageMs('absent'), map.ageMs('none')]).toEqual([
      50,
      450,
      50,
      undefined,
    ])
    map.set('other', 1)
    expect(map.ageMs('other')).toBe(0)
  })

  test('does not shorten its time to live, and reading the age does not count as use', () => {
    const { map, clock } = create({ maxEntries: 2 })
    map.set('a', 1, 5_000)
    map.set('b', 1)
    map.ageMs('a')
    map.set('c', 1)
    expect([...map.keysByRecency()]).toEqual(['c', 'b'])
    map.set('d', 1, 5_000)
    clock.advance(999)
    expect(map.get('d')).toEqual(hit(1))
  })
})

test('keysByRecency lists the most recently used key first', () => {
  const { map } = create()
  expect([...map.keysByRecency()]).toEqual([])
  for (const key of ['a', 'b', 'c']) map.set(key, 1)
  map.get('b')
  map.get('none')
  map.setAbsent('a')
  expect([...map.keysByRecency()]).toEqual(['a', 'b', 'c'])
  map.delete('a')
  expect([...map.keysByRecency()]).toEqual(['b', 'c'])
})

/** Set FLOOD=10000000 for the full run. */
const flood = Number(process.env['FLOOD'] ?? 1_000_000)

test(`memory stays constant under a flood of ${flood} keys that are never read again`, () => {
  const { map } = create({ maxEntries: 20_000, maxBytes: 4_000_000, sizeOf: (key) => 200 + 2 * key.length })
  let largest = 0
  let most = 0
  const send = (from: number, to: number) => {
    for (let key = from; key < to; key += 1) {
      if (key % 2 === 0) map.set(`account:00000000-0000-7000-8001-${key}`, key)
      else map.setAbsent(`account:00000000-0000-7000-8001-${key}`)
      if (map.size > largest) largest = map.size
      if (map.bytes > most) most = map.bytes
    }
    Bun.gc(true)
    return process.memoryUsage().rss
  }
  // The first quarter warms up the allocator.
  const before = send(0, flood / 4)
  const after = send(flood / 4, flood)
  expect(largest).toBeLessThanOrEqual(20_000)
  expect(largest).toBeGreaterThan(10_000)
  expect(most).toBeLessThanOrEqual(4_000_000)
  expect(after - before).toBeLessThan(64 * 2 ** 20)
}, 120_000)

/** Reference model: a list, least recently used first. */
const createModel = (maxEntries: number, now: () => number, ttlMs: number, absentTtlMs: number) => {
  let entries: { key: string; lookup: Lookup<number>; expiresAtMs: number }[] = []
  const without = (key: string) => entries.filter((entry) => entry.key !== key)
  const put = (key: string, lookup: Lookup<number>, lifetimeMs: number) => {
    entries = [...without(key), { key, lookup, expiresAtMs: now() + lifetimeMs }].slice(-maxEntries)
  }
  return {
    get: (key: string): Lookup<number> => {
      const found = entries.find((entry) => entry.key === key)
      if (found === undefined) return { kind: 'miss' }
      const alive = found.expiresAtMs > now()
      if (alive) entries = [...without(key), found]
      return alive ? found.lookup : { kind: 'miss' }
    },
    set: (key: string, value: number) => put(key, hit(value), ttlMs),
    setAbsent: (key: string) => put(key, { kind: 'absent' }, absentTtlMs),
    delete: (key: string) => {
      entries = without(key)
    },
    clear: () => {
      entries = []
    },
    size: () => entries.length,
  }
}

test('wouldEvict is true exactly when one more entry would evict an unexpired one, by number or by size', () => {
  for (const options of [{ maxEntries: 2 }, { maxBytes: 20, sizeOf: () => 10 }]) {
    const { map, clock } = create(options)
    expect(map.wouldEvict).toBe(false)
    map.set('a', 1)
    expect(map.wouldEvict).toBe(false)
    clock.advance(500)
    map.set('b', 2)
    expect(map.wouldEvict).toBe(true)
    clock.advance(500)
    // The least recently used entry has expired, so it may be evicted.
    expect(map.wouldEvict).toBe(false)
    map.set('c', 3)
    expect(map.wouldEvict).toBe(true)
  }
})

test('any sequence of calls gives the results, the keys and the size of the reference model, also with keys in groups', () => {
  const key = fc.constantFrom('x:a', 'x:b', 'x:c:d', 'y:a', 'y:', 'z:b')
  const step = fc.oneof(
    { weight: 3, arbitrary: fc.record({ call: fc.constant('get' as const), key }) },
    { weight: 3, arbitrary: fc.record({ call: fc.constant('getIn' as const), key }) },
    { weight: 5, arbitrary: fc.record({ call: fc.constant('set' as const), key, value: fc.nat(9) }) },
    { weight: 2, arbitrary: fc.record({ call: fc.constant('setAbsent' as const), key }) },
    { weight: 2, arbitrary: fc.record({ call: fc.constant('delete' as const), key }) },
    { weight: 2, arbitrary: fc.record({ call: fc.constant('advance' as const), ms: fc.nat(60) }) },
    { weight: 1, arbitrary: fc.record({ call: fc.constant('clear' as const) }) },
  )
  fc.assert(
    fc.property(
      fc.boolean(),
      fc.integer({ min: 1, max: 4 }),
      fc.array(step, { maxLength: 60, size: 'max' }),
      (grouped, maxEntries, steps) => {
        const { map, clock } = create({ grouped, maxEntries, ttlMs: 100, absentTtlMs: 30 })
        const model = createModel(maxEntries, clock.monotonic, 100, 30)
        for (const taken of steps) {
          if (taken.call === 'get') expect(map.get(taken.key)).toEqual(model.get(taken.key))
          else if (taken.call === 'getIn') {
            const [, group = '', id = ''] = /^(.):(.*)$/.exec(taken.key) ?? []
            expect(map.getIn(group, id)).toEqual(model.get(taken.key))
            expect(map.ageMsIn(group, id)).toBe(map.ageMs(taken.key))
          } else if (taken.call === 'advance') clock.advance(taken.ms)
          else {
            for (const either of [map, model]) {
              if (taken.call === 'set') either.set(taken.key, taken.value)
              else if (taken.call === 'clear') either.clear()
              else either[taken.call](taken.key)
            }
          }
          expect(map.size).toBe(model.size())
          const keys = map.keysByInsertion()
          const listed = Array.from({ length: map.size + 1 }, () => keys.next().value as string | undefined)
          expect(listed.toSorted()).toEqual([...map.keysByRecency(), undefined].toSorted())
        }
      },
    ),
    { numRuns: 2_000 },
  )
})

test('a value is due for renewal once, when it is used shortly before it expires; a negative entry never', () => {
  const { map, clock } = create({ ttlMs: 100, absentTtlMs: 100, renewAheadMs: 20 })
  map.set('a', 1)
  map.set('b', 2)
  map.setAbsent('c')
  clock.advance(79)
  map.get('a')
  expect(map.takeDue()).toEqual([])
  clock.advance(1)
  for (const key of ['a', 'a', 'c']) map.get(key)
  map.peek('b')
  expect([map.takeDue(), map.takeDue()]).toEqual([['a'], []])
  map.set('a', 3)
  map.get('a')
  expect(map.takeDue()).toEqual([])
  clock.advance(80)
  map.get('a')
  expect(map.takeDue()).toEqual(['a'])
})

describe('peek and keysByInsertion', () => {
  test('read an entry without counting as use and without removing it', () => {
    const { map, clock } = create({ maxEntries: 2 })
    map.set('a', 1)
    map.set('b', 2)
    expect(map.peek('a')).toEqual(hit(1))
    // Peeking did not count as use, so `a` is evicted.
    map.set('c', 3)
    expect([map.peek('a').kind, map.peek('b').kind]).toEqual(['miss', 'hit'])
    clock.advance(1_000)
    expect([map.peek('b').kind, map.size]).toEqual(['miss', 2])
  })

  test('return the same object until the key is set again', () => {
    const { map } = create()
    for (const put of [() => map.set('a', 1), () => map.setAbsent('a')]) {
      put()
      const first = map.peek('a')
      expect(map.get('a')).toBe(first)
      expect(map.peek('a')).toBe(first)
      put()
      expect(map.peek('a')).toEqual(first)
      expect(map.peek('a')).not.toBe(first)
    }
  })

  test('iterate from the oldest insertion and continue while entries are added and removed', () => {
    const { map } = create()
    for (const key of ['a', 'b', 'c']) map.set(key, 1)
    map.get('a')
    const keys = map.keysByInsertion()
    expect(keys.next().value).toBe('a')
    map.delete('b')
    map.set('a', 2)
    map.set('d', 1)
    expect([...{ [Symbol.iterator]: () => keys }]).toEqual(['c', 'a', 'd'])
  })
})
