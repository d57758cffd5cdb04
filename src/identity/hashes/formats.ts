import { Buffer } from 'node:buffer'

/*
 * Password hashes of other systems: which are accepted, and in which text each is stored. Pure; `verify.ts` computes them.
 */

export type Digest = 'sha1' | 'sha256' | 'sha512'

/** A hash as it is verified. */
export type PasswordHash =
  | { readonly kind: 'argon2'; readonly text: string }
  | { readonly kind: 'bcrypt'; readonly text: string }
  | {
      readonly kind: 'scrypt'
      readonly logN: number
      readonly blockSize: number
      readonly parallelism: number
      readonly salt: Buffer
      readonly key: Buffer
      /** Firebase encrypts this key of the project with the derived one, and stores the result. */
      readonly signerKey?: Buffer
    }
  | {
      readonly kind: 'pbkdf2'
      readonly digest: Digest
      readonly iterations: number
      readonly salt: Buffer
      readonly key: Buffer
    }

/** The costs that are accepted. A hash at the upper end takes a worker about a second. */
export const costBounds = {
  bcryptCost: [4, 14],
  argon2MemoryKib: [8, 262_144],
  argon2Passes: [1, 10],
  argon2Lanes: [1, 8],
  scryptLogN: [10, 17],
  scryptBlockSize: [1, 32],
  scryptParallelism: [1, 4],
  pbkdf2Iterations: [1_000, 2_000_000],
} as const satisfies Record<string, readonly [least: number, most: number]>

/** Of one argon2 hash: KiB times passes. Of one scrypt hash: the bytes of its memory, and those times its parallelism. */
const maxArgon2Work = 1_048_576
const maxScryptBytes = 67_108_864
const maxScryptWork = 268_435_456

const saltLengths = [4, 128] as const
const keyLengths = [16, 128] as const

/** Why a hash is not accepted: the rest of a sentence that begins with "the password hash". */
export class HashRefused extends Error {
  override readonly name = 'HashRefused'
}

const figure = (value: number) => value.toLocaleString('en')

const requireBetween = (what: string, value: number, [least, most]: readonly [number, number]): number => {
  if (Number.isInteger(value) && value >= least && value <= most) return value
  throw new HashRefused(`must have ${what} from ${figure(least)} to ${figure(most)}, not ${figure(value)}`)
}

const malformed = (format: string) => new HashRefused(`must be a complete hash of the format ${format}`)

const requireLengths = (format: string, salt: Buffer, key: Buffer): void => {
  if (salt.length < saltLengths[0] || salt.length > saltLengths[1])
    throw new HashRefused(`must have a salt of ${saltLengths[0]} to ${saltLengths[1]} bytes, as ${format} does`)
  if (key.length < keyLengths[0] || key.length > keyLengths[1])
    throw new HashRefused(`must have a key of ${keyLengths[0]} to ${keyLengths[1]} bytes, as ${format} does`)
}

/** Bytes in base64: padded or not, also in the alphabets of base64url and of passlib (a full stop for the plus). */
const decodeBase64 = (text: string, format: string): Buffer => {
  const plain = text.replaceAll('.', '+').replaceAll('-', '+').replaceAll('_', '/').replace(/=+$/, '')
  const bytes = Buffer.from(plain, 'base64')
  if (plain === '' || bytes.toString('base64').replace(/=+$/, '') !== plain) throw malformed(format)
  return bytes
}

const encodeBase64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64').replace(/=+$/, '')

const readBcrypt = (text: string): PasswordHash => {
  const [, cost] = /^\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}$/.exec(text) ?? []
  if (cost === undefined) throw malformed('bcrypt ($2a$, $2b$ or $2y$)')
  requireBetween('a cost', Number(cost), costBounds.bcryptCost)
  return { kind: 'bcrypt', text }
}

