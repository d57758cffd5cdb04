import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { createSecrets, sha256 } from '../../src/platform/secrets.ts'

const secrets = createSecrets('one secret, long enough for a test')
const others = createSecrets('another secret, long enough as well')
const bytes = (text: string) => new TextEncoder().encode(text)
const hex = (value: Uint8Array) => Buffer.from(value).toString('hex')

describe('a sealed value', () => {
  test('opens to its plaintext under its own label', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.string({ unit: 'grapheme' }), (plain, label) => {
        expect([...secrets.open(secrets.seal(plain, label), label)]).toEqual([...plain])
      }),
    )
  })

  test('opens after a restart and not with another secret', () => {
    const sealed = secrets.seal(bytes('a private key'), 'kid 1')
    expect(createSecrets('one secret, long enough for a test').open(sealed, 'kid 1')).toEqual(
      Buffer.from('a private key'),
    )
    expect(() => others.open(sealed, 'kid 1')).toThrow()
  })

  test('does not open when any bit was changed', () => {
    const sealed = secrets.seal(bytes('a private key'), 'kid 1')
    for (let bit = 0; bit < sealed.length * 8; bit += 1) {
      const changed = new Uint8Array(sealed)
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      expect(() => secrets.open(changed, 'kid 1')).toThrow()
    }
  })

  test('does not open when it was truncated or extended', () => {
    const sealed = secrets.seal(bytes('a private key'), 'kid 1')
    for (let length = 0; length < sealed.length; length += 1) {
      expect(() => secrets.open(sealed.subarray(0, length), 'kid 1')).toThrow()
      expect(() => secrets.open(sealed.subarray(sealed.length - length), 'kid 1')).toThrow()
    }
    expect(() => secrets.open(Buffer.concat([sealed, new Uint8Array(1)]), 'kid 1')).toThrow()
  })

  test('does not open under another label', () => {
    const sealed = secrets.seal(bytes('a private key'), 'kid 1')
    for (const label of ['kid 2', 'kid 10', 'kid ', '', 'KID 1']) expect(() => secrets.open(sealed, label)).toThrow()
  })

  test('is different each time and does not contain its plaintext', () => {
    const plain = bytes('a private key that is long enough to be recognized')
    const seals = Array.from({ length: 100 }, () => hex(secrets.seal(plain, 'kid 1')))
    expect(new Set(seals.map((sealed) => sealed.slice(0, 24))).size).toBe(100)
    expect(seals[0]).not.toContain(hex(plain.subarray(0, 8)))
  })
})

describe('a derived value', () => {
  test('is deterministic on every instance with the same secret', () => {
    const value = hex(secrets.derive('refresh', bytes('token')))
    expect(hex(secrets.derive('refresh', bytes('token')))).toBe(value)
    expect(hex(createSecrets('one secret, long enough for a test').derive('refresh', bytes('token')))).toBe(value)
    expect(value.length).toBe(64)
  })

  test('differs by purpose, message and secret', () => {
    const values = [
      secrets.derive('refresh', bytes('token')),
      secrets.derive('refresh', bytes('token2')),
      secrets.derive('refresh token', bytes('')),
      secrets.derive('links', bytes('token')),
      others.derive('refresh', bytes('token')),
      sha256(bytes('token')),
    ]
    expect(new Set(values.map(hex)).size).toBe(values.length)
  })
})

test('sha256 matches the published test vector', () => {
  expect(hex(sha256(bytes('abc')))).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
})
