import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { decodeBase64url, encodeBase64url } from '../../src/kit/base64url.ts'

test('decoding an encoding returns the same bytes', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
      expect([...(decodeBase64url(encodeBase64url(bytes)) ?? [])]).toEqual([...bytes])
    }),
  )
})

test('the encoding is RFC 4648 section 5 without padding', () => {
  expect(encodeBase64url(new Uint8Array([0xfb, 0xff, 0xfe, 0]))).toBe('-__-AA')
})

test('only canonical text is decoded: every accepted string is what its bytes encode to', () => {
  const character = fc.constantFrom(...'ABQfgw-_09+/= \n\0é')
  fc.assert(
    fc.property(fc.string({ unit: character, maxLength: 8 }), (text) => {
      const bytes = decodeBase64url(text)
      if (bytes !== undefined) expect(encodeBase64url(bytes)).toBe(text)
    }),
    { numRuns: 5_000 },
  )
})

test('unused low bits, padding, white space, the other alphabet and impossible lengths are rejected', () => {
  // The first of each row is the canonical text.
  for (const [good, ...bad] of [
    ['AA', 'AB', 'AP', 'AA==', 'AA=', ' AA', 'AA\n', 'A'],
    ['AAA', 'AAB', 'AAD', 'AAA='],
    ['-_8', '+/8', '-_9', '-_-'],
  ] as const) {
    expect(decodeBase64url(good)).toBeDefined()
    for (const text of bad) expect(decodeBase64url(text)).toBeUndefined()
  }
})

test('of the texts a lax decoder accepts for one Ed25519 signature, exactly one is accepted', () => {
  const signature = encodeBase64url(new Uint8Array(64).fill(7))
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  const same = [...alphabet].map((last) => signature.slice(0, -1) + last)
  const lax = same.filter((text) => Buffer.from(text, 'base64url').equals(Buffer.alloc(64, 7)))
  expect(lax.length).toBe(16)
  expect(lax.filter((text) => decodeBase64url(text) !== undefined)).toEqual([signature])
})
