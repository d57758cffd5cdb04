import type { Log } from '../platform/log.ts'
import type { RunnableModels } from '../providers/runnable-models.ts'
import type { CancellationStore, OrderCancellation } from './cancellation-store.ts'

/** Longest wait for a cancellation that no message announced, such as one that is due for another try. */
const pollMs = 5_000
/** Longer than a provider may take to cancel an order, so that two instances do not cancel the same one at once. */
const minRetryMs = 30_000
const maxBatch = 10
const maxAgeMs = 86_400_000

/**
 * Cancels the orders at providers whose jobs have ended without them.
 *
 * Guarantee: a remote order recorded for a job is cancelled at its provider after the job is cancelled, deleted or failed
 * permanently. Delivery is at least once, by any instance that has the provider; it does not depend on the worker of the job.
 * Degrades: a provider that cannot be reached is tried again after pauses that double, for 24 hours.
 */
export type Cancellations = {
  /** Polls now: there may be orders to cancel. */
  wake(): void
  /** Removes cancellations that have failed for 24 hours. */
  purge(): Promise<void>
  /** Stops polling. A cancellation under way is retried by another instance, or after the next start. */
  stop(): void
}

type Dependencies = {
  readonly store: CancellationStore
  readonly models: Pick<RunnableModels, 'list'>
  readonly log: Log
}

export const createCancellations = ({ store, models, log }: Dependencies): Cancellations => {
  const cancelByModel = new Map(
    models
      .list()
      .flatMap(({ model, provider }) =>
        provider.cancel === undefined
          ? []
          : [[model.id, (remote: unknown) => provider.cancel?.(model.provider_model, remote)] as const],
      ),
  )
  const cancellableModels = [...cancelByModel.keys()]
  let polling = false
  let pollAgain = false

  const cancelOrder = async ({ generation_id, model, remote }: OrderCancellation) => {
    try {
      await cancelByModel.get(model)?.(remote)
      await store.remove(generation_id)
    } catch (error) {
      log.info(
        { event: 'order.not_cancelled', generation_id, error },
        'an order was not cancelled at its provider; it is retried',
      )
    }
  }

  const cancelDueOrders = async () => {
    do {
      pollAgain = false
      const due = await store.lease(cancellableModels, maxBatch, minRetryMs)
      if (due.length === maxBatch) pollAgain = true
      await Promise.all(due.map(cancelOrder))
    } while (pollAgain)
  }

  const poll = () => {
    pollAgain = true
    if (polling || cancellableModels.length === 0) return
    polling = true
    cancelDueOrders()
      .catch((error) => log.debug({ error }, 'polling for orders to cancel failed'))
      .finally(() => {
        polling = false
      })
  }

  const timer = setInterval(poll, pollMs)
  poll()

  return { wake: poll, purge: () => store.purge(maxAgeMs), stop: () => clearInterval(timer) }
}
