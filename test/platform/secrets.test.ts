import { describe, expect, test } from 'bun:test'
import { createHmac, hkdfSync } from 'node:crypto'
import fc from 'fast-check'
import { createKeyedHash, createSecrets, SealRefused, sha256, wrappedKeyNames } from '../../src/platform/secrets.ts'

const first = 'one secret, long enough for a test'
const second = 'another secret, long enough as well'
const secrets = createSecrets(first)
const others = createSecrets(second)
/** After `first` was replaced by `second`. */
const rotated = createSecrets(second, first)
const bytes = (text: string) => new TextEncoder().encode(text)
const hex = (value: Uint8Array) => Buffer.from(value).toString('hex')
const names = ['totp-secret', 'signing-key'] as const
/** There is one name of signatures today. */
const otherName = 'another-name' as 'stream-ticket'
const refusalOf = (open: () => unknown) => {
  try {
    return open()
  } catch (error) {
    return error instanceof SealRefused ? error.reason : error
  }
}
const flipped = (value: Uint8Array, bit: number) => {
  const changed = new Uint8Array(value)
  changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
  return changed
}

for (const name of names) {
  describe(`a sealed ${name}`, () => {
    const sealed = secrets.seal(name, 'a private key', 'user 1')

    test('opens to its plaintext under its own name and subject', () => {
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 200 }), fc.string({ unit: 'grapheme' }), (plain, subject) => {
          expect([...secrets.unseal(name, secrets.seal(name, plain, subject), subject)]).toEqual([...plain])
        }),
      )
      expect(secrets.unseal(name, sealed, 'user 1').toString()).toBe('a private key')
    })

    test('opens after a restart and not with another secret', () => {
      expect(createSecrets(first).unseal(name, sealed, 'user 1').toString()).toBe('a private key')
      expect(() => others.unseal(name, sealed, 'user 1')).toThrow(SealRefused)
    })

    test('does not open when any bit was changed', () => {
      for (const some of [secrets, rotated]) {
        for (let bit = 0; bit < sealed.length * 8; bit += 1)
          expect(() => some.unseal(name, flipped(sealed, bit), 'user 1')).toThrow(SealRefused)
      }
    })

    test('does not open when it was truncated or extended', () => {
      for (let length = 0; length < sealed.length; length += 1) {
        expect(() => secrets.unseal(name, sealed.subarray(0, length), 'user 1')).toThrow(SealRefused)
        expect(() => secrets.unseal(name, sealed.subarray(sealed.length - length), 'user 1')).toThrow(SealRefused)
      }
      expect(() => secrets.unseal(name, Buffer.concat([sealed, new Uint8Array(1)]), 'user 1')).toThrow(SealRefused)
    })

    test('does not open under another subject or name', () => {
      for (const subject of ['user 2', 'user 10', 'user ', '', 'USER 1'])
        expect(() => secrets.unseal(name, sealed, subject)).toThrow(SealRefused)
      for (const other of ['webhook-secret', ...names.filter((each) => each !== name)] as const)
        expect(() => secrets.unseal(other, sealed, 'user 1')).toThrow(SealRefused)
    })

    test('is different each time and does not contain its plaintext', () => {
      const plain = bytes('a private key that is long enough to be recognized')
      const seals = Array.from({ length: 100 }, () => hex(secrets.seal(name, plain, 'user 1')))
      expect(new Set(seals).size).toBe(100)
      expect(seals[0]).not.toContain(hex(plain.subarray(0, 8)))
    })

    test('opens under the previous secret, and is made under the current one', () => {
      expect(rotated.unseal(name, sealed, 'user 1').toString()).toBe('a private key')
      expect(rotated.sealedBy(name, sealed, 'user 1')).toBe('previous')
      const renewed = rotated.seal(name, 'a private key', 'user 1')
      expect(rotated.sealedBy(name, renewed, 'user 1')).toBe('current')
      expect(others.unseal(name, renewed, 'user 1').toString()).toBe('a private key')
      expect(() => secrets.unseal(name, renewed, 'user 1')).toThrow(SealRefused)
    })

    test('opens on instances that already accept the next secret, whichever of the two they use', () => {
      const accepting = createSecrets(first, second)
      const made = [accepting, rotated].map((some) => some.seal(name, 'a private key', 'user 1'))
      for (const some of [accepting, rotated])
        expect(made.map((each) => some.unseal(name, each, 'user 1').toString())).toEqual(Array(2).fill('a private key'))
    })
  })
}

