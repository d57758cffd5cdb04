import type { TransactionSql } from '../../platform/postgres.ts'

/** Recovery codes, in the transaction that changes them. */
export const recoveryCodeStore = {
  replaceRecoveryCodes: async (
    tx: TransactionSql,
    userId: string,
    hashes: readonly Uint8Array[],
    at: Date,
  ): Promise<void> => {
    await tx`delete from recovery_codes where user_id = ${userId}`
    const rows = hashes.map((code_hash) => ({ user_id: userId, code_hash, created_at: at }))
    if (rows.length > 0) await tx`insert into recovery_codes ${tx(rows)}`
  },

  /** Uses a recovery code up. Returns false where it was used before. */
  useRecoveryCode: async (tx: TransactionSql, userId: string, codeHash: Uint8Array): Promise<boolean> => {
    const { count } = await tx`delete from recovery_codes where user_id = ${userId} and code_hash = ${codeHash}`
    return count === 1
  },
}
