import type { OriginRow } from '../access/policy/facts/session.ts'
import type { Queryable, TransactionSql } from '../platform/postgres.ts'

export type SessionRow = {
  id: string
  user_id: string
  user_agent: string
  address: string
  created_at: Date
  last_seen_at: Date
  idle_expires_at: Date
  expires_at: Date
  ended_at: Date | null
} & OriginRow

/** A presented refresh token and its session; both rows are locked. */
export type PresentedToken = SessionRow & { rotated_at: Date | null }

export const sessionColumns = (sql: Queryable) => sql`
  s.id, s.user_id, s.user_agent, s.address, s.created_at, s.last_seen_at, s.idle_expires_at, s.expires_at, s.ended_at,
  s.country, s.earlier_countries, s.network_hash, s.browser, s.platform, s.seen_country, s.seen_at`

/** Refresh tokens, in the transaction that presents one. */
export const refreshTokenStore = {
  /**
   * Finds a refresh token and locks it and its session for update, so that of concurrent refreshes one rotates the token
   * and the others see it rotated.
   */
  lockRefreshToken: async (tx: TransactionSql, tokenHash: Uint8Array): Promise<PresentedToken | undefined> => {
    const [row] = await tx<PresentedToken[]>`
      select ${sessionColumns(tx)}, t.rotated_at
        from refresh_tokens t join sessions s on s.id = t.session_id
       where t.token_hash = ${tokenHash}
         for update of t, s`
    return row
  },

  /**
   * Whether neither a refresh token nor the access token issued with it was presented, as far as recorded. Lock the session
   * first: this statement then sees every earlier rotation.
   */
  isUnused: async (tx: TransactionSql, tokenHash: Uint8Array): Promise<boolean> => {
    const { count } = await tx`
      select from refresh_tokens
       where token_hash = ${tokenHash} and rotated_at is null
         and access_token_id is not null and access_token_used_at is null`
    return count === 1
  },

  isIssued: async (tx: TransactionSql, tokenHash: Uint8Array): Promise<boolean> => {
    const { count } = await tx`select from refresh_tokens where token_hash = ${tokenHash}`
    return count === 1
  },

  rotateRefreshToken: async (
    tx: TransactionSql,
    from: Uint8Array,
    to: { tokenHash: Uint8Array; accessTokenId: string },
    session: { id: string; seenAt: Date; seenCountry: string | null; idleExpiresAt: Date },
  ) => {
    await tx`
      with used as (update refresh_tokens set rotated_at = ${session.seenAt} where token_hash = ${from}),
           seen as (update sessions set last_seen_at = ${session.seenAt}, idle_expires_at = ${session.idleExpiresAt},
                           seen_country = ${session.seenCountry}, seen_at = ${session.seenAt}
                     where id = ${session.id})
      insert into refresh_tokens (token_hash, session_id, issued_at, access_token_id)
      values (${to.tokenHash}, ${session.id}, ${session.seenAt}, ${to.accessTokenId})`
  },
}
