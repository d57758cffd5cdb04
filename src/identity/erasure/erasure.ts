import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Deadline, StartDeadline } from '../../kit/deadline.ts'
import type { Log } from '../../platform/log.ts'
import type { ErasureStore } from './erasure-store.ts'

/** Interval of the background task. */
export const erasureMs = 60_000
const accountsPerRun = 20
/** For one batch of the background task. */
const batchMs = 30_000
/** A request leaves the rest to the background task when it has less time. */
const reservedMs = 1_000

/**
 * Erases the content of closed accounts.
 *
 * Guarantee: an account that was closed is erased, also where the process is killed meanwhile: the order to erase it is committed
 * with its closing. Small accounts are erased before the closing is answered. Degrades: a batch
 * that fails is tried again a minute later, by any instance.
 */
export const createErasure = ({
  store,
  changes,
  startDeadline,
  log,
}: {
  store: ErasureStore
  changes: Changes
  startDeadline: StartDeadline
  log: Log
}) => {
  const eraseBatch = (userId: string, deadline: Deadline) =>
    changes.commitAndInvalidate(deadline, (tx) => store.erase(tx, userId))

  return {
    begin: store.begin,

    /** Erases as much as there is time for. Never throws: the background task does the rest. */
    eraseNow: async (userId: string, deadline: Deadline): Promise<void> => {
      try {
        while (deadline.remainingMs() > reservedMs && (await eraseBatch(userId, deadline)) === 'more') {}
      } catch (error) {
        log.info({ event: 'account.erasure_postponed', user_id: userId, error }, 'a closed account is erased later')
      }
    },

    /** The background task. */
    erasePending: async (): Promise<void> => {
      for (const userId of await store.listPending(accountsPerRun)) {
        try {
          while ((await eraseBatch(userId, startDeadline(batchMs))) === 'more') {}
        } catch (error) {
          log.warn({ event: 'account.erasure_postponed', user_id: userId, error }, 'a closed account is erased later')
        }
      }
    },
  }
}

export type Erasure = ReturnType<typeof createErasure>
