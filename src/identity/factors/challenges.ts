import { Buffer } from 'node:buffer'
import { randomBytes } from 'node:crypto'
import { decodeBase64url, encodeBase64url } from '../../kit/base64url.ts'
import type { Clock } from '../../kit/clock.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import { type Secrets, sha256 } from '../../platform/secrets.ts'
import type { FactorStore } from './store.ts'

export const challengeTtlMs = 300_000

/** What a challenge is for. One for another purpose does not open. */
type Purpose =
  /** The first factor of a sign-in was right; the second one is missing. */
  'sign-in' | 'passkey-sign-in' | 'passkey-second-factor' | 'passkey-reauthentication' | 'passkey-registration'

type Bound = Readonly<Record<string, string>>

const isBound = (value: unknown): value is Bound =>
  typeof value === 'object' && value !== null && Object.values(value).every((each) => typeof each === 'string')

/**
 * Short-lived tokens and challenges, each bound to its purpose and sealed with the secret of the service. Nothing is stored for
 * those that are never used.
 *
 * Guarantee: one that was changed, that is older than five minutes, or that was issued for another purpose does not open. `use`
 * succeeds once, over all instances.
 */
export const createChallenges = ({
  secrets,
  store,
  clock,
}: {
  secrets: Pick<Secrets, 'seal' | 'unseal'>
  store: Pick<FactorStore, 'useChallenge'>
  clock: Clock
}) => ({
  /** `bound` is what it is bound to; whoever opens it must compare that. */
  issue: (purpose: Purpose, bound: Bound): Uint8Array => {
    const text = JSON.stringify({
      ...bound,
      until: String(clock.now() + challengeTtlMs),
      nonce: encodeBase64url(randomBytes(16)),
    })
    return secrets.seal('challenge', text, purpose)
  },

  open: (purpose: Purpose, challenge: string | undefined): Bound | undefined => {
    const sealed = challenge === undefined ? undefined : decodeBase64url(challenge)
    if (sealed === undefined) return undefined
    try {
      const bound: unknown = JSON.parse(secrets.unseal('challenge', sealed, purpose).toString())
      return isBound(bound) && Number(bound['until']) > clock.now() ? bound : undefined
    } catch {
      return undefined
    }
  },

  /** In the transaction of what the challenge was issued for. Returns false where it was used before. */
  use: (tx: TransactionSql, challenge: string): Promise<boolean> =>
    store.useChallenge(tx, sha256(Buffer.from(challenge)), new Date(clock.now() + challengeTtlMs)),
})

export type Challenges = ReturnType<typeof createChallenges>