/** Without `v=` it is version 16 of the algorithm, which the libraries verify as such. */
const argon2Pattern = /^\$argon2(?:id|i|d)(?:\$v=(?:16|19))?\$m=(\d{1,9}),t=(\d{1,9}),p=(\d{1,9})\$([^$]+)\$([^$]+)$/

const readArgon2 = (text: string): PasswordHash => {
  const format = 'argon2 ($argon2id$v=19$m=…,t=…,p=…$salt$key)'
  const [, memory, passes, lanes, salt, key] = argon2Pattern.exec(text) ?? []
  if (salt === undefined || key === undefined) throw malformed(format)
  requireBetween('a memory in KiB', Number(memory), costBounds.argon2MemoryKib)
  requireBetween('a number of passes', Number(passes), costBounds.argon2Passes)
  requireBetween('a number of lanes', Number(lanes), costBounds.argon2Lanes)
  requireBetween('a memory in KiB times passes', Number(memory) * Number(passes), [8, maxArgon2Work])
  if (Number(memory) < 8 * Number(lanes)) throw malformed(format)
  requireLengths(format, decodeBase64(salt, format), decodeBase64(key, format))
  return { kind: 'argon2', text }
}

const scryptHash = (
  format: string,
  { logN, blockSize, parallelism, salt, key }: Omit<Extract<PasswordHash, { kind: 'scrypt' }>, 'kind' | 'signerKey'>,
): Extract<PasswordHash, { kind: 'scrypt' }> => {
  requireBetween('a logarithm of N', logN, costBounds.scryptLogN)
  requireBetween('a block size', blockSize, costBounds.scryptBlockSize)
  requireBetween('a parallelism', parallelism, costBounds.scryptParallelism)
  const bytes = 128 * 2 ** logN * blockSize
  requireBetween('a memory in bytes', bytes, [1, maxScryptBytes])
  requireBetween('a memory in bytes times parallelism', bytes * parallelism, [1, maxScryptWork])
  requireLengths(format, salt, key)
  return { kind: 'scrypt', logN, blockSize, parallelism, salt, key }
}

const readScrypt = (text: string): PasswordHash => {
  const format = 'scrypt ($scrypt$ln=…,r=…,p=…$salt$key)'
  const [, logN, blockSize, parallelism, salt, key] =
    /^\$scrypt\$ln=(\d{1,3}),r=(\d{1,6}),p=(\d{1,6})\$([^$]+)\$([^$]+)$/.exec(text) ?? []
  if (salt === undefined || key === undefined) throw malformed(format)
  return scryptHash(format, {
    logN: Number(logN),
    blockSize: Number(blockSize),
    parallelism: Number(parallelism),
    salt: decodeBase64(salt, format),
    key: decodeBase64(key, format),
  })
}

/** That of Firebase, in the text in which Supabase stores it: `ss` is the separator of salts and `sk` the key of the project. */
const readFirebaseScrypt = (text: string): PasswordHash => {
  const format = 'Firebase scrypt ($fbscrypt$v=1,n=…,r=…,p=…,ss=…,sk=…$salt$key)'
  const [, logN, blockSize, parallelism, separator = '', signer = '', salt, key] =
    /^\$fbscrypt\$v=1,n=(\d{1,3}),r=(\d{1,6}),p=(\d{1,6})(?:,ss=([^,$]*))?,sk=([^,$]+)\$([^$]+)\$([^$]+)$/.exec(text) ??
    []
  if (salt === undefined || key === undefined) throw malformed(format)
  const signerKey = decodeBase64(signer, format)
  const stored = decodeBase64(key, format)
  if (signerKey.length !== stored.length) throw malformed(format)
  const separated = separator === '' ? Buffer.alloc(0) : decodeBase64(separator, format)
  return {
    ...scryptHash(format, {
      logN: Number(logN),
      blockSize: Number(blockSize),
      parallelism: Number(parallelism),
      salt: Buffer.concat([decodeBase64(salt, format), separated]),
      key: stored,
    }),
    signerKey,
  }
}

