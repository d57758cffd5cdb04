import { Buffer } from 'node:buffer'

export const encodeBase64url = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64url')

/**
 * Decodes canonical base64url (RFC 4648 §5, no padding); undefined for any other text.
 * Canonical: every value has exactly one encoding. Padding, white space and non-zero unused bits are rejected.
 */
export const decodeBase64url = (text: string): Uint8Array | undefined => {
  const bytes = Buffer.from(text, 'base64url')
  return bytes.toString('base64url') === text ? bytes : undefined
}
