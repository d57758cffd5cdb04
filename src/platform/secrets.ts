import { Buffer } from 'node:buffer'
import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createHmac,
  hkdfSync,
  randomBytes,
  timingSafeEqual,
} from 'node:crypto'

/*
 * Each value is bound to the name of its key: a value made under one name means nothing under another. A new use of SECRET takes
 * a new name here. A stored column of sealed values also takes a line in src/secrets/store.ts, which seals them again when SECRET
 * changes.
 */

/** Values that are encrypted, to be read again. */
export type SealName =
  | 'signing-key'
  | 'wrapped-key'
  | 'totp-secret'
  | 'identity-provider'
  | 'webhook-secret'
  | 'mail'
  /** Tokens and challenges of sign-ins, which live for minutes. */
  | 'challenge'

/** Values that are signed, to be recognized again. */
export type SignName = 'stream-ticket'

/** Values that are computed again from the same message, in formats of a fixed length that name no key. */
export type DeriveName =
  | 'access-token-mac'
  | 'token-id'
  | 'refresh-successor'
  | 'device-token'
  /** A network of a session, which is not found again once SECRET has changed twice. */
  | 'session-network'
  /** One key for each week, by its number. */
  | `signed link ${number}`

/** Values in Redis, which others may be able to write to. A value is bound to its key there and to its kind. */
export type MacName = 'redis-fact' | 'redis-newest-event' | 'redis-statement' | 'redis-units' | 'redis-figures'

/** Authenticates text under one secret. */
export type Mac = {
  /**
   * Names the secret and reveals nothing about it: 6 characters of base64url. It belongs beside the tag or into the name of the
   * value, so that one under another secret differs from a forged one.
   */
  readonly keyId: string
  /** The first 132 bits of HMAC-SHA-256: 22 characters of base64url. */
  tag(text: string): string
  /** Compares in constant time. */
  isTagged(text: string, tag: string): boolean
}

/** Stored values that are found again by their keyed hash, also after SECRET has changed: see src/secrets/wrapped-keys.ts. */
export const wrappedKeyNames = [
  'sign-in-failures',
  'welcome-credits',
  'limits',
  'outage',
  'audit-event',
  'audit-key',
] as const
export type WrappedKeyName = (typeof wrappedKeyNames)[number]

/** HMAC-SHA-256 with one key for each name, which is the same as long as the database lives. 32 bytes. */
export type KeyedHash = (name: WrappedKeyName, message: Uint8Array) => Uint8Array

/** SECRET, or SECRET_PREVIOUS. */
export type Generation = 'current' | 'previous'

/**
 * Cryptography with keys derived from SECRET, one for each name (HKDF-SHA-256, RFC 5869).
 *
 * Guarantee: every value is made under SECRET, and read by SECRET or SECRET_PREVIOUS. Sealed and signed values carry the id of the
 * secret that made them.
 */
export type Secrets = {
  /**
   * Encrypts with AES-256-GCM. `subject` says what the value belongs to, such as the id of its row: it is associated data, so
   * a value that was moved to another row does not open.
   */
  seal(name: SealName, plain: Uint8Array | string, subject: string): Uint8Array
  /** Decrypts. Throws `SealRefused` for a value that was changed, or sealed under another name, subject or secret. */
  unseal(name: SealName, sealed: Uint8Array, subject: string): Buffer
  /** Which secret sealed a value. Throws `SealRefused`. */
  sealedBy(name: SealName, sealed: Uint8Array, subject: string): Generation
  /** How each value begins that SECRET sealed. */
  readonly sealedPrefix: Uint8Array
  /** The id of the secret and an HMAC-SHA-256 of the message: 36 bytes, 48 characters of base64url. */
  sign(name: SignName, message: Uint8Array | string): Uint8Array
  /** Compares in constant time. */
  isSigned(name: SignName, message: Uint8Array | string, signature: Uint8Array): boolean
  /** A pseudorandom function of the message (HMAC-SHA-256). 32 bytes. By default under SECRET. */
  derive(name: DeriveName, message: Uint8Array, by?: Generation): Uint8Array
  /** One for each generation, the current one first. */
  macs(name: MacName): readonly [Mac, ...Mac[]]
  /** Those that values may have been made under, the current one first. */
  readonly generations: readonly Generation[]
  /** The first value of a wrapped key. */
  wrappedKey(name: WrappedKeyName, by: Generation): Uint8Array
}

/** A sealed value does not open. `unknown_secret`: neither SECRET nor SECRET_PREVIOUS sealed it. */
export class SealRefused extends Error {
  override readonly name = 'SealRefused'
  readonly reason: 'unknown_secret' | 'changed'
  constructor(name: SealName, reason: SealRefused['reason'], options?: ErrorOptions) {
    const why = reason === 'changed' ? 'was changed, or belongs elsewhere' : 'was sealed under another SECRET'
    super(`A sealed value of the kind ${name} ${why}`, options)
    this.reason = reason
  }
}

const version = 1
const idLength = 4
const prefixLength = 1 + idLength
const ivLength = 12
const tagLength = 16
const algorithm = 'aes-256-gcm'

const isSame = (one: Uint8Array, other: Uint8Array): boolean =>
  one.length === other.length && timingSafeEqual(one, other)

/** The keys of one secret. */
const createKeys = (secret: string) => {
  const derived = new Map<string, Uint8Array>()
  const keyFor = (info: string): Uint8Array => {
    const known = derived.get(info)
    if (known !== undefined) return known
    const key = new Uint8Array(hkdfSync('sha256', secret, 'velro', info, 32))
    derived.set(info, key)
    return key
  }
  /** Reveals nothing about the secret. */
  const id = keyFor('id').subarray(0, idLength)
  return {
    id,
    prefix: Buffer.concat([[version], id].map((part) => Buffer.from(part))),
    keyFor,
    mac: (info: string, message: Uint8Array | string) => createHmac('sha256', keyFor(info)).update(message).digest(),
  }
}
type Keys = ReturnType<typeof createKeys>