describe('a sealed value', () => {
  test('names its secret, so that an unknown secret and a change are refused with different reasons', () => {
    const sealed = secrets.seal('totp-secret', 'a key', 'user 1')
    expect(hex(sealed)).toStartWith(hex(secrets.sealedPrefix))
    expect(refusalOf(() => others.unseal('totp-secret', sealed, 'user 1'))).toBe('unknown_secret')
    expect(refusalOf(() => rotated.unseal('totp-secret', flipped(sealed, 100), 'user 1'))).toBe('changed')
    expect(hex(rotated.sealedPrefix)).toBe(hex(others.sealedPrefix))
    expect(hex(rotated.sealedPrefix)).not.toBe(hex(secrets.sealedPrefix))
  })

  test('under the name of signing keys has the form of 0.2.0, so that both versions open it', async () => {
    const { createCipheriv, createDecipheriv, randomBytes } = await import('node:crypto')
    const key = new Uint8Array(hkdfSync('sha256', first, 'velro', 'seal', 32))
    const label = bytes('signing-key k1')
    const iv = randomBytes(12)
    const cipher = createCipheriv('aes-256-gcm', key, iv).setAAD(label)
    const older = Buffer.concat([iv, cipher.update('{}'), cipher.final(), cipher.getAuthTag()])
    expect(secrets.unseal('signing-key', older, 'k1').toString()).toBe('{}')
    const newer = secrets.seal('signing-key', '{"d":1}', 'k1')
    const decipher = createDecipheriv('aes-256-gcm', key, newer.subarray(0, 12))
      .setAAD(label)
      .setAuthTag(newer.subarray(-16))
    expect(Buffer.concat([decipher.update(newer.subarray(12, -16)), decipher.final()]).toString()).toBe('{"d":1}')
  })
})

describe('a signature', () => {
  const signature = secrets.sign('stream-ticket', 'a message')

  test('is recognized with its message, name and secret alone', () => {
    expect(secrets.isSigned('stream-ticket', bytes('a message'), signature)).toBe(true)
    expect(createSecrets(first).isSigned('stream-ticket', 'a message', signature)).toBe(true)
    expect(secrets.isSigned('stream-ticket', 'another message', signature)).toBe(false)
    expect(secrets.isSigned(otherName, 'a message', signature)).toBe(false)
    expect(others.isSigned('stream-ticket', 'a message', signature)).toBe(false)
  })

  test('is refused when any bit was changed, or its length', () => {
    for (let bit = 0; bit < signature.length * 8; bit += 1)
      expect(rotated.isSigned('stream-ticket', 'a message', flipped(signature, bit))).toBe(false)
    for (let length = 0; length < signature.length; length += 1)
      expect(secrets.isSigned('stream-ticket', 'a message', signature.subarray(0, length))).toBe(false)
    expect(secrets.isSigned('stream-ticket', 'a message', Buffer.concat([signature, Buffer.alloc(1)]))).toBe(false)
  })

  test('under the previous secret is recognized, and new ones are under the current one', () => {
    expect(rotated.isSigned('stream-ticket', 'a message', signature)).toBe(true)
    expect(others.isSigned('stream-ticket', 'a message', rotated.sign('stream-ticket', 'a message'))).toBe(true)
  })
})

