import { Fault } from '../../fault.ts'
import type { Deadline } from '../../kit/deadline.ts'
import { onViolation, type Sql, type TransactionSql } from '../../platform/postgres.ts'
import { type UserRow, userColumns } from '../store.ts'
import type { Purpose } from './sign-in-state.ts'

export type LinkedIdentityRow = {
  readonly id: string
  readonly user_id: string
  readonly provider_id: string
  readonly issuer: string
  readonly subject: string
  readonly email: string | null
  readonly created_at: Date
  readonly last_used_at: Date
}

/** A code as its client presents it. */
export type PresentedCode = {
  readonly codeHash: Uint8Array
  readonly codeChallenge: string
  readonly purpose: Purpose
  /** Owner of the account that the code must be for. Null for a sign-in. */
  readonly userId: string | null
}

/** At most this many identities can be linked to an account. */
export const maxLinkedIdentities = 10

const keepMs = 3_600_000

export const createIdentityProviderStore = (sql: Sql, batch: Sql) => ({
  /** False where the state has returned before. Of concurrent calls with one state, one is true. */
  claimState: async (
    deadline: Deadline,
    state: {
      readonly hash: Uint8Array
      readonly purpose: Purpose
      readonly userId: string | undefined
      readonly codeChallenge: string
      readonly at: Date
      readonly expiresAt: Date
    },
  ): Promise<boolean> => {
    const { count } = await deadline.run(sql`
      insert into identity_provider_sign_ins (state_hash, purpose, user_id, code_challenge, created_at, expires_at)
      values (${state.hash}, ${state.purpose}, ${state.userId ?? null}, ${state.codeChallenge}, ${state.at}, ${state.expiresAt})
      on conflict (state_hash) do nothing`)
    return count === 1
  },

  issueCode: async (
    deadline: Deadline,
    stateHash: Uint8Array,
    code: { readonly hash: Uint8Array; readonly sealedIdentity: Uint8Array; readonly expiresAt: Date },
  ): Promise<void> => {
    await deadline.run(sql`
      update identity_provider_sign_ins
         set code_hash = ${code.hash}, encrypted_identity = ${code.sealedIdentity}, expires_at = ${code.expiresAt}
       where state_hash = ${stateHash} and code_hash is null`)
  },

  /**
   * Uses a code up, and returns the sealed identity that it stands for. Of concurrent calls one gets it. Throws
   * `identity_provider.code_used` for a code that was used, and `identity_provider.code_invalid` for any other: unknown, expired,
   * with another verifier, for another purpose or another account.
   */
  useCode: async (tx: TransactionSql, code: PresentedCode, now: Date): Promise<Uint8Array> => {
    const matches = tx`
      code_hash = ${code.codeHash} and code_challenge = ${code.codeChallenge} and purpose = ${code.purpose}
      and user_id is not distinct from ${code.userId}::uuid`
    // The column is returned as it was before the update, which only a join can read.
    const [row] = await tx<{ encrypted_identity: Uint8Array }[]>`
      with unused as (
        select state_hash, encrypted_identity from identity_provider_sign_ins
         where ${matches} and used_at is null and expires_at > ${now} and encrypted_identity is not null
           for update
      )
      update identity_provider_sign_ins s set used_at = ${now}, encrypted_identity = null
        from unused where s.state_hash = unused.state_hash
      returning unused.encrypted_identity`
    if (row !== undefined) return row.encrypted_identity
    const { count } = await tx`select from identity_provider_sign_ins where ${matches} and used_at is not null`
    throw new Fault(count > 0 ? 'identity_provider.code_used' : 'identity_provider.code_invalid')
  },

  /** The account to which an identity is linked, locked for no key update until the transaction ends. */
  lockLinkedUser: async (
    tx: TransactionSql,
    issuer: string,
    subject: string,
  ): Promise<{ readonly user: UserRow; readonly linkedId: string } | undefined> => {
    const [linked] = await tx<{ id: string; user_id: string }[]>`
      select id, user_id from linked_identities where issuer = ${issuer} and subject = ${subject}`
    if (linked === undefined) return undefined
    const [user] = await tx<UserRow[]>`
      select ${userColumns(tx)} from users where id = ${linked.user_id} for no key update`
    return user && { user, linkedId: linked.id }
  },

  /** Call it with the account locked. False where the identity was unlinked before the lock. */
  recordUse: async (tx: TransactionSql, linkedId: string, at: Date): Promise<boolean> => {
    const { count } = await tx`update linked_identities set last_used_at = ${at} where id = ${linkedId}`
    return count === 1
  },

  /** Whether an account has one of these addresses. */
  hasAccount: async (tx: TransactionSql, spellings: readonly string[]): Promise<boolean> => {
    const { count } = await tx`select from users where email = any (${[...spellings]}::text[])`
    return count > 0
  },

  lockUser: async (tx: TransactionSql, userId: string): Promise<UserRow | undefined> => {
    const [user] = await tx<UserRow[]>`
      select ${userColumns(tx)} from users where id = ${userId} and status = 'active' for no key update`
    return user
  },

  markVerified: async (tx: TransactionSql, userId: string, at: Date): Promise<void> => {
    await tx`
      update users set email_verified_at = ${at}, updated_at = now() where id = ${userId} and email_verified_at is null`
  },

  /** Throws `linked_identity.taken` where an account has this identity. */
  link: async (tx: TransactionSql, row: LinkedIdentityRow): Promise<void> => {
    await tx`insert into linked_identities ${tx(row)}`.catch(
      onViolation('linked_identities__subject', 'linked_identity.taken'),
    )
  },

  /** Call it with the account locked, if it must not change. */
  listOf: (on: Sql | TransactionSql, userId: string): Promise<LinkedIdentityRow[]> => on<LinkedIdentityRow[]>`
    select id, user_id, provider_id, issuer, subject, email, created_at, last_used_at
      from linked_identities where user_id = ${userId} order by id limit ${maxLinkedIdentities + 1}`,

  unlink: async (tx: TransactionSql, userId: string, id: string): Promise<void> => {
    await tx`delete from linked_identities where id = ${id} and user_id = ${userId}`
  },

  /** For an account that is closed. */
  unlinkAll: async (tx: TransactionSql, userId: string): Promise<void> => {
    await tx`delete from linked_identities where user_id = ${userId}`
    await tx`delete from identity_provider_sign_ins where user_id = ${userId}`
  },

  /** Deletes sign-ins that expired an hour ago, at most 10,000. Returns how many. */
  purge: async (now: Date): Promise<number> => {
    const { count } = await batch`
      delete from identity_provider_sign_ins where state_hash in (
        select state_hash from identity_provider_sign_ins where expires_at < ${new Date(now.getTime() - keepMs)} limit 10000)`
    return count
  },

  list: (deadline: Deadline, userId: string): Promise<LinkedIdentityRow[]> =>
    deadline.run(sql<LinkedIdentityRow[]>`
      select id, user_id, provider_id, issuer, subject, email, created_at, last_used_at
        from linked_identities where user_id = ${userId} order by id limit ${maxLinkedIdentities}`),
})

export type IdentityProviderStore = ReturnType<typeof createIdentityProviderStore>
