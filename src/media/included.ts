import type { Caller } from '../access/principal.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { Links } from './links/service.ts'
import type { LinkedMedia, Variant } from './model.ts'
import { toMedia } from './service.ts'
import type { MediaStore } from './store.ts'

/**
 * The media of many generations at once, for lists of them. One statement.
 *
 * Relies on the caller's right to read each generation, which the list has decided. Links need no more: each is checked when it
 * is used.
 */
export const createIncludedMedia =
  ({ store, links }: { store: Pick<MediaStore, 'listEach'>; links: Pick<Links, 'addTo'> }) =>
  /** By generation, in the order of their positions. `base` is the start of the URLs. */
  async (
    { deadline }: RequestContext,
    caller: Caller,
    generationIds: readonly string[],
    { variants, base }: { variants: readonly Variant[]; base: string },
  ): Promise<ReadonlyMap<string, readonly LinkedMedia[]>> => {
    if (generationIds.length === 0) return new Map()
    const rows = await store.listEach(deadline, generationIds)
    const byGeneration = Map.groupBy(rows, ({ generation_id }) => generation_id ?? '')
    return new Map(
      [...byGeneration].map(([id, found]) => [id, links.addTo(found.map(toMedia), caller, { variants, base })]),
    )
  }

export type IncludedMedia = ReturnType<typeof createIncludedMedia>
