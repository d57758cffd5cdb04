import type { Sql } from '../platform/postgres.ts'

/** An access token: its session and its `jti`. */
export type UsedToken = { readonly sessionId: string; readonly tokenId: string }

export const createTokenUseStore = (sql: Sql) => ({
  /**
   * Records the first use of access tokens that a refresh issued; others have no row. One statement. Rows are locked in one
   * order, so instances that record the same tokens do not deadlock.
   */
  recordFirstUses: async (tokens: readonly UsedToken[]): Promise<void> => {
    await sql`
      with used as (
        select t.token_hash
          from unnest(${tokens.map(({ sessionId }) => sessionId)}::uuid[],
                      ${tokens.map(({ tokenId }) => tokenId)}::text[]) as u (session_id, token_id)
          join refresh_tokens t on t.session_id = u.session_id and t.access_token_id = u.token_id
         where t.access_token_used_at is null
         order by t.token_hash
           for no key update of t
      )
      update refresh_tokens t set access_token_used_at = clock_timestamp() from used where t.token_hash = used.token_hash`
  },
})

export type TokenUseStore = ReturnType<typeof createTokenUseStore>
