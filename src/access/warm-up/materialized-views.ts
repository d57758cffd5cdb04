import type { AccessFrequencyStore } from './access-frequency-store.ts'
import { type ViewStore, views } from './materialized-view-store.ts'

/** The maximum age of a view, and how often an instance checks it. */
export const viewRefreshMs = 300_000
export const viewCheckMs = 60_000

/**
 * Refreshes each materialized view that is due, unless another instance does. The instance that refreshed the hottest pairs
 * then purges the rows they are computed from.
 */
export const createViewRefresh =
  ({ store, frequencies }: { store: ViewStore; frequencies: Pick<AccessFrequencyStore, 'purge'> }) =>
  async (): Promise<void> => {
    for (const view of views) {
      const refreshed = await store.refresh(view, viewRefreshMs)
      if (refreshed && view === 'hottest_pairs') await frequencies.purge()
    }
  }
