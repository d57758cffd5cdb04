import { describe, expect, test } from 'bun:test'
import { createSecretCheck, isSameHash, makeServiceKey, readServiceKey } from '../../src/access/service-key.ts'
import { newId } from '../../src/kit/id.ts'
import { sha256 } from '../../src/platform/secrets.ts'

describe('the text of a service key', () => {
  const id = newId()
  const { key, secretHash } = makeServiceKey(id)

  test('contains its id and verifies its secret', () => {
    expect(readServiceKey(key)).toEqual({ id, secretHash })
    expect(makeServiceKey(id).key).not.toBe(key)
  })

  test('is accepted in one spelling only', () => {
    const last = key.at(-1) === 'A' ? 'B' : 'A'
    for (const text of ['', 'vsk_', key.slice(4), `VSK_${key.slice(4)}`, `xxx_${key.slice(4)}`, `${key}=`, `${key}A`]) {
      expect([text, readServiceKey(text)]).toEqual([text, undefined])
    }
    expect(readServiceKey(`vsk_${'A'.repeat(1_000_000)}`)).toBeUndefined()
    expect(readServiceKey(key.slice(0, -1) + last)?.secretHash).not.toEqual(secretHash)
  })

  test('is compared by its whole hash', () => {
    const kept = Buffer.from(secretHash).toString('base64url')
    expect(isSameHash(secretHash, kept)).toBeTrue()
    expect(isSameHash(secretHash, '')).toBeFalse()
    expect(isSameHash(secretHash, kept.slice(0, 20))).toBeFalse()
    expect(isSameHash(sha256(secretHash), kept)).toBeFalse()
  })
})

test('a key that was right for one fact is compared again with another fact, and another key with the same fact', () => {
  const id = newId()
  const [own, other] = [makeServiceKey(id), makeServiceKey(id)]
  const factOf = ({ secretHash }: typeof own) => ({ secretHash: Buffer.from(secretHash).toString('base64url') })
  const read = (text: string) => readServiceKey(text) as NonNullable<ReturnType<typeof readServiceKey>>
  const [key, wrong] = [read(own.key), read(other.key)]
  const [fact, changed] = [factOf(own), factOf(other)]
  const hasRightSecret = createSecretCheck()
  const verdicts = () => [
    hasRightSecret(key, fact),
    hasRightSecret(wrong, fact),
    hasRightSecret(key, changed),
    hasRightSecret(wrong, changed),
  ]
  expect(verdicts()).toEqual([true, false, false, true])
  expect(verdicts()).toEqual([true, false, false, true])
})
