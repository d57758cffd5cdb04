import type { Clock } from '../../kit/clock.ts'
import type { Histogram } from '../../kit/histogram.ts'
import { type CommitWait, createCommitWaits } from './commit-waits.ts'
import { createMembership } from './membership.ts'
import type { InvalidationEvent, InvalidationKeys } from './model.ts'
import { defaultLeaseTiming, deriveTiming, type LeaseTiming } from './timing.ts'
import {
  channelOf,
  commonChannel,
  type DatabasePosition,
  dispatch,
  encodeMessage,
  type TopicListener,
  type TopicListeners,
  type TopicName,
} from './topics.ts'
import { type BusProblem, createTracking, type NoLeaseReason } from './tracking.ts'

/** How many event ids go into one acknowledgement: Postgres refuses a notification of 8,000 bytes. */
const maxAcknowledged = 300

/** The database of the changes as one statement saw it: every event that Redis has not confirmed yet is pending. */
export type BusSnapshot = DatabasePosition & { readonly pendingInvalidations: readonly InvalidationEvent[] }

/**
 * What the bus needs of Postgres. It sends and reads on the way that changes go, and never on the connection that listens:
 * through a pooler our own notifications would then come back, and those of no other instance.
 */
export type BusConnection = {
  send(channel: string, payload: string): Promise<void>
  /** In one statement: a heartbeat with the identity and the position of the database. Resolves once it is committed. */
  sendHeartbeat(heartbeatId: string): Promise<void>
  /** The event from its row, for one whose keys did not fit into a notification; undefined: the row is gone. */
  readEvent(id: string): Promise<InvalidationEvent | undefined>
  readSnapshot(): Promise<BusSnapshot>
  /** Replaces silent connections. */
  restart(): void
}

/**
 * How an instance applies messages. Every handler but `beforeLease` is synchronous: when it returns, the message has been
 * applied.
 */
export type BusHandlers = {
  /** Every event up to `position` has then been applied; undefined for an event of another version. */
  onEvent(event: InvalidationEvent, position: number | undefined): void
  /** Runs on a new connection before the reset. `isOther`: the connection before led to another database. */
  beforeLease(database: { readonly isOther: boolean }): Promise<void>
  /** Listening began anew, so any event may have been missed. Redis may still hold the facts of those pending. */
  onReset(reset: BusReset): void
  /** Events are missing, or the database is in an older state: no fact that is cached in memory may be used again. */
  onGap(): void
  /** Redis no longer holds the facts of these events under the prefix of this epoch. */
  onConfirmed(eventIds: readonly string[], epoch: string): void
}

export type BusReset = BusSnapshot & {
  /** Whether it is the database of the connection before, in a state no older than the one seen there. */
  readonly isContinued: boolean
}

/**
 * Delivers invalidation events between instances over LISTEN/NOTIFY, and decides until when an instance may trust its
 * memory. It does no I/O itself: messages and a clock go in; a lease, applied events in order, and messages come out.
 *
 * Memory is trusted under a lease, counted from when our newest heartbeat was sent that came back and proved that nothing is
 * missing. A heartbeat is notified by the database of the changes, on the way that changes go, and carries that database's
 * identity and the position of its newest event. It renews the lease only if we listen to the database of that identity and
 * have applied every event up to that position. Whatever is committed and unsent goes ahead of it, so everything committed
 * before it was sent has then been applied. A lost event, or a position lower than one seen, ends the lease at once: memory
 * is cleared and the connections are replaced.
 *
 * A writer waits until every member (an instance whose heartbeat arrived within two leases) has acknowledged its event, or
 * for 1.25 leases from the commit. It waits that long for an instance of another version, and while it cannot know its members.
 *
 * Guarantee: once `acknowledgedByAll` resolves, no instance trusts memory that predates the change. The rates of clocks may
 * differ from real time by 10 % each way; they need not show equal times.
 *
 * Degrades: without its connections an instance has no lease after `leaseMs`, and every change it makes takes 1.25 leases.
 * A frozen member delays the changes of others by as much, until it stops being a member after two leases.
 */
export type Bus = {
  readonly instance: string
  /** Until when this instance may trust its memory, on the monotonic time of the clock of leases. */
  readonly lease: { readonly untilMs: number }
  /** Undefined while a lease is held. */
  noLeaseReason(): NoLeaseReason | undefined
  /**
   * The database whose changes the bus delivers. A change committed to another one would reach no instance. Undefined until
   * the bus is open, and from two leases after its connections were lost.
   */
  databaseIdentity(): string | undefined
  registerCommit(eventId: string): CommitWait
  /** The callbacks of the connection that listens. `onOpen` gets the identity of the database it leads to, if known. */
  readonly connection: {
    onMessage(payload: string): void
    onOpen(listeningTo: string | undefined): void
    onLost(): void
    /** An attempt to open it failed. */
    onUnreachable(): void
  }
  /**
   * Registers the listener of a topic; throws where it has one. Messages arrive in commit order, among the events. Not
   * durable: a message sent while the connection is lost never arrives.
   */
  on<T extends TopicName>(topic: T, listener: TopicListener<T>): void
  /** The other instances whose heartbeats arrived within two leases. */
  members(): string[]
  /** Of those, the ones of another version: each change waits until their leases are over. */
  membersOfOtherVersion(): string[]
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
  /** How often an event was found to be missing. */
  readonly gaps: number
}