describe('a tag', () => {
  const [mac] = secrets.macs('redis-fact')
  const tag = mac.tag('a text')

  test('is the beginning of HMAC-SHA-256, and belongs to its text, name and secret alone', () => {
    const key = new Uint8Array(hkdfSync('sha256', first, 'velro', 'mac redis-fact', 32))
    expect(tag).toBe(createHmac('sha256', key).update('a text').digest('base64url').slice(0, 22))
    expect([tag.length, mac.isTagged('a text', tag)]).toEqual([22, true])
    expect(createSecrets(first).macs('redis-fact')[0].isTagged('a text', tag)).toBe(true)
    for (const [other, text] of [
      [mac, 'a text '],
      [mac, ''],
      [secrets.macs('redis-statement')[0], 'a text'],
      [others.macs('redis-fact')[0], 'a text'],
    ] as const)
      expect(other.isTagged(text, tag)).toBe(false)
  })

  test('is refused when any character was changed, or its length', () => {
    for (let at = 0; at < tag.length; at += 1)
      for (const other of ['A', 'B', '_', ' ', 'é', '\0'])
        if (tag[at] !== other) expect(mac.isTagged('a text', tag.slice(0, at) + other + tag.slice(at + 1))).toBe(false)
    for (let length = 0; length < tag.length; length += 1)
      expect(mac.isTagged('a text', tag.slice(0, length))).toBe(false)
    for (const more of ['A', '=', ' ', '\n']) expect(mac.isTagged('a text', tag + more)).toBe(false)
  })

  test('is made under the current secret, and the id of the key names it', () => {
    expect(rotated.macs('redis-fact').map(({ keyId }) => keyId)).toEqual(
      [others, secrets].map((of) => of.macs('redis-fact')[0].keyId),
    )
    expect(rotated.macs('redis-fact')[1]?.isTagged('a text', tag)).toBe(true)
    expect(secrets.macs('redis-fact')).toHaveLength(1)
    expect(mac.keyId).toMatch(/^[\w-]{6}$/)
    expect(mac.keyId).not.toBe(others.macs('redis-fact')[0].keyId)
  })
})

describe('a derived value', () => {
  test('is deterministic on every instance with the same secret', () => {
    const value = hex(secrets.derive('token-id', bytes('token')))
    expect(hex(secrets.derive('token-id', bytes('token')))).toBe(value)
    expect(hex(createSecrets(first).derive('token-id', bytes('token')))).toBe(value)
    expect(value.length).toBe(64)
  })

  test('differs by name, message and secret', () => {
    const values = [
      secrets.derive('token-id', bytes('token')),
      secrets.derive('token-id', bytes('token2')),
      secrets.derive('refresh-successor', bytes('token')),
      secrets.derive('signed link 1', bytes('token')),
      secrets.derive('signed link 2', bytes('token')),
      secrets.sign(otherName, 'token').subarray(4),
      others.derive('token-id', bytes('token')),
      sha256(bytes('token')),
    ]
    expect(new Set(values.map(hex)).size).toBe(values.length)
  })

  test('is computed under the current secret, and under the previous one on request', () => {
    const value = (some: typeof secrets, by?: 'current' | 'previous') =>
      hex(some.derive('token-id', bytes('token'), by))
    expect([value(rotated), value(rotated, 'current'), value(rotated, 'previous')]).toEqual([
      value(others),
      value(others),
      value(secrets),
    ])
    expect(() => secrets.derive('token-id', bytes('token'), 'previous')).toThrow('SECRET_PREVIOUS')
    expect([secrets.generations, rotated.generations, createSecrets(first, first).generations]).toEqual([
      ['current'],
      ['current', 'previous'],
      ['current'],
    ])
  })
})

test('a wrapped key begins as the key that 0.2.0 derives, so that both versions find the same values', () => {
  for (const name of wrappedKeyNames) {
    const older = createHmac('sha256', new Uint8Array(hkdfSync('sha256', first, 'velro', `derive ${name}`, 32)))
    const hashOf = createKeyedHash((each) => rotated.wrappedKey(each, 'previous'))
    expect(hex(hashOf(name, bytes('an address')))).toBe(older.update('an address').digest('hex'))
  }
})

test('sha256 matches the published test vector', () => {
  expect(hex(sha256(bytes('abc')))).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
})
