import { Buffer } from 'node:buffer'
import type { Sql } from '../platform/postgres.ts'
import type { SealName } from '../platform/secrets.ts'

export type WrappedKeyRow = { name: string; sealed_key: Uint8Array }

/** A column of sealed values. The text of the row's key is what a value belongs to: the `subject` of `seal`. */
export type SealedColumn = {
  readonly name: SealName
  readonly table: string
  readonly key: string
  readonly keyType: 'uuid' | 'text'
  readonly column: string
}

/**
 * Every column of sealed values, which are sealed again when SECRET changes. A test compares them with the columns of the schema
 * that are called `sealed_…` or whose comment has the word "sealed".
 */
export const sealedColumns: readonly SealedColumn[] = [
  { name: 'signing-key', table: 'signing_keys', key: 'kid', keyType: 'text', column: 'sealed_private_key' },
  { name: 'totp-secret', table: 'totp_factors', key: 'user_id', keyType: 'uuid', column: 'sealed_secret' },
  { name: 'webhook-secret', table: 'webhooks', key: 'id', keyType: 'uuid', column: 'secret' },
  { name: 'webhook-secret', table: 'webhooks', key: 'id', keyType: 'uuid', column: 'previous_secret' },
  { name: 'wrapped-key', table: 'wrapped_keys', key: 'name', keyType: 'text', column: 'sealed_key' },
]

export type SealedValue = { readonly key: string; readonly sealed: Uint8Array }
type Resealed = SealedValue & { readonly resealed: Uint8Array }

const lowest = { uuid: '00000000-0000-0000-0000-000000000000', text: '' } as const
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

export const createSecretStore = (sql: Sql) => {
  const asKey = (type: SealedColumn['keyType'], value: string) =>
    type === 'uuid' ? sql`${value}::uuid` : sql`${value}::text`

  return {
    /** The oldest first, expired ones included. */
    listSigningKeys: async (): Promise<{ kid: string; sealed_private_key: Uint8Array }[]> =>
      sql<{ kid: string; sealed_private_key: Uint8Array }[]>`
        select kid, sealed_private_key from signing_keys order by activates_at`,

    listWrappedKeys: async (): Promise<WrappedKeyRow[]> =>
      sql<WrappedKeyRow[]>`select name, sealed_key from wrapped_keys`,

    /** Leaves keys as they are that another instance has added. */
    addWrappedKeys: async (rows: readonly WrappedKeyRow[]): Promise<void> => {
      await sql`insert into wrapped_keys ${sql([...rows], 'name', 'sealed_key')} on conflict (name) do nothing`
    },

    /** Up to `limit` values that do not begin with `prefix`, in the order of their keys, after the key `after`. */
    listSealed: async (
      { table, key, keyType, column }: SealedColumn,
      { prefix, after, limit }: { prefix: Uint8Array; after: string | undefined; limit: number },
    ): Promise<SealedValue[]> =>
      sql<SealedValue[]>`
        select ${sql(key)}::text as key, ${sql(column)} as sealed from ${sql(table)}
         where ${sql(key)} > ${asKey(keyType, after ?? lowest[keyType])}
           and substring(${sql(column)} from 1 for ${prefix.length}) <> ${Buffer.from(prefix)}
         order by ${sql(key)} limit ${limit}`,

    /** Compare and set: leaves a value that has changed since it was listed. Returns how many were replaced. */
    replaceSealed: async (
      { table, key, keyType, column }: SealedColumn,
      values: readonly Resealed[],
    ): Promise<number> => {
      const type = keyType === 'uuid' ? sql`v.key::uuid` : sql`v.key`
      const { count } = await sql`
        update ${sql(table)} t set ${sql(column)} = decode(v.resealed, 'hex')
          from unnest(${values.map((value) => value.key)}::text[], ${values.map(({ sealed }) => hex(sealed))}::text[],
                      ${values.map(({ resealed }) => hex(resealed))}::text[]) as v (key, sealed, resealed)
         where t.${sql(key)} = ${type} and t.${sql(column)} = decode(v.sealed, 'hex')`
      return count
    },
  }
}

export type SecretStore = ReturnType<typeof createSecretStore>
