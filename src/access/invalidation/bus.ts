import type { Clock } from '../../kit/clock.ts'
import type { Histogram } from '../../kit/histogram.ts'
import { type CommitWait, createCommitWaits } from './commit-waits.ts'
import { createHeartbeat } from './heartbeat.ts'
import { createMembership } from './membership.ts'
import type { InvalidationEvent, InvalidationKeys } from './model.ts'
import { defaultLeaseTiming, deriveTiming, type LeaseTiming } from './timing.ts'
import {
  channelOf,
  commonChannel,
  dispatch,
  encodeMessage,
  type TopicListener,
  type TopicListeners,
  type TopicName,
} from './topics.ts'

/** How many event ids go into one acknowledgement: Postgres refuses a notification of 8,000 bytes. */
const maxAcknowledged = 300

/** What the bus needs of Postgres. */
export type BusConnection = {
  send(channel: string, payload: string): Promise<void>
  /** The event from its row, for one whose keys did not fit into a notification; undefined: the row is gone. */
  readEvent(id: string): Promise<InvalidationEvent | undefined>
  /** Every event that Redis has not confirmed yet. */
  readPendingEvents(): Promise<readonly InvalidationEvent[]>
  /** Replaces a silent connection. */
  restart(): void
}

/** How an instance applies messages. Every handler is synchronous: when it returns, the message has been applied. */
export type BusHandlers = {
  onEvent(event: InvalidationEvent): void
  /** Listening began anew, so any event may have been missed. Redis may still hold the facts of those given. */
  onReset(pendingInvalidations: readonly InvalidationEvent[]): void
  /** The Redis server `serverRunId` no longer holds the facts of these events. */
  onConfirmed(eventIds: readonly string[], serverRunId: string): void
}

/**
 * Delivers invalidation events between instances over LISTEN/NOTIFY, and decides until when an instance may trust its
 * memory.
 *
 * Memory is trusted under a lease, counted from when our newest heartbeat that came back was sent: Postgres delivers
 * notifications in commit order, so everything committed before it has been applied. A writer waits until every member
 * (an instance whose heartbeat arrived within two leases) has acknowledged its event, or for 1.02 leases from the commit.
 *
 * Guarantee: once `acknowledgedByAll` resolves, no instance trusts memory that predates the change. Clocks must run at
 * equal rates (within 2 %); they need not show equal times.
 *
 * Degrades: without its connection an instance has no lease after `leaseMs`, and every change it makes takes a lease.
 * A frozen member delays the changes of others by a lease each, until it stops being a member after two.
 */
export type Bus = {
  readonly instance: string
  /** Until when this instance may trust its memory, on the monotonic clock. */
  readonly lease: { readonly untilMs: number }
  registerCommit(eventId: string): CommitWait
  /** The callbacks of the listening connection. */
  readonly connection: { onMessage(payload: string): void; onOpen(): void; onLost(): void }
  /**
   * Registers the listener of a topic; throws where it has one. Messages arrive in commit order, among the events. Not
   * durable: a message sent while the connection is lost never arrives.
   */
  on<T extends TopicName>(topic: T, listener: TopicListener<T>): void
  /** The other instances whose heartbeats arrived within two leases. */
  members(): string[]
  readonly counts: Readonly<BusCounts>
  /** How long changes of this instance waited for acknowledgements, in milliseconds. */
  readonly waits: Pick<Histogram, 'count' | 'max' | 'quantile'>
  close(): Promise<void>
}

/** Since the start. */
export type BusCounts = {
  /** Events received, our own among them. */
  readonly events: number
  /** Changes committed by this instance. */
  readonly commits: number
  /** Of those, acknowledged by every member. */
  readonly acknowledged: number
  /** Of those, answered when the lease of a silent instance was over. */
  readonly lapsed: number
}

type Options = {
  readonly instance: string
  readonly clock: Clock
  readonly connection: BusConnection
  readonly handlers: BusHandlers
  /** Default true. False: changes do not wait and the guarantee is void, which is how tests prove that it takes this. */
  readonly acknowledge?: boolean | undefined
  /** Default a lease of 1,000 ms and a heartbeat each 250 ms. */
  readonly timing?: LeaseTiming | undefined
  /** Calls back after a delay; the function it returns cancels that. */
  readonly after?: (ms: number, callback: () => void) => () => void
}

const afterTimeout = (ms: number, callback: () => void) => {
  const timer = setTimeout(callback, ms)
  return () => clearTimeout(timer)
}

/** Acknowledges events to their writers. Events come in bursts: all of one turn go to a writer in one message. */
const createAcknowledger = (send: (writer: string, eventIds: readonly string[]) => void) => {
  let pendingAcks: Map<string, string[]> | undefined
  const flush = () => {
    const due = pendingAcks ?? new Map<string, string[]>()
    pendingAcks = undefined
    for (const [writer, eventIds] of due) {
      while (eventIds.length > 0) send(writer, eventIds.splice(0, maxAcknowledged))
    }
  }
  return (writer: string, eventId: string) => {
    if (pendingAcks === undefined) {
      pendingAcks = new Map()
      queueMicrotask(flush)
    }
    const eventIds = pendingAcks.get(writer)
    if (eventIds === undefined) pendingAcks.set(writer, [eventId])
    else eventIds.push(eventId)
  }
}

