import type { Log } from '../../platform/log.ts'
import type { AccessDifference } from './effective-access-store.ts'

/**
 * Compares what is kept about who may do what with what it is made of, and raises an alarm in the log where they differ.
 * Triggers see to it that they never do; should that be wrong somewhere, it is not to stay unknown.
 */
export const createEffectiveAccessCheck =
  ({ findDifferences, log }: { findDifferences: () => Promise<AccessDifference[]>; log: Log }) =>
  async (): Promise<void> => {
    const differences = await findDifferences()
    if (differences.length > 0) log.error({ event: 'access.rows_differ', differences }, 'project_access is wrong')
  }
