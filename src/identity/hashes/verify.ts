import { Buffer } from 'node:buffer'
import { createCipheriv, pbkdf2Sync, scryptSync, timingSafeEqual } from 'node:crypto'
import { verifySync as verifyArgon2 } from '@node-rs/argon2'
import { verifySync as verifyBcrypt } from '@node-rs/bcrypt'
import { type PasswordHash, readPasswordHash } from './formats.ts'

/** Twice what scrypt needs at the highest accepted cost. */
const scryptMaxBytes = 134_217_728
/** AES-256 in the scrypt of Firebase. */
const cipherKeyLength = 32

type Scrypt = Extract<PasswordHash, { kind: 'scrypt' }>

const scryptKey = (password: string, { logN, blockSize, parallelism, salt }: Scrypt, length: number): Buffer =>
  scryptSync(password, salt, length, { N: 2 ** logN, r: blockSize, p: parallelism, maxmem: scryptMaxBytes })

const scryptResult = (password: string, hash: Scrypt): Buffer => {
  if (hash.signerKey === undefined) return scryptKey(password, hash, hash.key.length)
  const cipher = createCipheriv('aes-256-ctr', scryptKey(password, hash, cipherKeyLength), Buffer.alloc(16))
  return Buffer.concat([cipher.update(hash.signerKey), cipher.final()])
}

/** The systems that write bcrypt hashes refuse this character, or end the password at it. */
const hasNul = (password: string): boolean => password.includes('\0')

const matches = (password: string, hash: PasswordHash): boolean => {
  switch (hash.kind) {
    case 'argon2':
      return verifyArgon2(hash.text, password)
    case 'bcrypt':
      return !hasNul(password) && verifyBcrypt(password, hash.text)
    case 'scrypt':
      return timingSafeEqual(scryptResult(password, hash), hash.key)
    case 'pbkdf2':
      return timingSafeEqual(pbkdf2Sync(password, hash.salt, hash.iterations, hash.key.length, hash.digest), hash.key)
  }
}

/**
 * Whether a password has this hash: as NFC, which is the form of the hashes made here, then as it was typed and as NFKC, which
 * other systems hash. Text in ASCII has one form only. Throws `HashRefused` for a hash that is not accepted.
 */
export const verifyHash = (hash: string, password: string): boolean => {
  const read = readPasswordHash(hash)
  const forms = new Set([password.normalize('NFC'), password, password.normalize('NFKC')])
  return [...forms].some((form) => matches(form, read))
}
