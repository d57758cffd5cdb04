import { describe, expect, test } from 'bun:test'
import { isInRollout, murmurHash3, rolloutBucket, rolloutBuckets } from '../../src/kit/rollout.ts'
import { createRandom } from '../access/random.ts'

const encode = (text: string) => new TextEncoder().encode(text)
const subject = (number: number) => `0192f3a1-7c00-7000-8000-${String(number).padStart(12, '0')}`
const subjects = Array.from({ length: 20_000 }, (_, number) => subject(number))

describe('MurmurHash3', () => {
  const vectors: readonly [input: Uint8Array, seed: number, hash: number][] = [
    [encode(''), 0, 0],
    [encode(''), 1, 0x514e28b7],
    [encode(''), 0xffffffff, 0x81f16f39],
    [Uint8Array.of(0xff, 0xff, 0xff, 0xff), 0, 0x76293b50],
    [Uint8Array.of(0x21, 0x43, 0x65, 0x87), 0, 0xf55b516b],
    [Uint8Array.of(0x21, 0x43, 0x65, 0x87), 0x5082edee, 0x2362f9de],
    [Uint8Array.of(0x21, 0x43, 0x65), 0, 0x7e4a8634],
    [Uint8Array.of(0x21, 0x43), 0, 0xa0f7b07a],
    [Uint8Array.of(0x21), 0, 0x72661cf4],
    [encode('aaaa'), 0x9747b28c, 0x5a97808a],
    [encode('Hello, world!'), 0x9747b28c, 0x24884cba],
    [encode('The quick brown fox jumps over the lazy dog'), 0x9747b28c, 0x2fa826cd],
    [encode('ππππππππ'), 0x9747b28c, 0xd58063c1],
  ]
  test('gives the published values for inputs of every length modulo 4, and with seeds', () => {
    for (const [input, seed, hash] of vectors) expect([...input, murmurHash3(input, seed)]).toEqual([...input, hash])
  })
})

describe('a rollout', () => {
  test('places a subject in the bucket that another implementation of the algorithm gives', () => {
    expect([
      rolloutBucket('new-editor', subject(1)),
      rolloutBucket('new-editor', subject(2)),
      rolloutBucket('security-context', subject(1)),
      rolloutBucket('näh', 'ü'),
    ]).toEqual([8539, 5709, 9779, 634])
  })

  test('reaches no subject at 0 percent and all at 100', () => {
    for (const each of subjects.slice(0, 1_000)) {
      expect([isInRollout('a', each, 0), isInRollout('a', each, 100)]).toEqual([false, true])
    }
    expect(new Set(subjects.map((each) => rolloutBucket('a', each))).size).toBeGreaterThan(8_000)
  })

  test('that grows keeps every subject it reached, and reaches the share that it names', () => {
    let before = new Set<string>()
    for (const percent of [0.01, 0.29, 1, 7.77, 33.33, 50, 99.99]) {
      const reached = new Set(subjects.filter((each) => isInRollout('grows', each, percent)))
      expect([...before].filter((each) => !reached.has(each))).toEqual([])
      // Four standard deviations of a binomial distribution.
      const deviation = Math.sqrt(subjects.length * (percent / 100) * (1 - percent / 100))
      expect(Math.abs(reached.size - (subjects.length * percent) / 100)).toBeLessThan(4 * deviation + 1)
      before = reached
    }
  })

  test('of one name says nothing about that of another: their buckets fall together by chance alone', () => {
    const both = subjects.filter((each) => isInRollout('one', each, 50) && isInRollout('other', each, 50))
    expect(Math.abs(both.length / subjects.length - 0.25)).toBeLessThan(0.015)
  })

  test('with a percentage of two decimals reaches exactly that many buckets', () => {
    const random = createRandom(7)
    for (let round = 0; round < 300; round += 1) {
      const hundredths = random.below(rolloutBuckets)
      const each = subject(1_000_000 + round)
      expect(isInRollout('exact', each, hundredths / 100)).toBe(rolloutBucket('exact', each) < hundredths)
    }
  })
})
