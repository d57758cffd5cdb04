import type { Sql, TransactionSql } from '../platform/postgres.ts'

export type OneTimeTokenRow = {
  readonly user_id: string | null
  readonly data: Readonly<Record<string, unknown>>
  readonly created_at: Date
  readonly expires_at: Date
  readonly used_at: Date | null
}

export type NewOneTimeToken = {
  readonly tokenHash: Uint8Array
  readonly purpose: string
  readonly userId: string | null
  readonly data: Readonly<Record<string, unknown>>
  readonly at: Date
  readonly expiresAt: Date
}

/** One-time tokens. `batch` is for what no request waits for. */
export const createOneTimeTokenStore = (batch: Sql) => ({
  insert: async (tx: TransactionSql, token: NewOneTimeToken): Promise<void> => {
    await tx`
      insert into one_time_tokens (token_hash, purpose, user_id, data, created_at, expires_at)
      values (${token.tokenHash}, ${token.purpose}, ${token.userId}, ${tx.json(token.data as never)}, ${token.at}, ${token.expiresAt})`
  },

  find: async (tx: TransactionSql, tokenHash: Uint8Array, purpose: string): Promise<OneTimeTokenRow | undefined> => {
    const [row] = await tx<OneTimeTokenRow[]>`
      select user_id, data, created_at, expires_at, used_at from one_time_tokens
       where token_hash = ${tokenHash} and purpose = ${purpose}`
    return row
  },

  /** Of concurrent uses one gets the row; the others wait for its commit and get nothing. */
  use: async (
    tx: TransactionSql,
    tokenHash: Uint8Array,
    purpose: string,
    now: Date,
  ): Promise<OneTimeTokenRow | undefined> => {
    const [row] = await tx<OneTimeTokenRow[]>`
      update one_time_tokens set used_at = ${now}
       where token_hash = ${tokenHash} and purpose = ${purpose} and used_at is null and expires_at > ${now}
      returning user_id, data, created_at, expires_at, used_at`
    return row
  },

  /** The unused tokens of a user for these purposes cannot be used any more; with `since`, those issued from then on. */
  revoke: async (
    tx: TransactionSql,
    userId: string,
    purposes: readonly string[],
    now: Date,
    since: Date = new Date(0),
  ): Promise<void> => {
    await tx`
      update one_time_tokens set used_at = ${now}
       where user_id = ${userId} and purpose = any (${[...purposes]}::text[]) and used_at is null
         and created_at >= ${since}`
  },

  /** For an account that is closed. */
  deleteOfUser: async (tx: TransactionSql, userId: string): Promise<void> => {
    await tx`delete from one_time_tokens where user_id = ${userId}`
  },

  /** Deletes up to 10,000 tokens that expired before `before`. Returns how many. */
  purge: async (before: Date): Promise<number> => {
    const { count } = await batch`
      delete from one_time_tokens where token_hash in (
        select token_hash from one_time_tokens where expires_at < ${before} limit 10000)`
    return count
  },
})

export type OneTimeTokenStore = ReturnType<typeof createOneTimeTokenStore>
