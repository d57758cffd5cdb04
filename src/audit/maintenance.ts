import type { Clock } from '../kit/clock.ts'
import type { Log } from '../platform/log.ts'
import { headType } from './chain.ts'
import type { AuditKeyRow } from './chain-store.ts'
import type { AuditKeys } from './keys.ts'
import type { MaintenanceStore } from './maintenance-store.ts'

/** Interval of the background task. */
export const maintenanceMs = 3_600_000

/**
 * Partitions of the audit log: creates those of the coming months, and drops those whose time is over.
 *
 * Guarantee: the signed head of a dropped month stays and says that it was dropped, so that no month can be removed without a
 * trace. A month is kept where its head was not signed by this service. Its time is over only by the clocks of both this instance
 * and Postgres, so that no clock that runs ahead removes events. Degrades: where a lock is not had within a second, the next
 * run tries again an hour later; events of a month without a partition go into the default one.
 */
export const createMaintenance = ({
  store,
  keys,
  listKeys,
  retentionMs,
  clock,
  log,
}: {
  store: MaintenanceStore
  keys: AuditKeys
  listKeys: () => Promise<readonly AuditKeyRow[]>
  /** How long events are kept, to the end of their month. */
  retentionMs: number
  clock: Clock
  log: Log
}) => {
  const dropEnded = async (): Promise<void> => {
    const before = new Date(Math.min(clock.now(), await store.nowMs()) - retentionMs)
    const ended = await store.listEnded(before)
    if (ended.length === 0) return
    const auditKeys = await listKeys()
    const signed: { month: string; token: string }[] = []
    for (const { month, token } of ended) {
      const head = await keys.read(token, headType, auditKeys)
      if (head?.month !== month) {
        log.error(
          { event: 'audit.head_not_authentic', month },
          'a month of the audit log is kept: its head is not ours',
        )
        return
      }
      signed.push({
        month,
        token: await keys.signHead({ ...head, dropped: true }, new Date(clock.now()).toISOString()),
      })
    }
    const partitions = await store.drop(before, signed)
    log.info(
      { event: 'audit.months_dropped', months: ended.map(({ month }) => month), partitions },
      'old audit events were dropped',
    )
  }

  return async (): Promise<void> => {
    await store.createPartitions()
    await dropEnded()
  }
}