type Options = {
  readonly instance: string
  readonly clock: Clock
  /** For the lease alone; see createLeaseClock. Default: `clock`. */
  readonly leaseClock?: Clock
  readonly connection: BusConnection
  readonly handlers: BusHandlers
  /** Called when a reason is found why no lease can be held, and with undefined once one is held again. */
  readonly onProblem?: (reason: BusProblem | undefined) => void
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
  leaseClock = clock,
  connection,
  handlers,
  onProblem = () => {},
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
  const tracking = createTracking({
    clock,
    leaseClock,
    timing,
    sendHeartbeat: (heartbeatId) => connection.sendHeartbeat(heartbeatId),
    onGap: handlers.onGap,
    restart: () => connection.restart(),
    onProblem,
  })
  const { isProven } = tracking
  const commitWaits = createCommitWaits({ clock, timing, membership, isProven, acknowledge, after })
  const acknowledgeTo = createAcknowledger(
    (writer, eventIds) => void send(channelOf(writer), encodeMessage('acknowledgement', { instance, eventIds })),
  )

  const apply = (id: string, writer: string | undefined, position: number | undefined, keys: InvalidationKeys) => {
    events += 1
    handlers.onEvent({ id, keys }, position)
    if (writer === instance) commitWaits.onOwnEvent(id)
    else if (writer !== undefined) acknowledgeTo(writer, id)
  }

  /** Later messages wait, so that no heartbeat sent after this event renews the lease before it is applied. */
  const readAndApply = async (id: string, writer: string | undefined, position: number | undefined) => {
    const epoch = connectionEpoch
    inbox.pause()
    const event = await connection.readEvent(id).catch(() => undefined)
    if (connectionEpoch !== epoch) return
    apply(id, writer, position, event?.keys ?? 'everything')
    inbox.drainBacklog()
  }

  const listeners: TopicListeners = {
    event: ({ id, writer, position, keys }) => {
      if (!tracking.onEvent(position)) return
      if (keys === 'stored') void readAndApply(id, writer, position)
      else apply(id, writer, position, keys)
    },
    heartbeat: (message) =>
      message.instance === instance
        ? tracking.onOwnHeartbeat(message.heartbeatId, message.seen)
        : membership.onHeartbeat(message.instance, message.seen !== undefined),
    acknowledgement: (message) => commitWaits.onAcknowledgement(message.instance, message.eventIds),
    leave: (message) => {
      membership.remove(message.instance)
      commitWaits.onLeave(message.instance)
    },
    confirmed: ({ eventIds, epoch }) => handlers.onConfirmed(eventIds, epoch),
  }
  const inbox = createInbox((payload) => dispatch(listeners, payload))

  const open = async (listeningTo: string | undefined) => {
    if (closed) return
    connectionEpoch += 1
    const epoch = connectionEpoch
    const isCurrent = () => connectionEpoch === epoch && !closed
    // A message that arrives during the reads waits behind them.
    inbox.reset()
    membership.onListening()
    tracking.start(epoch)
    try {
      const snapshot = await connection.readSnapshot()
      if (!isCurrent()) return
      const database = tracking.compare(snapshot, listeningTo)
      if (database === 'other') return
      await handlers.beforeLease({ isOther: database === 'replaced' })
      if (!isCurrent()) return
      handlers.onReset({ ...snapshot, isContinued: tracking.open(snapshot) })
    } catch {
      if (connectionEpoch !== epoch) return
      tracking.onUnreachable()
      connection.restart()
      return
    }
    inbox.drainBacklog()
    tracking.sendHeartbeat()
  }

  return {
    instance,
    lease: tracking.lease,
    noLeaseReason: tracking.noLeaseReason,
    databaseIdentity: tracking.identity,
    on: (topic, listener) => {
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
        return tracking.gaps()
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
      onOpen: (listeningTo) => void open(listeningTo),
      onLost: () => {
        connectionEpoch += 1
        inbox.reset()
        tracking.onLost()
      },
      onUnreachable: tracking.onUnreachable,
    },
    registerCommit: commitWaits.register,
    close: async () => {
      closed = true
      // The others stop waiting for us, so a heartbeat under way must not renew the lease.
      tracking.close()
      await send(commonChannel, encodeMessage('leave', { instance }))
    },
  }
}
