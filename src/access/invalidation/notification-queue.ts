import type { Log } from '../../platform/log.ts'
import type { NotificationQueueStore } from './notification-queue-store.ts'

/** How often the queue is measured. */
export const queueMeasureMs = 10_000
/** Shares of the queue at which the alarm begins and ends. A queue whose listeners all read is empty. */
const alarmAt = 0.1
const calmAt = 0.05

/**
 * Watches the queue of Postgres for notifications. It fills while a listener of any database of the server is idle in a
 * transaction, because Postgres keeps what that one has not read. Once it is full every change of this service fails.
 *
 * Guarantee: an alarm is logged (`bus.queue_filling`) once a tenth of the queue is used, with the transactions that have been open
 * longest, and `bus.queue_drained` when less than a twentieth is.
 */
export const createNotificationQueue = ({
  store,
  log,
  onFilling,
}: {
  store: NotificationQueueStore
  log: Pick<Log, 'error' | 'info'>
  /** Called when the alarm begins. */
  onFilling: (usage: number) => void
}) => {
  let usage: number | undefined
  let isFilling = false
  return {
    /** As last measured: from 0 to 1. Undefined before the first time. */
    get usage() {
      return usage
    },
    get isFilling() {
      return isFilling
    },
    measure: async (): Promise<void> => {
      const measured = await store.readUsage()
      usage = measured
      if (!isFilling && measured >= alarmAt) {
        isFilling = true
        onFilling(measured)
        const open_transactions = await store.listOpenTransactions().catch(() => [])
        log.error(
          { event: 'bus.queue_filling', usage: measured, open_transactions },
          'the queue of Postgres for notifications fills, because a listener is in a transaction; when it is full every change fails: end that transaction',
        )
      } else if (isFilling && measured < calmAt) {
        isFilling = false
        log.info(
          { event: 'bus.queue_drained', usage: measured },
          'the queue of Postgres for notifications is read again',
        )
      }
    },
  }
}

export type NotificationQueue = ReturnType<typeof createNotificationQueue>
