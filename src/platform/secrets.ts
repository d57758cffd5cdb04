import { Buffer } from 'node:buffer'
import { createCipheriv, createDecipheriv, createHash, createHmac, hkdfSync, randomBytes } from 'node:crypto'

/** Keys derived from the one configured secret, each for one purpose (HKDF-SHA-256, RFC 5869). */
export type Secrets = {
  /** AES-256-GCM; `label` is bound in as associated data, so that a sealed value cannot be moved to another place. */
  seal(plain: Uint8Array, label: string): Uint8Array
  /** Throws when the value was not sealed here under this label. */
  open(sealed: Uint8Array, label: string): Uint8Array
  /** A pseudo-random function of the message (HMAC-SHA-256), its own for each purpose. 32 bytes. */
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
    const made = keyFor(`derive ${purpose}`)
    derivingKeys.set(purpose, made)
    return made
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

/** SHA-256, for secrets at rest that are themselves 256 random bits. */
export const sha256 = (bytes: Uint8Array): Uint8Array => createHash('sha256').update(bytes).digest()
