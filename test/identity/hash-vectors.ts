import { Buffer } from 'node:buffer'
import { pbkdf2Sync, scryptSync } from 'node:crypto'
import { hashSync as bcrypt } from '@node-rs/bcrypt'

/*
 * Hashes of other systems with their passwords: published vectors, and hashes that other code makes. For Bun and for Deno.
 */

export const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64').replaceAll('=', '')
const fromHex = (hex: string) => Buffer.from(hex.replaceAll(' ', ''), 'hex')

/** RFC 7914 §12 and §11. */
export const rfcScrypt = fromHex(
  '7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887',
)
export const rfcPbkdf2 = fromHex(
  '4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56a1d425a1225833549adb841b51c9b3176a272bdebba1d078478f62b397f33c8d',
)
const firebase =
  '$fbscrypt$v=1,n=14,r=8,p=1,ss=Bw==,sk=jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA==$42xEC+ixf3L2lw==$lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ=='

/** As Better Auth makes it: the salt is used as hexadecimal text, the password in NFKC. */
export const betterAuth = (password: string, salt: string) => {
  const options = { N: 16_384, r: 16, p: 1, maxmem: 67_108_864 }
  return `${salt}:${scryptSync(password.normalize('NFKC'), salt, 64, options).toString('hex')}`
}
export const salt = '1c50892c354da5b23ec3b5007649bc6e'

export const vectors: readonly [what: string, hash: string, password: string][] = [
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
