import { Buffer } from 'node:buffer'
import { randomBytes, timingSafeEqual } from 'node:crypto'
import { decodeBase64url, encodeBase64url } from '../kit/base64url.ts'
import { idFromBytes, idLength, idToBytes } from '../kit/id.ts'
import { sha256 } from '../platform/secrets.ts'

/** What a key of a service looks like: `vsk_` and base64url of its id (16 bytes) and its secret (32 bytes). */
export const serviceKeyPrefix = 'vsk_'

const secretLength = 32

/** A new key for an id: the text its holder gets once, and the hash that is kept. */
export const makeServiceKey = (id: string): { key: string; secretHash: Uint8Array } => {
  const secret = randomBytes(secretLength)
  const bytes = Buffer.concat([idToBytes(id), secret])
  return { key: serviceKeyPrefix + encodeBase64url(bytes), secretHash: sha256(secret) }
}

/** The id a presented key names and the hash of its secret, or undefined when it is not the text of a key. */
export const readServiceKey = (text: string): { id: string; secretHash: Uint8Array } | undefined => {
  if (!text.startsWith(serviceKeyPrefix) || text.length > 128) return undefined
  const bytes = decodeBase64url(text.slice(serviceKeyPrefix.length))
  if (bytes?.length !== idLength + secretLength) return undefined
  return { id: idFromBytes(bytes.subarray(0, idLength)), secretHash: sha256(bytes.subarray(idLength)) }
}

/** Compared in constant time; `kept` is base64url, as a fact has it. */
export const isSameHash = (presented: Uint8Array, kept: string): boolean => {
  const bytes = Buffer.from(kept, 'base64url')
  return bytes.length === presented.length && timingSafeEqual(bytes, presented)
}
