import { Buffer } from 'node:buffer'
import { randomBytes } from 'node:crypto'
import { sha256 } from '../../platform/secrets.ts'

export const recoveryCodeCount = 10

/** Crockford's Base32: without letters that look like others. */
const alphabet = '0123456789abcdefghjkmnpqrstvwxyz'
/** 24 characters of 5 bits are 120 bits: too many to guess, so that a plain hash may be stored of them. */
const length = 24
const groupLength = 4

/** New recovery codes, in groups as people type them. */
export const newRecoveryCodes = (): string[] =>
  Array.from({ length: recoveryCodeCount }, () => {
    const characters = [...randomBytes(length)].map((byte) => alphabet[byte & 31])
    return Array.from({ length: length / groupLength }, (_, group) =>
      characters.slice(groupLength * group, groupLength * (group + 1)).join(''),
    ).join('-')
  })

/** What is stored of a code. Case, blanks and hyphens make no difference; O is read as 0, and I and L as 1. */
export const hashRecoveryCode = (userId: string, code: string): Uint8Array => {
  const typed = code.toLowerCase().replaceAll(/[\s-]/g, '').replaceAll('o', '0').replaceAll(/[il]/g, '1')
  return sha256(Buffer.from(`${userId} ${typed}`))
}
