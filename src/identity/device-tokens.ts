import { Buffer } from 'node:buffer'
import { randomBytes, timingSafeEqual } from 'node:crypto'
import type { Generation, Secrets } from '../platform/secrets.ts'

const randomLength = 16
const proofLength = 16

/**
 * Device tokens: 16 random bytes, and 16 that prove for which account they were issued (a MAC). So a token that was made up, or
 * issued for another account, is recognized without Postgres. Postgres knows which real ones are still valid. One that was issued
 * under SECRET_PREVIOUS is recognized, and replaced at the next sign-in with it.
 */
export const createDeviceTokens = (secrets: Secrets) => {
  const proofOf = (random: Uint8Array, accountHash: Uint8Array, by: Generation = 'current') =>
    secrets.derive('device-token', Buffer.concat([random, accountHash]), by).subarray(0, proofLength)
  return {
    issue: (accountHash: Uint8Array): Uint8Array => {
      const random = randomBytes(randomLength)
      return Buffer.concat([random, proofOf(random, accountHash)])
    },
    /** Which secret issued the token for this account; undefined for another one. */
    issuedBy: (accountHash: Uint8Array, token: Uint8Array): Generation | undefined =>
      token.length === randomLength + proofLength
        ? secrets.generations.find((by) =>
            timingSafeEqual(token.subarray(randomLength), proofOf(token.subarray(0, randomLength), accountHash, by)),
          )
        : undefined,
  }
}

export type DeviceTokens = ReturnType<typeof createDeviceTokens>
