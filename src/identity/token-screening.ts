import type { Clock } from '../kit/clock.ts'
import { createTtlMap } from '../kit/ttl-map.ts'
import type { Generation, Secrets } from '../platform/secrets.ts'
import type { Digest, Screening } from '../platform/tokens.ts'

/** The digest of the claims of access tokens. */
export const createTokenDigest =
  (secrets: Pick<Secrets, 'derive'>, by: Generation = 'current'): Digest =>
  (message) =>
    secrets.derive('access-token-mac', message, by)

const forgedTtlMs = 1_000
const maxForged = 1_000
const withoutMacPerS = 50

/**
 * Bounds the cost of forged tokens. A token without a right `mac` is refused before its signature is checked, and only a real
 * token has a right one. So a forger can reuse the `mac` of tokens that it was issued; each of these causes about one signature
 * check a second.
 *
 * Tokens without a `mac` are those of the build before, which end within their lifetime after an upgrade. An instance checks 50
 * of them a second; beyond that they are refused, and their holders refresh them.
 */
export const createTokenScreening = (clock: Clock, digests: readonly Digest[]): Screening => {
  const forged = createTtlMap<true>({ clock, maxEntries: maxForged, ttlMs: forgedTtlMs, jitter: 0 })
  let second = Number.NEGATIVE_INFINITY
  let checked = 0

  const mayVerifyWithoutMac = (): boolean => {
    const now = Math.floor(clock.monotonic() / 1_000)
    if (now !== second) checked = 0
    second = now
    checked += 1
    return checked <= withoutMacPerS
  }

  return {
    digests,
    mayVerify: (mac) => (mac === undefined ? mayVerifyWithoutMac() : forged.get(mac).kind === 'miss'),
    onForged: (mac) => {
      if (mac !== undefined) forged.set(mac, true)
    },
  }
}
