import { Buffer } from 'node:buffer'
import { timingSafeEqual } from 'node:crypto'
import { decodeBase64url, encodeBase64url } from '../../kit/base64url.ts'
import type { Clock } from '../../kit/clock.ts'
import { idFromBytes, idLength, idToBytes } from '../../kit/id.ts'
import type { Generation, Secrets } from '../../platform/secrets.ts'
import { type Variant, variants } from '../model.ts'
import { type LinkMethod, linkMethods, maxTtlS } from './model.ts'

/** The claims of a signed link. The media id is in its path and covered by the signature. */
export type LinkClaims = {
  readonly variant: Variant
  readonly method: LinkMethod
  /** Expiry, in seconds since the epoch; the link is refused from this second on. */
  readonly expiresAtS: number
  /** Session and user that created the link. */
  readonly sessionId: string
  readonly userId: string
}

const version = 1
const context = new TextEncoder().encode('velro signed link')
/** Each key signs for one period; then the next key takes over. */
const keyPeriodMs = 7 * 86_400_000
/** Greatest tolerated difference between the clocks of two instances. */
const skewMs = 300_000
const macLength = 32

/** Offset of each field. Every field has a fixed length, so the signed bytes parse in one way only. */
const at = { version: 0, variant: 1, method: 2, keyId: 3, expiry: 7, session: 13, user: 13 + idLength }
const expiryLength = at.session - at.expiry
const fieldsLength = at.user + idLength
const tokenLength = Math.ceil(((fieldsLength + macLength) * 8) / 6)

/**
 * Tokens of signed links: the claims, and an HMAC-SHA-256 over them and the media id.
 *
 * Promise: `read` returns the claims only of a token that an instance with the same secret signed for this media, in its
 * canonical base64url spelling, and that has not expired; else undefined. MACs are compared in constant time. Keys rotate
 * weekly, and with SECRET, and are never stored: the key id is the number of the period since the epoch. A key is derived only
 * when a link that is still valid may have been signed with it, so forged key ids cost no derivation.
 */
export const createLinkTokens = ({
  secrets,
  clock,
}: {
  secrets: Pick<Secrets, 'derive' | 'generations'>
  clock: Clock
}) => {
  const keyIdAt = (ms: number) => Math.floor(ms / keyPeriodMs)
  const mayHaveSigned = (keyId: number, nowMs: number) =>
    keyId >= keyIdAt(nowMs - maxTtlS * 1_000 - skewMs) && keyId <= keyIdAt(nowMs + skewMs)
  const macOf = (mediaId: string, keyId: number, fields: Uint8Array, by?: Generation) =>
    secrets.derive(
      `signed link ${keyId}`,
      Buffer.concat([[context.length], context, idToBytes(mediaId), fields].map((part) => Buffer.from(part))),
      by,
    )

  return {
    sign: (mediaId: string, { variant, method, expiresAtS, sessionId, userId }: LinkClaims): string => {
      const fields = Buffer.alloc(fieldsLength)
      const keyId = keyIdAt(clock.now())
      fields.writeUInt8(version, at.version)
      fields.writeUInt8(variants.indexOf(variant), at.variant)
      fields.writeUInt8(linkMethods.indexOf(method), at.method)
      fields.writeUInt32BE(keyId, at.keyId)
      fields.writeUIntBE(expiresAtS, at.expiry, expiryLength)
      fields.set(idToBytes(sessionId), at.session)
      fields.set(idToBytes(userId), at.user)
      return encodeBase64url(Buffer.concat([fields, macOf(mediaId, keyId, fields)]))
    },

    read: (mediaId: string, token: string): LinkClaims | undefined => {
      const decoded = token.length === tokenLength ? decodeBase64url(token) : undefined
      if (decoded === undefined || decoded[at.version] !== version) return undefined
      const nowMs = clock.now()
      const bytes = Buffer.from(decoded)
      const fields = bytes.subarray(0, fieldsLength)
      const keyId = fields.readUInt32BE(at.keyId)
      if (!mayHaveSigned(keyId, nowMs)) return undefined
      const mac = bytes.subarray(fieldsLength)
      if (!secrets.generations.some((by) => timingSafeEqual(macOf(mediaId, keyId, fields, by), mac))) return undefined
      const variant = variants[fields.readUInt8(at.variant)]
      const method = linkMethods[fields.readUInt8(at.method)]
      const expiresAtS = fields.readUIntBE(at.expiry, expiryLength)
      if (variant === undefined || method === undefined || expiresAtS * 1_000 <= nowMs) return undefined
      return {
        variant,
        method,
        expiresAtS,
        sessionId: idFromBytes(fields.subarray(at.session, at.user)),
        userId: idFromBytes(fields.subarray(at.user)),
      }
    },
  }
}

export type LinkTokens = ReturnType<typeof createLinkTokens>
