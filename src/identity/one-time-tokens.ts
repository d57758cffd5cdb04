import { Buffer } from 'node:buffer'
import { randomBytes } from 'node:crypto'
import { Fault } from '../fault.ts'
import { decodeBase64url, encodeBase64url } from '../kit/base64url.ts'
import type { Clock } from '../kit/clock.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { sha256 } from '../platform/secrets.ts'
import type { OneTimeTokenRow, OneTimeTokenStore } from './one-time-token-store.ts'

const tokenLength = 32
/** For this long after its expiry a used token is known as such. */
const keepExpiredMs = 7 * 86_400_000

/** The account that a token is about; null: none yet. And what its use changes. */
export type TokenSubject = {
  readonly userId: string | null
  readonly createdAt: Date
  readonly data: Readonly<Record<string, unknown>>
}

/**
 * Tokens that are sent to a person and can be used once, each for one purpose.
 *
 * Guarantee: 32 random bytes, of which the database has a hash only. Of any number of concurrent uses one succeeds, and only in a
 * transaction that is committed. A token for another purpose, or one with a changed bit, does not exist:
 * `one_time_token.not_found`. One that was used or revoked, or has expired: `one_time_token.gone`.
 */
export const createOneTimeTokens = ({ store, clock }: { store: OneTimeTokenStore; clock: Clock }) => {
  const hashOf = (purpose: string, token: Uint8Array) => sha256(Buffer.concat([Buffer.from(`${purpose}\0`), token]))

  const decode = (purpose: string, text: string): Uint8Array => {
    const token = decodeBase64url(text)
    if (token === undefined || token.length !== tokenLength) throw new Fault('one_time_token.not_found')
    return hashOf(purpose, token)
  }

  const findValid = async (tx: TransactionSql, hash: Uint8Array, purpose: string): Promise<OneTimeTokenRow> => {
    const row = await store.find(tx, hash, purpose)
    if (row === undefined) throw new Fault('one_time_token.not_found')
    if (row.used_at !== null || row.expires_at.getTime() <= clock.now()) throw new Fault('one_time_token.gone')
    return row
  }

  const toSubject = ({ user_id, data, created_at }: OneTimeTokenRow): TokenSubject => ({
    userId: user_id,
    createdAt: created_at,
    data,
  })

  return {
    /** Makes a token in the transaction. Where `userId` is given, lock the account first. */
    issue: async (
      tx: TransactionSql,
      purpose: string,
      userId: string | null,
      ttlMs: number,
      data: Readonly<Record<string, unknown>> = {},
    ): Promise<{ token: string; expiresAt: Date }> => {
      const token = randomBytes(tokenLength)
      const nowMs = clock.now()
      const expiresAt = new Date(nowMs + ttlMs)
      await store.insert(tx, {
        tokenHash: hashOf(purpose, token),
        purpose,
        userId,
        data,
        at: new Date(nowMs),
        expiresAt,
      })
      return { token: encodeBase64url(token), expiresAt }
    },

    /** What a token is about, without using it: to lock the account before the token. */
    find: async (tx: TransactionSql, purpose: string, token: string): Promise<TokenSubject> =>
      toSubject(await findValid(tx, decode(purpose, token), purpose)),

    /** Uses a token. Nothing is used where the transaction is rolled back. */
    use: async (tx: TransactionSql, purpose: string, token: string): Promise<TokenSubject> => {
      const hash = decode(purpose, token)
      const used = await store.use(tx, hash, purpose, new Date(clock.now()))
      if (used !== undefined) return toSubject(used)
      await findValid(tx, hash, purpose)
      throw new Fault('one_time_token.gone')
    },

    /** The unused tokens of a user for these purposes are gone from then on. */
    revoke: (tx: TransactionSql, userId: string, purposes: readonly string[]): Promise<void> =>
      store.revoke(tx, userId, purposes, new Date(clock.now())),

    /** As `revoke`, for those that were issued at `since` or later. */
    revokeIssuedSince: (tx: TransactionSql, userId: string, purposes: readonly string[], since: Date): Promise<void> =>
      store.revoke(tx, userId, purposes, new Date(clock.now()), since),

    forgetUser: store.deleteOfUser,
    purge: (): Promise<number> => store.purge(new Date(clock.now() - keepExpiredMs)),
  }
}

export type OneTimeTokens = ReturnType<typeof createOneTimeTokens>
