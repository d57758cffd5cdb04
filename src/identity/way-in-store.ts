import type { TransactionSql } from '../platform/postgres.ts'

/** How accounts can be signed in to under this configuration. */
export const createWayInStore = ({
  issuers,
  passkeys,
}: {
  /** Of the configured identity providers: an identity of another one, or of an earlier issuer, signs in to nothing. */
  readonly issuers: readonly string[]
  /** Whether a domain is configured for passkeys. */
  readonly passkeys: boolean
}) => ({
  /**
   * Whether an account can still be signed in to: by its password, a passkey, or an identity of a configured provider. Call it with
   * the account locked, after the change that takes one away.
   */
  exists: async (tx: TransactionSql, userId: string): Promise<boolean> => {
    const { count } = await tx`
      select from users u
       where u.id = ${userId}
         and (u.password_hash is not null
              or (${passkeys} and exists (select from passkeys p where p.user_id = u.id))
              or exists (select from linked_identities l where l.user_id = u.id and l.issuer = any (${[...issuers]}::text[])))`
    return count === 1
  },
})

export type WayInStore = ReturnType<typeof createWayInStore>
