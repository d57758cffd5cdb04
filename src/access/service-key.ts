import { Buffer } from 'node:buffer'
import { randomBytes, timingSafeEqual } from 'node:crypto'
import { decodeBase64url, encodeBase64url } from '../kit/base64url.ts'
import { idFromBytes, idLength, idToBytes } from '../kit/id.ts'
import { sha256 } from '../platform/secrets.ts'
import type { PresentedKey } from './principal.ts'

/** A service key is `vsk_` and the base64url of its id (16 bytes) and its secret (32 bytes). */
export const serviceKeyPrefix = 'vsk_'

const secretLength = 32

/** A new key for an id. The key is shown to its holder once; only the hash of its secret is stored. */
export const makeServiceKey = (id: string): { key: string; secretHash: Uint8Array } => {
  const secret = randomBytes(secretLength)
  const bytes = Buffer.concat([idToBytes(id), secret])
  return { key: serviceKeyPrefix + encodeBase64url(bytes), secretHash: sha256(secret) }
}

/** The id in a presented key and the hash of its secret; undefined where the text is no service key. */
export const readServiceKey = (text: string): PresentedKey | undefined => {
  if (!text.startsWith(serviceKeyPrefix) || text.length > 128) return undefined
  const bytes = decodeBase64url(text.slice(serviceKeyPrefix.length))
  if (bytes?.length !== idLength + secretLength) return undefined
  return { id: idFromBytes(bytes.subarray(0, idLength)), secretHash: sha256(bytes.subarray(idLength)) }
}

/** Compares in constant time. `stored` is base64url, as in the fact. */
export const isSameHash = (presented: Uint8Array, stored: string): boolean => {
  const bytes = Buffer.from(stored, 'base64url')
  return bytes.length === presented.length && timingSafeEqual(bytes, presented)
}

/**
 * Compares secrets in constant time, and a key that was found right for a fact not again: another fact replaces it when the
 * key changes.
 */
export const createSecretCheck = (): ((key: PresentedKey, fact: { readonly secretHash: string }) => boolean) => {
  const right = new WeakMap<object, PresentedKey>()
  return (key, fact) => {
    if (right.get(fact) === key) return true
    if (!isSameHash(key.secretHash, fact.secretHash)) return false
    right.set(fact, key)
    return true
  }
}