/** Characters of base64url in the tag of a `Mac`. */
export const macTagLength = 22

const createMac = ({ id, keyFor }: Keys, name: MacName): Mac => {
  const key = keyFor(`mac ${name}`)
  const tag = (text: string): string =>
    createHmac('sha256', key).update(text).digest('base64url').slice(0, macTagLength)
  return {
    keyId: Buffer.from(id).toString('base64url'),
    tag,
    isTagged: (text, given) => {
      if (given.length !== macTagLength) return false
      const expected = tag(text)
      let difference = 0
      for (let at = 0; at < macTagLength; at += 1) difference |= expected.charCodeAt(at) ^ given.charCodeAt(at)
      return difference === 0
    },
  }
}

const encrypt = (key: Uint8Array, plain: Uint8Array | string, associated: Uint8Array): Buffer => {
  const iv = randomBytes(ivLength)
  const cipher = createCipheriv(algorithm, key, iv).setAAD(associated)
  return Buffer.concat([iv, cipher.update(Buffer.from(plain)), cipher.final(), cipher.getAuthTag()])
}

/** Throws where the value was not encrypted with this key and associated data. */
const decrypt = (key: Uint8Array, sealed: Uint8Array, associated: Uint8Array): Buffer => {
  const iv = sealed.subarray(0, ivLength)
  const body = sealed.subarray(ivLength, sealed.length - tagLength)
  const decipher = createDecipheriv(algorithm, key, iv, { authTagLength: tagLength })
    .setAAD(associated)
    .setAuthTag(sealed.subarray(sealed.length - tagLength))
  return Buffer.concat([decipher.update(body), decipher.final()])
}

/**
 * Signing keys are sealed without a prefix, under a key without a name, as 0.2.0 seals them: so that going back to it works.
 * Which secret sealed one is found by trying.
 */
const withoutPrefix: SealName = 'signing-key'
const keyWithoutName = 'seal'

const associatedOf = (prefix: Uint8Array, subject: string) => Buffer.concat([prefix, Buffer.from(subject)])

const sealWith = (keys: Keys, name: SealName, plain: Uint8Array | string, subject: string): Buffer =>
  name === withoutPrefix
    ? encrypt(keys.keyFor(keyWithoutName), plain, Buffer.from(`${name} ${subject}`))
    : Buffer.concat([keys.prefix, encrypt(keys.keyFor(`seal ${name}`), plain, associatedOf(keys.prefix, subject))])

/** Undefined for a value that another secret sealed. */
const openWith = (keys: Keys, name: SealName, sealed: Uint8Array, subject: string): Buffer | undefined => {
  if (name === withoutPrefix) return decrypt(keys.keyFor(keyWithoutName), sealed, Buffer.from(`${name} ${subject}`))
  if (!isSame(sealed.subarray(0, prefixLength), keys.prefix)) return undefined
  return decrypt(keys.keyFor(`seal ${name}`), sealed.subarray(prefixLength), associatedOf(keys.prefix, subject))
}

/** `previous`: values made under it are read, and none are made. */
export const createSecrets = (secret: string, previous?: string): Secrets => {
  const current = createKeys(secret)
  const older = previous === undefined || previous === secret ? undefined : createKeys(previous)
  const all: readonly (readonly [Generation, Keys])[] = [
    ['current', current] as const,
    ...(older === undefined ? [] : [['previous', older] as const]),
  ]
  const keysOf = (by: Generation): Keys => {
    const found = by === 'current' ? current : older
    if (found === undefined) throw new Error('SECRET_PREVIOUS is not set')
    return found
  }

  const open = (name: SealName, sealed: Uint8Array, subject: string): { plain: Buffer; by: Generation } => {
    let failure: SealRefused | undefined
    for (const [by, keys] of all) {
      try {
        const plain = openWith(keys, name, sealed, subject)
        if (plain !== undefined) return { plain, by }
      } catch (cause) {
        failure = new SealRefused(name, 'changed', { cause })
      }
    }
    throw failure ?? new SealRefused(name, 'unknown_secret')
  }

  return {
    seal: (name, plain, subject) => sealWith(current, name, plain, subject),
    unseal: (name, sealed, subject) => open(name, sealed, subject).plain,
    sealedBy: (name, sealed, subject) => open(name, sealed, subject).by,
    sealedPrefix: current.prefix,
    sign: (name, message) => Buffer.concat([current.id, current.mac(`sign ${name}`, message)]),
    isSigned: (name, message, signature) =>
      all.some(
        ([, { id, mac }]) =>
          isSame(signature.subarray(0, idLength), id) &&
          isSame(signature.subarray(idLength), mac(`sign ${name}`, message)),
      ),
    derive: (name, message, by = 'current') => keysOf(by).mac(`derive ${name}`, message),
    macs: (name) => [createMac(current, name), ...(older === undefined ? [] : [createMac(older, name)])],
    generations: all.map(([by]) => by),
    wrappedKey: (name, by) => keysOf(by).keyFor(`derive ${name}`),
  }
}

/** The hash with the keys that `keyOf` gives. */
export const createKeyedHash =
  (keyOf: (name: WrappedKeyName) => Uint8Array): KeyedHash =>
  (name, message) =>
    createHmac('sha256', keyOf(name)).update(message).digest()

/** SHA-256. Enough for storing secrets that are themselves 256 random bits; not for passwords. */
export const sha256 = (bytes: Uint8Array): Uint8Array => createHash('sha256').update(bytes).digest()
