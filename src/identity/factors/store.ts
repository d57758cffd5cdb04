import type { Deadline } from '../../kit/deadline.ts'
import type { Queryable, Sql, TransactionSql } from '../../platform/postgres.ts'
import { type UserRow, userColumns } from '../store.ts'
import { type PasskeyRow, passkeyColumns, passkeyStore } from './passkey-store.ts'
import { recoveryCodeStore } from './recovery-code-store.ts'

export type TotpRow = { sealed_secret: Uint8Array; last_step: number; created_at: Date; confirmed_at: Date | null }

/** What an account has enrolled. `totp` may be one that was not confirmed yet. */
export type FactorRows = {
  readonly totp: TotpRow | undefined
  readonly passkeys: readonly PasskeyRow[]
  readonly recoveryCodesLeft: number
}

/** bigint columns are cast, because the driver returns them as text. */
const totpColumns = (sql: Queryable) => sql`sealed_secret, last_step::float8 as last_step, created_at, confirmed_at`
/**
 * Authenticator apps, passkeys and recovery codes. Triggers keep `users.second_factor`, and with it the access through teams that
 * require a second factor.
 */
export const createFactorStore = (sql: Sql, batch: Sql) => ({
  ...passkeyStore,
  ...recoveryCodeStore,

  find: async (deadline: Deadline, userId: string, on: Queryable = sql): Promise<FactorRows> => {
    const [[totp], passkeys, [codes]] = await deadline.run(
      Promise.all([
        on<TotpRow[]>`select ${totpColumns(on)} from totp_factors where user_id = ${userId}`,
        on<PasskeyRow[]>`select ${passkeyColumns(on)} from passkeys p where p.user_id = ${userId} order by p.id desc`,
        on<{ left: number }[]>`select count(*)::int as left from recovery_codes where user_id = ${userId}`,
      ]),
    )
    return { totp, passkeys, recoveryCodesLeft: codes?.left ?? 0 }
  },

  /** A passkey and its account. */
  findByCredential: async (
    deadline: Deadline,
    credentialId: Uint8Array,
  ): Promise<{ passkey: PasskeyRow; user: UserRow } | undefined> => {
    const [passkey] = await deadline.run(
      sql<PasskeyRow[]>`select ${passkeyColumns(sql)} from passkeys p where p.credential_id = ${credentialId}`,
    )
    if (passkey === undefined) return undefined
    const [user] = await deadline.run(sql<UserRow[]>`
      select ${userColumns(sql)} from users where id = ${passkey.user_id}`)
    return user && { passkey, user }
  },

  /**
   * Locks what a change of the factors of an account needs: the account for update, so that it joins no team meanwhile, and then
   * its teams. Call it first in the transaction. Returns false where the account is not active.
   */
  lockForChange: async (tx: TransactionSql, userId: string): Promise<boolean> => {
    const { count } = await tx`select from users where id = ${userId} and status = 'active' for update`
    if (count === 0) return false
    await tx`select lock_teams_of_member(${userId}, false)`
    return true
  },

  /** Starts, or starts anew, the set-up of an authenticator app. Returns false where one is confirmed. */
  startTotp: async (tx: TransactionSql, userId: string, sealedSecret: Uint8Array, at: Date): Promise<boolean> => {
    const { count } = await tx`
      insert into totp_factors as t (user_id, sealed_secret, created_at) values (${userId}, ${sealedSecret}, ${at})
      on conflict (user_id) do update set sealed_secret = excluded.sealed_secret, created_at = excluded.created_at, last_step = 0
       where t.confirmed_at is null`
    return count === 1
  },

  /** Returns false where the set-up was started anew or completed meanwhile. */
  confirmTotp: async (
    tx: TransactionSql,
    userId: string,
    { sealedSecret, step, at }: { readonly sealedSecret: Uint8Array; readonly step: number; readonly at: Date },
  ): Promise<boolean> => {
    const { count } = await tx`
      update totp_factors set confirmed_at = ${at}, last_step = ${step}
       where user_id = ${userId} and confirmed_at is null and sealed_secret = ${sealedSecret}`
    return count === 1
  },

  /** Uses a code up. Returns false where a code of this step or of a later one was accepted before. */
  acceptStep: async (tx: TransactionSql, userId: string, step: number): Promise<boolean> => {
    const { count } = await tx`
      update totp_factors set last_step = ${step}
       where user_id = ${userId} and confirmed_at is not null and last_step < ${step}`
    return count === 1
  },

  removeTotp: async (tx: TransactionSql, userId: string): Promise<boolean> => {
    const removed = await tx<{ confirmed: boolean }[]>`
      delete from totp_factors where user_id = ${userId} returning confirmed_at is not null as confirmed`
    return removed.some(({ confirmed }) => confirmed)
  },

  /** Removes every factor of an account. Returns whether it had one. */
  removeAll: async (tx: TransactionSql, userId: string): Promise<boolean> => {
    await tx`delete from recovery_codes where user_id = ${userId}`
    const totp = await tx`delete from totp_factors where user_id = ${userId} and confirmed_at is not null`
    const passkeys = await tx`delete from passkeys where user_id = ${userId}`
    return totp.count + passkeys.count > 0
  },

  hasSecondFactor: async (tx: TransactionSql, userId: string): Promise<boolean> => {
    const { count } = await tx`select from users where id = ${userId} and second_factor`
    return count === 1
  },

  hasVerifiedAddress: async (tx: TransactionSql, userId: string): Promise<boolean> => {
    const { count } = await tx`select from users where id = ${userId} and email_verified_at is not null`
    return count === 1
  },

  hasRecoveryCode: async (deadline: Deadline, userId: string, codeHash: Uint8Array): Promise<boolean> => {
    const { count } = await deadline.run(
      sql`select from recovery_codes where user_id = ${userId} and code_hash = ${codeHash}`,
    )
    return count === 1
  },

  /** Records that a challenge was used. Returns false where it was used before. */
  useChallenge: async (tx: TransactionSql, challengeHash: Uint8Array, expiresAt: Date): Promise<boolean> => {
    const { count } = await tx`
      insert into used_challenges (challenge_hash, expires_at) values (${challengeHash}, ${expiresAt})
      on conflict (challenge_hash) do nothing`
    return count === 1
  },

  /** Other sessions have to authenticate again before sensitive changes: they were opened without the new factor. */
  expireAuthentications: async (tx: TransactionSql, userId: string, exceptSessionId: string): Promise<void> => {
    await tx`
      update sessions set authenticated_at = to_timestamp(0)
       where user_id = ${userId} and id <> ${exceptSessionId} and ended_at is null`
  },

  /** Deletes up to 10,000 used challenges that do not open any more. Returns how many. */
  purgeChallenges: async (now: Date): Promise<number> => {
    const { count } = await batch`
      delete from used_challenges where ctid = any (array(
        select ctid from used_challenges where expires_at < ${now} limit 10000))`
    return count
  },
})

export type FactorStore = ReturnType<typeof createFactorStore>
