import type { Sql, TransactionSql } from '../platform/postgres.ts'

export type KeyRef = { readonly userId: string; readonly route: string; readonly key: string }

type Kept = { request_hash: Uint8Array; status: number; answer: string | null }

export const createIdempotencyStore = (batch: Sql) => ({
  /**
   * Takes a key for this transaction, or waits for the transaction that has it. Returns whether it is ours: it was free,
   * its holder came to nothing, or what is kept of it is from before `expired`.
   */
  take: async (
    tx: TransactionSql,
    ref: KeyRef,
    requestHash: Uint8Array,
    now: Date,
    expired: Date,
  ): Promise<boolean> => {
    const { count } = await tx`
      insert into idempotency_keys as k (user_id, route, key, request_hash, created_at)
      values (${ref.userId}, ${ref.route}, ${ref.key}, ${requestHash}, ${now})
      on conflict (user_id, route, key) do update
         set request_hash = excluded.request_hash, status = null, answer = null, created_at = excluded.created_at
       where k.created_at <= ${expired}`
    return count === 1
  },

  find: async (tx: TransactionSql, { userId, route, key }: KeyRef): Promise<Kept> => {
    const [row] = await tx<Kept[]>`
      select request_hash, status, answer from idempotency_keys
       where user_id = ${userId} and route = ${route} and key = ${key}`
    return row as Kept
  },

  keep: async (tx: TransactionSql, { userId, route, key }: KeyRef, status: number, answer: string | null) => {
    await tx`
      update idempotency_keys set status = ${status}, answer = ${answer}
       where user_id = ${userId} and route = ${route} and key = ${key}`
  },

  /** Removes what was taken up to `expired`, at most 5,000 at once. */
  purge: async (expired: Date): Promise<number> => {
    const { count } = await batch`
      delete from idempotency_keys where (user_id, route, key) in (
        select user_id, route, key from idempotency_keys where created_at <= ${expired} limit 5000
      )`
    return count
  },
})

export type IdempotencyStore = ReturnType<typeof createIdempotencyStore>
