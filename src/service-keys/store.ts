import type { Scope } from '../access/policy/matrix.ts'
import { highestId } from '../kit/cursor.ts'
import type { Deadline } from '../kit/deadline.ts'
import { lockKeys } from '../platform/lock-keys.ts'
import type { Queryable, Sql, TransactionSql } from '../platform/postgres.ts'

export type ServiceKeyRow = {
  id: string
  name: string
  scopes: Scope[]
  created_by: string
  created_at: Date
  expires_at: Date | null
  last_used_at: Date | null
  revoked_at: Date | null
  limit_per_second: number | null
  allowed_networks: string[] | null
}

/** What of a key can be changed. */
export type KeyChanges = Partial<Pick<ServiceKeyRow, 'limit_per_second' | 'allowed_networks' | 'expires_at'>>

type Place = { readonly after: string | null; readonly limit: number }

/** Waits for the writes of services that act with the key, and makes later ones wait. */
const lockForWrites = async (tx: TransactionSql, id: string): Promise<void> => {
  await tx`select pg_advisory_xact_lock(hashtextextended(${id}, ${lockKeys.serviceKeySeed}))`
}

export const createServiceKeyStore = (sql: Sql, batch: Sql) => {
  const columns = (on: Queryable) => on`
    id, name, scopes, created_by, created_at, expires_at, last_used_at, revoked_at, limit_per_second, allowed_networks`

  return {
    insert: async (
      tx: TransactionSql,
      key: Pick<
        ServiceKeyRow,
        'id' | 'name' | 'scopes' | 'created_by' | 'created_at' | 'expires_at' | 'limit_per_second' | 'allowed_networks'
      > & {
        secret_hash: Uint8Array
      },
    ): Promise<ServiceKeyRow> => {
      const [row] = await tx<ServiceKeyRow[]>`insert into service_keys ${tx(key)} returning ${columns(tx)}`
      return row as ServiceKeyRow
    },

    /** Lists all keys, newest first, including revoked and expired ones. Returns up to `limit + 1` rows. */
    list: (deadline: Deadline, { after, limit }: Place): Promise<ServiceKeyRow[]> =>
      deadline.run(sql<ServiceKeyRow[]>`
        select ${columns(sql)} from service_keys
         where id < ${after ?? highestId}
         order by id desc limit ${limit + 1}`),

    /** Undefined when there is no such key or it is revoked. */
    /** New networks wait for the writes of services that act with the key, as `revoke` does. */
    update: async (tx: TransactionSql, id: string, changes: KeyChanges): Promise<ServiceKeyRow | undefined> => {
      if (changes.allowed_networks !== undefined) await lockForWrites(tx, id)
      const [row] = await tx<ServiceKeyRow[]>`
        update service_keys set ${tx(changes)} where id = ${id} and revoked_at is null
        returning ${columns(tx)}`
      return row
    },

    /**
     * Returns false when there is no such key or it is revoked already. Waits for the writes of services that act with the key
     * (decision-locks.sql), and later ones see it revoked.
     */
    revoke: async (tx: TransactionSql, id: string, at: Date): Promise<boolean> => {
      await lockForWrites(tx, id)
      const { count } = await tx`update service_keys set revoked_at = ${at} where id = ${id} and revoked_at is null`
      return count === 1
    },

    /** Records when keys were last used, in one statement. Never moves a time back. */
    recordUses: async (uses: ReadonlyMap<string, number>): Promise<void> => {
      const ids = [...uses.keys()]
      const times = [...uses.values()].map((ms) => new Date(ms).toISOString())
      await batch`
        update service_keys k set last_used_at = used.at::timestamptz
          from unnest(${ids}::uuid[], ${times}::text[]) as used (id, at)
         where k.id = used.id and (k.last_used_at is null or k.last_used_at < used.at::timestamptz)`
    },
  }
}

export type ServiceKeyStore = ReturnType<typeof createServiceKeyStore>
