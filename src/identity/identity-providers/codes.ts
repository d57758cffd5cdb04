import { Buffer } from 'node:buffer'
import { Fault } from '../../fault.ts'
import { decodeBase64url } from '../../kit/base64url.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Deadline } from '../../kit/deadline.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import { type Secrets, sha256 } from '../../platform/secrets.ts'
import type { ProvenIdentity } from './provider-clients.ts'
import { challengeOf, type Intent, type Purpose } from './sign-in-state.ts'
import type { IdentityProviderStore } from './store.ts'

/** RFC 6749 §4.1.2 recommends no more for a code. */
const codeLifeMs = 600_000
const codeLength = 32

/** An identity, and the provider that proved it. */
export type StoredIdentity = ProvenIdentity & { readonly providerId: string }

/** A code as a client presents it, with the verifier of the code challenge that it left with. */
export type GivenCode = { readonly code: string; readonly code_verifier: string }

const subjectOf = (codeHash: Uint8Array) => `code ${Buffer.from(codeHash).toString('base64url')}`

/**
 * Codes with which a client gets what a provider said of a person.
 *
 * Guarantee: a code is used once, within 10 minutes, with its verifier, for its purpose and its account; of concurrent uses one
 * succeeds, and only in a transaction that is committed. The database holds a hash of the code, and the identity encrypted.
 */
export const createCodes = ({
  store,
  secrets,
  clock,
}: {
  store: Pick<IdentityProviderStore, 'claimState' | 'issueCode' | 'useCode'>
  secrets: Pick<Secrets, 'seal' | 'unseal'>
  clock: Clock
}) => {
  const nowPlus = (ms: number) => new Date(clock.now() + ms)
  return {
    /** False where the state was claimed before. */
    claim: (deadline: Deadline, hash: Uint8Array, { purpose, userId, codeChallenge }: Intent): Promise<boolean> =>
      store.claimState(deadline, {
        hash,
        purpose,
        userId,
        codeChallenge,
        at: nowPlus(0),
        expiresAt: nowPlus(codeLifeMs),
      }),

    issue: async (deadline: Deadline, stateHash: Uint8Array, code: Uint8Array, identity: StoredIdentity) => {
      const hash = sha256(code)
      const sealedIdentity = secrets.seal('identity-provider', JSON.stringify(identity), subjectOf(hash))
      await store.issueCode(deadline, stateHash, { hash, sealedIdentity, expiresAt: nowPlus(codeLifeMs) })
    },

    /** `userId`: the account that the code must be for; undefined for a sign-in. */
    use: async (
      tx: TransactionSql,
      given: GivenCode,
      purpose: Purpose,
      userId: string | undefined,
    ): Promise<StoredIdentity> => {
      const code = decodeBase64url(given.code)
      if (code?.length !== codeLength) throw new Fault('identity_provider.code_invalid')
      const codeHash = sha256(code)
      const presented = { codeHash, codeChallenge: challengeOf(given.code_verifier), purpose, userId: userId ?? null }
      const sealed = await store.useCode(tx, presented, new Date(clock.now()))
      return JSON.parse(secrets.unseal('identity-provider', sealed, subjectOf(codeHash)).toString())
    },
  }
}

export type Codes = ReturnType<typeof createCodes>