const pbkdf2Hash = (format: string, digest: string, iterations: string, salt: Buffer, key: Buffer): PasswordHash => {
  requireBetween('a number of iterations', Number(iterations), costBounds.pbkdf2Iterations)
  requireLengths(format, salt, key)
  return {
    kind: 'pbkdf2',
    digest: digest === '' ? 'sha1' : (digest as Digest),
    iterations: Number(iterations),
    salt,
    key,
  }
}

/** As the PHC format has it, and as passlib writes it. */
const readPbkdf2 = (text: string): PasswordHash => {
  const format = 'PBKDF2 ($pbkdf2-sha256$i=…$salt$key)'
  const [, digest = '', iterations, salt, key] =
    /^\$pbkdf2(?:-(sha1|sha256|sha512))?\$(?:i=)?(\d{1,9})(?:,l=\d{1,4})?\$([^$]+)\$([^$]+)$/.exec(text) ?? []
  if (iterations === undefined || salt === undefined || key === undefined) throw malformed(format)
  return pbkdf2Hash(format, digest, iterations, decodeBase64(salt, format), decodeBase64(key, format))
}

/** As Django writes it: the salt is used as text. */
const readDjangoPbkdf2 = (text: string): PasswordHash => {
  const format = 'PBKDF2 (pbkdf2_sha256$iterations$salt$key)'
  const [, digest = '', iterations, salt, key] =
    /^pbkdf2_(sha1|sha256|sha512)\$(\d{1,9})\$([^$]+)\$([^$]+)$/.exec(text) ?? []
  if (iterations === undefined || salt === undefined || key === undefined) throw malformed(format)
  return pbkdf2Hash(format, digest, iterations, Buffer.from(salt), decodeBase64(key, format))
}

/** As Better Auth writes it with its default settings: the salt is used as text, in hexadecimal. */
const betterAuthPattern = /^([0-9a-f]{32}):([0-9a-f]{128})$/i
const betterAuth = { logN: 14, blockSize: 16, parallelism: 1 } as const

const readBetterAuth = (text: string): PasswordHash | undefined => {
  const [, salt, key] = betterAuthPattern.exec(text) ?? []
  if (salt === undefined || key === undefined) return undefined
  return scryptHash('Better Auth', { ...betterAuth, salt: Buffer.from(salt), key: Buffer.from(key, 'hex') })
}

const readers: readonly (readonly [prefix: string, read: (text: string) => PasswordHash])[] = [
  ['$argon2', readArgon2],
  ['$2', readBcrypt],
  ['$scrypt$', readScrypt],
  ['$fbscrypt$', readFirebaseScrypt],
  ['$pbkdf2', readPbkdf2],
  ['pbkdf2_', readDjangoPbkdf2],
]

/** Longer texts are not looked at. */
const maxLength = 1_024

/** Reads a hash. Throws `HashRefused` for an unknown or malformed one, and for one whose cost is out of bounds. */
export const readPasswordHash = (text: string): PasswordHash => {
  if (text.length > maxLength) throw new HashRefused(`must have at most ${figure(maxLength)} characters`)
  const read = readers.find(([prefix]) => text.startsWith(prefix))?.[1]
  const found = read === undefined ? readBetterAuth(text) : read(text)
  if (found === undefined)
    throw new HashRefused('must be one of argon2, bcrypt, scrypt or PBKDF2, in a format that is supported')
  return found
}

/** The text under which a hash is stored: one that `readPasswordHash` reads as the same hash. */
export const storedHash = (text: string): string => {
  const hash = readPasswordHash(text)
  if (hash.kind !== 'scrypt' || hash.signerKey !== undefined || text.startsWith('$')) return text
  const { logN, blockSize, parallelism, salt, key } = hash
  return `$scrypt$ln=${logN},r=${blockSize},p=${parallelism}$${encodeBase64(salt)}$${encodeBase64(key)}`
}
