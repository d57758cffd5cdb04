import type { Log } from '../platform/log.ts'
import type { Provider } from '../providers/provider.ts'
import type { CancellationStore, OrderCancellation } from './cancellation-store.ts'

/** One that nobody told of, such as one that is to be tried again, is found at the latest after this. */
const lookMs = 5_000
/** Longer than a provider may take over one, so that two do not try at once. */
const leastPauseMs = 30_000
const maxAtOnce = 10
const keptMs = 86_400_000

/**
 * Tells providers of orders that nobody waits for any more.
 *
 * Promise: an order that was noted for a job is cancelled at its provider once the job is cancelled, deleted or failed,
 * whoever worked on it and whatever became of them: at least once, by any instance that has the provider.
 * How it degrades: a provider that cannot be told is told again after pauses that double, for a day.
 */
export type Cancellations = {
  /** There may be some. */
  wake(): void
  /** Forgets those that nobody could be told of for a day. */
  purge(): Promise<void>
  /** What is under way is told again by others, or after the next start. */
  stop(): void
}

type Dependencies = {
  readonly store: CancellationStore
  readonly models: readonly { readonly id: string; readonly provider: string; readonly provider_model: string }[]
  readonly providers: ReadonlyMap<string, Provider>
  readonly log: Log
}

export const createCancellations = ({ store, models, providers, log }: Dependencies): Cancellations => {
  /** By model: how its provider is told. */
  const tell = new Map(
    models.flatMap(({ id, provider: name, provider_model }) => {
      const provider = providers.get(name)
      return provider?.cancel === undefined
        ? []
        : [[id, (remote: unknown) => provider.cancel?.(provider_model, remote)] as const]
    }),
  )
  const tellable = [...tell.keys()]
  let looking = false
  let again = false

  const cancel = async ({ generation_id, model, remote }: OrderCancellation) => {
    try {
      await tell.get(model)?.(remote)
      await store.remove(generation_id)
    } catch (error) {
      log.info({ event: 'order.not_cancelled', generation_id, error }, 'an order could not be cancelled yet')
    }
  }

  const work = async () => {
    do {
      again = false
      const taken = await store.take(tellable, maxAtOnce, leastPauseMs)
      if (taken.length === maxAtOnce) again = true
      await Promise.all(taken.map(cancel))
    } while (again)
  }

  const look = () => {
    again = true
    if (looking || tellable.length === 0) return
    looking = true
    work()
      .catch((error) => log.debug({ error }, 'orders to cancel could not be looked for'))
      .finally(() => {
        looking = false
      })
  }

  const timer = setInterval(look, lookMs)
  look()

  return { wake: look, purge: () => store.purge(keptMs), stop: () => clearInterval(timer) }
}
