import { Buffer } from 'node:buffer'
import { Fault } from '../fault.ts'
import type { Clock } from '../kit/clock.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { sha256 } from '../platform/secrets.ts'
import type { IdempotencyStore } from './store.ts'

/** How long a response is replayed. */
export const retentionMs = 86_400_000

/** A request that may carry a key. Without one its response is neither stored nor replayed. */
export type IdempotentRequest = {
  readonly userId: string
  /** Method and path, including ids: a key is valid for one route only. */
  readonly route: string
  readonly key: string | undefined
  readonly body: unknown
}

/** A response. Its body is JSON, or undefined for an empty one. */
export type Outcome<T> = { readonly status: number; readonly body: T }
export type Replayable<T> = Outcome<T> & { readonly replayed: boolean }

/** Sorts the members of every object, so that their order does not change the hash of a body. */
const sorted = (_: string, value: unknown) =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
    : value

const hashOf = (body: unknown): Uint8Array => sha256(Buffer.from(JSON.stringify(body, sorted) ?? ''))

/**
 * Runs the work of a key once.
 *
 * Guarantee: of all requests of a user with the same route and key, one does its work. The others, concurrent or up to 24 hours
 * later, get the identical response and do nothing. A failed request stores nothing, so the next one runs. The key is written in
 * the transaction of the work: both commit, or neither does.
 */
export const createIdempotency = ({ store, clock }: { store: IdempotencyStore; clock: Clock }) => ({
  /**
   * Throws `request.idempotency_key_reused` for a key that was used with another body. A check that fails before the
   * transaction must throw inside `work`: a response that was stored for the key, or is about to be, takes precedence.
   */
  once: async <T>(
    tx: TransactionSql,
    { userId, route, key, body }: IdempotentRequest,
    work: () => Promise<Outcome<T>>,
  ): Promise<Replayable<T>> => {
    if (key === undefined) return { ...(await work()), replayed: false }
    const ref = { userId, route, key }
    const requestHash = hashOf(body)
    const now = clock.now()
    if (!(await store.claim(tx, ref, requestHash, new Date(now), new Date(now - retentionMs)))) {
      const stored = await store.find(tx, ref)
      if (!Buffer.from(stored.request_hash).equals(requestHash)) throw new Fault('request.idempotency_key_reused')
      const answer = stored.answer === null ? undefined : JSON.parse(stored.answer)
      return { status: stored.status, body: answer as T, replayed: true }
    }
    const outcome = await work()
    await store.saveResponse(tx, ref, outcome.status, JSON.stringify(outcome.body) ?? null)
    return { ...outcome, replayed: false }
  },

  /** Deletes responses older than `retentionMs`. */
  purge: () => store.purge(new Date(clock.now() - retentionMs)),
})

export type Idempotency = ReturnType<typeof createIdempotency>
