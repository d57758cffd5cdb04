import { Buffer } from 'node:buffer'
import { createCipheriv, createDecipheriv, createHash, createHmac, hkdfSync, randomBytes } from 'node:crypto'

/** Cryptography with keys derived from the configured secret, one for each purpose (HKDF-SHA-256, RFC 5869). */
export type Secrets = {
  /** Encrypts with AES-256-GCM. `label` is associated data, so a sealed value opens only under the label it was sealed for. */
  seal(plain: Uint8Array, label: string): Uint8Array
  /** Decrypts. Throws when the value was changed, or sealed under another label or secret. */
  open(sealed: Uint8Array, label: string): Uint8Array
  /** A pseudorandom function of the message (HMAC-SHA-256) with one key for each purpose. 32 bytes. */
  derive(purpose: string, message: Uint8Array): Uint8Array
}

const ivLength = 12
const tagLength = 16

export const createSecrets = (secret: string): Secrets => {
  const keyFor = (purpose: string) => new Uint8Array(hkdfSync('sha256', secret, 'velro', purpose, 32))
  const sealingKey = keyFor('seal')
  const derivingKeys = new Map<string, Uint8Array>()
  const derivingKey = (purpose: string) => {
    const known = derivingKeys.get(purpose)
    if (known !== undefined) return known
    const key = keyFor(`derive ${purpose}`)
    derivingKeys.set(purpose, key)
    return key
  }
  return {
    seal: (plain, label) => {
      const iv = randomBytes(ivLength)
      const cipher = createCipheriv('aes-256-gcm', sealingKey, iv).setAAD(new TextEncoder().encode(label))
      return Buffer.concat([iv, cipher.update(plain), cipher.final(), cipher.getAuthTag()])
    },
    open: (sealed, label) => {
      const iv = sealed.subarray(0, ivLength)
      const body = sealed.subarray(ivLength, sealed.length - tagLength)
      const decipher = createDecipheriv('aes-256-gcm', sealingKey, iv, { authTagLength: tagLength })
        .setAAD(new TextEncoder().encode(label))
        .setAuthTag(sealed.subarray(sealed.length - tagLength))
      return Buffer.concat([decipher.update(body), decipher.final()])
    },
    derive: (purpose, message) => createHmac('sha256', derivingKey(purpose)).update(message).digest(),
  }
}

/** SHA-256. Enough for storing secrets that are themselves 256 random bits; not for passwords. */
export const sha256 = (bytes: Uint8Array): Uint8Array => createHash('sha256').update(bytes).digest()
