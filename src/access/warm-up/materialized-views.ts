import type { HeatStore } from './access-frequency-store.ts'
import { type ViewStore, views } from './materialized-view-store.ts'

/** How old the views may grow, and how often an instance looks whether it is its turn. */
export const viewsEveryMs = 300_000
export const viewsLookMs = 60_000

/**
 * Keeps the materialized views fresh: whichever instance looks first when one is due refreshes it, alone; whoever did so
 * for the hottest pairs then sweeps up the cold ones.
 */
export const createViews =
  ({ store, heat }: { store: ViewStore; heat: Pick<HeatStore, 'purge'> }) =>
  async (): Promise<void> => {
    for (const view of views) {
      const refreshed = await store.refresh(view, viewsEveryMs)
      if (refreshed && view === 'hottest_pairs') await heat.purge()
    }
  }
