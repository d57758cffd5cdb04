import { Buffer } from 'node:buffer'
import { timingSafeEqual } from 'node:crypto'
import { decodeBase64url, encodeBase64url } from '../../kit/base64url.ts'
import type { Clock } from '../../kit/clock.ts'
import { idFromBytes, idLength, idToBytes } from '../../kit/id.ts'
import type { Secrets } from '../../platform/secrets.ts'
import { type Variant, variants } from '../model.ts'
import { type LinkMethod, linkMethods, maxLifeS } from './model.ts'

/** What a signed link says besides the thing it opens, which is in its path. */
export type LinkClaims = {
  readonly variant: Variant
  readonly method: LinkMethod
  /** Seconds since the epoch, from which on it opens nothing. */
  readonly expiresAtS: number
  /** Of whoever made it. */
  readonly sessionId: string
  readonly userId: string
}

const version = 1
const context = new TextEncoder().encode('velro signed link')
/** Each is signed with for so long; then comes the next. */
const keyPeriodMs = 7 * 86_400_000
/** How far apart the clocks of instances may be. */
const skewMs = 300_000
const macLength = 32

/** Where each field begins. All have one length, so what is signed can be read in one way only. */
const at = { version: 0, variant: 1, method: 2, keyId: 3, expiry: 7, session: 13, user: 13 + idLength }
const expiryLength = at.session - at.expiry
const fieldsLength = at.user + idLength
const tokenLength = Math.ceil(((fieldsLength + macLength) * 8) / 6)

/**
 * The signatures of links: what a link says and an HMAC-SHA-256 over it and over the thing it opens.
 *
 * Promise: `read` gives what was signed here, by any instance with the same secret, for this very thing, in its one
 * spelling, before it expired; of anything else nothing, and takes as long over a MAC that is nearly right as over any
 * other. Keys change with time and are never stored: the number of the period since the epoch names one, and only those
 * by which a link that has not expired may have been signed are derived at all, however many others strangers name.
 */
export const createLinkTokens = ({ secrets, clock }: { secrets: Pick<Secrets, 'derive'>; clock: Clock }) => {
  const keyIdAt = (ms: number) => Math.floor(ms / keyPeriodMs)
  const isInUse = (keyId: number, nowMs: number) =>
    keyId >= keyIdAt(nowMs - maxLifeS * 1_000 - skewMs) && keyId <= keyIdAt(nowMs + skewMs)
  const macOf = (mediaId: string, keyId: number, fields: Uint8Array) =>
    secrets.derive(
      `signed link ${keyId}`,
      Buffer.concat([[context.length], context, idToBytes(mediaId), fields].map((part) => Buffer.from(part))),
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
      if (!isInUse(keyId, nowMs)) return undefined
      if (!timingSafeEqual(macOf(mediaId, keyId, fields), bytes.subarray(fieldsLength))) return undefined
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
