import type { TokenUseStore, UsedToken } from './token-use-store.ts'

/** Interval between flushes. */
export const tokenUseFlushMs = 500
/** A use is in Postgres after two intervals: one until the flush begins, one for its statement. */
export const settledMs = 2 * tokenUseFlushMs
/** Bound of the uses in memory while Postgres is down. */
const maxPending = 100_000
/** Scheduled flushes that are left out after one failed: 2 s, so that an outage does not fill the log. */
const skippedAfterFailure = 4

/**
 * Collects in memory which access tokens an instance has seen for the first time, so that a request costs no write.
 *
 * Guarantee: a use that was recorded `settledMs` ago is in Postgres, whichever instance saw it. A flush writes all uses in one
 * statement. Without new uses it sends no statement. After a failure a later flush writes them. Degrades: uses that could not be
 * written are lost when the process is killed, and beyond 100,000 while Postgres is down.
 */
export const createTokenUses = (store: TokenUseStore) => {
  let pending: UsedToken[] = []
  let toSkip = 0
  const flush = async (): Promise<void> => {
    if (pending.length === 0) return
    const written = pending
    pending = []
    try {
      await store.recordFirstUses(written)
    } catch (error) {
      pending = [...written, ...pending].slice(0, maxPending)
      toSkip = skippedAfterFailure
      throw error
    }
  }
  return {
    record: (use: UsedToken): void => {
      if (pending.length < maxPending) pending.push(use)
    },
    flush,
    /** For the schedule: a flush, unless one has just failed. */
    flushOnSchedule: async (): Promise<void> => {
      if (toSkip > 0) toSkip -= 1
      else await flush()
    },
  }
}

export type TokenUses = ReturnType<typeof createTokenUses>
