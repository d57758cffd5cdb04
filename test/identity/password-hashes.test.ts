import { describe, expect, test } from 'bun:test'
import { Buffer } from 'node:buffer'
import { pbkdf2Sync, scryptSync } from 'node:crypto'
import { hashSync as bcrypt } from '@node-rs/bcrypt'
import { HashRefused, readPasswordHash, storedHash } from '../../src/identity/hashes/formats.ts'
import { verifyHash } from '../../src/identity/hashes/verify.ts'

const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64').replaceAll('=', '')
const fromHex = (hex: string) => Buffer.from(hex.replaceAll(' ', ''), 'hex')

/** RFC 7914 §12 and §11. */
const rfcScrypt = fromHex(
  '7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887',
)
const rfcPbkdf2 = fromHex(
  '4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56a1d425a1225833549adb841b51c9b3176a272bdebba1d078478f62b397f33c8d',
)
const firebase =
  '$fbscrypt$v=1,n=14,r=8,p=1,ss=Bw==,sk=jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA==$42xEC+ixf3L2lw==$lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ=='

/** As Better Auth makes it: the salt is used as hexadecimal text, the password in NFKC. */
const betterAuth = (password: string, salt: string) => {
  const options = { N: 16_384, r: 16, p: 1, maxmem: 67_108_864 }
  return `${salt}:${scryptSync(password.normalize('NFKC'), salt, 64, options).toString('hex')}`
}
const salt = '1c50892c354da5b23ec3b5007649bc6e'

describe('a hash of another system', () => {
  const cases: [what: string, hash: string, password: string][] = [
    ['bcrypt $2a$', '$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW', 'U*U'],
    ['bcrypt $2b$ of cost 10', bcrypt('seven green bottles', 10), 'seven green bottles'],
    ['bcrypt $2y$', bcrypt('seven green bottles', 4).replace('$2b$', '$2y$'), 'seven green bottles'],
    ['argon2id', '$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc', 'password'],
    [
      'argon2i without a version',
      '$argon2i$m=65536,t=2,p=1$c29tZXNhbHQ$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ',
      'password',
    ],
    ['scrypt', `$scrypt$ln=14,r=8,p=1$${base64(Buffer.from('SodiumChloride'))}$${base64(rfcScrypt)}`, 'pleaseletmein'],
    ['scrypt of Better Auth', betterAuth('correct horse battery', salt), 'correct horse battery'],
    ['scrypt of Firebase', firebase, 'user1password'],
    ['PBKDF2-SHA256', `$pbkdf2-sha256$i=80000$${base64(Buffer.from('NaCl'))}$${base64(rfcPbkdf2)}`, 'Password'],
    [
      'PBKDF2-SHA512 of passlib, with a full stop for the plus',
      `$pbkdf2-sha512$25000$${base64(fromHex('fbeffbff')).replaceAll('+', '.')}$${base64(pbkdf2Sync('a password', fromHex('fbeffbff'), 25_000, 64, 'sha512')).replaceAll('+', '.')}`,
      'a password',
    ],
    [
      'PBKDF2 of Django',
      `pbkdf2_sha256$26000$seasalt$${pbkdf2Sync('a password', 'seasalt', 26_000, 32, 'sha256').toString('base64')}`,
      'a password',
    ],
  ]
  for (const [what, hash, password] of cases)
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
