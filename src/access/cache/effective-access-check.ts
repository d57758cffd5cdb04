import type { Log } from '../../platform/log.ts'
import type { AccessDifference } from './effective-access-store.ts'

/**
 * Compares the effective-access rows with the base tables, and logs an error where they differ. Triggers keep the rows
 * correct, so a difference is a defect of a trigger. It reads every row.
 */
export const createEffectiveAccessCheck =
  ({ findDifferences, log }: { findDifferences: () => Promise<AccessDifference[]>; log: Log }) =>
  async (): Promise<void> => {
    const differences = await findDifferences()
    if (differences.length > 0)
      log.error({ event: 'access.rows_differ', differences }, 'effective access differs from the base tables')
  }
