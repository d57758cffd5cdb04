import { Buffer } from 'node:buffer'
import { randomBytes } from 'node:crypto'
import { decodeBase64url, encodeBase64url } from '../../kit/base64url.ts'
import { idFromBytes, idLength, idToBytes } from '../../kit/id.ts'
import { sha256 } from '../../platform/secrets.ts'

const secretLength = 32
const textLength = ((idLength + secretLength) * 8) / 6

/** A new secret for the link with this id: the text for its URL, and the hash to store. */
export const createSecret = (id: string): { text: string; hash: Uint8Array } => {
  const secret = randomBytes(secretLength)
  return { text: encodeBase64url(Buffer.concat([idToBytes(id), secret])), hash: sha256(secret) }
}

/** The link id and the secret's hash in the text of a URL; undefined when it is malformed. */
export const parseSecret = (text: string): { id: string; hash: Uint8Array } | undefined => {
  const bytes = text.length === textLength ? decodeBase64url(text) : undefined
  return bytes && { id: idFromBytes(bytes.subarray(0, idLength)), hash: sha256(bytes.subarray(idLength)) }
}
