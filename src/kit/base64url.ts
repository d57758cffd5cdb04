import { Buffer } from 'node:buffer'

export const encodeBase64url = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64url')

/**
 * Bytes from canonical base64url (RFC 4648 §5, no padding), or undefined.
 * Canonical means one text for one value: no padding, no spaces, no stray low bits in the last character.
 */
export const decodeBase64url = (text: string): Uint8Array | undefined => {
  const bytes = Buffer.from(text, 'base64url')
  return bytes.toString('base64url') === text ? bytes : undefined
}
