import { Buffer } from 'node:buffer'
import { randomBytes } from 'node:crypto'
import { decodeBase64url, encodeBase64url } from '../../kit/base64url.ts'
import { idFromBytes, idLength, idToBytes } from '../../kit/id.ts'
import { sha256 } from '../../platform/secrets.ts'

const secretLength = 32
const textLength = ((idLength + secretLength) * 8) / 6

/** What a new link with this id has in its address, and the hash that is kept. */
export const makeSecret = (id: string): { text: string; hash: Uint8Array } => {
  const secret = randomBytes(secretLength)
  return { text: encodeBase64url(Buffer.concat([idToBytes(id), secret])), hash: sha256(secret) }
}

/** The link a text names and the hash of its secret, or undefined when it is the text of none. */
export const readSecret = (text: string): { id: string; hash: Uint8Array } | undefined => {
  const bytes = text.length === textLength ? decodeBase64url(text) : undefined
  return bytes && { id: idFromBytes(bytes.subarray(0, idLength)), hash: sha256(bytes.subarray(idLength)) }
}
