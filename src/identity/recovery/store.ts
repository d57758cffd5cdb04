import { onViolation, type Sql, type TransactionSql } from '../../platform/postgres.ts'
import { type UserRow, userColumns } from '../store.ts'

/** Accounts as the flows by mail change them. `batch` is for what no request waits for. */
export const createRecoveryStore = (batch: Sql) => ({
  /** Locks an account for no key update, before any token of it. */
  lockAccount: async (tx: TransactionSql, id: string): Promise<UserRow | undefined> => {
    const [row] = await tx<UserRow[]>`select ${userColumns(tx)} from users where id = ${id} for no key update`
    return row
  },

  /** As `lockAccount`, for the account of an address; see `findUserByEmail` of the identity store. */
  lockAccountOf: async (tx: TransactionSql, spellings: readonly string[]): Promise<UserRow | undefined> => {
    const [row] = await tx<UserRow[]>`
      select ${userColumns(tx)} from users where email = any (${[...spellings]}::text[])
       order by array_position(${[...spellings]}::text[], email) desc limit 1 for no key update`
    return row
  },

  /** The account that has an address, or that had it until lately and can undo the change. */
  findHolder: async (tx: TransactionSql, spellings: readonly string[]): Promise<{ id: string } | undefined> => {
    const [row] = await tx<{ id: string }[]>`
      select id from users where email = any (${[...spellings]}::text[])
      union all
      select user_id from former_addresses
       where email = any (${[...spellings]}::text[]) and expires_at > clock_timestamp()
       limit 1`
    return row
  },

  setVerified: async (tx: TransactionSql, id: string, at: Date): Promise<void> => {
    await tx`
      update users set email_verified_at = coalesce(email_verified_at, ${at}), updated_at = clock_timestamp() where id = ${id}`
  },

  /** The address was proven by the mail that the token came with. */
  setPassword: async (tx: TransactionSql, id: string, passwordHash: string, at: Date): Promise<void> => {
    await tx`
      update users set password_hash = ${passwordHash}, email_verified_at = coalesce(email_verified_at, ${at}),
             updated_at = clock_timestamp()
       where id = ${id}`
  },

  /** Throws `identity.email_taken`. The address was proven. */
  setEmail: async (tx: TransactionSql, id: string, email: string, at: Date): Promise<void> => {
    await tx`
      update users set email = ${email}, email_verified_at = ${at}, updated_at = clock_timestamp() where id = ${id}`.catch(
      onViolation('users__email', 'identity.email_taken'),
    )
  },

  /** Until `expiresAt` no other account can get the address. */
  reserve: async (tx: TransactionSql, email: string, userId: string, expiresAt: Date): Promise<void> => {
    await tx`
      insert into former_addresses (email, user_id, expires_at) values (${email}, ${userId}, ${expiresAt})
      on conflict on constraint former_addresses_pkey do update
         set user_id = excluded.user_id, expires_at = excluded.expires_at`
  },

  release: async (tx: TransactionSql, email: string, userId: string): Promise<void> => {
    await tx`delete from former_addresses where email = ${email} and user_id = ${userId}`
  },

  /** For an account that is closed. */
  deleteOfUser: async (tx: TransactionSql, userId: string): Promise<void> => {
    await tx`delete from former_addresses where user_id = ${userId}`
  },

  purge: async (before: Date): Promise<void> => {
    await batch`delete from former_addresses where expires_at < ${before}`
  },
})

export type RecoveryStore = ReturnType<typeof createRecoveryStore>