/** Handles payloads in order of arrival. While paused, they queue up. */
const createInbox = (handle: (payload: string) => void) => {
  const backlog: string[] = []
  let isPaused = false
  return {
    receive: (payload: string) => {
      if (isPaused) backlog.push(payload)
      else handle(payload)
    },
    pause: () => {
      isPaused = true
    },
    /** Also drops the backlog, which belongs to an earlier connection. */
    reset: () => {
      isPaused = true
      backlog.length = 0
    },
    /** Handles the queued payloads until one of them pauses again. */
    drainBacklog: () => {
      isPaused = false
      let handled = 0
      for (const payload of backlog) {
        handled += 1
        handle(payload)
        if (isPaused) break
      }
      backlog.splice(0, handled)
    },
  }
}

export const createBus = ({
  instance,
  clock,
  connection,
  handlers,
  acknowledge = true,
  timing: leaseTiming = defaultLeaseTiming,
  after = afterTimeout,
}: Options): Bus => {
  const timing = deriveTiming(leaseTiming)
  let events = 0
  let closed = false
  /** Counts connections: a result that belongs to an earlier one is dropped. */
  let connectionEpoch = 0

  const send = (channel: string, payload: string) => connection.send(channel, payload).catch(() => {})
  const membership = createMembership(clock, timing)
  const commitWaits = createCommitWaits({ clock, timing, membership, acknowledge, after })
  const heartbeat = createHeartbeat({
    clock,
    timing,
    send: (heartbeatId) => void send(commonChannel, encodeMessage('heartbeat', { instance, heartbeatId })),
    restart: () => connection.restart(),
  })
  const acknowledgeTo = createAcknowledger(
    (writer, eventIds) => void send(channelOf(writer), encodeMessage('acknowledgement', { instance, eventIds })),
  )

  const apply = (id: string, writer: string | undefined, keys: InvalidationKeys) => {
    events += 1
    handlers.onEvent({ id, keys })
    if (writer === instance) commitWaits.onOwnEvent(id)
    else if (writer !== undefined) acknowledgeTo(writer, id)
  }

  /** Later messages wait, so that no heartbeat sent after this event renews the lease before it is applied. */
  const readAndApply = async (id: string, writer: string | undefined) => {
    const epoch = connectionEpoch
    inbox.pause()
    const event = await connection.readEvent(id).catch(() => undefined)
    if (connectionEpoch !== epoch) return
    apply(id, writer, event?.keys ?? 'everything')
    inbox.drainBacklog()
  }

  const listeners: TopicListeners = {
    event: ({ id, writer, keys }) => (keys === 'stored' ? void readAndApply(id, writer) : apply(id, writer, keys)),
    heartbeat: (message) =>
      message.instance === instance
        ? heartbeat.onReturned(message.heartbeatId)
        : membership.onHeartbeat(message.instance),
    acknowledgement: (message) => commitWaits.onAcknowledgement(message.instance, message.eventIds),
    leave: (message) => {
      membership.remove(message.instance)
      commitWaits.onLeave(message.instance)
    },
    confirmed: ({ eventIds, serverRunId }) => handlers.onConfirmed(eventIds, serverRunId),
  }
  const inbox = createInbox((payload) => dispatch(listeners, payload))

  const open = async () => {
    if (closed) return
    connectionEpoch += 1
    const epoch = connectionEpoch
    // A heartbeat that comes back during the read waits behind it.
    inbox.reset()
    membership.onListening()
    heartbeat.start(epoch)
    try {
      const pendingInvalidations = await connection.readPendingEvents()
      if (connectionEpoch !== epoch || closed) return
      handlers.onReset(pendingInvalidations)
    } catch {
      if (connectionEpoch === epoch) connection.restart()
      return
    }
    inbox.drainBacklog()
    heartbeat.sendHeartbeat()
  }

  return {
    instance,
    lease: heartbeat.lease,
    on: (topic, listener) => {
      if (listeners[topic] !== undefined) throw new Error(`The topic "${topic}" has a listener already`)
      Object.assign(listeners, { [topic]: listener })
    },
    members: membership.list,
    counts: {
      get events() {
        return events
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
    connection: {
      onMessage: inbox.receive,
      onOpen: () => void open(),
      onLost: () => {
        connectionEpoch += 1
        heartbeat.stop()
      },
    },
    registerCommit: commitWaits.register,
    close: async () => {
      closed = true
      // The others stop waiting for us, so a heartbeat under way must not renew the lease.
      heartbeat.close()
      await send(commonChannel, encodeMessage('leave', { instance }))
    },
  }
}
