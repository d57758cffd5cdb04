import { describe, expect, test } from 'bun:test'
import { Buffer } from 'node:buffer'
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { hashSync as bcrypt } from '@node-rs/bcrypt'
import { HashRefused, readPasswordHash, storedHash } from '../../src/identity/hashes/formats.ts'
import { verifyHash } from '../../src/identity/hashes/verify.ts'
import { base64, betterAuth, rfcPbkdf2, rfcScrypt, salt, vectors } from './hash-vectors.ts'

describe('a hash of another system', () => {
  for (const [what, hash, password] of vectors)
    test(`${what} is verified as given and as stored`, () => {
      const stored = storedHash(hash)
      for (const text of [hash, stored]) {
        expect(verifyHash(text, password)).toBe(true)
        expect(verifyHash(text, `${password}x`)).toBe(false)
        expect(verifyHash(text, '')).toBe(false)
      }
      expect(readPasswordHash(stored)).toEqual(readPasswordHash(storedHash(stored)))
    })

  test('is verified for a password of another Unicode form: as typed, NFC or NFKC', () => {
    const typed = 'caf\u00e9 \ufb01n'
    expect(verifyHash(betterAuth(typed, salt), typed)).toBe(true)
    expect(verifyHash(bcrypt('cafe\u0301 au lait', 4), 'cafe\u0301 au lait')).toBe(true)
    expect(verifyHash(bcrypt('caf\u00e9 au lait', 4), 'cafe\u0301 au lait')).toBe(true)
  })

  test('of bcrypt covers 72 bytes of a longer password, as the systems that wrote it do', () => {
    const long = 'long '.repeat(20)
    expect(verifyHash(bcrypt(long, 4), long)).toBe(true)
    expect(verifyHash(bcrypt(long, 4), `${long.slice(0, 71)}!`)).toBe(false)
  })

  test('of bcrypt matches no password with a NUL character', () => {
    expect(verifyHash(bcrypt('before', 4), 'before\0after')).toBe(false)
  })
})

test('on Deno every hash is verified as on Bun', async () => {
  const pathOf = (path: string) => fileURLToPath(new URL(path, import.meta.url))
  const deno = pathOf('../../node_modules/deno/deno')
  const args = ['run', '-A', '--quiet', pathOf('./hashes-process.ts')]
  const { stdout } = await promisify(execFile)(deno, args, { cwd: pathOf('../../') })
  expect(JSON.parse(stdout)).toEqual(vectors.map(([what]) => ({ what, right: true, wrong: false })))
})

describe('a hash is refused', () => {
  const b53 = 'CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW'
  const cases: [what: string, hash: string, reason: RegExp][] = [
    ['bcrypt of cost 3', `$2a$03$${b53}`, /a cost from 4 to 14, not 3/],
    ['bcrypt of cost 31', `$2b$31$${b53}`, /a cost from 4 to 14, not 31/],
    ['bcrypt that is cut off', `$2a$10$${b53.slice(1)}`, /complete hash of the format bcrypt/],
    ['the broken $2x$', `$2x$10$${b53}`, /complete hash of the format bcrypt/],
    [
      'argon2 of 4 GiB',
      '$argon2id$v=19$m=4194304,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc',
      /262,144, not 4,194,304/,
    ],
    [
      'argon2 of many passes',
      '$argon2id$v=19$m=262144,t=10,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc',
      /times passes/,
    ],
    [
      'argon2 with an unknown version',
      '$argon2id$v=20$m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc',
      /complete hash/,
    ],
    [
      'scrypt of 1 GiB',
      `$scrypt$ln=20,r=8,p=1$${base64(Buffer.from('SodiumChloride'))}$${base64(rfcScrypt)}`,
      /from 10 to 17, not 20/,
    ],
    [
      'PBKDF2 of one iteration',
      `$pbkdf2-sha256$i=1$${base64(Buffer.from('NaCl'))}$${base64(rfcPbkdf2)}`,
      /1,000 to 2,000,000, not 1/,
    ],
    ['PBKDF2 of MD5', `$pbkdf2-md5$1000$${base64(Buffer.from('NaCl'))}$${base64(rfcPbkdf2)}`, /complete hash/],
    ['base64 that is not', '$pbkdf2-sha256$i=1000$@@@@$@@@@', /complete hash/],
    ['plain text', 'hunter2', /one of argon2, bcrypt, scrypt or PBKDF2/],
    ['MD5', '5f4dcc3b5aa765d61d8327deb882cf99', /one of argon2, bcrypt, scrypt or PBKDF2/],
    ['a text of 2,000 characters', `$2a$10$${'a'.repeat(2_000)}`, /at most 1,024 characters/],
  ]
  for (const [what, hash, reason] of cases)
    test(what, () => {
      expect(() => storedHash(hash)).toThrow(HashRefused)
      expect(() => storedHash(hash)).toThrow(reason)
    })
})
