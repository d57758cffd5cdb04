import { Buffer } from 'node:buffer'
import { onViolation, type Queryable, type TransactionSql } from '../../platform/postgres.ts'
import type { NewCredential, StoredCredential } from '../../platform/webauthn.ts'

export type PasskeyRow = {
  id: string
  user_id: string
  credential_id: Uint8Array
  public_key: Uint8Array
  counter: number
  transports: string[]
  backup_eligible: boolean
  backed_up: boolean
  name: string
  created_at: Date
  last_used_at: Date | null
}

export const toStoredCredential = (row: PasskeyRow): StoredCredential => ({
  id: Buffer.from(row.credential_id).toString('base64url'),
  publicKey: row.public_key,
  counter: row.counter,
  transports: row.transports,
})

/** A bigint column is cast, because the driver returns it as text. */
export const passkeyColumns = (sql: Queryable) => sql`
  p.id, p.user_id, p.credential_id, p.public_key, p.counter::float8 as counter, p.transports, p.backup_eligible, p.backed_up,
  p.name, p.created_at, p.last_used_at`

/** Passkeys, in the transaction that changes them. */
export const passkeyStore = {
  /** Throws `passkey.known`. */
  insertPasskey: async (
    tx: TransactionSql,
    passkey: NewCredential & {
      readonly rowId: string
      readonly userId: string
      readonly name: string
      readonly at: Date
    },
  ): Promise<PasskeyRow> => {
    const [row] = await tx<PasskeyRow[]>`
      insert into passkeys as p (id, user_id, credential_id, public_key, counter, transports, backup_eligible, backed_up, name, created_at)
      values (${passkey.rowId}, ${passkey.userId}, ${Buffer.from(passkey.id, 'base64url')}, ${passkey.publicKey},
              ${passkey.counter}, ${[...passkey.transports]}::text[], ${passkey.backupEligible}, ${passkey.backedUp},
              ${passkey.name}, ${passkey.at})
      returning ${passkeyColumns(tx)}`.catch(onViolation('passkeys__credential_id', 'passkey.known'))
    return row as PasskeyRow
  },

  countPasskeys: async (tx: TransactionSql, userId: string): Promise<number> => {
    const [row] = await tx<{ count: number }[]>`
      select count(*)::int as count from passkeys where user_id = ${userId}`
    return row?.count ?? 0
  },

  /** Records a use. Returns false where another use was recorded since the passkey was read, or where it is gone. */
  recordUse: async (
    tx: TransactionSql,
    { id, counter }: Pick<PasskeyRow, 'id' | 'counter'>,
    use: { readonly counter: number; readonly backedUp: boolean; readonly at: Date },
  ): Promise<boolean> => {
    const { count } = await tx`
      update passkeys set counter = ${use.counter}, backed_up = ${use.backedUp}, last_used_at = ${use.at}
       where id = ${id} and counter = ${counter}`
    return count === 1
  },

  renamePasskey: async (
    tx: TransactionSql,
    userId: string,
    id: string,
    name: string,
  ): Promise<PasskeyRow | undefined> => {
    const [row] = await tx<PasskeyRow[]>`
      update passkeys p set name = ${name} where p.id = ${id} and p.user_id = ${userId} returning ${passkeyColumns(tx)}`
    return row
  },

  removePasskey: async (tx: TransactionSql, userId: string, id: string): Promise<boolean> => {
    const { count } = await tx`delete from passkeys where id = ${id} and user_id = ${userId}`
    return count === 1
  },
}
