import type { AccessFrequencyStore } from './access-frequency-store.ts'
import { type ViewStore, views } from './materialized-view-store.ts'

/** How old the views may grow, and how often an instance looks whether it is its turn. */
export const viewRefreshMs = 300_000
export const viewCheckMs = 60_000

/**
 * Keeps the materialized views fresh: whichever instance looks first when one is due refreshes it, alone; whoever did so
 * for the hottest pairs then sweeps up the cold ones.
 */
export const createViewRefresh =
  ({ store, heat }: { store: ViewStore; heat: Pick<AccessFrequencyStore, 'purge'> }) =>
  async (): Promise<void> => {
    for (const view of views) {
      const refreshed = await store.refresh(view, viewRefreshMs)
      if (refreshed && view === 'hottest_pairs') await heat.purge()
    }
  }
