import { Buffer } from 'node:buffer'
import { Fault } from '../fault.ts'
import type { Clock } from '../kit/clock.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { sha256 } from '../platform/secrets.ts'
import type { IdempotencyStore } from './store.ts'

/** How long an answer is given again. */
export const keptMs = 86_400_000

/** What was asked for. Without a key nothing is kept, and nothing is given again. */
export type IdempotentRequest = {
  readonly userId: string
  /** Method and path, ids and all: a key is good for one of them. */
  readonly route: string
  readonly key: string | undefined
  readonly body: unknown
}

/** An answer as it leaves: its body is JSON, or undefined for none. */
export type Outcome<T> = { readonly status: number; readonly body: T }
export type Replayable<T> = Outcome<T> & { readonly replayed: boolean }

/** The members of every object in one order, so that two spellings of one body are one. */
const sorted = (_: string, value: unknown) =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
    : value

const hashOf = (body: unknown): Uint8Array => sha256(Buffer.from(JSON.stringify(body, sorted) ?? ''))

/**
 * Does what a key came with once.
 *
 * Promise: of all requests of a person with the same route and key, one does its work; the others, at the same time or up
 * to a day later, get its answer to the byte and do nothing. One that failed, for whatever reason, was none: the next is
 * the first. The key is written in the transaction of the work, so there is no moment when one is done without the other.
 */
export const createIdempotency = ({ store, clock }: { store: IdempotencyStore; clock: Clock }) => ({
  /**
   * Throws `request.idempotency_key_reused` for a key that came with another body. A request that is refused before its
   * transaction is refused by `work`: the key may have an answer from when there was nothing to refuse, or may be about
   * to get one.
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
    if (!(await store.take(tx, ref, requestHash, new Date(now), new Date(now - keptMs)))) {
      const kept = await store.find(tx, ref)
      if (!Buffer.from(kept.request_hash).equals(requestHash)) throw new Fault('request.idempotency_key_reused')
      const answer = kept.answer === null ? undefined : JSON.parse(kept.answer)
      return { status: kept.status, body: answer as T, replayed: true }
    }
    const outcome = await work()
    await store.keep(tx, ref, outcome.status, JSON.stringify(outcome.body) ?? null)
    return { ...outcome, replayed: false }
  },

  /** Forgets what is older than a day. */
  purge: () => store.purge(new Date(clock.now() - keptMs)),
})

export type Idempotency = ReturnType<typeof createIdempotency>
