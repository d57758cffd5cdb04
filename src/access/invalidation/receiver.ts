import type { Clock } from '../../kit/clock.ts'
import type { BusHandlers, BusOpening, BusSnapshot } from './bus-handlers.ts'
import type { BusRecord } from './bus-records.ts'
import { createCommitWaits } from './commit-waits.ts'
import { createMembership } from './membership.ts'
import type { InvalidationKeys } from './model.ts'
import type { BusTiming } from './timing.ts'
import { dispatch, isOfBus, type TopicListener, type TopicListeners, type TopicName } from './topics.ts'

type Options = {
  readonly instance: string
  readonly clock: Clock
  readonly timing: BusTiming
  readonly handlers: BusHandlers
  readonly acknowledge: boolean
  readonly after: (ms: number, callback: () => void) => () => void
  /** Runs the listener of a feature. Default: at once. */
  readonly defer?: ((work: () => void) => void) | undefined
}

/** What a new connection found, to be applied by its `reset`. */
export type Prepared = Omit<BusOpening, 'identity'> & { readonly epoch: number; readonly snapshot: BusSnapshot }

/**
 * The side of the bus that decides. It applies records in the order in which they were received, and waits for the
 * acknowledgements of the others.
 *
 * Guarantee: once `apply` returns, memory reflects the record. Members and acknowledgements are those of the records applied
 * so far: where that is late, a writer waits longer and never for fewer.
 */
export const createReceiver = (options: Options) => {
  const { instance, clock, timing, handlers, acknowledge, after, defer = (work) => work() } = options
  let events = 0
  let gaps = 0
  let isOpen = false
  let isProven = false
  let identity: string | undefined
  let position: number | undefined
  let lostAtMs = Number.POSITIVE_INFINITY
  /** The snapshots of connections whose reset may follow, by their epoch. */
  const prepared = new Map<number, BusSnapshot>()

  const membership = createMembership(clock, timing)
  const commitWaits = createCommitWaits({ clock, timing, membership, isProven: () => isProven, acknowledge, after })

  const onEvent = (
    event: { readonly id: string; readonly writer: string | undefined; readonly position: number | undefined },
    keys: InvalidationKeys,
  ) => {
    events += 1
    position = event.position
    handlers.onEvent({ id: event.id, keys }, event.position)
    if (event.writer === instance) commitWaits.onOwnEvent(event.id)
  }
  const listeners: TopicListeners = {
    // The keys of a stored event were read before it was passed on.
    event: (event) => onEvent(event, event.keys === 'stored' ? 'everything' : event.keys),
    heartbeat: (message) => membership.onHeartbeat(message.instance, message.seen !== undefined),
    acknowledgement: (message) => commitWaits.onAcknowledgement(message.instance, message.eventIds),
    leave: (message) => {
      membership.remove(message.instance)
      commitWaits.onLeave(message.instance)
    },
    confirmed: ({ eventIds, epoch }) => handlers.onConfirmed(eventIds, epoch),
  }

  const setOpen = (open: boolean) => {
    if (isOpen !== open) handlers.onConnection?.(open)
    isOpen = open
    isProven = false
  }
  const reset = (epoch: number, isContinued: boolean) => {
    const snapshot = prepared.get(epoch)
    if (snapshot === undefined) throw new Error('The reset of a connection was not prepared')
    for (const earlier of prepared.keys()) if (earlier <= epoch) prepared.delete(earlier)
    identity = snapshot.identity
    position = snapshot.position
    lostAtMs = Number.POSITIVE_INFINITY
    handlers.onReset({ ...snapshot, isContinued })
  }

  return {
    apply: (record: BusRecord): void => {
      switch (record.type) {
        case 'message': {
          const { payload } = record
          if (isOfBus(payload)) dispatch(listeners, payload)
          else defer(() => dispatch(listeners, payload))
          return
        }
        case 'stored_event':
          onEvent(record, record.keys)
          return
        case 'open':
          // A loss for which there was no room left no record.
          setOpen(false)
          setOpen(true)
          membership.onListening()
          return
        case 'reset':
          reset(record.epoch, record.isContinued)
          return
        case 'proven':
          isProven = true
          return
        case 'gap':
          if (!record.isOther) gaps += 1
          handlers.onGap()
          return
        case 'lost':
          if (record.wasOpen) lostAtMs = clock.monotonic()
          setOpen(false)
          return
      }
    },
    /** Before the reset of a connection, which comes only after this has resolved. */
    prepare: async (opening: Prepared): Promise<void> => {
      const { epoch, isOther, switches, snapshot } = opening
      await handlers.beforeLease({ identity: snapshot.identity, isOther, switches })
      prepared.set(epoch, snapshot)
    },
    /** Undefined before the first snapshot, and from two leases after the connection was lost. */
    databaseIdentity: () => (clock.monotonic() - lostAtMs < timing.membershipMs ? identity : undefined),
    /** The newest state of the database that was seen, if any. */
    newest: () => (identity === undefined ? undefined : { identity, position: position ?? 0 }),
    on: <T extends TopicName>(topic: T, listener: TopicListener<T>) => {
      if (listeners[topic] !== undefined) throw new Error(`The topic "${topic}" has a listener already`)
      Object.assign(listeners, { [topic]: listener })
    },
    members: membership.list,
    membersOfOtherVersion: () => membership.list().filter(membership.isOfOtherVersion),
    counts: {
      get events() {
        return events
      },
      get gaps() {
        return gaps
      },
      get commits() {
        return commitWaits.counts.commits
      },
      get acknowledged() {
        return commitWaits.counts.acknowledged
      },
      get lapsed() {
        return commitWaits.counts.lapsed
      },
    },
    waits: commitWaits.durationsMs,
    registerCommit: commitWaits.register,
  }
}

export type Receiver = ReturnType<typeof createReceiver>
