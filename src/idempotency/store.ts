import { Fault } from '../fault.ts'
import { isLockTimeout, type Sql, type TransactionSql } from '../platform/postgres.ts'

/** How long a request waits for another with the same key. Less than the default deadline of a request. */
const maxWaitMs = '2000'

export type KeyRef = { readonly userId: string; readonly route: string; readonly key: string }

type StoredResponse = { request_hash: Uint8Array; status: number; answer: string | null }

export const createIdempotencyStore = (batch: Sql) => ({
  /**
   * Inserts a key, or waits for the transaction that is inserting it: up to two seconds, then throws
   * `request.outcome_unknown`, because that one may be waiting for its commit. Later statements wait without this limit.
   * Returns true when this transaction owns the key: it was new, the other transaction rolled back, or the stored response is
   * older than `expired`.
   */
  claim: async (
    tx: TransactionSql,
    ref: KeyRef,
    requestHash: Uint8Array,
    now: Date,
    expired: Date,
  ): Promise<boolean> => {
    const { count } = await tx`
      insert into idempotency_keys as k (user_id, route, key, request_hash, created_at)
      select ${ref.userId}::uuid, ${ref.route}, ${ref.key}, ${requestHash}::bytea, ${now}::timestamptz
        from (select set_config('lock_timeout', ${maxWaitMs}, true) as lock_timeout) limited where lock_timeout <> ''
      on conflict (user_id, route, key) do update
         set request_hash = excluded.request_hash, status = null, answer = null, created_at = excluded.created_at
       where k.created_at <= ${expired}
      returning set_config('lock_timeout', '0', true)`.catch((error) => {
      throw isLockTimeout(error) ? new Fault('request.outcome_unknown', { cause: error }) : error
    })
    return count === 1
  },

  find: async (tx: TransactionSql, { userId, route, key }: KeyRef): Promise<StoredResponse> => {
    const [row] = await tx<StoredResponse[]>`
      select request_hash, status, answer from idempotency_keys
       where user_id = ${userId} and route = ${route} and key = ${key}`
    return row as StoredResponse
  },

  saveResponse: async (tx: TransactionSql, { userId, route, key }: KeyRef, status: number, answer: string | null) => {
    await tx`
      update idempotency_keys set status = ${status}, answer = ${answer}
       where user_id = ${userId} and route = ${route} and key = ${key}`
  },

  /** Deletes keys created up to `expired`, at most 5,000 per call. */
  purge: async (expired: Date): Promise<number> => {
    const { count } = await batch`
      delete from idempotency_keys where (user_id, route, key) in (
        select user_id, route, key from idempotency_keys where created_at <= ${expired} limit 5000
      )`
    return count
  },
})

export type IdempotencyStore = ReturnType<typeof createIdempotencyStore>
