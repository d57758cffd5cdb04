import type { StreamPermission } from '../../access/permission-recheck.ts'
import type { Clock } from '../../kit/clock.ts'
import { type EventStream, formatEvent, formatRetry, heartbeatComment } from '../../kit/event-stream.ts'
import type { Generation } from '../model.ts'
import { diffEvents, isFinal, type SentState } from './state.ts'
import type { StateTracker, TrackedState } from './state-tracker.ts'

const heartbeatMs = 15_000
/** A client that reads nothing for this long is disconnected. */
const stalledMs = 60_000
/** Clients reconnect after one to two times this, so that those of a stopped instance do not arrive at the next all at once. */
const retryMs = 1_000

/** One client and the generation it watches. */
export type Subscription = {
  readonly generationId: string
  readonly permission: StreamPermission
  /** What limits count the client as; undefined: not limited by address. */
  readonly address: string | undefined
  readonly stream: EventStream
  sent: SentState | undefined
  /** The tracked state that `sent` was last compared with. */
  comparedWith: TrackedState
  /** The complete generation, once it has ended and is loaded. */
  finalState: Generation | undefined
  /** The retry field, the first text of a stream, is written. */
  opened: boolean
  rechecking: boolean
  ended: boolean
  sentAtMs: number
}

/** The last event of a stream. */
export const doneText = (generation: Generation): string => formatEvent('done', generation.status, generation)

/**
 * Writes the events that a client has not received. The caller has just re-checked the permission of the client.
 *
 * Guarantee: a client that reads slowly gets the newest state when it is ready; intermediate states are skipped, not queued.
 */
export const createDelivery = ({
  tracker,
  loadFinalState,
  clock,
  random,
  remove,
}: {
  tracker: Pick<StateTracker, 'find'>
  loadFinalState: (subscription: Subscription) => void
  clock: Clock
  random: () => number
  remove: (subscription: Subscription) => void
}) => {
  const end = (subscription: Subscription) => {
    remove(subscription)
    subscription.stream.end()
  }

  const write = (subscription: Subscription, text: string) => {
    // Before the write, because a client that takes the text may trigger the next delivery synchronously.
    subscription.sentAtMs = clock.monotonic()
    subscription.stream.write(text)
  }

  const deliver = (subscription: Subscription) => {
    const state = tracker.find(subscription.generationId)
    if (state === 'gone') return end(subscription)
    const silentMs = clock.monotonic() - subscription.sentAtMs
    if (!subscription.stream.isReady) return silentMs >= stalledMs ? end(subscription) : undefined
    if (!subscription.opened) {
      subscription.opened = true
      return write(subscription, formatRetry(retryMs * (1 + random())))
    }
    if (state !== undefined && isFinal(state.status)) {
      if (subscription.finalState === undefined) return loadFinalState(subscription)
      remove(subscription)
      write(subscription, doneText(subscription.finalState))
      return subscription.stream.end()
    }
    if (state !== undefined && state !== subscription.comparedWith) {
      const { events, sent } = diffEvents(subscription.sent, state)
      subscription.sent = sent
      subscription.comparedWith = state
      if (events.length > 0) {
        return write(subscription, events.map(({ event, id, data }) => formatEvent(event, id, data)).join(''))
      }
    }
    if (silentMs >= heartbeatMs) write(subscription, heartbeatComment)
  }

  return { deliver, end }
}
