import { Buffer } from 'node:buffer'
import { randomBytes, timingSafeEqual } from 'node:crypto'
import type { Secrets } from '../platform/secrets.ts'

const randomLength = 16
const proofLength = 16

/**
 * Device tokens: 16 random bytes, and 16 that prove for which account they were issued (a MAC). So a token that was made up, or
 * issued for another account, is recognized without Postgres. Postgres knows which real ones are still valid.
 */
export const createDeviceTokens = (secrets: Secrets) => {
  const proofOf = (random: Uint8Array, accountHash: Uint8Array) =>
    secrets.derive('device-token', Buffer.concat([random, accountHash])).subarray(0, proofLength)
  return {
    issue: (accountHash: Uint8Array): Uint8Array => {
      const random = randomBytes(randomLength)
      return Buffer.concat([random, proofOf(random, accountHash)])
    },
    isIssuedFor: (accountHash: Uint8Array, token: Uint8Array): boolean =>
      token.length === randomLength + proofLength &&
      timingSafeEqual(token.subarray(randomLength), proofOf(token.subarray(0, randomLength), accountHash)),
  }
}

export type DeviceTokens = ReturnType<typeof createDeviceTokens>
