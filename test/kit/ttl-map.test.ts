import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { manualClock } from '../../src/kit/clock.ts'
import { createTtlMap, type Lookup, type TtlMapOptions } from '../../src/kit/ttl-map.ts'

const create = (options: Partial<TtlMapOptions> = {}) => {
  const clock = manualClock()
  return { clock, map: createTtlMap<number>({ clock, ttlMs: 1_000, jitter: 0, ...options }) }
}
const hit = (value: number): Lookup<number> => ({ kind: 'hit', value })

describe('three answers', () => {
  test('what was set is a hit, what was set absent is absent, all else is a miss', () => {
    const { map } = create()
    map.set('a', 1)
    map.setAbsent('b')
    expect(map.get('a')).toEqual(hit(1))
    expect(map.get('b')).toEqual({ kind: 'absent' })
    expect(map.get('c')).toEqual({ kind: 'miss' })
  })

  test('the last word on a key counts', () => {
    const { map } = create()
    map.set('a', 1)
    map.setAbsent('a')
    expect(map.get('a')).toEqual({ kind: 'absent' })
    map.set('a', 2)
    expect(map.get('a')).toEqual(hit(2))
    expect(map.size).toBe(1)
  })

  test('what was deleted or cleared is a miss', () => {
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

describe('time to live', () => {
  test('an entry lives until its time to live has passed, and is dropped when met after that', () => {
    const { map, clock } = create()
    map.set('a', 1)
    clock.advance(999)
    expect(map.get('a')).toEqual(hit(1))
    clock.advance(1)
    expect(map.get('a')).toEqual({ kind: 'miss' })
    expect(map.size).toBe(0)
  })

  test('reading an entry does not lengthen its life, writing it does', () => {
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

  test('an absent answer lives for a tenth of that, or as long as it was told to', () => {
    for (const [options, livesMs] of [
      [{}, 100],
      [{ absentTtlMs: 5_000 }, 5_000],
    ] as const) {
      const { map, clock } = create(options)
      map.setAbsent('a')
      clock.advance(livesMs - 1)
      expect(map.get('a')).toEqual({ kind: 'absent' })
      clock.advance(1)
      expect(map.get('a')).toEqual({ kind: 'miss' })
    }
  })

  test('jitter shortens a life by at most its share, and never lengthens it', () => {
    fc.assert(
      fc.property(
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        (jitter, random) => {
          const { map, clock } = create({ ttlMs: 10_000, jitter, random: () => random })
          map.set('a', 1)
          const sureMs = Math.max(0, Math.floor(10_000 * (1 - jitter)) - 1)
          clock.advance(sureMs)
          if (sureMs > 0) expect(map.get('a')).toEqual(hit(1))
          clock.advance(10_000 - sureMs)
          expect(map.get('a')).toEqual({ kind: 'miss' })
        },
      ),
    )
  })

  test('entries made together do not expire together', () => {
    const { map, clock } = create({ jitter: 0.5 })
    for (let key = 0; key < 1_000; key += 1) map.set(String(key), key)
    clock.advance(750)
    const left = Array.from({ length: 1_000 }, (_, key) => map.get(String(key))).filter(({ kind }) => kind === 'hit')
    expect(left.length).toBeGreaterThan(350)
    expect(left.length).toBeLessThan(650)
  })
})

describe('the bound', () => {
  test('the least recently used goes first: writing and reading are using', () => {
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

  test('writing a key that is there pushes nothing out', () => {
    const { map } = create({ maxEntries: 2 })
    map.set('a', 1)
    map.set('b', 2)
    map.set('b', 3)
    map.setAbsent('b')
    expect(map.get('a')).toEqual(hit(1))
  })

  test('holds at every moment under 100,000 keys, absent ones included, and the last ones are there', () => {
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

/** The same promise as plainly as it can be written: a list, least recently used first. */
const createModel = (maxEntries: number, now: () => number, ttlMs: number, absentTtlMs: number) => {
  let entries: { key: string; lookup: Lookup<number>; expiresAtMs: number }[] = []
  const without = (key: string) => entries.filter((entry) => entry.key !== key)
  const put = (key: string, lookup: Lookup<number>, livesMs: number) => {
    entries = [...without(key), { key, lookup, expiresAtMs: now() + livesMs }].slice(-maxEntries)
  }
  return {
    get: (key: string): Lookup<number> => {
      const found = entries.find((entry) => entry.key === key)
      if (found === undefined) return { kind: 'miss' }
      const alive = found.expiresAtMs > now()
      entries = alive ? [...without(key), found] : without(key)
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

test('any sequence of calls gives the answers and the size of a naive model', () => {
  const key = fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f')
  const step = fc.oneof(
    { weight: 6, arbitrary: fc.record({ call: fc.constant('get' as const), key }) },
    { weight: 5, arbitrary: fc.record({ call: fc.constant('set' as const), key, value: fc.nat(9) }) },
    { weight: 2, arbitrary: fc.record({ call: fc.constant('setAbsent' as const), key }) },
    { weight: 2, arbitrary: fc.record({ call: fc.constant('delete' as const), key }) },
    { weight: 2, arbitrary: fc.record({ call: fc.constant('advance' as const), ms: fc.nat(60) }) },
    { weight: 1, arbitrary: fc.record({ call: fc.constant('clear' as const) }) },
  )
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 4 }), fc.array(step, { maxLength: 60, size: 'max' }), (maxEntries, steps) => {
      const { map, clock } = create({ maxEntries, ttlMs: 100, absentTtlMs: 30 })
      const model = createModel(maxEntries, clock.monotonic, 100, 30)
      for (const taken of steps) {
        if (taken.call === 'get') expect(map.get(taken.key)).toEqual(model.get(taken.key))
        else if (taken.call === 'advance') clock.advance(taken.ms)
        else {
          for (const either of [map, model]) {
            if (taken.call === 'set') either.set(taken.key, taken.value)
            else if (taken.call === 'clear') either.clear()
            else either[taken.call](taken.key)
          }
        }
        expect(map.size).toBe(model.size())
      }
    }),
    { numRuns: 2_000 },
  )
})
